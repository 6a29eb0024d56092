//! Running commands: each prints what it runs and how long it took.
//!
//! All that this tool says goes to standard error, in one stream with cargo's own messages, so
//! that a log keeps its order.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

/// Runs the command in view of the user.
///
/// # Errors
///
/// When it cannot be started, or ends with another status than success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = display(command);
    step(&format!("$ {shown}"), || {
        let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
        if !status.success() {
            bail!("`{shown}` failed: {status}");
        }
        Ok(())
    })
}

/// Runs the command out of view and returns its standard output.
///
/// # Errors
///
/// When it cannot be started, or ends with another status than success; the message then holds
/// its standard error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let shown = display(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed: {}\n{}", output.status, complaint.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed no UTF-8"))
}

/// Runs a piece of work under a heading, and says how long it took.
pub(crate) fn step<T>(heading: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("\n{heading}");
    let start = now();
    let outcome = work();
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    eprintln!("  {verdict} in {}", seconds(start.elapsed()));
    outcome
}

/// `cargo` with its first argument.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(subcommand).current_dir(crate::workspace::root());
    command
}

/// The time, for measuring how long a step takes.
pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a build tool measures the wall clock")]
    Instant::now()
}

/// The wall-clock time, to compare with the times of files.
pub(crate) fn file_time_now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "file times are wall-clock times")]
    SystemTime::now()
}

/// A duration as people read it: `4.2 s`, `3 min 07 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 100 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// The command as one would type it, without the settings of its environment that are inherited.
pub(crate) fn display(command: &Command) -> String {
    let environment = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), quote(&value?.to_string_lossy())))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()));
    environment.chain(words).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '=' | ':' | ',');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("cargo");
        command.args(["test", "--", "a name"]).env("RUSTFLAGS", "-D warnings");
        assert_eq!(display(&command), "RUSTFLAGS='-D warnings' cargo test -- 'a name'");
    }

    #[test]
    fn durations_turn_into_minutes_when_they_are_long() {
        assert_eq!(seconds(Duration::from_millis(4_230)), "4.2 s");
        assert_eq!(seconds(Duration::from_secs(187)), "3 min 07 s");
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 3"]))
            .expect_err("exit status 3 is a failure");
        let message = error.to_string();
        assert!(message.contains("exit 3") && message.contains("why"), "{message}");
    }
}
