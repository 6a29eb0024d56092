//! The shell and the async handle over engines without a network.
#![cfg(feature = "runtime")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use sagellm_executor::{
    BoxFuture, Call, Engine, EngineError, HttpConfig, ProbeConfig, Reply, SettingsError,
};
use sagellm_manager::{
    Config, ControlPlaneManager, EngineFactory, ManagerError, NewRequest, SchedulingStrategy, Shell,
};
use sagellm_strategies::Urgency;
use sagellm_types::clock::Clock;
use sagellm_types::{
    ExecutionInstance, Request, RequestMetadata, RequestStatus, RequestType, Timestamp,
};

/// An engine that answers at once, or never.
#[derive(Default)]
struct Scripted {
    hangs: AtomicBool,
    fails: AtomicUsize,
    calls: Mutex<Vec<(String, serde_json::Value)>>,
    running: Arc<AtomicUsize>,
}

/// Counts a call as running until it is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Engine for Scripted {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, EngineError>> {
        Box::pin(async move {
            let answer = |status, body: String| Reply {
                status,
                headers: HeaderMap::new(),
                body: Bytes::from(body).into(),
            };
            if call.path == "/health" {
                return Ok(answer(StatusCode::OK, String::new()));
            }
            if !call.path.starts_with("/v1/") || call.path == "/v1/models" {
                return Ok(answer(StatusCode::NOT_FOUND, String::new()));
            }
            let body = serde_json::from_slice(&call.body).expect("the manager sends JSON");
            self.calls.lock().expect("no panic").push((call.path.to_string(), body));
            self.running.fetch_add(1, Ordering::SeqCst);
            let _running = Running(Arc::clone(&self.running));
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let fails = |n: usize| n.checked_sub(1);
            if self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
                return Ok(answer(StatusCode::INTERNAL_SERVER_ERROR, "{\"error\":{}}".into()));
            }
            let text = r#"{"id":"x","model":"m","choices":[{"index":0,"message":{"content":"hello"}}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}"#;
            Ok(answer(StatusCode::OK, text.into()))
        })
    }
}

struct Factory(Arc<Scripted>);

impl EngineFactory for Factory {
    fn engine(&self, _: &ExecutionInstance) -> Result<Arc<dyn Engine>, SettingsError> {
        Ok(Arc::clone(&self.0) as Arc<dyn Engine>)
    }
}

async fn manager() -> (ControlPlaneManager, Arc<Scripted>) {
    let engine = Arc::new(Scripted::default());
    let factory = Box::new(Factory(Arc::clone(&engine)));
    let shell = Shell::start(&Config::default(), Clock::real(), factory, ProbeConfig::default());
    let manager = ControlPlaneManager::over(shell, &HttpConfig::default());
    let spec = ExecutionInstance::new("vllm-1", "localhost", 8000, "llama-7b");
    manager.register_instance(spec).expect("a new id");
    (manager, engine)
}

