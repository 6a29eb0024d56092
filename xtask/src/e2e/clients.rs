//! The Python clients, in a virtual environment below `target/`.
//!
//! `xtask/e2e/requirements.txt` pins them. Where they cannot be had, because there is no Python
//! or no package index, that is a reason to skip, not an error; a pin that the index does not
//! know is an error.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{shell, workspace};

/// Tried in this order: the benchmark client of the Python sageLLM runs on 3.11 alone.
const PYTHONS: &[&str] = &["python3.11", "python3"];

/// A virtual environment with the clients in it.
#[derive(Debug)]
pub(super) struct Clients {
    venv: PathBuf,
}

impl Clients {
    /// Installs the clients, unless exactly these are installed; answers with the reason where
    /// they cannot be had here.
    ///
    /// # Errors
    ///
    /// When the package index answers, and the pinned packages still cannot be installed.
    pub(super) fn install(target: &Path) -> Result<Result<Self, String>> {
        let requirements = workspace::root().join("xtask/e2e/requirements.txt");
        let pins = std::fs::read_to_string(&requirements)?;
        let clients = Self { venv: target.join("e2e-venv") };
        let stamp = clients.venv.join("installed.txt");
        if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == pins) {
            return Ok(Ok(clients));
        }
        let Some(python) = PYTHONS.iter().copied().find(|python| can_make_venv(python)) else {
            return Ok(Err("there is no Python 3 with the module venv".to_owned()));
        };
        let mut make = Command::new(python);
        shell::run(make.args(["-m", "venv", "--clear"]).arg(&clients.venv))?;
        let mut install = Command::new(clients.python());
        install
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--retries", "2", "--timeout", "20", "--requirement"])
            .arg(&requirements);
        eprintln!("  $ {}", shell::display(&install));
        let output = install.stdin(Stdio::null()).output().context("cannot start pip")?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            if is_unreachable(&complaint) {
                return Ok(Err("the Python package index cannot be reached".to_owned()));
            }
            bail!("pip cannot install xtask/e2e/requirements.txt:\n{complaint}");
        }
        std::fs::write(&stamp, pins)?;
        Ok(Ok(clients))
    }

    /// The interpreter of the environment.
    pub(super) fn python(&self) -> PathBuf {
        self.venv.join("bin/python")
    }

    /// Whether the environment has this module.
    pub(super) fn can_import(&self, module: &str) -> bool {
        let check =
            format!("import importlib.util as u, sys; sys.exit(u.find_spec('{module}') is None)");
        succeeds(Command::new(self.python()).args(["-c", &check]))
    }
}

fn can_make_venv(python: &str) -> bool {
    succeeds(Command::new(python).args(["-c", "import ensurepip, venv"]))
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Whether pip failed because it could not talk to the index, as against what the index said.
fn is_unreachable(complaint: &str) -> bool {
    let marks = [
        "Retrying (Retry(",
        "NewConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ProxyError",
        "Temporary failure in name resolution",
    ];
    marks.iter().any(|mark| complaint.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::is_unreachable;

    #[test]
    fn an_index_that_cannot_be_reached_is_told_from_a_pin_that_it_does_not_know() {
        let offline = "WARNING: Retrying (Retry(total=1, connect=None, read=None, redirect=None, \
             status=None)) after connection broken by 'NewConnectionError(\"<pip._vendor.urllib3.\
             connection.HTTPSConnection object>: Failed to establish a new connection: [Errno -3] \
             Temporary failure in name resolution\")': /simple/openai/\n\
             ERROR: Could not find a version that satisfies the requirement openai==2.54.0 (from versions: none)";
        assert!(is_unreachable(offline));
        let unknown = "ERROR: Could not find a version that satisfies the requirement \
             openai==2.99.99 (from versions: 0.0.2, 0.1.0)\n\
             ERROR: No matching distribution found for openai==2.99.99";
        assert!(!is_unreachable(unknown));
    }
}
