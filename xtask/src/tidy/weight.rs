//! Crates that somebody may take alone stay free of async runtimes and HTTP.
//!
//! The resolved tree of each light crate, with the features that it has by default, is searched
//! for packages that would pull a server into a program that only wants a router.

use anyhow::Result;

use super::{Finding, arrows};
use crate::shell;
use crate::workspace::Workspace;

const HEAVY: &[&str] = &["tokio", "reqwest", "hyper"];

/// Finds light crates that pull in a heavy package.
///
/// # Errors
///
/// When `cargo tree` fails.
pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in workspace.packages.iter().filter(|package| arrows::light(&package.name)) {
        let tree = shell::capture(
            shell::cargo("tree")
                .args(["--package", &package.name, "--edges", "normal,build"])
                .args(["--prefix", "none", "--format", "{p}"]),
        )?;
        for heavy in heavy_packages(&tree) {
            findings.push(Finding::new(
                format!("{}/Cargo.toml", package.folder),
                format!("pulls in {heavy}"),
                format!(
                    "put it behind a feature that is off by default; \
                     `cargo tree -p {} -i {heavy} -e normal` shows the way it comes",
                    package.name
                ),
            ));
        }
    }
    Ok(findings)
}

/// The heavy packages of a tree, one package per line, its name first.
fn heavy_packages(tree: &str) -> Vec<&'static str> {
    let names: Vec<_> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    HEAVY.iter().copied().filter(|heavy| names.contains(heavy)).collect()
}

#[cfg(test)]
mod tests {
    use super::heavy_packages;

    #[test]
    fn a_heavy_package_is_found_wherever_it_stands_in_the_tree() {
        let tree = "sagellm-routing v0.1.0 (/here)\nserde v1.0.0\ntokio v1.40.0 (*)\n";
        assert_eq!(heavy_packages(tree), ["tokio"]);
    }

    #[test]
    fn names_that_only_begin_alike_pass() {
        assert!(
            heavy_packages("tokio-macros v2.0.0 (proc-macro)\nhyperloglog v1.0.0\n").is_empty()
        );
    }
}