fn request(id: &str) -> RequestMetadata {
    RequestMetadata {
        prompt: Some("Hello".into()),
        model_name: Some("llama-7b".into()),
        ..RequestMetadata::new(id)
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_request_is_processed_to_its_text_and_counted() {
    let (manager, engine) = manager().await;
    let output = manager.process_request(request("r-1")).await.expect("an answer");
    assert_eq!((output.text().as_deref(), &*output.instance), (Some("hello"), "vllm-1"));
    assert_eq!((output.usage.prompt.0, output.usage.output.0), (20, 10));
    let metrics = manager.metrics();
    assert_eq!((metrics.total_requests, metrics.completed_requests), (1, 1));
    assert_eq!(metrics.slo_compliance_rate, None, "nobody asked for anything");
    let generate = RequestMetadata { request_type: RequestType::LlmGenerate, ..request("r-2") };
    manager.process_request(generate).await.expect("an answer");
    let calls = engine.calls.lock().expect("no panic");
    assert_eq!(calls[0].0, "/v1/chat/completions");
    assert_eq!((calls[1].0.as_str(), &calls[1].1["prompt"]), ("/v1/completions", &"Hello".into()));
}

#[tokio::test]
async fn submitted_requests_keep_their_status_and_output() {
    let (manager, _engine) = manager().await;
    assert_eq!(manager.submit_request(request("a")), Ok("a".into()));
    until("completed", || manager.request_status("a") == Some(RequestStatus::Completed)).await;
    assert!(manager.output("a").is_some_and(|output| output.is_ok()));
    assert_eq!(manager.request_status("unknown"), None);
    // An id may be used again once it is free.
    assert_eq!(manager.submit_request(request("a")), Ok("a".into()));
    manager.stop().await;
    let refused = manager.process_request(request("late")).await;
    assert_eq!(refused, Err(ManagerError::Ended("refused (stopping)".into())));
}

#[tokio::test]
async fn an_active_id_is_refused_and_a_cancelled_request_stops_at_the_engine() {
    let (manager, engine) = manager().await;
    engine.hangs.store(true, Ordering::SeqCst);
    manager.submit_request(request("a")).expect("a new id");
    until("running", || engine.running.load(Ordering::SeqCst) == 1).await;
    assert_eq!(manager.request_status("a"), Some(RequestStatus::Scheduled));
    assert_eq!(manager.submit_request(request("a")), Err(ManagerError::Duplicate("a".into())));
    assert!(manager.cancel_request("a"));
    until("stopped", || engine.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(manager.request_status("a"), Some(RequestStatus::Cancelled));
    assert!(!manager.cancel_request("a"), "once");
    until("accounted", || manager.shell().snapshot().counts.cancelled == 1).await;
    assert_eq!(manager.shell().read(|core, _| core.check()), Ok(()));
}

#[tokio::test]
async fn an_engines_error_is_its_callers() {
    let (manager, engine) = manager().await;
    engine.fails.store(1, Ordering::SeqCst);
    let failed = manager.process_request(request("r")).await;
    assert_eq!(failed, Err(ManagerError::Engine { status: 500, body: "{\"error\":{}}".into() }));
    assert_eq!(manager.metrics().failed_requests, 1);
}

#[tokio::test]
async fn requests_that_say_nothing_are_refused_before_they_wait() {
    let (manager, _engine) = manager().await;
    let check = async |edit: fn(&mut RequestMetadata), words: &str| {
        let mut bad = request("bad");
        edit(&mut bad);
        let error = manager.process_request(bad).await.expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    check(|r| r.prompt = None, "a prompt is needed").await;
    check(|r| r.max_tokens = Some(0), "max_tokens must be at least 1").await;
    check(|r| r.temperature = -1.0, "temperature must not be negative").await;
    check(|r| r.top_p = 1.5, "top_p must be from 0 to 1").await;
    check(|r| r.slo_deadline_ms = Some(-5.0), "slo_deadline_ms must be above 0").await;
    check(|r| r.request_id = " ".into(), "request_id must not be empty").await;
    check(|r| r.model_name = Some("nope".into()), "unknown_model").await;
    assert_eq!(manager.metrics().completed_requests, 0);
}

/// Orders nothing: it has a bug.
struct Buggy;

impl SchedulingStrategy for Buggy {
    fn name(&self) -> &'static str {
        "buggy"
    }

    fn urgency(&self, _: &Request, _: Timestamp) -> Urgency {
        panic!("a bug")
    }
}

#[tokio::test]
async fn a_decision_that_panics_is_told_at_the_door() {
    let factory = Box::new(Factory(Arc::default()));
    let probes = ProbeConfig::default();
    let shell =
        Shell::start_custom(&Config::default(), Box::new(Buggy), Clock::real(), factory, probes);
    assert!(shell.is_sound());
    shell.register(ExecutionInstance::new("a", "localhost", 1, "m")).expect("a new name");
    let asking = Arc::clone(&shell);
    let asked = tokio::spawn(async move {
        let model = asking.read(|core, _| core.models().resolve("m")).map(|found| found.id);
        asking.submit(NewRequest { model, ..NewRequest::default() });
    });
    assert!(asked.await.expect_err("the strategy panics").is_panic());
    assert!(!shell.is_sound());
    // It can still be asked.
    assert_eq!(shell.snapshot().counts.submitted, 1);
}
