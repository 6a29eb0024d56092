//! The workspace as cargo and git see it: packages, their arrows and targets, and the text files.
//!
//! The checks of [`crate::tidy`] read these plain records, so that a test can hand them a small
//! workspace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, TargetKind};

use crate::shell;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace root")
}

/// What the checks read.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) packages: Vec<Package>,
    pub(crate) files: Vec<File>,
}

/// A member of the workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its folder, relative to the root, with `/` between the parts.
    pub(crate) folder: String,
    pub(crate) description: Option<String>,
    pub(crate) license: Option<String>,
    /// Its arrows to other members.
    pub(crate) arrows: Vec<Arrow>,
    /// The source of its library, relative to the root.
    pub(crate) library: Option<String>,
    pub(crate) tests: Vec<Target>,
    pub(crate) benches: Vec<Target>,
}

/// A test or a bench of a package.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// Its source, relative to the root.
    pub(crate) source: String,
}

/// A dependency of a member on a member.
#[derive(Clone, Debug)]
pub(crate) struct Arrow {
    pub(crate) to: String,
    pub(crate) kind: ArrowKind,
}

/// When an arrow is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArrowKind {
    /// Always.
    Always,
    /// Behind a feature.
    Optional,
    /// In tests, examples and benches alone.
    Development,
}

/// A file that git tracks or would track, relative to the root.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    /// Its text; `None` where it is not UTF-8.
    pub(crate) text: Option<String>,
}

impl Workspace {
    /// Reads the workspace from cargo and git.
    ///
    /// # Errors
    ///
    /// When `cargo metadata` or `git ls-files` fails, or a listed file cannot be read.
    pub(crate) fn load() -> Result<Self> {
        Ok(Self { packages: packages(&metadata()?), files: files()? })
    }

    /// The text of a file, if it is there and is text.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path)?.text.as_deref()
    }
}

/// The members of the workspace, their dependencies unresolved.
///
/// # Errors
///
/// When `cargo metadata` fails.
pub(crate) fn metadata() -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot read `cargo metadata`")
}

/// The members of the workspace.
pub(crate) fn packages(metadata: &Metadata) -> Vec<Package> {
    let members = metadata.workspace_packages();
    let is_member = |name: &str| members.iter().any(|member| member.name.as_str() == name);
    let relative =
        |path: &Path| path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned();
    let of_kind = |package: &cargo_metadata::Package, kind: TargetKind| {
        let targets = package.targets.iter().filter(|target| target.kind.contains(&kind));
        targets
            .map(|target| Target {
                name: target.name.clone(),
                source: relative(target.src_path.as_std_path()),
            })
            .collect::<Vec<_>>()
    };
    let mut packages: Vec<_> = members
        .iter()
        .map(|package| Package {
            name: package.name.to_string(),
            folder: package
                .manifest_path
                .parent()
                .map(|folder| relative(folder.as_std_path()))
                .unwrap_or_default(),
            description: package.description.clone(),
            license: package.license.clone(),
            arrows: package
                .dependencies
                .iter()
                .filter(|dependency| is_member(&dependency.name))
                .map(|dependency| Arrow {
                    to: dependency.name.clone(),
                    kind: match dependency.kind {
                        DependencyKind::Development => ArrowKind::Development,
                        _ if dependency.optional => ArrowKind::Optional,
                        _ => ArrowKind::Always,
                    },
                })
                .collect(),
            library: of_kind(package, TargetKind::Lib).pop().map(|target| target.source),
            tests: of_kind(package, TargetKind::Test),
            benches: of_kind(package, TargetKind::Bench),
        })
        .collect();
    packages.sort_by(|a, b| a.folder.cmp(&b.folder));
    packages
}

/// The files that git tracks or would track if they were added.
fn files() -> Result<Vec<File>> {
    let mut list = Command::new("git");
    // A checkout owned by somebody else, as in a container, is read all the same.
    list.args(["-c", "safe.directory=*", "ls-files", "-z"])
        .args(["--cached", "--others", "--exclude-standard"])
        .current_dir(root());
    let listed = shell::capture(&mut list)?;
    let mut paths: Vec<_> = listed.split('\0').filter(|path| !path.is_empty()).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let full: PathBuf = root().join(path);
        // Removed but still tracked, or a link to a folder.
        if !full.is_file() {
            continue;
        }
        let bytes = std::fs::read(&full).with_context(|| format!("cannot read {path}"))?;
        files.push(File { path: path.to_owned(), text: String::from_utf8(bytes).ok() });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_read_as_it_stands() {
        let workspace = Workspace::load().expect("cargo and git know this workspace");
        let xtask = workspace.packages.iter().find(|package| package.name == "xtask");
        assert_eq!(xtask.expect("xtask is a member").folder, "xtask");
        let types = workspace.packages.iter().find(|package| package.folder == "crates/types");
        let types = types.expect("types is a member");
        assert_eq!(types.library.as_deref(), Some("crates/types/src/lib.rs"));
        assert!(workspace.text("Cargo.toml").expect("it is text").contains("[workspace]"));
    }
}
