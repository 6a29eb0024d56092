//! The binary as its users meet it: exit codes, what goes where, and the commands together.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

mod support;

use support::{run, sagellm, text};

/// A folder for the files of one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("the folder can be made");
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("the folder is writable");
        path.to_str().expect("a plain path").to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a plain path").to_owned()
    }
}

/// A server of ours that ends with the test. Its first line says where it listens.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child =
            sagellm(arguments).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("it says where it listens");
        let at = line.find("http://").unwrap_or_else(|| {
            let mut rest = String::new();
            let _ = lines.read_to_string(&mut rest);
            panic!("no address in: {line}{rest}")
        });
        let url = line[at..].split_whitespace().next().expect("a URL").to_owned();
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_broken_settings_file_is_named_with_its_line_on_standard_error() {
    let folder = Folder::new("broken");
    let file = folder.file("fleet.toml", "seed = 1\n[queue]\nmax_waitin = 3\n");
    let output = run(&["config", "check", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let error = text(&output.stderr);
    assert!(error.contains("fleet.toml:3:1") && error.contains("max_waiting"), "{error}");
}

#[test]
fn the_default_settings_pass_their_own_check() {
    let folder = Folder::new("default");
    let printed = run(&["config", "default"]);
    let file = folder.file("default.toml", &text(&printed.stdout));
    let checked = run(&["config", "check", &file]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).contains("strategy adaptive, router load_balanced"));
}

#[test]
fn settings_that_are_shown_are_settings_again() {
    let folder = Folder::new("shown");
    let flags = ["config", "show", "--strategy", "fifo", "--backend", "http://a:1", "--seed", "7"];
    let shown = run(&flags);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let file = folder.file("shown.toml", &text(&shown.stdout));
    let again = run(&["config", "show", "--config", &file]);
    assert_eq!(text(&again.stdout), text(&shown.stdout));
    assert!(text(&shown.stdout).contains("instance_id = \"a:1\""));
}

#[test]
fn unknown_names_are_errors_of_the_command_line() {
    let output = run(&["serve", "--strategy", "fastest"]);
    assert_eq!(output.status.code(), Some(2));
    let known = "known are: fifo, priority, slo_aware, cost_optimized, adaptive";
    assert!(text(&output.stderr).contains(known), "{}", text(&output.stderr));
}

#[test]
fn serving_nothing_is_refused_with_what_to_do() {
    let output = run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--backend URL"), "{}", text(&output.stderr));
}

#[test]
fn a_variable_that_does_not_fit_is_named() {
    let mut command = sagellm(&["config", "show"]);
    let output = command.env("SAGELLM_RETRY__BUDGET", "7").output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("SAGELLM_RETRY__BUDGET=7") && error.contains("from 0 to 1"), "{error}");
}

#[test]
fn a_demonstration_answers_every_request_and_writes_its_report() {
    let folder = Folder::new("demo");
    let file = folder.path("report.json");
    let demo = [
        "--quiet",
        "demo",
        "--engines",
        "2",
        "--duration",
        "6",
        "--speed",
        "6",
        "--strategy",
        "slo_aware",
        "--listen",
        "127.0.0.1:0",
        "--seed",
        "5",
        "--json",
        &file,
    ];
    let output = run(&demo);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.contains("slo_aware against fifo: gained"), "{printed}");
    let report = std::fs::read_to_string(file).expect("the report was written");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let count = |name: &str| report["requests"][name].as_u64().expect("a count");
    assert!(count("submitted") > 20, "{report}");
    assert_eq!(count("submitted"), count("finished"));
    assert_eq!(report["strategy"], "slo_aware");
    assert_eq!(report["seed"], 5);
    assert_eq!(report["instances"].as_array().map(Vec::len), Some(2));
    assert!(report["classes"]["interactive"]["slo"]["attainment"].is_f64(), "{report}");
    assert!(report["queue_wait_ms"]["max"].as_f64().is_some(), "{report}");
}

#[test]
fn every_recipe_runs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/recipes");
    let recipes = std::fs::read_dir(&folder).expect("the recipes are there");
    let mut count = 0;
    for recipe in recipes {
        let path = recipe.expect("readable").path();
        let path = path.to_str().expect("a plain path");
        let checked = run(&["config", "check", path]);
        assert!(checked.status.success(), "{}", text(&checked.stderr));
        let demo = ["-q", "demo", "--config", path, "--duration", "2", "--speed", "8"];
        let output = run(&[&demo[..], &["--no-compare", "--listen", "127.0.0.1:0"]].concat());
        assert!(output.status.success(), "{path}: {}", text(&output.stderr));
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn engines_gateway_load_and_status_work_together() {
    let folder = Folder::new("together");
    let mock = ["mock-engine", "--listen", "127.0.0.1:0", "--model", "llama-7b", "--speed", "5"];
    let (one, two) = (Server::start(&mock), Server::start(&mock));
    let gateway = Server::start(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--backend",
        &one.url,
        "--backend",
        &two.url,
        "--strategy",
        "priority",
        "--speed",
        "5",
    ]);
    let status = ["status", "--once", "--url", &gateway.url];
    // The first probes are under way.
    let ready = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        text(&run(&status).stdout).matches("ready").count() == 2
    });
    assert!(ready, "{}", text(&run(&status).stdout));

    let trace = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 18:15:46.0000000,374,5\n2023-11-16 18:15:46.5000000,10,12\n\
        2023-11-16 18:15:47.0000000,2000,1\n";
    let (trace, file) = (folder.file("trace.csv", trace), folder.path("report.json"));
    for endpoint in
        [&["--endpoint", "chat"][..], &["--endpoint", "completions", "--prompt", "tokens"]]
    {
        let replay = [
            &["--quiet", "replay", "--url", &gateway.url, "--trace", &trace, "--speed", "5"][..],
            &["--e2e-slo", "60000", "--json", &file],
            endpoint,
        ];
        let output = run(&replay.concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report = std::fs::read_to_string(&file).expect("the report was written");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["requests"]["finished"], 3, "{report}");
        assert_eq!(report["slo"]["attainment"], 1.0, "{report}");
        // 18 output tokens, and prompts of at least the asked length.
        let seconds = report["model_s"].as_f64().expect("a time");
        let output_tokens = report["throughput"]["output_tokens_per_s"].as_f64().expect("a rate");
        assert!((output_tokens * seconds - 18.0).abs() < 0.01, "{report}");
    }
    let shown = text(&run(&status).stdout);
    assert!(shown.contains("6 submitted   6 finished   0 failed"), "{shown}");
    assert!(shown.contains("strategy priority"), "{shown}");
}

#[test]
fn load_on_a_server_that_is_not_there_fails_with_its_name() {
    let output = run(&["replay", "--url", "http://127.0.0.1:9", "--requests", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("http://127.0.0.1:9"), "{}", text(&output.stderr));
}
