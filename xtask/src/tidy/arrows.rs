//! Which crate may know which.
//!
//! ```text
//! L0  types  api                                      know nobody, not each other
//! L1  perf  topology  strategies  routing  pd         each knows types alone
//!     fleet  monitoring  workload
//! L2  parallelism    -> types, perf
//!     engine-model   -> types, perf                   (+ api, behind a feature)
//!     executor       -> types, api
//! L3  manager        -> L0, L1                        (+ executor, behind a feature)
//! L4  simulator      -> L0, L1, engine-model, manager
//!     gateway        -> L0, monitoring, manager, executor
//! L5  cli, examples  -> everything
//!     xtask          -> nothing of ours
//! ```
//!
//! The table below is that drawing; it is also in `docs/ARCHITECTURE.md`. A new arrow is a change
//! of the architecture: it is drawn in both places, and the commit says why.

use super::Finding;
use crate::workspace::{ArrowKind, Workspace};

/// A group of rooms that the drawing names as one.
type Group = &'static [&'static str];

const L0: Group = &["types", "api"];
const L1: Group =
    &["perf", "topology", "strategies", "routing", "pd", "fleet", "monitoring", "workload"];
const ABOVE: Group =
    &["parallelism", "engine-model", "executor", "manager", "simulator", "gateway", "cli"];

/// The arrows that leave a crate.
struct Room {
    name: &'static str,
    /// Those that may always be there.
    always: &'static [Group],
    /// Those that must hide behind a feature.
    behind_a_feature: &'static [Group],
    /// Those that only its tests, examples and benches may use, besides the others.
    tests: &'static [Group],
}

/// A crate of L1: it speaks to its siblings in values of `types`.
const fn sibling(name: &'static str) -> Room {
    Room { name, always: &[&["types"]], behind_a_feature: &[], tests: &[] }
}

const DRAWING: &[Room] = &[
    Room { name: "types", always: &[], behind_a_feature: &[], tests: &[] },
    Room { name: "api", always: &[], behind_a_feature: &[], tests: &[] },
    sibling("perf"),
    sibling("topology"),
    sibling("strategies"),
    sibling("routing"),
    sibling("pd"),
    sibling("fleet"),
    sibling("monitoring"),
    sibling("workload"),
    Room {
        name: "parallelism",
        always: &[&["types", "perf"]],
        behind_a_feature: &[],
        tests: &[&["topology"]],
    },
    Room {
        name: "engine-model",
        always: &[&["types", "perf"]],
        behind_a_feature: &[&["api"]],
        tests: &[&["workload"]],
    },
    Room {
        name: "executor",
        always: &[&["types", "api"]],
        behind_a_feature: &[],
        tests: &[&["engine-model"]],
    },
    Room {
        name: "manager",
        always: &[L0, L1],
        behind_a_feature: &[&["executor"]],
        tests: &[&["engine-model"]],
    },
    Room {
        name: "simulator",
        always: &[L0, L1, &["engine-model", "manager"]],
        behind_a_feature: &[],
        tests: &[],
    },
    Room {
        name: "gateway",
        always: &[L0, &["monitoring", "manager", "executor"]],
        behind_a_feature: &[],
        tests: &[&["engine-model", "workload"]],
    },
    Room { name: "cli", always: &[L0, L1, ABOVE], behind_a_feature: &[], tests: &[] },
    Room { name: "examples", always: &[L0, L1, ABOVE], behind_a_feature: &[], tests: &[] },
    Room { name: "xtask", always: &[], behind_a_feature: &[], tests: &[] },
];

/// Finds every arrow that is not drawn, and every crate that the drawing does not know.
pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        let manifest = format!("{}/Cargo.toml", package.folder);
        let name = short(&package.name);
        let Some(room) = DRAWING.iter().find(|room| room.name == name) else {
            findings.push(Finding::new(
                manifest,
                format!("`{}` is not in the drawing of the house", package.name),
                "draw it in xtask/src/tidy/arrows.rs and docs/ARCHITECTURE.md, or rename it",
            ));
            continue;
        };
        if let Some(folder) = package.folder.strip_prefix("crates/")
            && package.name != format!("sagellm-{folder}")
        {
            findings.push(Finding::new(
                &manifest,
                format!("the package is called `{}`", package.name),
                format!("call it `sagellm-{folder}`, after its folder"),
            ));
        }
        for arrow in &package.arrows {
            if let Some((problem, remedy)) = judge(room, short(&arrow.to), arrow.kind) {
                findings.push(Finding::new(&manifest, problem, remedy));
            }
        }
    }
    findings
}

