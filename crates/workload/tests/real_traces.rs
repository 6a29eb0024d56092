//! The public traces, where they are at hand.

use std::path::PathBuf;
use std::time::Duration;

use sagellm_types::{Seed, Tokens};
use sagellm_workload::{Workload, jitter, read_trace_file, three_classes};

/// Reads a trace, or says that it is not there.
fn trace(name: &str) -> Option<Workload> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/traces");
    let path = folder.join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(read_trace_file(&path).expect("the trace is sound"))
}

#[test]
fn azure_conversations_have_their_rows_span_and_lengths() {
    let Some(workload) = trace("AzureLLMInferenceTrace_conv.csv") else { return };
    let shape = workload.shape().expect("there are rows");
    assert_eq!(shape.requests, 19_366);
    assert!((shape.span.as_secs_f64() - 3501.7).abs() < 0.1, "{shape:?}");
    assert!((shape.mean_prompt - 1154.7).abs() < 0.1, "{shape:?}");
    assert!((shape.mean_output - 211.1).abs() < 0.1, "{shape:?}");
    assert!((shape.gap_cv - 1.09).abs() < 0.01, "{shape:?}");
}

#[test]
fn mooncake_traces_have_their_rows_and_shared_prefixes() {
    if let Some(workload) = trace("mooncake_synthetic_trace.jsonl") {
        assert_eq!(workload.arrivals.len(), 3_993);
    }
    let Some(workload) = trace("mooncake_conversation_trace.jsonl") else { return };
    assert_eq!(workload.arrivals.len(), 12_031);
    assert!(workload.arrivals.iter().all(|arrival| arrival.blocks.first() == Some(&0)));
    let ticks = workload.shape().expect("there are rows");
    let spread = jitter(workload, Duration::from_secs(3), Seed(1)).shape().expect("still");
    assert!(ticks.gap_cv > 2.9 && spread.gap_cv < 1.3, "{ticks:?} {spread:?}");
    assert_eq!(ticks.mean_prompt, spread.mean_prompt);
}

#[test]
fn a_trace_takes_classes_and_limits() {
    let Some(workload) = trace("AzureLLMInferenceTrace_conv.csv") else { return };
    let workload = workload.classify(three_classes(), Seed(2)).cap(Tokens(4096), Tokens(512));
    let mut counts = [0usize; 3];
    workload.arrivals.iter().for_each(|arrival| counts[arrival.class] += 1);
    for (count, class) in counts.iter().zip(&workload.classes) {
        let share = *count as f64 / workload.arrivals.len() as f64;
        assert!((share - class.share).abs() < 0.02, "{}: {share}", class.name);
    }
    assert!(workload.arrivals.iter().all(|a| a.prompt.0 <= 4096 && a.output.0 <= 512));
    assert!(workload.arrivals.iter().all(|arrival| arrival.user.is_some()));
}
