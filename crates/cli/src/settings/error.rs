//! Settings that cannot be used: where they come from, what is wrong, and what is accepted.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A place in the file is wrong.
    #[error("{0}")]
    File(Located),
    /// A variable of the environment or a flag is wrong.
    #[error("{origin}: {message}")]
    Override {
        /// The variable or the flag, as the user wrote it.
        origin: String,
        /// What is wrong, and what is accepted.
        message: String,
    },
    /// The settings as a whole are wrong, wherever they come from.
    #[error("{0}")]
    Invalid(String),
}

/// A message with the place in a file that it is about.
#[derive(Debug)]
pub(crate) struct Located {
    path: PathBuf,
    message: String,
    /// Line and column from 1, and the text of the line.
    place: Option<(usize, usize, String)>,
}

impl Located {
    /// Returns what is wrong, without the place.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Returns a message about `span` of `text`, which was read from `path`.
    pub(crate) fn new(
        path: &Path,
        text: &str,
        span: Option<Range<usize>>,
        message: impl Into<String>,
    ) -> Self {
        let place = span.map(|span| {
            let before = &text[..text.floor_char_boundary(span.start)];
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = text[start..].lines().next().unwrap_or_default();
            let column = before[start..].chars().count() + 1;
            (before.matches('\n').count() + 1, column, line.to_owned())
        });
        Self { path: path.to_owned(), message: message.into(), place }
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((line, column, text)) = &self.place else {
            return write!(f, "{}: {}", self.path.display(), self.message);
        };
        let margin = line.to_string().len();
        let (bar, caret) = ("|", "^");
        writeln!(f, "{}:{line}:{column}: {}", self.path.display(), self.message)?;
        writeln!(f, " {line} {bar} {text}")?;
        write!(f, " {:margin$} {bar} {caret:>column$}", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_points_at_its_place() {
        let text = "seed = 1\n[queue]\nmax_waitin = 3\n";
        let at = text.find("max_waitin").expect("it is there");
        let located =
            Located::new(Path::new("fleet.toml"), text, Some(at..at + 10), "no such field");
        assert_eq!(
            located.to_string(),
            "fleet.toml:3:1: no such field\n 3 | max_waitin = 3\n   | ^"
        );
    }

    #[test]
    fn a_place_behind_the_end_is_the_end() {
        let located = Located::new(Path::new("f"), "a = \n", Some(4..4), "a value is missing");
        assert_eq!(located.to_string(), "f:1:5: a value is missing\n 1 | a = \n   |     ^");
    }
}
