//! Texts recorded from a real vLLM, where they are at hand.

use std::path::PathBuf;

use sagellm_api::{ApiError, MetricsPage, Usage};

/// Returns a recorded text, or says that the test was skipped.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn recorded(name: &str) -> Option<String> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/vllm").join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        println!("skipped: no recorded {name} at {}", path.display());
    }
    text
}

#[test]
fn a_recorded_metrics_page_is_read() {
    let Some(text) = recorded("metrics.txt") else { return };
    let page = MetricsPage::parse(&text).expect("vLLM's gauges");
    assert_eq!(page.ranks.len(), 1);
    let total = page.total();
    assert_eq!((total.running, total.waiting, total.kv_usage), (0, 0, Some(0.0)));
    assert_eq!((total.block_size, total.num_gpu_blocks), (Some(32), Some(32_768)));
    assert_eq!((total.prefix_queries, total.prefix_hits), (Some(8571), Some(5952)));
}

#[test]
fn every_recorded_error_is_read() {
    let Some(text) = recorded("errors.txt") else { return };
    let (mut errors, mut answers) = (0, 0);
    for case in text.split("\n--- ") {
        let (Some(status), Some(body)) = (
            case.split("HTTP/1.1 ").nth(1).and_then(|rest| rest.get(..3)),
            case.split("\n\n").nth(1).map(str::trim),
        ) else {
            continue;
        };
        let status: u16 = status.parse().expect("a status");
        if status >= 400 && body.starts_with('{') {
            let error = ApiError::parse(status, body.as_bytes()).expect(body);
            assert!(!error.message.is_empty(), "{body}");
            errors += 1;
        } else if body.contains("\"usage\":{") && body.ends_with('}') {
            assert!(Usage::find(body.as_bytes()).expect(body).prompt > 0, "{body}");
            answers += 1;
        }
    }
    assert!(errors > 15 && answers > 0, "{errors} errors, {answers} answers");
}