/// What is wrong with an arrow, and the remedy; `None` if it is drawn.
fn judge(room: &Room, to: &str, kind: ArrowKind) -> Option<(String, String)> {
    let among = |groups: &[Group]| groups.iter().any(|group| group.contains(&to));
    let name = room.name;
    let drawn_elsewhere = "remove it; siblings talk in values of `types`, and who knows both wires \
         them together. A new arrow is drawn in xtask/src/tidy/arrows.rs and docs/ARCHITECTURE.md";
    match kind {
        _ if among(room.always) => None,
        ArrowKind::Optional | ArrowKind::Development if among(room.behind_a_feature) => None,
        ArrowKind::Always if among(room.behind_a_feature) => Some((
            format!("the arrow {name} -> {to} is always there"),
            "make the dependency optional and put it behind a feature".to_owned(),
        )),
        ArrowKind::Development if among(room.tests) => None,
        ArrowKind::Development => Some((
            format!("the arrow {name} -> {to} of the tests is not drawn"),
            format!(
                "test through `types`, or list {to} under `tests` of {name} in xtask/src/tidy/arrows.rs"
            ),
        )),
        ArrowKind::Always | ArrowKind::Optional => {
            Some((format!("the arrow {name} -> {to} is not drawn"), drawn_elsewhere.to_owned()))
        }
    }
}

/// The crates that must be light enough to be taken alone.
pub(super) fn light(package: &str) -> bool {
    let name = short(package);
    L0.contains(&name) || L1.contains(&name) || matches!(name, "parallelism" | "engine-model")
}

fn short(package: &str) -> &str {
    package.strip_prefix("sagellm-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::library;
    use super::*;
    use crate::workspace::ArrowKind::{Always, Development, Optional};

    /// What is found on one crate with one arrow.
    #[track_caller]
    fn check_arrow(from: &str, to: &str, kind: ArrowKind, expected: Option<&str>) {
        let packages = vec![library(from, &[(to, kind)])];
        let findings = check(&Workspace { packages, files: Vec::new() });
        let problems: Vec<_> = findings.iter().map(|finding| finding.problem.as_str()).collect();
        assert_eq!(problems, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_drawn_arrow_passes() {
        check_arrow("routing", "types", Always, None);
        check_arrow("manager", "routing", Always, None);
        check_arrow("gateway", "executor", Always, None);
        check_arrow("cli", "gateway", Always, None);
    }

    #[test]
    fn an_arrow_between_siblings_is_found() {
        let problem = "the arrow routing -> strategies is not drawn";
        check_arrow("routing", "strategies", Always, Some(problem));
        check_arrow("routing", "strategies", Optional, Some(problem));
    }

    #[test]
    fn an_arrow_upwards_is_found() {
        check_arrow("types", "api", Always, Some("the arrow types -> api is not drawn"));
        check_arrow(
            "executor",
            "manager",
            Always,
            Some("the arrow executor -> manager is not drawn"),
        );
    }

    #[test]
    fn an_arrow_of_a_feature_must_be_optional() {
        check_arrow("manager", "executor", Optional, None);
        let problem = "the arrow manager -> executor is always there";
        check_arrow("manager", "executor", Always, Some(problem));
    }

    #[test]
    fn tests_have_arrows_of_their_own_but_only_listed_ones() {
        check_arrow("executor", "engine-model", Development, None);
        check_arrow("engine-model", "api", Development, None);
        let problem = "the arrow routing -> perf of the tests is not drawn";
        check_arrow("routing", "perf", Development, Some(problem));
    }

    #[test]
    fn the_tools_know_nothing_of_ours() {
        let mut package = library("xtask", &[("types", Always)]);
        package.name = "xtask".to_owned();
        package.folder = "xtask".to_owned();
        let findings = check(&Workspace { packages: vec![package], files: Vec::new() });
        assert_eq!(findings.len(), 1, "{findings:?}");
    }

    #[test]
    fn a_crate_that_is_not_drawn_or_misnamed_is_found() {
        let stranger = library("helpers", &[]);
        let mut misnamed = library("routing", &[]);
        misnamed.name = "routing".to_owned();
        let findings = check(&Workspace { packages: vec![stranger, misnamed], files: Vec::new() });
        assert_eq!(findings.len(), 2, "{findings:?}");
    }

    #[test]
    fn every_arrow_of_the_drawing_ends_in_a_room() {
        for room in DRAWING {
            for to in [room.always, room.behind_a_feature, room.tests].concat().concat() {
                assert!(DRAWING.iter().any(|room| room.name == to), "{} -> {to}", room.name);
            }
        }
    }
}
