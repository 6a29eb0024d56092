//! A known sequence of events, and every field of the three records worked out by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use sagellm_monitoring::{
    AttemptEnding, Collector, EndingKind, EngineGauges, Probe, RETENTION, Report, Sketch, Span,
};
use sagellm_types::{
    Completion, Ending, EngineState, Estimate, ExecutionInstance, ExpireReason, FailureKind,
    GpuSample, InstanceId, InstanceMetrics, Load, ModelId, Objectives, PerformanceMetrics,
    RefuseReason, Request, RequestId, RequestPriority, SchedulingMetrics, Timestamp, Tokens, Usage,
    Usd,
};

const A: InstanceId = InstanceId::new(0, 0);
const B: InstanceId = InstanceId::new(1, 0);

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn request(index: u32, priority: RequestPriority, arrival: u64, e2e: Option<u64>) -> Request {
    let objectives = Objectives { e2e: e2e.map(Duration::from_millis), ..Objectives::NONE };
    Request { priority, arrival: ms(arrival), objectives, ..Request::example(index) }
}

fn completion(request: Request, ending: Ending, ended: u64) -> Completion {
    Completion {
        request,
        ending,
        dispatched: None,
        first_token: None,
        ended: ms(ended),
        usage: Usage::default(),
        cost: Usd(0.0),
    }
}

/// Ten seconds of a fleet of two.
///
/// | request | priority | arrival | dispatch | first token | end | objective | outcome |
/// |---|---|---|---|---|---|---|---|
/// | 0 | high | 0 | 100 to A | 400 | 2400 finished, 21 tokens | 3000 | met |
/// | 1 | high | 1000 | 1500 to A, fails 2000; 2100 to B | 3000 | 7000 finished, 41 tokens | 5000 | missed |
/// | 2 | normal | 2000 | never | | 6000 expired | 4000 | missed |
/// | 3 | normal | 3000 | never | | 3000 refused | 1000 | missed |
/// | 4 | low | 4000 | 4000 to A | 4500 | 5000 cancelled, 3 tokens | 9000 | not judged |
/// | 5 | low | 5000 | 8000 to B | | runs | none | |
/// | 6 | low | 9000 | | | waits | none | |
fn ten_seconds() -> Collector {
    let mut c = Collector::new(ms(0));
    let mut a = ExecutionInstance::new("a", "localhost", 8000, "llama");
    (a.gpu_count, a.gpu_memory_gb) = (2, 40.0);
    c.name_model(ModelId(0), "llama");
    c.name_instance(A, &a, ms(0));
    c.name_instance(B, &ExecutionInstance::new("b", "localhost", 8001, "llama"), ms(0));
    c.strategy("priority", "configured", ms(0));
    c.router("least_load");
    for id in [A, B] {
        c.state(id, EngineState::Ready);
        c.probed(id, Probe::Answered, ms(50));
    }
    let predicted = |ttft, tpot| Estimate { ttft, tpot, cost: Usd(0.1), ..Estimate::default() };
    let millis = Duration::from_millis;

    let zero = Request {
        forecast: sagellm_types::Forecast { output: Tokens(21), ..Request::example(0).forecast },
        ..request(0, RequestPriority::High, 0, Some(3000))
    };
    c.submitted(&zero, ms(0));
    c.dispatched(&zero, 0, A, ms(100));
    c.decision(Duration::from_micros(40), ms(100));
    c.first_token(&zero, ms(400));

    let one = Request { id: RequestId::new(1, 0), ..zero };
    let one = Request { arrival: ms(1000), ..one };
    let one = Request { objectives: request(1, one.priority, 0, Some(5000)).objectives, ..one };
    c.submitted(&one, ms(1000));
    c.dispatched(&one, 0, A, ms(1500));
    c.decision(Duration::from_micros(60), ms(1500));

    let two = request(2, RequestPriority::Normal, 2000, Some(4000));
    c.submitted(&two, ms(2000));
    c.queue_length(1, ms(2000));
    c.attempt_ended(A, ms(1500), AttemptEnding::Failed(FailureKind::Reset), Tokens(0), ms(2000));
    c.retried(ms(2000));
    c.dispatched(&one, 1, B, ms(2100));

    // Predicted 300 ms and 20 gaps of 100 ms: right to the millisecond.
    let zero_done = Completion {
        dispatched: Some(ms(100)),
        first_token: Some(ms(400)),
        usage: Usage { prompt: Tokens(500), output: Tokens(21), cached: Tokens(128) },
        cost: Usd(0.25),
        ..completion(zero, Ending::Finished, 2400)
    };
    c.attempt_ended(A, ms(100), AttemptEnding::Finished, Tokens(21), ms(2400));
    c.ended(&zero_done, Some(&predicted(millis(300), millis(100))), Some(A));
    let mut gaps = Sketch::default();
    (0..20).for_each(|_| gaps.record(millis(100)));
    c.gaps(&gaps, ms(2400));

    let three = request(3, RequestPriority::Normal, 3000, Some(1000));
    c.submitted(&three, ms(3000));
    let refused = Ending::Refused { reason: RefuseReason::QueueFull, retry_after: None };
    c.ended(&completion(three, refused, 3000), None, None);
    c.first_token(&one, ms(3000));

    let four = request(4, RequestPriority::Low, 4000, Some(9000));
    c.submitted(&four, ms(4000));
    c.dispatched(&four, 0, A, ms(4000));
    c.first_token(&four, ms(4500));
    c.attempt_ended(A, ms(4000), AttemptEnding::Abandoned, Tokens(3), ms(5000));
    let cancelled = Completion {
        usage: Usage { prompt: Tokens(100), output: Tokens(3), cached: Tokens(0) },
        cost: Usd(0.05),
        ..completion(four, Ending::Cancelled, 5000)
    };
    c.ended(&cancelled, None, Some(A));

    let five = request(5, RequestPriority::Low, 5000, None);
    c.submitted(&five, ms(5000));
    c.queue_length(2, ms(5000));
    c.queue_length(1, ms(6000));
    c.ended(&completion(two, Ending::Expired(ExpireReason::Deadline), 6000), None, None);

    // Predicted 500 ms and 20 gaps of 50 ms, 1500 ms in all; it took 4900 ms.
    let one_done = Completion {
        dispatched: Some(ms(2100)),
        first_token: Some(ms(3000)),
        usage: Usage { prompt: Tokens(400), output: Tokens(41), cached: Tokens(0) },
        cost: Usd(0.50),
        ..completion(one, Ending::Finished, 7000)
    };
    c.attempt_ended(B, ms(2100), AttemptEnding::Finished, Tokens(41), ms(7000));
    c.ended(&one_done, Some(&predicted(millis(500), millis(50))), Some(B));

    c.queue_length(0, ms(8000));
    c.dispatched(&five, 0, B, ms(8000));
    c.submitted(&request(6, RequestPriority::Low, 9000, None), ms(9000));
    c.queue_length(1, ms(9000));

    c.load(A, Load { sequences: 2, window: 10, capacity: Tokens(1000), ..Load::default() });
    c.load(B, Load { sequences: 6, window: 10, capacity: Tokens(1000), ..Load::default() });
    c.gpu(A, GpuSample { utilization: Some(0.75), memory_used_gb: Some(30.0) });
    c.probed(A, Probe::Answered, ms(9500));
    c.probed(B, Probe::Failed, ms(9600));
    c.probed(B, Probe::Failed, ms(9700));
    c.stale(ms(9800));
    c
}

