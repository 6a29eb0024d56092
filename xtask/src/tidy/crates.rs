//! What every crate carries so that it can be read and used alone: a description, a licence, the
//! workspace's lints; a library also a README and a crate doc with an example that runs.

use super::Finding;
use crate::workspace::{Package, Workspace};

/// Libraries whose example needs an engine or a socket, so that it may be compiled only.
const MAY_ONLY_COMPILE: &[&str] = &["sagellm-executor", "sagellm-gateway"];

/// Finds crates that lack something.
pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    let packages = &workspace.packages;
    packages.iter().flat_map(|package| check_package(workspace, package)).collect()
}

fn check_package(workspace: &Workspace, package: &Package) -> Vec<Finding> {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let mut findings = Vec::new();
    if !workspace.text(&manifest).is_some_and(inherits_lints) {
        findings.push(Finding::new(
            &manifest,
            "does not use the workspace's lints",
            "add `[lints]` with `workspace = true`",
        ));
    }
    if package.license.is_none() {
        findings.push(Finding::new(
            &manifest,
            "names no licence",
            "add `license.workspace = true`",
        ));
    }
    // What lies outside of `crates/` is not for others to use.
    if !package.folder.starts_with("crates/") {
        return findings;
    }
    if package.description.as_deref().unwrap_or_default().trim().is_empty() {
        findings.push(Finding::new(
            &manifest,
            "has no description",
            "say in one sentence what the crate is for",
        ));
    }
    let Some(library) = &package.library else { return findings };
    let readme = format!("{}/README.md", package.folder);
    if workspace.text(&readme).is_none_or(|text| text.trim().is_empty()) {
        findings.push(Finding::new(
            &readme,
            "the crate has no README",
            "write 5 to 15 lines: what it is, an example, how to use it alone",
        ));
    }
    let source = workspace.text(library).unwrap_or_default();
    let may_only_compile = MAY_ONLY_COMPILE.contains(&package.name.as_str());
    if !source.starts_with("//!") {
        findings.push(Finding::new(
            library,
            "has no crate doc at its top",
            "begin with `//!`: what the crate decides, what it never does, an example",
        ));
    } else if !has_example(&crate_doc(source, workspace.text(&readme)), may_only_compile) {
        findings.push(Finding::new(
            library,
            "the crate doc has no example that runs",
            "add a ``` block without `ignore` or `no_run`; it is a test",
        ));
    }
    findings
}

fn inherits_lints(manifest: &str) -> bool {
    let Ok(manifest) = manifest.parse::<toml::Table>() else { return false };
    manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool)
        .unwrap_or(false)
}

/// What rustdoc shows at the top of a crate: its leading doc comment, and its README if that is
/// included there.
fn crate_doc(source: &str, readme: Option<&str>) -> String {
    let leading = source.lines().map_while(|line| line.strip_prefix("//!"));
    let mut doc = leading.map(|line| line.trim()).collect::<Vec<_>>().join("\n");
    if source.contains("#![doc = include_str!(\"../README.md\")]") {
        doc.push('\n');
        doc.push_str(readme.unwrap_or_default());
    }
    doc
}

/// Whether a crate doc has a code block that rustdoc runs, or at least compiles.
fn has_example(doc: &str, may_only_compile: bool) -> bool {
    let runs = |tag: &str| {
        matches!(tag, "" | "rust" | "should_panic")
            || tag.starts_with("edition")
            || (may_only_compile && tag == "no_run")
    };
    let mut inside = false;
    for tags in doc.lines().filter_map(|line| line.strip_prefix("```")) {
        if !inside && tags.split(',').all(|tag| runs(tag.trim())) {
            return true;
        }
        inside = !inside;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    const MANIFEST: &str = "[lints]\nworkspace = true\n";
    const SOURCE: &str = "//! Routes.\n//!\n//! ```\n//! assert!(true);\n//! ```\n";

    /// What is found on `sagellm-routing` with these files, as problems.
    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let mut workspace = fixture::files(files);
        workspace.packages.push(fixture::library("routing", &[]));
        check(&workspace).into_iter().map(|finding| finding.problem).collect()
    }

    #[test]
    fn a_complete_crate_passes() {
        let found = problems(&[
            ("crates/routing/Cargo.toml", MANIFEST),
            ("crates/routing/README.md", "# Routing"),
            ("crates/routing/src/lib.rs", SOURCE),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn what_a_crate_lacks_is_found() {
        let found = problems(&[
            ("crates/routing/Cargo.toml", "[package]\n"),
            ("crates/routing/src/lib.rs", "mod router;\n"),
        ]);
        assert_eq!(
            found,
            [
                "does not use the workspace's lints",
                "the crate has no README",
                "has no crate doc at its top",
            ]
        );
    }

    #[test]
    fn an_example_that_does_not_run_is_no_example() {
        for tags in ["ignore", "no_run", "text", "toml", "rust,no_run"] {
            let doc = format!("Routes.\n```{tags}\nx\n```\n");
            assert!(!has_example(&doc, false), "{tags}");
        }
        assert!(has_example("```no_run\nx\n```\n", true));
        assert!(has_example("```text\nx\n```\n```rust\nx\n```\n", false));
    }

    #[test]
    fn an_example_below_the_crate_doc_does_not_count() {
        let doc = crate_doc("//! Routes.\n\n//! ```\n//! x\n//! ```\n", Some("```\nx\n```"));
        assert!(!has_example(&doc, false));
    }

    #[test]
    fn an_example_in_an_included_readme_counts() {
        let source = "//! Routes.\n//!\n#![doc = include_str!(\"../README.md\")]\n";
        assert!(has_example(&crate_doc(source, Some("# R\n\n```rust\nx\n```\n")), false));
    }

    #[test]
    fn a_crate_without_description_or_licence_is_found() {
        let mut package = fixture::library("routing", &[]);
        package.description = Some(" ".to_owned());
        package.license = None;
        package.library = None;
        let mut workspace = fixture::files(&[("crates/routing/Cargo.toml", MANIFEST)]);
        workspace.packages.push(package);
        let found = check(&workspace);
        assert_eq!(found[0].problem, "names no licence");
        assert_eq!(found[1].problem, "has no description");
    }
}
