//! What the compiler does not check: the arrows between crates, their weight, what each crate
//! must carry, the documents, and the shape of the repository.
//!
//! Each check reads a [`Workspace`] and answers with findings: where, what is wrong, what to do.

mod arrows;
mod crates;
mod documents;
mod files;
mod weight;

use std::fmt;

use anyhow::{Result, bail};

use crate::shell;
use crate::workspace::Workspace;

/// Something that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// The file, with a line where there is one.
    place: String,
    problem: String,
    remedy: String,
}

impl Finding {
    fn new(
        place: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { place: place.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    -> {}", self.place, self.problem, self.remedy)
    }
}

/// Runs every check and prints what each found.
///
/// # Errors
///
/// When anything was found, or the workspace cannot be read.
pub(crate) fn run() -> Result<()> {
    shell::step("tidy", || {
        let workspace = Workspace::load()?;
        let checks = [
            ("arrows between crates", arrows::check(&workspace)),
            ("weight of the light crates", weight::check(&workspace)?),
            ("what a crate carries", crates::check(&workspace)),
            ("documents and links", documents::check(&workspace)),
            ("files", files::check(&workspace)),
        ];
        for (name, findings) in &checks {
            eprintln!("  {name}: {} to mend", findings.len());
            for finding in findings {
                eprintln!("{finding}");
            }
        }
        let total: usize = checks.iter().map(|(_, findings)| findings.len()).sum();
        if total > 0 {
            bail!("tidy found {total} things to mend");
        }
        Ok(())
    })
}

/// Builds the small workspaces of the tests.
#[cfg(test)]
mod fixture {
    use crate::workspace::{Arrow, ArrowKind, File, Package, Workspace};

    /// A workspace of text files alone.
    pub(super) fn files(files: &[(&str, &str)]) -> Workspace {
        let file = |&(path, text): &(&str, &str)| File {
            path: path.to_owned(),
            text: Some(text.to_owned()),
        };
        Workspace { packages: Vec::new(), files: files.iter().map(file).collect() }
    }

    /// A library `sagellm-<room>` with arrows to other rooms.
    pub(super) fn library(room: &str, arrows: &[(&str, ArrowKind)]) -> Package {
        Package {
            name: format!("sagellm-{room}"),
            folder: format!("crates/{room}"),
            description: Some("What it is.".to_owned()),
            license: Some("Apache-2.0".to_owned()),
            library: Some(format!("crates/{room}/src/lib.rs")),
            arrows: arrows
                .iter()
                .map(|&(to, kind)| Arrow { to: format!("sagellm-{to}"), kind })
                .collect(),
            ..Package::default()
        }
    }
}
