//! Engines and the gateway before them, for one scenario.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::process::{Process, free_ports};
use crate::shell;

/// How long a process of ours may take until it answers.
const HEALTHY_WITHIN: Duration = Duration::from_secs(30);
/// The model of every engine: the name that the script gives to real vLLM's.
pub(super) const MODEL: &str = "tiny";
/// The context of every engine, which a scenario can overrun with a short text.
const MAX_MODEL_LEN: &str = "2048";
/// What real vLLM is started with so that it calls tools.
const VLLM_OPTIONS: &str = "--enable-auto-tool-choice --tool-call-parser hermes";
/// Low enough that no derived port meets those which the system hands out by itself.
const VLLM_PORTS: std::ops::Range<u16> = 18_100..18_200;
/// The ports which a server takes: its own, KV events, their replay, NIXL's side channel.
const VLLM_OFFSETS: [u16; 4] = [0, 11_000, 12_000, 13_000];

/// How a gateway is set up.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) strategy: &'static str,
    pub(super) router: &'static str,
    /// Whether the gateway answers to any name of a model, or to that which is served alone.
    pub(super) any_model: bool,
}

/// Engines, and once it is started, a gateway. All of it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Fleet {
    // The first field is dropped first: the gateway ends before its engines.
    gateway: Option<Process>,
    gateway_port: u16,
    engines: Engines,
    engine_ports: Vec<u16>,
    /// The commands that start the engines, each on its port.
    starts: Vec<Vec<String>>,
}

#[derive(Debug)]
enum Engines {
    Fake(Vec<Process>),
    Vllm(Vllm),
}

/// Servers that a script started, and that it ends.
#[derive(Debug)]
struct Vllm {
    script: PathBuf,
    ports: Vec<u16>,
}

impl Drop for Vllm {
    fn drop(&mut self) {
        let mut stop = Command::new("bash");
        stop.arg(&self.script).arg("stop").args(self.ports.iter().map(u16::to_string));
        if let Err(error) = shell::run(&mut stop) {
            eprintln!("the vLLM servers on {:?} may still run: {error:#}", self.ports);
        }
    }
}

impl Fleet {
    /// Starts fake engines and waits until each is healthy.
    ///
    /// # Errors
    ///
    /// When one does not get healthy.
    pub(super) fn fake(binary: &Path, count: usize, logs: &Path) -> Result<Self> {
        let (gateway_port, engine_ports) = ports(count)?;
        let start = |port: &u16| {
            let listen = format!("127.0.0.1:{port}");
            ["mock-engine", "--listen", &listen, "--model", MODEL, "--max-model-len", MAX_MODEL_LEN]
                .map(str::to_owned)
        };
        let mut engines = Vec::with_capacity(count);
        for (index, port) in engine_ports.iter().enumerate() {
            let name = format!("engine-{index}");
            let log = logs.join(format!("{name}.log"));
            engines.push(Process::logged(&name, Command::new(binary).args(start(port)), &log)?);
        }
        for (engine, &port) in engines.iter_mut().zip(&engine_ports) {
            engine.wait_healthy(port, HEALTHY_WITHIN)?;
        }
        let program = binary.to_string_lossy().into_owned();
        let starts =
            engine_ports.iter().map(|p| [program.clone()].into_iter().chain(start(p)).collect());
        let starts = starts.collect();
        let engines = Engines::Fake(engines);
        Ok(Self { gateway: None, gateway_port, engines, engine_ports, starts })
    }

    /// Starts real vLLM servers; the script installs what is missing and waits for their health.
    ///
    /// # Errors
    ///
    /// When the script fails.
    pub(super) fn vllm(script: &Path, count: usize) -> Result<Self> {
        let gateway_port = free_ports(1)?[0];
        let engine_ports = vllm_ports(count)?;
        // Owned before the start: a script that fails half way has servers to end.
        let vllm = Vllm { script: script.to_owned(), ports: engine_ports.clone() };
        let script = script.to_string_lossy().into_owned();
        let start = |ports: &[u16]| {
            let environment = [format!("EXTRA={VLLM_OPTIONS}"), format!("MAXLEN={MAX_MODEL_LEN}")];
            let words = environment.into_iter().chain(["bash".to_owned(), script.clone()]);
            words.chain(ports.iter().map(u16::to_string)).collect::<Vec<_>>()
        };
        shell::run(Command::new("env").args(start(&engine_ports)))?;
        let starts = engine_ports.iter().map(|&port| {
            let words = start(&[port]).into_iter();
            ["env".to_owned()].into_iter().chain(words).collect()
        });
        let starts = starts.collect();
        let engines = Engines::Vllm(vllm);
        Ok(Self { gateway: None, gateway_port, engines, engine_ports, starts })
    }

