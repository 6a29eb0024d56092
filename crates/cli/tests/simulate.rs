//! `sagellm simulate` as its users meet it: scenarios, files, searches, mistakes.

use std::path::{Path, PathBuf};
use std::process::Output;

mod support;

use support::text;

fn run(arguments: &[&str]) -> Output {
    support::run(&[&["simulate", "--quiet"], arguments].concat())
}

fn good(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/scenarios")
}

fn scenario(name: &str) -> String {
    scenarios().join(name).to_str().expect("a plain path").to_owned()
}

#[test]
fn every_committed_scenario_runs() {
    for entry in std::fs::read_dir(scenarios()).expect("the scenarios are there") {
        let path = entry.expect("readable").path();
        let content = std::fs::read_to_string(&path).expect("readable");
        let trace = content.lines().find_map(|line| line.strip_prefix("file = \""));
        let absent = |trace: &str| !scenarios().join(trace.trim_end_matches('"')).exists();
        if trace.is_some_and(absent) {
            eprintln!("SKIPPED {}: its trace is not here", path.display());
            continue;
        }
        let file = path.to_str().expect("a plain path");
        let report = good(&[file, "--duration", "30", "--json", "-"]);
        assert!(report.contains("\"usd_rented\""), "{file}");
    }
}

#[test]
fn a_crash_in_a_scenario_breaks_streams_and_loses_nothing() {
    let report: serde_json::Value =
        serde_json::from_str(&good(&[&scenario("crash.toml"), "--json", "-"])).expect("JSON");
    let of = |name: &str| report["requests"][name].as_u64().expect("a count");
    assert!(of("failed") > 0, "what had begun is broken");
    let ended = ["finished", "failed", "cancelled", "rejected", "expired"].map(of);
    assert_eq!(ended.iter().sum::<u64>(), of("submitted"));
}

#[test]
fn a_seed_is_a_report_whether_steps_are_taken_or_leapt_over() {
    let file = scenario("mix3.toml");
    let report = |more: &[&str]| {
        let mut arguments = vec![file.as_str(), "--duration", "60", "--seed", "3", "--json", "-"];
        arguments.extend(more);
        good(&arguments)
    };
    let once = report(&[]);
    assert_eq!(once, report(&[]));
    assert_eq!(once, report(&["--step"]));
    assert_eq!(once, report(&["--check"]), "looking changes nothing");
    assert_ne!(once, report(&["--strategy", "slo_aware"]));
}

#[test]
fn a_run_is_written_as_a_page_and_as_rows() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (page, rows) = (folder.join("run.html"), folder.join("run.csv"));
    let (page, rows) = (page.to_str().expect("plain"), rows.to_str().expect("plain"));
    let file = scenario("mix3.toml");
    let shown = good(&[&file, "--duration", "60", "--html", page, "--csv", rows]);
    assert!(shown.contains("arriving") && shown.contains('█'), "{shown}");
    let page = std::fs::read_to_string(page).expect("written");
    assert!(page.contains("<svg") && page.contains("rag") && !page.contains("http"), "no network");
    let rows = std::fs::read_to_string(rows).expect("written");
    assert_eq!(rows.lines().count(), 5, "a heading, three classes, the total: {rows}");
}

#[test]
fn policies_are_compared_and_rates_are_sought() {
    let file = scenario("burst.toml");
    let axes = ["--compare", "strategy=fifo,slo_aware", "router=load_balanced,random"];
    let few = ["--duration", "40", "--seeds", "2"];
    let all = [&[file.as_str()], &axes[..], &few[..]].concat();
    let compared = good(&all);
    assert_eq!(compared.matches("slo_aware").count(), 2, "{compared}");
    let found = good(&[&all[..], &["--find", "goodput", "--json", "-"]].concat());
    assert_eq!(found.matches("\"per_s\"").count(), 4, "{found}");
    let fleets = good(&[&file, "--fleet", "6xA100,6xH100", "--find", "fleet", "--duration", "40"]);
    assert!(fleets.contains("6xA100") && fleets.contains("cheapest first"), "{fleets}");
}

#[test]
fn mistakes_are_told_with_what_is_accepted() {
    let file = scenario("burst.toml");
    let check = |arguments: &[&str], expected: &str| {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
    };
    check(&[], "expected a scenario file, or --model and --fleet");
    check(&["--model", "llama-3.1-70b", "--fleet", "1xL4"], "GiB are lacking");
    check(&["--model", "llama-9", "--fleet", "1xL4"], "the nearest of");
    check(&[&file, "--fleet", "4xA100:pp2"], "expected NxGPU:tpT");
    check(&[&file, "--compare", "strategy=fastest"], "known are: fifo");
    let never = ["--slo", "ttft=1ms", "--duration", "40", "--seeds", "1"];
    let sought = [&[file.as_str()], &never[..], &["--find", "goodput"]].concat();
    check(&sought, "no rate is low enough");
    for flag in [["--rate", "3"], ["--gaps", "even"], ["--prompt-tokens", "5"]] {
        check(&[&[file.as_str()], &flag[..]].concat(), "the scenario says what its traffic is");
    }
    check(&[&file, "--jitter", "3"], "arrivals are drawn, not on the ticks of a trace");
    check(&[&file, "--listen", "127.0.0.1:1"], "nothing listens");
    let both = ["--find", "fleet", "--compare", "strategy=fifo"];
    check(&[&[file.as_str()], &both[..]].concat(), "--compare is for --find goodput");
    let crash = scenario("crash.toml");
    check(&[&crash, "--find", "fleet"], "names an instance");
    let silent = ["--model", "llama-3.1-8b", "--fleet", "1xA100", "--duration", "20"];
    check(&[&silent[..], &["--find", "goodput"]].concat(), "no class asks for anything");
    check(&[&silent[..], &["--warm-up", "50"]].concat(), "none would be counted");
    check(&["--model", "llama-3.1-8b", "--fleet", "1xA100:tp1dp2"], "no experts to share");
}
