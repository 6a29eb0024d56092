//! Real OpenAI clients against the gateway, on fake engines or on real vLLM.
//!
//! Each scenario is a script in Python and one `sagellm serve` before two engines. Fake engines are
//! its own; real ones, which take a minute to start, serve one scenario after the other. The script
//! learns from the environment where all of it is:
//!
//! | variable | value |
//! |---|---|
//! | `E2E_URL` | the gateway, as `http://127.0.0.1:PORT` |
//! | `E2E_ENGINES` | the engines behind it, separated by commas |
//! | `E2E_STARTS` | the commands that start them anew, as a JSON list of lists of words |
//! | `E2E_MODEL` | the model that they serve |
//! | `E2E_ENGINE` | `fake` or `vllm` |
//! | `E2E_FAKE` | a fake engine beside real ones, to compare them with |
//! | `E2E_RECORD` | `1` to write down what real engines answer |
//!
//! and fails by its exit status.

mod clients;
mod fleet;
mod planned;
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{shell, workspace};
use clients::Clients;
use fleet::{Fleet, MODEL, Setup};
use process::Process;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What stands behind the gateway.
    #[arg(long, value_enum, default_value_t = Engine::Fake)]
    engine: Engine,
    /// Starts real vLLM servers, in bash: `SCRIPT PORT...`, `SCRIPT stop PORT...`; its variable
    /// EXTRA holds more options of vLLM, MAXLEN the context.
    #[arg(long, value_name = "SCRIPT", default_value = "../shared/tools/real-vllm/start.sh")]
    vllm_script: PathBuf,
    /// Use this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Run only scenarios whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write down what real vLLM answers to the corpus, for the comparison with fake engines.
    #[arg(long)]
    record: bool,
    #[command(flatten)]
    need: Need,
}

impl Options {
    /// What CI runs: every scenario on fake engines.
    pub(crate) fn on_fakes(need: Need) -> Self {
        let vllm_script = PathBuf::new();
        Self { engine: Engine::Fake, vllm_script, binary: None, only: None, record: false, need }
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

/// One script and the gateway that it runs against.
#[derive(Debug)]
struct Scenario {
    /// The script, in `xtask/e2e/`.
    script: &'static str,
    /// The Python module that the script needs before all others.
    module: &'static str,
    setup: Setup,
}

/// The engines of a scenario.
const ENGINES: usize = 2;

/// In turns, so that every scenario uses both engines.
const PLAIN: Setup = Setup { strategy: "fifo", router: "round_robin", any_model: false };

const SCENARIOS: &[Scenario] = &[
    Scenario { script: "openai_sdk.py", module: "openai", setup: PLAIN },
    Scenario { script: "langchain_chat.py", module: "langchain_openai", setup: PLAIN },
    Scenario { script: "corpus.py", module: "tomllib", setup: PLAIN },
    Scenario {
        script: "sage_cp_bench.py",
        module: "sage.benchmark_control_plane",
        // Its models have names of their own.
        setup: Setup { any_model: true, ..PLAIN },
    },
    // The last one: it kills an engine.
    Scenario { script: "failover.py", module: "openai", setup: PLAIN },
];

/// What the planner writes: engines of its own, real ones only.
const PLANNED: &str = "planned.py";

/// A script that takes longer hangs: one waits until a real engine has started again.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(600);

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
    let planned = options.engine == Engine::Vllm
        && options.only.as_deref().is_none_or(|only| PLANNED.contains(only));
    if scenarios.is_empty() && !planned {
        bail!("no scenario has such a name");
    }
    let logs = target.join("e2e-logs");
    std::fs::create_dir_all(&logs)?;
    let mut failures = Vec::new();
    if planned {
        let logs = logs.join(PLANNED);
        std::fs::create_dir_all(&logs)?;
        let script = vllm_script(options);
        let run = || planned::run(&script, &clients, &binary, &logs);
        if let Err(error) = shell::step(&format!("e2e: {PLANNED}"), run) {
            eprintln!("  {error:#}");
            failures.push(PLANNED);
        }
    }
    let mut shared = match options.engine {
        Engine::Vllm if !scenarios.is_empty() => Some(Shared {
            fake: Fleet::fake(&binary, 1, &logs)?,
            engines: Fleet::vllm(&vllm_script(options), ENGINES)?,
        }),
        Engine::Fake | Engine::Vllm => None,
    };
    for scenario in scenarios {
        if !clients.can_import(scenario.module) {
            let reason = format!("Python module {} is not for this Python", scenario.module);
            skip(&options.need, scenario.script, &reason)?;
            continue;
        }
        let logs = logs.join(scenario.script);
        std::fs::create_dir_all(&logs)?;
        let outcome = shell::step(&format!("e2e: {}", scenario.script), || match &mut shared {
            Some(Shared { engines, fake }) => {
                let mut environment = vec![("E2E_FAKE", fake.engines().join(","))];
                if options.record {
                    environment.push(("E2E_RECORD", "1".to_owned()));
                }
                run_scenario(scenario, engines, &environment, &clients, &binary, &logs)
            }
            None => {
                let mut fleet = Fleet::fake(&binary, ENGINES, &logs)?;
                run_scenario(scenario, &mut fleet, &[], &clients, &binary, &logs)
            }
        });
        // The others are worth knowing: real engines take a minute to start.
        if let Err(error) = outcome {
            eprintln!("  {error:#}");
            failures.push(scenario.script);
        }
    }
    if !failures.is_empty() {
        bail!("these scenarios failed: {}", failures.join(", "));
    }
    Ok(())
}

/// What real engines share among scenarios.
#[derive(Debug)]
struct Shared {
    engines: Fleet,
    /// To compare them with.
    fake: Fleet,
}

fn run_scenario(
    scenario: &Scenario,
    fleet: &mut Fleet,
    environment: &[(&str, String)],
    clients: &Clients,
    binary: &Path,
    logs: &Path,
) -> Result<()> {
    fleet.serve(binary, &scenario.setup, logs)?;
    let engine = if fleet.is_fake() { "fake" } else { "vllm" };
    let mut script = Command::new(clients.python());
    script
        .arg(workspace::root().join("xtask/e2e").join(scenario.script))
        .current_dir(logs)
        .env("E2E_URL", fleet.url())
        .env("E2E_ENGINES", fleet.engines().join(","))
        .env("E2E_STARTS", serde_json::to_string(fleet.starts())?)
        .env("E2E_MODEL", MODEL)
        .env("E2E_ENGINE", engine)
        .envs(environment.iter().map(|(name, value)| (name, value)))
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
        let scenarios = SCENARIOS.iter().map(|scenario| scenario.script);
        let mut known: Vec<_> = scenarios.chain([PLANNED]).collect();
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
