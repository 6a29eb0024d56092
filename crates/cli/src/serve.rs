//! `sagellm serve`: the gateway before real engines, until it is told to stop.

use anyhow::{Context, Result, bail};
use clap::Args;
use sagellm_gateway::Gateway;
use sagellm_manager::Shell;
use sagellm_types::clock::Clock;
use tokio::signal::unix::{SignalKind, signal};

use crate::gpus::Engines;
use crate::replay::raise_open_files;
use crate::settings::{Environment, FleetArgs, Settings, SettingsArgs};

/// Serve the OpenAI API in front of vLLM engines.
///
/// Engines come from --backend, from `[[instance]]` tables of the settings file, or later through the
/// admin API. SIGTERM and Ctrl-C let running answers end; a second one ends at once.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sagellm serve --backend http://127.0.0.1:8000 --backend http://127.0.0.1:8001
  sagellm serve --config fleet.toml --strategy slo_aware
  SAGELLM_BACKENDS=http://vllm-1:8000,http://vllm-2:8000 sagellm serve --listen 0.0.0.0:8080")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Start without engines: they are registered later, through the admin API
    #[arg(long)]
    allow_empty: bool,
    /// Speed of the clock; only for fake engines whose clock runs at the same speed
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, hide = true)]
    speed: f64,
}

/// Serves until it is told to stop.
///
/// # Errors
/// If the settings cannot be used or an address cannot be listened on.
pub(crate) async fn run(args: ServeArgs, environment: &Environment, quiet: bool) -> Result<()> {
    let settings = Settings::load(&args.settings, &args.fleet, environment)?;
    if settings.instances.is_empty() && !args.allow_empty {
        bail!(
            "no engine is named: give --backend URL, [[instance]] tables in the settings file, or --allow-empty to register them through the admin API"
        );
    }
    raise_open_files();
    let clock: Clock = crate::replay::scaled(args.speed)?;
    let engines = settings.instances.len();
    let core = &settings.control_plane;
    core.validate()?;
    let factory = Box::new(Engines::new(&settings.gateway.http, clock)?);
    let shell = Shell::start(core, clock, factory, settings.gateway.probe.clone());
    let gateway = Gateway::over(shell, &settings.gateway, settings.instances).await?;
    if !quiet {
        eprintln!(
            "sagellm listens on http://{} before {engines} engine{} (strategy {}, router {})",
            gateway.local_addr(),
            if engines == 1 { "" } else { "s" },
            core.strategy.name(),
            core.router.name(),
        );
        if gateway.admin_addr() != gateway.local_addr() {
            eprintln!("the admin API listens on http://{}", gateway.admin_addr());
        }
    }
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    gateway
        .serve(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tokio::spawn(async move {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                // Asked twice: running answers are given up.
                std::process::exit(130);
            });
        })
        .await
        .context("the gateway broke")
}
