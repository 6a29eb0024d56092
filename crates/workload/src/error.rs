//! What can be wrong with a workload's settings and traces.

use std::path::PathBuf;

/// Settings that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct ConfigError {
    /// The field.
    pub field: String,
    /// What it may be.
    pub expected: &'static str,
    /// What it is.
    pub found: String,
}

/// A trace that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A line is not as its format says.
    #[error("line {line}: expected {expected}, found {found}")]
    Line {
        /// The line's number in its file, from 1.
        line: usize,
        /// What the format says.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// There is no request in it.
    #[error("the trace is empty: expected at least one request")]
    Empty,
    /// It could not be read.
    #[error("line {line}: {source}")]
    Read {
        /// The line's number in its file, from 1.
        line: usize,
        /// Why.
        source: std::io::Error,
    },
    /// The file could not be opened.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file could be opened, but is no trace.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<TraceError>,
    },
}

/// # Errors
/// If `value` is not a positive finite number.
pub(crate) fn positive(field: &str, value: f64) -> Result<(), ConfigError> {
    check(field, value.is_finite() && value > 0.0, "a positive number", value)
}

/// # Errors
/// If `holds` is false.
pub(crate) fn check(
    field: &str,
    holds: bool,
    expected: &'static str,
    found: impl std::fmt::Display,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError { field: field.to_owned(), expected, found: found.to_string() })
}