fn near(value: Option<f64>, exact: f64) {
    let value = value.expect("it is known");
    assert!((value - exact).abs() <= exact * 0.01, "{value} for {exact}");
}

#[test]
fn performance_metrics_field_by_field() {
    let p = ten_seconds().snapshot(ms(10_000)).performance(Span::Window);
    // End-to-end latencies of the finished: 2400 and 6000 ms.
    near(p.p50_latency_ms, 2400.0);
    near(p.p95_latency_ms, 6000.0);
    near(p.p99_latency_ms, 6000.0);
    let expected = PerformanceMetrics {
        timestamp: ms(10_000),
        total_requests: 7,
        completed_requests: 2,
        failed_requests: 2,
        active_requests: 1,
        queued_requests: 1,
        avg_latency_ms: Some(4200.0),
        p50_latency_ms: p.p50_latency_ms,
        p95_latency_ms: p.p95_latency_ms,
        p99_latency_ms: p.p99_latency_ms,
        tokens_per_second: 6.5,
        requests_per_second: 0.5,
        avg_gpu_utilization: Some(0.75),
        total_gpu_memory_gb: Some(80.0),
        used_gpu_memory_gb: Some(30.0),
        total_cost: 0.8,
        cost_per_token: Some(0.8 / 65.0),
        slo_violations: 3,
        slo_compliance_rate: Some(0.25),
    };
    assert_eq!(p, expected);
}

