//! The control plane inside an application: register, submit, watch, cancel, measure.
//!
//! `cargo run --example full_stack`. The engines are fake ones, started here; with real vLLM
//! servers only the lines that register them change.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use anyhow::{Context, Result, bail};
use sagellm_examples::fake_engine;
use sagellm_manager::{Config, ControlPlaneManager, StrategyConfig};
use sagellm_types::{
    ExecutionInstance, ExecutionInstanceType, PdSeparationConfig, RequestMetadata, RequestPriority,
    RequestStatus,
};

const MODEL: &str = "llama-7b";

#[tokio::main]
async fn main() -> Result<()> {
    let manager = demonstrate().await?;
    let (metrics, scheduling) = (manager.metrics(), manager.scheduling_metrics());
    let known = |figure: Option<f64>| figure.map_or("unknown".to_owned(), |f| format!("{f:.3}"));
    println!(
        "{} requests, {} completed under {}",
        metrics.total_requests, metrics.completed_requests, scheduling.policy_name
    );
    println!(
        "p95 {} ms, wait p95 {} ms",
        known(metrics.p95_latency_ms),
        known(scheduling.queue_wait_time_p95)
    );
    println!(
        "{:.0} tokens/s, share on time {}",
        metrics.tokens_per_second,
        known(metrics.slo_compliance_rate)
    );
    Ok(())
}

/// Runs requests to their ends and returns the control plane, stopped.
async fn demonstrate() -> Result<ControlPlaneManager> {
    // Long prompts go to instances that are specialised in prefill, short ones to the others.
    let pd =
        PdSeparationConfig { enable_kv_cache_transfer: false, ..PdSeparationConfig::default() };
    let config = Config { strategy: StrategyConfig::parse("adaptive")?, pd, ..Config::default() };
    let manager = ControlPlaneManager::start(&config)?;

    let mut engines = Vec::new();
    for (name, instance_type) in [
        ("prefill-1", ExecutionInstanceType::Prefilling),
        ("decode-1", ExecutionInstanceType::Decoding),
        ("general-1", ExecutionInstanceType::General),
    ] {
        let (engine, instance) = fake_engine(name, MODEL).await?;
        engines.push(engine);
        manager.register_instance(ExecutionInstance { instance_type, ..instance })?;
    }

    // Requests of all levels, submitted at once.
    let mut submitted = Vec::new();
    for (i, priority) in RequestPriority::ALL.into_iter().cycle().take(10).enumerate() {
        let request = RequestMetadata {
            prompt: Some("Explain quantum computing in simple terms. ".repeat(1 + 40 * (i % 3))),
            model_name: Some(MODEL.to_owned()),
            user_id: Some(format!("user-{}", i % 3)),
            priority,
            slo_deadline_ms: Some(30_000.0),
            max_tokens: Some(8 + 4 * i as u32),
            ..RequestMetadata::new(format!("req-{i:03}"))
        };
        submitted.push(manager.submit_request(request)?);
    }
    let long = RequestMetadata {
        prompt: Some("Count to a million.".to_owned()),
        model_name: Some(MODEL.to_owned()),
        max_tokens: Some(4_000),
        ..RequestMetadata::new("req-long")
    };
    let long = manager.submit_request(long)?;

    for id in &submitted {
        let output = finished(&manager, id).await?;
        let text = output.text().unwrap_or_default();
        println!("{id}: {} tokens from {}: {text}", output.usage.output.0, output.instance);
    }
    println!(
        "{long}: {:?}, cancelled: {}",
        manager.request_status(&long),
        manager.cancel_request(&long)
    );
    println!("{long}: {:?}", manager.request_status(&long));

    manager.stop().await;
    Ok(manager)
}

/// Waits for the output of a submitted request.
async fn finished(manager: &ControlPlaneManager, id: &str) -> Result<sagellm_manager::Output> {
    for _ in 0..3_000 {
        if let Some(output) = manager.output(id) {
            return output.with_context(|| id.to_owned());
        }
        if manager.request_status(id) == Some(RequestStatus::Failed) {
            bail!("{id} failed");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("{id} does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_are_answered_but_what_was_cancelled() {
        let manager = demonstrate().await.expect("all is well");
        let metrics = manager.metrics();
        assert_eq!((metrics.total_requests, metrics.completed_requests), (11, 10));
        assert_eq!(metrics.failed_requests, 0);
        assert_eq!(manager.request_status("req-long"), Some(RequestStatus::Cancelled));
        let ninth = manager.output("req-009").expect("it is kept").expect("it was answered");
        assert_eq!(ninth.usage.output.0, 44);
    }
}
