//! The documents that must be there, and links between them that lead somewhere.

use std::path::{Component, Path, PathBuf};

use super::Finding;
use crate::markdown::prose;
use crate::workspace::Workspace;

/// The documents that must be there. Each is added here with the commit that writes it.
const REQUIRED: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "docs/ARCHITECTURE.md",
    "docs/CONFIGURATION.md",
    "docs/CUSTOM_SCHEDULING.md",
    "docs/DEPLOYMENT.md",
    "docs/DEVELOPMENT.md",
    "docs/FAULT_TOLERANCE.md",
    "docs/INTEGRATION.md",
    "docs/METRICS.md",
    "docs/SEED.md",
];

/// Finds documents that are missing, and links that lead nowhere.
pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    let missing = REQUIRED
        .iter()
        .filter(|path| workspace.text(path).is_none())
        .map(|path| Finding::new(*path, "is missing", "write it"));
    missing.chain(broken_links(workspace)).collect()
}

fn broken_links(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in workspace.files.iter().filter(|file| file.path.ends_with(".md")) {
        let Some(text) = &file.text else { continue };
        for (line, target) in links(text) {
            if !leads_somewhere(workspace, &file.path, target) {
                findings.push(Finding::new(
                    format!("{}:{line}", file.path),
                    format!("the link to `{target}` leads nowhere"),
                    "link to a file of this repository and a heading that it has",
                ));
            }
        }
    }
    findings
}

/// The targets of the inline links of a Markdown text, outside of code, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // Every second piece between backticks is code.
        for piece in line.split('`').step_by(2) {
            let targets = piece.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            found.extend(targets.filter_map(|t| t.split_whitespace().next()).map(|t| (number, t)));
        }
    }
    // `[`code`](target)` puts the target in the piece after the code, and is found there.
    found
}

fn leads_somewhere(workspace: &Workspace, from: &str, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let (path, anchor) = match target.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (target, None),
    };
    let path = if path.is_empty() {
        from.to_owned()
    } else {
        let folder = Path::new(from).parent().unwrap_or(Path::new(""));
        let Some(path) = normal(&folder.join(path)) else { return false };
        path
    };
    let is_folder = || {
        let inside = format!("{path}/");
        workspace.files.iter().any(|file| file.path.starts_with(&inside))
    };
    match (workspace.text(&path), anchor) {
        (Some(text), Some(anchor)) if path.ends_with(".md") => {
            prose(text).any(|(_, line)| heading_anchor(line).as_deref() == Some(anchor))
        }
        (Some(_), _) => true,
        (None, _) => workspace.files.iter().any(|file| file.path == path) || is_folder(),
    }
}

/// The path without `.` and `..`, with `/` between its parts; `None` if it leaves the repository.
fn normal(path: &Path) -> Option<String> {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !parts.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.to_string_lossy().replace('\\', "/"))
}

/// The anchor which GitHub gives to a heading; `None` if the line is no heading.
fn heading_anchor(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#');
    if title.len() == line.len() || !title.starts_with(' ') {
        return None;
    }
    let kept = title.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c),
        _ => None,
    });
    Some(kept.flat_map(char::to_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    /// The links that lead nowhere from `docs/A.md` with this text.
    fn broken(text: &str) -> Vec<String> {
        let workspace = fixture::files(&[
            ("docs/A.md", text),
            ("docs/B.md", "# One idea: `fifo`, always\n```\n# no heading\n```\n"),
            ("crates/types/src/lib.rs", ""),
        ]);
        broken_links(&workspace).into_iter().map(|finding| finding.place).collect()
    }

    #[test]
    fn links_to_files_folders_headings_and_the_web_pass() {
        let text = "[b](B.md) [h](B.md#one-idea-fifo-always) [f](../crates/types) [w](https://x.y)\n\
                    # Here\n[self](#here) [titled](B.md \"title\") [`code`](B.md)";
        assert_eq!(broken(text), Vec::<String>::new());
    }

    #[test]
    fn links_that_lead_nowhere_are_found_with_their_line() {
        let found = broken("[gone](C.md)\n[h](B.md#no-heading)\n\n[out](../../x.md) [`c`](C.md)");
        assert_eq!(found, ["docs/A.md:1", "docs/A.md:2", "docs/A.md:4", "docs/A.md:4"]);
    }

    #[test]
    fn code_is_not_searched_for_links() {
        assert_eq!(broken("`x[0](gone)` \n```\n[a](gone.md)\n```\n"), Vec::<String>::new());
    }

    #[test]
    fn a_missing_document_is_found() {
        let found = check(&fixture::files(&[("README.md", "# sageLLM")]));
        assert!(found.iter().any(|finding| finding.place == "docs/ARCHITECTURE.md"));
        assert!(!found.iter().any(|finding| finding.place == "README.md"));
    }
}