    /// Starts the gateway before the engines, in the place of one that runs, and waits until it is
    /// healthy.
    ///
    /// # Errors
    ///
    /// When it does not get healthy.
    pub(super) fn serve(&mut self, binary: &Path, setup: &Setup, logs: &Path) -> Result<()> {
        self.gateway = None;
        let settings = logs.join("fleet.toml");
        std::fs::write(&settings, self.settings(setup))?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--config").arg(&settings);
        let gateway = Process::logged("gateway", &mut command, &logs.join("gateway.log"))?;
        self.gateway.insert(gateway).wait_healthy(self.gateway_port, HEALTHY_WITHIN)
    }

    /// The settings file of the gateway.
    fn settings(&self, setup: &Setup) -> String {
        let Setup { strategy, router, any_model } = setup;
        let mut text = format!(
            "strategy = \"{strategy}\"\nrouter = \"{router}\"\n\n[gateway]\nlisten = \"127.0.0.1:{}\"\n",
            self.gateway_port
        );
        if *any_model {
            let _ = write!(text, "\n[models.aliases]\n\"*\" = \"{MODEL}\"\n");
        }
        for (index, port) in self.engine_ports.iter().enumerate() {
            // Which types of requests an engine takes is for the engine to say.
            let _ = write!(
                text,
                "\n[[instance]]\ninstance_id = \"engine-{index}\"\nhost = \"127.0.0.1\"\nport = {port}\n\
                 model_name = \"{MODEL}\"\n\
                 supported_request_types = [\"llm_chat\", \"llm_generate\", \"embedding\"]\n"
            );
        }
        text
    }

    /// The URL of the gateway.
    pub(super) fn url(&self) -> String {
        url(self.gateway_port)
    }

    /// The URLs of the engines.
    pub(super) fn engines(&self) -> Vec<String> {
        self.engine_ports.iter().copied().map(url).collect()
    }

    /// Whether its engines are fake ones.
    pub(super) fn is_fake(&self) -> bool {
        matches!(self.engines, Engines::Fake(_))
    }

    /// The commands that start the engines anew, each on its port.
    pub(super) fn starts(&self) -> &[Vec<String>] {
        &self.starts
    }

    /// The ends of the logs of all that runs.
    pub(super) fn last_words(&self) -> String {
        let gateway = self.gateway.iter().map(Process::last_words);
        let engines = match &self.engines {
            Engines::Fake(engines) => engines.iter().map(Process::last_words).collect(),
            Engines::Vllm(vllm) => {
                format!("the vLLM servers on {:?} log where their script says\n", vllm.ports)
            }
        };
        gateway.chain([engines]).collect()
    }
}

/// A free port for the gateway, and one for each engine.
fn ports(engines: usize) -> Result<(u16, Vec<u16>)> {
    let mut ports = free_ports(engines + 1)?;
    let gateway = ports.pop().context("one port was asked for besides the engines'")?;
    Ok((gateway, ports))
}

/// Free ports for vLLM servers, whose events and side channels lie at fixed distances above.
///
/// # Errors
///
/// When too few are free.
fn vllm_ports(count: usize) -> Result<Vec<u16>> {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let all_free = |port: &u16| VLLM_OFFSETS.iter().all(|offset| is_free(port + offset));
    let ports: Vec<_> = VLLM_PORTS.filter(all_free).take(count).collect();
    if ports.len() < count {
        bail!("too few free ports for {count} vLLM servers in {VLLM_PORTS:?}");
    }
    Ok(ports)
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_vllm_servers_leave_room_for_those_derived_from_them() {
        let taken = vllm_ports(1).expect("one is free")[0];
        let events = TcpListener::bind((Ipv4Addr::LOCALHOST, taken + VLLM_OFFSETS[1]));
        let ports = vllm_ports(2).expect("others are free");
        assert!(events.is_ok() && !ports.contains(&taken), "{ports:?}");
        assert_ne!(ports[0], ports[1]);
    }

    #[test]
    fn a_fleet_whose_engines_die_names_the_engine_and_its_last_words() {
        let logs = std::env::temp_dir().join(format!("xtask-fleet-{}", std::process::id()));
        std::fs::create_dir_all(&logs).expect("the folder for temporary files is writable");
        // `ls` knows none of the options, complains, and ends.
        let error = Fleet::fake(Path::new("ls"), 2, &logs).expect_err("that is no engine");
        std::fs::remove_dir_all(&logs).expect("it is ours");
        let message = error.to_string();
        assert!(message.contains("engine-0") && message.contains("ls:"), "{message}");
    }
}