#[test]
fn scheduling_metrics_field_by_field() {
    let s = ten_seconds().snapshot(ms(10_000)).scheduling(Span::Window);
    // Decisions of 40 and 60 µs; errors of 0 and 3400 ms; first waits of 100, 500, 0 and 3000 ms.
    near(s.scheduling_latency_us, 40.0);
    near(s.latency_prediction_error_p95, 3400.0);
    near(s.queue_wait_time_p50, 100.0);
    near(s.queue_wait_time_p95, 3000.0);
    near(s.queue_wait_time_p99, 3000.0);
    near(s.load_balance_variance, 0.04);
    near(s.load_balance_coefficient, 0.5);
    let expected = SchedulingMetrics {
        timestamp: ms(10_000),
        policy_name: "priority".to_owned(),
        scheduling_latency_us: s.scheduling_latency_us,
        scheduling_throughput: 0.5,
        latency_prediction_error_avg: Some(1700.0),
        latency_prediction_error_p95: s.latency_prediction_error_p95,
        prediction_accuracy_rate: Some(0.5),
        load_balance_variance: s.load_balance_variance,
        load_balance_coefficient: s.load_balance_coefficient,
        slo_compliance_by_priority: BTreeMap::from([
            ("high".to_owned(), 0.5),
            ("normal".to_owned(), 0.0),
        ]),
        queue_wait_time_p50: s.queue_wait_time_p50,
        queue_wait_time_p95: s.queue_wait_time_p95,
        queue_wait_time_p99: s.queue_wait_time_p99,
        // 3 s of 1, 1 s of 2, 2 s of 1 and 1 s of 1, in 10 s.
        queue_length_avg: 0.8,
        queue_length_max: 2,
    };
    assert_eq!(s, expected);
}

#[test]
fn instance_metrics_field_by_field() {
    let metrics = ten_seconds().snapshot(ms(10_000)).instance_metrics(Span::Window);
    let a = InstanceMetrics {
        instance_id: "a".to_owned(),
        timestamp: ms(10_000),
        total_requests_processed: 1,
        active_requests: 0,
        failed_requests: 1,
        avg_latency_ms: Some(2300.0),
        p50_latency_ms: Some(2300.0),
        p95_latency_ms: Some(2300.0),
        p99_latency_ms: Some(2300.0),
        throughput_tokens_per_sec: 2.4,
        gpu_utilization: Some(0.75),
        gpu_memory_used_gb: Some(30.0),
        gpu_memory_total_gb: Some(80.0),
        current_load: 0.2,
        is_healthy: true,
        last_health_check: Some(ms(9500)),
        consecutive_failures: 0,
    };
    let b = InstanceMetrics {
        instance_id: "b".to_owned(),
        total_requests_processed: 1,
        active_requests: 1,
        failed_requests: 0,
        avg_latency_ms: Some(4900.0),
        p50_latency_ms: Some(4900.0),
        p95_latency_ms: Some(4900.0),
        p99_latency_ms: Some(4900.0),
        throughput_tokens_per_sec: 4.1,
        gpu_utilization: None,
        gpu_memory_used_gb: None,
        gpu_memory_total_gb: None,
        current_load: 0.6,
        last_health_check: Some(ms(9700)),
        consecutive_failures: 2,
        ..a
    };
    assert_eq!(metrics, [a, b]);
}

#[test]
fn what_is_not_sampled_any_more_is_unknown_again() {
    let mut c = Collector::new(ms(0));
    c.name_instance(A, &ExecutionInstance::new("a", "h", 1, "m"), ms(0));
    c.gpu(A, GpuSample { utilization: Some(0.75), memory_used_gb: None });
    let seen = |c: &mut Collector| {
        let snapshot = c.snapshot(ms(1));
        let p = snapshot.performance(Span::Window);
        let one = snapshot.instance_metrics(Span::Window).remove(0).gpu_utilization;
        (one, p.avg_gpu_utilization, p.used_gpu_memory_gb)
    };
    assert_eq!(seen(&mut c), (Some(0.75), Some(0.75), None));
    c.gpu(A, GpuSample::default());
    assert_eq!(seen(&mut c), (None, None, None));
    c.gpu(A, GpuSample { utilization: Some(0.5), memory_used_gb: Some(1.0) });
    c.instance_gone(A, ms(1));
    assert_eq!(seen(&mut c), (None, None, None), "the GPUs of who has gone are nobody's");
}

#[test]
fn what_nobody_measured_is_unknown() {
    let snapshot = Collector::new(ms(0)).snapshot(ms(0));
    let p = snapshot.performance(Span::Window);
    assert_eq!(
        (p.avg_gpu_utilization, p.slo_compliance_rate, p.avg_latency_ms),
        (None, None, None)
    );
    let s = snapshot.scheduling(Span::Window);
    assert_eq!((s.load_balance_variance, s.prediction_accuracy_rate), (None, None));
    let report = Report::from(&snapshot);
    assert_eq!((report.slo.attainment, report.throughput.requests_per_s), (None, None));
}

