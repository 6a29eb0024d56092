//! What the program says on standard output, and how it ends.

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// The user interrupted a run; the program ends as the shell expects it then, with 130.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Prints text to standard output. A reader that has had enough (`| head`) is no error.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// Prints figures as text and writes it as JSON where that is wanted; to `-` is standard output,
/// and JSON alone then.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn report(text: &str, report: &impl Serialize, json: Option<&Path>) -> Result<()> {
    let Some(path) = json else { return print(text) };
    let mut json = serde_json::to_string_pretty(report).context("a report is plain values")?;
    json.push('\n');
    if path == Path::new("-") {
        return print(&json);
    }
    print(text)?;
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns an error and its causes in one line. Some errors tell their cause themselves: what has
/// been said is not said again.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let missing = || std::io::Error::other("no such file");
        let quiet = anyhow::Error::new(missing()).context("cannot read a.csv");
        let talking = anyhow::Error::new(missing()).context("cannot read a.csv: no such file");
        assert_eq!(told(&quiet), "cannot read a.csv: no such file");
        assert_eq!(told(&talking), "cannot read a.csv: no such file");
    }
}
