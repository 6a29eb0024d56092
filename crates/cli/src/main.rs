//! The one binary of sageLLM: serves, demonstrates, loads, watches.
//!
//! A thin shell: settings are read in [`settings`], everything else composes the rooms of the
//! workspace.

mod accuracy;
mod config_cmd;
mod demo;
mod docs_cmd;
mod gpus;
mod html;
mod mock_engine;
mod output;
mod plan;
mod reference;
mod replay;
mod serve;
mod settings;
mod simulate;
mod status;
mod topo;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use settings::Environment;
use tracing_subscriber::EnvFilter;

/// The control plane of an LLM inference fleet.
///
/// Stands between OpenAI clients and vLLM engines and decides for every request when it runs and
/// where. `sagellm demo` shows all of it on this machine, without a GPU; `sagellm serve --backend
/// URL` puts it in front of engines that run.
#[derive(Parser, Clone, Debug)]
#[command(name = "sagellm", version, propagate_version = true)]
#[command(after_help = "\
Settings come from a file (--config or SAGELLM_CONFIG), from the environment
(SAGELLM_QUEUE__MAX_WAITING=10) and from flags, the later ones winning; `sagellm config default`
prints them all. Errors go to standard error. Exit codes: 0 all is well, 1 it failed, 2 the command
line is wrong, 130 interrupted.")]
pub(crate) struct Cli {
    /// Print results and errors only
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

/// What is to be done.
#[derive(Subcommand, Clone, Debug)]
enum Command {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    Replay(replay::ReplayArgs),
    MockEngine(mock_engine::MockEngineArgs),
    Status(status::StatusArgs),
    Simulate(Box<simulate::SimulateArgs>),
    Accuracy(accuracy::AccuracyArgs),
    Topo(topo::TopoArgs),
    Plan(plan::PlanArgs),
    /// Check, show or print settings
    #[command(subcommand)]
    Config(config_cmd::ConfigCommand),
    /// Print completions for a shell
    ///
    /// For bash: sagellm completions bash > ~/.local/share/bash-completion/completions/sagellm
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a reference as Markdown: metrics, settings, commands
    Docs {
        /// Which
        reference: docs_cmd::Reference,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<output::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {}", output::told(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let environment = Environment::read();
    log_as(environment.get("SAGELLM_LOG"))?;
    let quiet = cli.quiet;
    match cli.command {
        Command::Simulate(args) => simulate::run(&args, &environment, quiet),
        Command::Accuracy(args) => accuracy::run(&args, quiet),
        Command::Topo(args) => topo::run(&args),
        Command::Plan(args) => plan::run(&args, quiet),
        Command::Config(command) => config_cmd::run(command, &environment, quiet),
        Command::Docs { reference } => docs_cmd::run(reference),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sagellm", &mut text);
            output::print(&String::from_utf8_lossy(&text))
        }
        Command::Demo(args) => runtime()?.block_on(demo::run(args, &environment, quiet)),
        Command::Serve(args) => runtime()?.block_on(serve::run(args, &environment, quiet)),
        Command::Replay(args) => runtime()?.block_on(replay::run(args, &environment, quiet)),
        Command::MockEngine(args) => runtime()?.block_on(mock_engine::run(args, quiet)),
        Command::Status(args) => runtime()?.block_on(status::run(args, &environment)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    // On one core there is nobody to steal work from, and not looking for it is cheaper.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if cores == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder.enable_all().build().context("cannot start the runtime")
}

/// Logs to standard error, warnings by default.
fn log_as(wanted: Option<&str>) -> Result<()> {
    let filter = EnvFilter::try_new(wanted.unwrap_or("warn")).context(
        "SAGELLM_LOG: expected a level (`info`) or a list such as `sagellm_gateway=debug,warn`",
    )?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn unknown_names_are_refused_with_those_that_are_known() {
        let refused = |line: &str| {
            let line = std::iter::once("sagellm").chain(line.split_whitespace());
            Cli::try_parse_from(line).expect_err("unknown").to_string()
        };
        assert!(refused("serve --strategy fastest").contains("known are: fifo, priority"));
        assert!(refused("demo --router best").contains("known are: load_balanced"));
        assert!(refused("serve --strategy aegaeon").contains("known, not offered yet"));
        assert!(refused("serve --backend localhost:1").contains("expected http://HOST:PORT"));
        assert!(refused("demo --set queue").contains("KEY=VALUE"));
    }
}