#[test]
fn the_report_adds_up() {
    let report = Report::from(&ten_seconds().snapshot(ms(10_000)));
    let r = report.requests;
    assert_eq!(
        (r.submitted, r.finished, r.failed, r.cancelled, r.rejected, r.expired),
        (7, 2, 0, 1, 1, 1)
    );
    assert_eq!(report.model_s, 10.0);
    assert_eq!((report.slo.violations, report.slo.goodput_rps), (3, Some(0.1)));
    assert_eq!(report.throughput.input_tokens_per_s, Some(100.0));
    assert_eq!(report.itl_ms.mean, Some(100.0));
    let classes: Vec<_> = report.classes.keys().map(String::as_str).collect();
    assert_eq!(classes, ["high", "normal", "low"]);
    assert_eq!(report.classes["low"].requests.submitted, 3);
    // A ran from 100 to 2400 and from 4000 to 5000, B from 2100 to 7000 and from 8000 on.
    let busy: Vec<_> = report.instances.iter().map(|i| i.busy.expect("time has passed")).collect();
    assert!((busy[0] - 0.33).abs() < 1e-9 && (busy[1] - 0.69).abs() < 1e-9, "{busy:?}");
    assert_eq!(report.instances[1].usd, 0.5);
    assert_eq!(report.strategy.as_deref(), Some("priority"));
}

#[test]
fn the_window_forgets_and_the_totals_do_not() {
    let snapshot = ten_seconds().snapshot(Timestamp::from_secs(300));
    assert_eq!(snapshot.requests(Span::Window).ended(), 0);
    assert_eq!(snapshot.requests(Span::Start).ended(), 5);
    let (recent, all) = (snapshot.performance(Span::Window), snapshot.performance(Span::Start));
    assert_eq!((recent.avg_latency_ms, all.avg_latency_ms), (None, Some(4200.0)));
    assert_eq!((recent.slo_violations, all.slo_violations), (3, 3));
}

#[test]
fn an_instance_that_has_gone_is_forgotten_and_its_work_stays_in_the_totals() {
    let mut c = ten_seconds();
    let gone_at = ms(10_000);
    c.instance_gone(B, gone_at);
    // A late end finds it; the next life of the slot is another instance.
    let next = InstanceId::new(1, 1);
    c.name_instance(next, &ExecutionInstance::new("b2", "localhost", 8002, "llama"), gone_at);
    c.attempt_ended(B, ms(8000), AttemptEnding::Finished, Tokens(9), ms(12_000));
    let names = |at: Timestamp, c: &mut Collector| -> Vec<String> {
        c.snapshot(at).instances.iter().map(|i| i.name.to_string()).collect()
    };
    assert_eq!(names(ms(20_000), &mut c), ["a", "b2", "b"]);
    let snapshot = c.snapshot(ms(20_000));
    assert_eq!(snapshot.work(&snapshot.instances[2], Span::Start).output, Tokens(50));
    assert_eq!(snapshot.work(&snapshot.instances[1], Span::Start).output, Tokens(0));
    let later = gone_at + RETENTION;
    assert_eq!(names(later, &mut c), ["a", "b2"]);
    assert_eq!(c.snapshot(later).ended(EndingKind::Finished), 2);
}

#[test]
fn waiting_in_the_engines_is_set_against_waiting_here() {
    let mut c = Collector::new(ms(0));
    for (i, id) in [A, B].into_iter().enumerate() {
        let name = format!("i{i}");
        c.name_instance(id, &ExecutionInstance::new(name, "localhost", 1, "m"), ms(0));
        c.engine(id, EngineGauges { waiting: Some(2), ..EngineGauges::default() }, ms(0));
    }
    c.queue_length(12, ms(0));
    assert_eq!(c.snapshot(ms(1000)).waiting_here(Span::Window), Some(0.75));
    c.instance_gone(A, ms(1000));
    assert_eq!(c.snapshot(ms(1000)).engine_waiting.value(), 2);
    c.engine(B, EngineGauges::default(), ms(1000));
    c.engine(A, EngineGauges { waiting: Some(9), ..EngineGauges::default() }, ms(1000));
    assert_eq!(c.snapshot(ms(1000)).engine_waiting.value(), 0);
}

#[test]
fn models_beyond_the_table_share_one_line() {
    let mut c = Collector::new(ms(0));
    for model in [0, 5000, 6000] {
        c.submitted(&Request { model: ModelId(model), ..Request::example(0) }, ms(0));
    }
    let snapshot = c.snapshot(ms(0));
    let last = snapshot.models.last().expect("there are models");
    assert_eq!((&*last.name, snapshot.model(last, Span::Start).submitted), ("other", 2));
    assert_eq!(snapshot.requests(Span::Start).submitted, 3);
}
