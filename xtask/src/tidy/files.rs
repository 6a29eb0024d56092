//! The shape of the repository: what lies at its top, how long a file is, and words that a
//! finished text does not contain.

use super::Finding;
use crate::workspace::{File, Workspace};

/// What may lie at the top, besides files whose name begins with a dot.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "crates",
    "docs",
    "examples",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "xtask",
];

/// A file holds one idea; few ideas need more lines than this.
const MAX_LINES: usize = 600;

/// What people write and read by the line. Recorded data may be as long as it is.
const WRITTEN: &[&str] = &[".rs", ".py", ".sh", ".md", ".toml", ".html", ".css", ".js"];

/// Longer files, each with the reason why it is one idea.
const LONG_FILES: &[(&str, &str)] = &[];

/// Words that no text of ours contains, in pieces so that this one does not either.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "mend it, or open an issue"),
    (concat!("/ro", "ot/"), "write a path relative to the repository"),
    (concat!("/wo", "rk/"), "write a path relative to the repository"),
];

/// Finds what does not belong at the top, what is too long, and forbidden words.
pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = strangers(workspace);
    findings.extend(long_files(workspace, LONG_FILES));
    findings.extend(workspace.files.iter().flat_map(forbidden_words));
    findings
}

fn strangers(workspace: &Workspace) -> Vec<Finding> {
    let mut tops: Vec<_> =
        workspace.files.iter().filter_map(|file| file.path.split('/').next()).collect();
    tops.dedup();
    tops.into_iter()
        .filter(|top| !top.starts_with('.') && !TOP_LEVEL.contains(top))
        .map(|top| {
            Finding::new(
                top,
                "does not belong at the top of the repository",
                "move it into crates/, xtask/, examples/ or docs/, or ignore it in .gitignore",
            )
        })
        .collect()
}

fn long_files(workspace: &Workspace, listed: &[(&str, &str)]) -> Vec<Finding> {
    let lines = |file: &File| file.text.as_ref().map_or(0, |text| text.lines().count());
    let is_written = |file: &File| WRITTEN.iter().any(|ending| file.path.ends_with(ending));
    let is_listed = |file: &File| listed.iter().any(|(path, _)| *path == file.path);
    let long = |file: &&File| is_written(file) && lines(file) > MAX_LINES;
    let too_long =
        workspace.files.iter().filter(long).filter(|file| !is_listed(file)).map(|file| {
            Finding::new(
                &file.path,
                format!("has {} lines, more than {MAX_LINES}", lines(file)),
                "split it by ideas, or list it with the reason in xtask/src/tidy/files.rs",
            )
        });
    let needless = listed
        .iter()
        .filter(|(path, _)| !workspace.files.iter().filter(long).any(|file| file.path == *path))
        .map(|(path, _)| {
            Finding::new(
                *path,
                "is listed as long but is not",
                "take it off xtask/src/tidy/files.rs",
            )
        });
    too_long.chain(needless).collect()
}

fn forbidden_words(file: &File) -> Vec<Finding> {
    let text = file.text.as_deref().unwrap_or_default();
    let mut findings = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        for (word, remedy) in FORBIDDEN {
            if contains_word(line, word) {
                findings.push(Finding::new(
                    format!("{}:{number}", file.path),
                    format!("contains `{word}`"),
                    *remedy,
                ));
            }
        }
    }
    findings
}

/// Whether the word stands in the line and is not a part of a longer word or path.
fn contains_word(line: &str, word: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    let joins_path = |c: char| joins(c) || matches!(c, '.' | '-' | '}');
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        if word.ends_with('/') {
            !before.is_some_and(joins_path)
        } else {
            !before.is_some_and(joins) && !after.is_some_and(joins)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn strangers_at_the_top_are_found_once() {
        let files = [("Cargo.toml", ""), (".ci/run", ""), ("notes/a.md", ""), ("notes/b.md", "")];
        let found = strangers(&fixture::files(&files));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "notes");
    }

    #[test]
    fn a_long_file_is_found_unless_it_is_listed() {
        let long = "x\n".repeat(MAX_LINES + 1);
        let files = [("a.rs", long.as_str()), ("b.csv", &long), ("c.rs", "x\n")];
        let workspace = fixture::files(&files);
        assert_eq!(long_files(&workspace, &[]).len(), 1);
        assert_eq!(long_files(&workspace, &[("a.rs", "one table")]), []);
        let needless = long_files(&workspace, &[("a.rs", "one table"), ("c.rs", "no more")]);
        assert_eq!(needless.len(), 1);
        assert_eq!(needless[0].place, "c.rs");
    }

    #[test]
    fn forbidden_words_are_found_where_they_stand_alone() {
        let todo = FORBIDDEN[0].0;
        let home = FORBIDDEN[2].0;
        assert!(contains_word(&format!("// {todo}: later"), todo));
        assert!(contains_word(&format!("still {todo}."), todo));
        assert!(contains_word(&format!("read \"{home}data\""), home));
        assert!(!contains_word(&format!("a {todo}LIST"), todo));
        assert!(!contains_word(&format!("https://example.com{home}x"), home));
    }

    #[test]
    fn a_forbidden_word_is_reported_with_its_line() {
        let text = format!("fine\n{}\n", FORBIDDEN[1].0);
        let found = check(&fixture::files(&[("docs/a.md", &text)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "docs/a.md:2");
    }
}
