//! What `sagellm plan --emit` writes, on real vLLM: its parser takes every command line, Kubernetes' schemas
//! take every manifest, and the command for the tiny model starts a server that answers through a gateway with the emitted settings.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::clients::Clients;
use super::fleet::MODEL;
use super::process::{Process, free_ports};
use crate::{shell, workspace};

/// Real vLLM imports for a minute on a machine that is busy.
const ENGINE_WITHIN: Duration = Duration::from_secs(300);
const GATEWAY_WITHIN: Duration = Duration::from_secs(30);
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(120);

/// Questions whose answers differ in what engines are told: tensor, pipeline, data and expert
/// parallelism, several machines, other weights, GPUs of a topology and of several types.
const QUESTIONS: &[&str] = &[
    "--model llama-3.1-405b --topology cluster.toml",
    "--model qwen3-32b --gpus 8xH200 --slo ttft=1s,tpot=30ms",
    "--model qwen3-32b --gpus 4xH100,4xA100",
    "--model llama-3.1-8b --gpus 4xL4 --strategy pp",
    "--model qwen3-30b-a3b --gpus 8xH100 --strategy ep",
    "--model qwen3-30b-a3b --gpus 8xH100 --strategy dp",
    "--model llama-3.1-405b --gpus 32xH100",
    "--model deepseek-v3 --gpus 16xH100 --strategy ep",
    "--model llama-3.1-70b-fp8 --gpus 8xH100 --objective latency",
];

/// Real vLLM as the script installs it.
struct Installed {
    /// The folder of its programs.
    programs: PathBuf,
    /// The tiny model.
    config: PathBuf,
}

impl Installed {
    #[expect(clippy::disallowed_methods, reason = "the script installs where these say")]
    fn find(script: &Path) -> Result<Self> {
        shell::run(Command::new("bash").arg(script).arg("install"))?;
        let home = std::env::var_os("VDIR")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/sagellm-vllm")));
        let home = home.context("neither VDIR nor HOME says where vLLM is")?;
        Ok(Self { programs: home.join("v/bin"), config: home.join("tiny/config.json") })
    }

    #[expect(clippy::disallowed_methods, reason = "programs are found by it")]
    fn path(&self) -> String {
        let rest = std::env::var("PATH").unwrap_or_default();
        format!("{}:{rest}", self.programs.display())
    }
}

/// Runs all checks.
///
/// # Errors
///
/// If vLLM does not take a command line, a manifest is not one, or the fleet does not answer.
pub(super) fn run(script: &Path, clients: &Clients, binary: &Path, logs: &Path) -> Result<()> {
    let installed = Installed::find(script)?;
    let cluster = "[[host]]\nname = \"node\"\ncount = 2\npreset = \"hgx-h100\"\n";
    std::fs::write(logs.join("cluster.toml"), cluster)?;
    let mut folders = Vec::new();
    for (place, question) in QUESTIONS.iter().enumerate() {
        let folder = logs.join(format!("plan-{place}"));
        let words = question.split(' ').chain(["--isl", "2000", "--osl", "300"]);
        emit(binary, words, &folder, logs)?;
        folders.push(folder);
    }
    let mut parse = Command::new(installed.programs.join("python"));
    parse.arg(workspace::root().join("xtask/e2e/_vllm_words.py")).args(&folders).current_dir(logs);
    shell::run(parse.env("PYTHONDONTWRITEBYTECODE", "1"))?;
    let mut manifests = Command::new(clients.python());
    manifests.arg(workspace::root().join("xtask/e2e/_manifests.py")).args(&folders);
    shell::run(manifests.current_dir(logs).env("PYTHONDONTWRITEBYTECODE", "1"))?;
    serve(&installed, clients, binary, logs)
}

/// Asks a question, and writes what starts its answer into an empty folder.
fn emit<'w>(
    binary: &Path,
    words: impl Iterator<Item = &'w str>,
    folder: &Path,
    from: &Path,
) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let mut plan = Command::new(binary);
    plan.current_dir(from);
    shell::run(plan.arg("plan").args(words).args(["--top", "1", "--emit"]).arg(folder))
}

/// Starts the tiny model as it is planned, and asks it through a gateway.
fn serve(installed: &Installed, clients: &Clients, binary: &Path, logs: &Path) -> Result<()> {
    let (folder, ports) = (logs.join("tiny"), free_ports(2)?);
    let (port, listen) = (ports[0].to_string(), format!("127.0.0.1:{}", ports[1]));
    let config = installed.config.display().to_string();
    let mut words = vec!["--model", &config, "--gpus", "1xL4", "--isl", "100", "--osl", "20"];
    words.extend(["--engine-port", &port]);
    // What a CPU needs, and a plan for GPUs cannot know.
    for word in ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", "67108864"] {
        words.extend(["--engine-arg", word]);
    }
    emit(binary, words.into_iter(), &folder, logs)?;
    let mut engine = Command::new("sh");
    engine.arg(folder.join("engine-0.sh")).current_dir(logs).env("PATH", installed.path());
    for (name, value) in [
        ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),
        ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("OMP_NUM_THREADS", "1"),
        ("HF_HUB_OFFLINE", "1"),
    ] {
        engine.env(name, value);
    }
    let mut engine = Process::logged("engine-0", &mut engine, &logs.join("engine-0.log"))?;
    engine.wait_healthy(ports[0], ENGINE_WITHIN)?;
    let mut gateway = Command::new(binary);
    gateway.arg("serve").arg("--config").arg(folder.join("sagellm.toml"));
    gateway.args(["--listen", &listen]);
    let mut gateway = Process::logged("gateway", &mut gateway, &logs.join("gateway.log"))?;
    gateway.wait_healthy(ports[1], GATEWAY_WITHIN)?;
    let mut script = Command::new(clients.python());
    script
        .arg(workspace::root().join("xtask/e2e/planned.py"))
        .current_dir(logs)
        .env("E2E_URL", format!("http://{listen}"))
        .env("E2E_ENGINES", format!("http://127.0.0.1:{port}"))
        .env("E2E_MODEL", MODEL)
        .env("E2E_ENGINE", "vllm")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("no_proxy", "127.0.0.1,localhost");
    let outcome = Process::in_view("planned.py", &mut script)?.finish(SCRIPT_TIMEOUT);
    if outcome.is_err() {
        eprintln!("{}{}", gateway.last_words(), engine.last_words());
    }
    outcome
}
