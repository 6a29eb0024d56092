//! Real OpenAI clients against the gateway, on fake engines or on real vLLM.
//!
//! Each scenario gets a fleet of its own: engines, and one `sagellm serve` before them. Its
//! script, in Python, learns from the environment where they are:
//!
//! | variable | value |
//! |---|---|
//! | `SAGELLM_URL` | the gateway, as `http://127.0.0.1:PORT` |
//! | `SAGELLM_ENGINES` | the engines behind it, separated by commas |
//! | `SAGELLM_MODEL` | the model that they serve |
//! | `SAGELLM_ENGINE` | `fake` or `vllm` |
//!
//! and fails by its exit status.

mod clients;
mod fleet;
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{shell, workspace};
use clients::Clients;
use fleet::Fleet;
use process::Process;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What stands behind the gateway.
    #[arg(long, value_enum, default_value_t = Engine::Fake)]
    engine: Engine,
    /// Starts real vLLM servers: `SCRIPT PORT...`, `SCRIPT stop PORT...`.
    #[arg(long, value_name = "SCRIPT", default_value = "../shared/tools/real-vllm/start.sh")]
    vllm_script: PathBuf,
    /// Use this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Run only scenarios whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    #[command(flatten)]
    need: Need,
}

impl Options {
    /// What CI runs: every scenario on fake engines.
    pub(crate) fn on_fakes(need: Need) -> Self {
        let vllm_script = PathBuf::new();
        Self { engine: Engine::Fake, vllm_script, binary: None, only: None, need }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Need {
    /// Whether the clients must run, or may be skipped where they cannot be installed.
    #[arg(
        long = "e2e",
        env = "E2E",
        value_name = "NEED",
        value_enum,
        default_value = "if-possible"
    )]
    need: Needed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Needed {
    /// Skip, with a line that says so, where packages or engines cannot be had.
    IfPossible,
    /// Fail there.
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// `sagellm mock-engine`.
    Fake,
    /// Real vLLM, on the CPU.
    Vllm,
}

/// One script and the fleet that it runs against.
#[derive(Debug)]
struct Scenario {
    /// The script, in `xtask/e2e/`.
    script: &'static str,
    /// The Python module of the client under test.
    module: &'static str,
    engines: usize,
    strategy: &'static str,
    router: &'static str,
}

const SCENARIOS: &[Scenario] = &[Scenario {
    script: "openai_sdk.py",
    module: "openai",
    engines: 2,
    strategy: "fifo",
    router: "round_robin",
}];

/// A script that takes longer hangs.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs the scenarios.
///
/// # Errors
///
/// When a scenario fails, or what it needs cannot be installed and must be.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.engine == Engine::Vllm && !vllm_script(options).is_file() {
        let reason = format!("there is no {}", options.vllm_script.display());
        return skip(&options.need, "e2e", &reason);
    }
    let target = workspace::metadata()?.target_directory.into_std_path_buf();
    let clients = match shell::step("Python clients", || Clients::install(&target))? {
        Ok(clients) => clients,
        Err(unavailable) => return skip(&options.need, "e2e", &unavailable),
    };
    let binary = match &options.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => {
            shell::run(shell::cargo("build").args(["--release", "--package", "sagellm-cli"]))?;
            target.join("release/sagellm")
        }
    };
    let wanted = |s: &&Scenario| options.only.as_deref().is_none_or(|o| s.script.contains(o));
    let scenarios: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    if scenarios.is_empty() {
        bail!("no scenario has such a name");
    }
    for scenario in scenarios {
        if !clients.can_import(scenario.module) {
            let reason = format!("Python module {} is not for this Python", scenario.module);
            skip(&options.need, scenario.script, &reason)?;
            continue;
        }
        let logs = target.join("e2e-logs").join(scenario.script);
        shell::step(&format!("e2e: {}", scenario.script), || {
            run_scenario(options, scenario, &clients, &binary, &logs)
        })?;
    }
    Ok(())
}

fn run_scenario(
    options: &Options,
    scenario: &Scenario,
    clients: &Clients,
    binary: &Path,
    logs: &Path,
) -> Result<()> {
    std::fs::create_dir_all(logs)?;
    let mut fleet = match options.engine {
        Engine::Fake => Fleet::fake(binary, scenario.engines, logs)?,
        Engine::Vllm => Fleet::vllm(&vllm_script(options), scenario.engines)?,
    };
    fleet.serve(binary, scenario.strategy, scenario.router, logs)?;
    let mut script = Command::new(clients.python());
    script
        .arg(workspace::root().join("xtask/e2e").join(scenario.script))
        .current_dir(logs)
        .env("SAGELLM_URL", fleet.url())
        .env("SAGELLM_ENGINES", fleet.engines().join(","))
        .env("SAGELLM_MODEL", fleet.model())
        .env("SAGELLM_ENGINE", format!("{:?}", options.engine).to_lowercase())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // A proxy of the environment is not for the loopback.
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("no_proxy", "127.0.0.1,localhost");
    let outcome = Process::in_view(scenario.script, &mut script)?.finish(SCRIPT_TIMEOUT);
    if outcome.is_err() {
        eprintln!("{}", fleet.last_words());
    }
    outcome.with_context(|| format!("the logs are in {}", logs.display()))
}

fn vllm_script(options: &Options) -> PathBuf {
    workspace::root().join(&options.vllm_script)
}

/// Says that something is skipped, or fails where it must not be.
fn skip(need: &Need, what: &str, reason: &str) -> Result<()> {
    if need.need == Needed::Required {
        bail!("{what} is required but cannot run: {reason}");
    }
    eprintln!("{what}: SKIPPED: {reason} (E2E=required makes this a failure)");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_a_scenario_and_every_scenario_a_script() {
        let folder = workspace::root().join("xtask/e2e");
        let entries = std::fs::read_dir(folder).expect("the folder is part of this package");
        let mut scripts: Vec<_> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".py") && !name.starts_with('_'))
            .collect();
        scripts.sort_unstable();
        let mut known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.script).collect();
        known.sort_unstable();
        assert_eq!(scripts, known);
    }

    #[test]
    fn what_is_required_is_never_skipped() {
        assert!(skip(&Need { need: Needed::IfPossible }, "e2e", "offline").is_ok());
        let error = skip(&Need { need: Needed::Required }, "e2e", "offline");
        assert!(error.expect_err("it is required").to_string().contains("offline"));
    }
}
