//! A process that never outlives its owner.
//!
//! Ended by its id when the owner is dropped, be it by an error or a panic: first with `TERM`,
//! then, where that does not help, with `KILL`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::shell;

/// How often a waiting function looks.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a process may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a log is shown when something fails.
const LAST_LINES: usize = 40;

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: Option<PathBuf>,
}

impl Process {
    /// Starts a process whose output goes to a file.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or the file cannot be written.
    pub(super) fn logged(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
        let mut process = Self::in_view(name, command)?;
        process.log = Some(log.to_owned());
        Ok(process)
    }

    /// Starts a process whose output the user sees.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(super) fn in_view(name: &str, command: &mut Command) -> Result<Self> {
        let shown = shell::display(command);
        eprintln!("  $ {shown}");
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}: `{shown}`"))?;
        Ok(Self { name: name.to_owned(), child, log: None })
    }

    /// Waits until the process answers `GET /health` with 200 on the loopback.
    ///
    /// # Errors
    ///
    /// When it ends or the time passes before that; the message holds its last words.
    pub(super) fn wait_healthy(&mut self, port: u16, timeout: Duration) -> Result<()> {
        let start = shell::now();
        while health(port).is_none_or(|status| status != 200) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it was healthy: {status}\n{}", self.name, self.last_words());
            }
            if start.elapsed() > timeout {
                let waited = shell::seconds(timeout);
                bail!("{} is not healthy after {waited}\n{}", self.name, self.last_words());
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    ///
    /// When it fails, or is still running when the time has passed.
    pub(super) fn finish(mut self, timeout: Duration) -> Result<()> {
        match self.wait(timeout)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{} failed: {status}", self.name),
            None => bail!("{} still runs after {}", self.name, shell::seconds(timeout)),
        }
    }

    /// The end of the log, under a heading.
    pub(super) fn last_words(&self) -> String {
        let Some(path) = &self.log else { return String::new() };
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LAST_LINES)..];
        format!("--- the end of {}:\n{}\n", path.display(), tail.join("\n"))
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let start = shell::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if start.elapsed() > timeout {
                return Ok(None);
            }
            std::thread::sleep(GLANCE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // The standard library has no `TERM`; the shell's own `kill` is on every machine.
        let terminate = format!("kill -TERM {}", self.child.id());
        let asked = Command::new("sh").args(["-c", &terminate]).status();
        if asked.is_ok_and(|status| status.success()) && matches!(self.wait(GRACE), Ok(Some(_))) {
            return;
        }
        eprintln!("{} did not end when asked to, and is killed", self.name);
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("{} (process {}) cannot be ended: {error}", self.name, self.child.id());
        }
    }
}

/// Ports of the loopback that were free a moment ago, all different.
///
/// # Errors
///
/// When the system has none.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All are held until the last is known: the system would give one twice otherwise.
    let listeners = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<Vec<_>, _>>()
        .context("no free port on the loopback")?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect()
}

/// The status of `GET /health`; `None` if there is no HTTP answer.
fn health(port: u16) -> Option<u16> {
    let patience = Duration::from_secs(2);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.take(512).read_to_string(&mut answer).ok()?;
    answer.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn log(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-process-{name}-{}.log", std::process::id()))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn is_alive(pid: u32) -> bool {
        let mut probe = shell(&format!("kill -0 {pid} 2>/dev/null"));
        probe.status().expect("sh is there").success()
    }

    #[test]
    fn a_process_ends_with_its_owner() {
        let process = Process::in_view("sleep", Command::new("sleep").arg("60")).expect("starts");
        let pid = process.child.id();
        assert!(is_alive(pid));
        drop(process);
        assert!(!is_alive(pid));
    }

    #[test]
    fn a_process_ends_when_its_owner_panics() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let owner = thread::spawn(move || {
            let process = Process::in_view("sleep", Command::new("sleep").arg("60"));
            sender.send(process.as_ref().expect("starts").child.id()).expect("somebody listens");
            panic!("as a failing scenario does");
        });
        let pid = receiver.recv().expect("it starts");
        assert!(owner.join().is_err());
        assert!(!is_alive(pid));
    }

    #[test]
    fn a_process_that_dies_early_is_not_waited_for_and_its_last_words_are_shown() {
        let log = log("early");
        let mut process = Process::logged("engine", &mut shell("echo no such model; exit 2"), &log)
            .expect("starts");
        let port = free_ports(1).expect("there is one")[0];
        let error = process.wait_healthy(port, PATIENCE).expect_err("it ended");
        std::fs::remove_file(log).expect("it is ours");
        assert!(error.to_string().contains("no such model"), "{error}");
    }

    #[test]
    fn a_process_is_healthy_once_its_port_answers_200() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let server = thread::spawn(move || {
            for answer in ["HTTP/1.1 503 Busy\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
                let (mut stream, _) = listener.accept().expect("a client comes");
                let mut request = [0; 256];
                assert_ne!(stream.read(&mut request).expect("it asks"), 0);
                stream.write_all(answer.as_bytes()).expect("it listens");
            }
        });
        let mut process =
            Process::in_view("sleep", Command::new("sleep").arg("60")).expect("starts");
        process.wait_healthy(port, PATIENCE).expect("the second answer is 200");
        server.join().expect("both answers were given");
    }

    #[test]
    fn a_failure_and_a_process_that_hangs_are_errors() {
        let failed = Process::in_view("sh", &mut shell("exit 3")).expect("starts");
        assert!(failed.finish(PATIENCE).is_err());
        let hung = Process::in_view("sh", &mut shell("exec sleep 60")).expect("starts");
        let error = hung.finish(Duration::from_millis(100)).expect_err("it hangs");
        assert!(error.to_string().contains("still runs"), "{error}");
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(8).expect("there are eight");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}
