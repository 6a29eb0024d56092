//! `sagellm config`: look at settings before anything runs with them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::output;
use crate::reference;
use crate::settings::{Environment, FleetArgs, Settings, SettingsArgs};

/// What is wanted of the settings.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ConfigCommand {
    /// Say whether a settings file can be used, or what is wrong with it and where
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the settings in effect: file, environment and flags together (secrets are left out)
    Show {
        #[command(flatten)]
        settings: Box<SettingsArgs>,
        #[command(flatten)]
        fleet: FleetArgs,
    },
    /// Print a settings file with every setting, its meaning and its default
    Default,
}

/// Does it.
///
/// # Errors
/// If the settings cannot be used.
pub(crate) fn run(command: ConfigCommand, environment: &Environment, quiet: bool) -> Result<()> {
    match command {
        ConfigCommand::Check { file } => {
            let settings = Settings::of_file(&file)?;
            if quiet {
                return Ok(());
            }
            let (core, instances) = (&settings.control_plane, settings.instances.len());
            output::print(&format!(
                "{} is fine: strategy {}, router {}, {instances} instance{}\n",
                file.display(),
                core.strategy.name(),
                core.router.name(),
                if instances == 1 { "" } else { "s" },
            ))
        }
        ConfigCommand::Show { settings, fleet } => {
            let settings = Settings::load(&settings, &fleet, environment)?;
            let text = toml::to_string(&settings.table()).context("settings are plain values")?;
            output::print(&text)
        }
        ConfigCommand::Default => output::print(&reference::default_file()),
    }
}
