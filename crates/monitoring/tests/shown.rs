//! What people and Prometheus read.

use std::time::Duration;

use sagellm_monitoring::{
    AttemptEnding, Collector, Metric, MetricKind, Probe, Report, Sample, Sketch, Tally,
    compare_text, exposition, metrics_reference, render_text,
};
use sagellm_types::{
    Completion, Ending, EngineState, ExecutionInstance, FailureKind, GpuSample, InstanceId,
    ModelId, Objectives, Request, RequestPriority, Seed, Timestamp, Tokens, Usage, Usd,
};

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A run of 60 requests of three priorities on two instances; `slow` stretches the normal ones.
fn run(strategy: &str, slow: u64) -> Collector {
    let mut c = Collector::new(ms(0));
    c.name_model(ModelId(0), "llama \"7b\"");
    for i in 0..2 {
        let record = ExecutionInstance::new(format!("engine-{i}"), "localhost", 8000, "llama");
        c.name_instance(InstanceId::new(i, 0), &record, ms(0));
        c.state(InstanceId::new(i, 0), EngineState::Ready);
        c.probed(InstanceId::new(i, 0), Probe::Answered, ms(10));
    }
    c.gpu(InstanceId::new(0, 0), GpuSample { utilization: Some(0.5), memory_used_gb: Some(20.0) });
    c.strategy("fifo", "configured", ms(0));
    c.router("load_balanced");
    let levels = [RequestPriority::High, RequestPriority::Normal, RequestPriority::Low];
    for i in 0..60u64 {
        let place = (i % 3) as usize;
        let (arrival, instance) = (i * 200, InstanceId::new((i % 2) as u32, 0));
        let wait = if place == 0 { 30 + slow / 10 } else { 30 + slow * i / 30 };
        let objectives = [
            Objectives { ttft: Some(Duration::from_millis(300)), ..Objectives::NONE },
            Objectives { e2e: Some(Duration::from_secs(4)), ..Objectives::NONE },
            Objectives::NONE,
        ][place];
        let arrived = ms(arrival);
        let request = Request {
            priority: levels[place],
            arrival: arrived,
            objectives,
            ..Request::example(i as u32)
        };
        let [dispatched, first, end] =
            [wait, wait + 90, wait + 90 + 1200].map(|after| ms(arrival + after));
        c.submitted(&request, arrived);
        c.dispatched(&request, 0, instance, dispatched);
        c.decision(Duration::from_micros(12), dispatched);
        c.first_token(&request, first);
        let failed = i == 31;
        let (attempt, ending) = if failed {
            (AttemptEnding::Failed(FailureKind::Reset), Ending::Failed(FailureKind::Reset))
        } else {
            (AttemptEnding::Finished, Ending::Finished)
        };
        c.attempt_ended(instance, dispatched, attempt, Tokens(61), end);
        let completion = Completion {
            request,
            ending,
            dispatched: Some(dispatched),
            first_token: Some(first),
            ended: end,
            usage: Usage { prompt: Tokens(250), output: Tokens(61), cached: Tokens(0) },
            cost: Usd(0.0004),
        };
        c.ended(&completion, None, Some(instance));
        let mut gaps = Sketch::default();
        (0..60).for_each(|_| gaps.record(Duration::from_millis(20)));
        c.gaps(&gaps, end);
    }
    if strategy != "fifo" {
        c.strategy(strategy, "share predicted late 0.31 > 0.20", ms(4000));
    }
    c
}

fn report(strategy: &str, slow: u64) -> Report {
    Report::from(&run(strategy, slow).snapshot(ms(20_000)))
        .with_seed(Seed(7))
        .with_wall(Duration::from_millis(2_050))
}

#[test]
fn a_report_as_people_read_it() {
    insta::assert_snapshot!(render_text(&report("slo_aware", 600)));
}

#[test]
fn an_empty_report_is_text_too() {
    insta::assert_snapshot!(render_text(&Report::default()));
}

#[test]
fn reports_side_by_side() {
    let (fifo, slo_aware, batch) = (report("fifo", 2600), report("slo_aware", 600), client());
    insta::assert_snapshot!(compare_text(&[
        ("fifo", &fifo),
        ("slo_aware", &slo_aware),
        ("client", &batch),
    ]));
}

/// A client's view, with a class that the others do not have.
fn client() -> Report {
    let mut tally = Tally::default();
    let gaps = Sketch::default();
    for (class, took) in [("high", 200), ("batch", 30_000)] {
        let sample = Sample {
            due: ms(0),
            ending: Ending::Finished,
            wait: None,
            first_token: Some(ms(took / 2)),
            ended: ms(took),
            usage: Usage { prompt: Tokens(10), output: Tokens(11), cached: Tokens(0) },
            objectives: Objectives::NONE,
            cost: None,
            gaps: &gaps,
        };
        tally.record(class, &sample);
    }
    tally.report()
}

#[test]
fn a_report_is_read_back_as_it_was_written() {
    for report in [report("slo_aware", 600), client(), Report::default()] {
        let json = serde_json::to_string(&report).expect("a report is plain data");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("it was just written"), report);
    }
}

#[test]
fn the_json_of_a_report() {
    insta::assert_json_snapshot!(report("slo_aware", 600));
}

#[test]
fn the_text_that_prometheus_reads() {
    insta::assert_snapshot!(exposition(&run("slo_aware", 600).snapshot(ms(20_000))));
}

#[test]
fn every_declared_metric_is_exposed_and_no_other() {
    let text = exposition(&run("fifo", 0).snapshot(ms(20_000)));
    let mut exposed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut declared: Vec<&str> = metrics_reference().iter().map(|metric| metric.name).collect();
    exposed.sort_unstable();
    declared.sort_unstable();
    assert_eq!(exposed, declared);
}

#[test]
fn every_sample_belongs_to_the_family_above_it_and_has_its_labels() {
    let text = exposition(&run("fifo", 0).snapshot(ms(20_000)));
    let reference = metrics_reference();
    let mut family: Option<&Metric> = None;
    let mut samples = 0;
    for line in text.lines().filter(|line| !line.starts_with("# HELP")) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().expect("a name");
            family = reference.iter().find(|metric| metric.name == name);
            continue;
        }
        let metric = family.expect("a sample follows its family");
        let name = line.split(['{', ' ']).next().expect("a name");
        let suffix = name.strip_prefix(metric.name).expect("a sample is named like its family");
        assert_eq!(
            metric.kind == MetricKind::Summary,
            !suffix.is_empty() || line.contains("quantile=")
        );
        for label in metric.labels {
            assert!(line.contains(&format!("{label}=\"")), "{line}");
        }
        let value = line.rsplit(' ').next().expect("a value");
        assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        samples += 1;
    }
    assert!(samples > 200, "{samples}");
}
