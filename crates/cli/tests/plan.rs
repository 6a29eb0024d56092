//! `sagellm plan` and `sagellm topo` as their users meet them.

mod support;

use support::{run, text};

fn good(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn fails(arguments: &[&str], expected: &str) {
    let output = run(arguments);
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
}

const QUESTION: [&str; 7] = ["plan", "--model", "qwen3-32b", "--isl", "4000", "--osl", "500"];

#[test]
fn a_question_is_answered_with_a_table_reasons_and_figures() {
    let asked = [&QUESTION[..], &["--gpus", "8xH200", "--slo", "ttft=1s,tpot=30ms"]].concat();
    let shown = good(&[&asked[..], &["--explain"]].concat());
    for part in ["2 × tp4", "4 × tp2", "behind the first", "Pareto front", "of them free"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = good(&[&asked[..], &["--json", "-"]].concat());
    let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let best = &answer["plans"][0];
    assert!(best["ttft"].as_f64().expect("a time") <= 1.0, "{best}");
    assert!(best["tpot"].as_f64().expect("a time") <= 0.030, "{best}");
    assert_eq!(best["gpus"], 8);
}

#[test]
fn a_page_shows_the_front_and_asks_no_network() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("plan.html");
    let page = file.display().to_string();
    let asked = [&QUESTION[..], &["--gpus", "8xH200", "--slo", "tpot=30ms", "--split", "also"]];
    good(&[&asked.concat()[..], &["--html", &page]].concat());
    let page = std::fs::read_to_string(file).expect("it was written");
    for part in ["<svg", "Pareto front", "<circle", "memory", "→"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("http"), "one file is all there is");
}

#[test]
fn plans_are_tried_on_arrivals() {
    let asked = [&QUESTION[..], &["--gpus", "4xH200", "--slo", "ttft=2s,tpot=40ms"]].concat();
    let verified = |more: &[&str]| -> Vec<serde_json::Value> {
        let json = good(&[&asked[..], more, &["--verify", "--json", "-"]].concat());
        let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        answer["verified"].as_array().expect("it was asked for").clone()
    };
    for found in verified(&["--split", "also", "--verify-top", "4"]) {
        let (steady, reached) = (found["steady_per_s"].as_f64(), found["per_s"].as_f64());
        assert!(reached.expect("a rate") <= 1.1 * steady.expect("a rate"), "{found}");
        assert!(found["on_time"].as_f64().expect("limits are set") >= 0.9, "{found}");
    }
    // At a third of what it can do, everybody is on time.
    let calm = &verified(&["--rate", "1"])[0];
    assert!(calm["on_time"].as_f64().expect("limits are set") > 0.99, "{calm}");
    let once = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("once.csv");
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n";
    std::fs::write(&once, text).expect("writable");
    let alone = once.display().to_string();
    let asked_of_it = ["plan", "--model", "qwen3-8b", "--gpus", "1xH100", "--trace", &alone];
    fails(&[&asked_of_it[..], &["--verify"]].concat(), "all at once");
    let split = &verified(&["--split", "only", "--verify-top", "1"])[0];
    assert!(split["plan"].as_str().expect("a name").contains('→'), "{split}");
}

#[test]
fn types_of_gpus_share_the_traffic_and_are_tried_together() {
    let asked =
        [&QUESTION[..], &["--gpus", "4xH100,4xA100", "--slo", "ttft=2s,tpot=50ms"]].concat();
    let shown = good(&[&asked[..], &["--explain"]].concat());
    for part in ["4 × H100 + 4 × A100-80GB", "× tp2 + 1 × tp4", "behind the first", "KV tokens"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = good(&[&asked[..], &["--verify", "--verify-top", "1", "--json", "-"]].concat());
    let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let (both, alone) = (&answer["plans"][0], &answer["plans"][1]);
    assert!(both["requests_per_s"].as_f64() > alone["requests_per_s"].as_f64(), "{both}");
    assert_eq!((&both["types"][1]["gpu"], &both["gpus"]), (&"A100-80GB".into(), &8.into()));
    assert!(alone.get("types").is_none(), "{alone}");
    let tried = &answer["verified"][0];
    assert!(tried["on_time"].as_f64().expect("limits are set") >= 0.9, "{tried}");
    // More than either type gives alone is served by both.
    let much = good(&[&asked[..], &["--rate", "4.5"]].concat());
    assert!(much.contains("H100 + ") && much.lines().count() == 3, "{much}");
}

#[test]
fn questions_without_an_answer_say_what_would_do() {
    let with = |more: &[&'static str]| [&QUESTION[..], more].concat();
    fails(&with(&["--gpus", "8xH200", "--layout", "tp3"]), "3 GPUs do not divide its 64 heads");
    fails(
        &with(&["--gpus", "8xH200", "--layout", "tp16"]),
        "tp16 takes 16 GPUs of one type: there are 8",
    );
    fails(&with(&["--gpus", "8xH200", "--layout", "8"]), "expected tpT, then ppP, dpD and ep");
    fails(&with(&["--gpus", "8xH300"]), "unknown GPU `H300`");
    fails(&with(&["--gpus", "H200"]), "expected NxGPU, such as 8xH200");
    fails(&with(&["--gpus", "0xH200"]), "there is no GPU");
    fails(&with(&["--gpus", "8xH200", "--slo", "tpot=1ms"]), "ms per token at best");
    fails(&with(&["--gpus", "1xH200", "--rate", "100"]), "at most");
    fails(&with(&["--gpus", "1xL4"]), "would do");
    fails(&with(&["--gpus", "8xH200", "--cached", "5000"]), "expected less than the 4000");
    fails(&with(&["--gpus", "1xH200", "--split", "only"]), "no two instances fit");
    fails(&with(&["--gpus", "8xH200", "--split", "maybe"]), "expected never, also or only");
    fails(&with(&["--gpus", "8xH200", "--trace", "none.csv"]), "cannot be used with");
    fails(&with(&["--gpus", "8xH200", "--objective", "speed"]), "expected throughput, latency");
}

#[test]
fn slow_links_are_planned_around() {
    let gpus: Vec<String> = (0..8).map(|n| format!("{{ name = \"GPU{n}\" }}")).collect();
    let text = format!(
        "[[host]]\nname = \"box\"\nmodel = \"H100\"\ngpu_links = \"SYS\"\ngpus = [{}]\n",
        gpus.join(", ")
    );
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("slow.toml");
    std::fs::write(&file, text).expect("writable");
    let file = file.to_str().expect("plain");
    let best = |machines: &[&str]| {
        let json =
            good(&[&QUESTION[..], machines, &["--slo", "tpot=30ms", "--json", "-"]].concat());
        let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        answer["plans"][0].clone()
    };
    let (fast, slow) = (best(&["--gpus", "8xH100"]), best(&["--topology", file]));
    assert_eq!((fast["layout"].as_str(), slow["layout"].as_str()), (Some("tp4"), Some("tp2")));
    let rate = |plan: &serde_json::Value| plan["requests_per_s"].as_f64().expect("a rate");
    assert!(rate(&slow) < 0.6 * rate(&fast));
}

#[test]
fn machines_are_shown_or_refused_with_their_line() {
    let shown = good(&["topo", "--preset", "hgx-h100", "--hosts", "2", "--groups", "8x2"]);
    assert_eq!(shown.matches("450 GB/s").count(), 2, "{shown}");
    assert!(good(&["topo", "--preset", "pcie-l40s", "--dot"]).starts_with("graph topology {"));
    let json = good(&["topo", "--preset", "nvl72", "--json"]);
    let view: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(view["gb_per_s"][0][1], 900.0);
    fails(&["topo", "--preset", "hgx-x"], "expected one of hgx-a100");
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad-topo.txt");
    std::fs::write(&file, "\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tNVx\t X \n").expect("writable");
    fails(&["topo", "--from", file.to_str().expect("plain")], "line 3, column 6: `NVx`");
}
