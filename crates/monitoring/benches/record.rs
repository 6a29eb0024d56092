//! What the control plane pays per event, and a reader per snapshot.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use sagellm_monitoring::{AttemptEnding, Collector, Sketch};
use sagellm_types::{
    Completion, Ending, Estimate, ExecutionInstance, InstanceId, Objectives, Request, Timestamp,
    Tokens, Usage, Usd,
};

/// Records the whole life of a request: submitted, dispatched, first token, ended twice.
fn life(collector: &mut Collector, i: u64) {
    let at = Timestamp::from_nanos(i * 100_000);
    let instance = InstanceId::new((i % 64) as u32, 0);
    let spread = Duration::from_micros(i * 7919 % 400_000);
    let objectives = Objectives { e2e: Some(Duration::from_secs(1)), ..Objectives::NONE };
    let request = Request { arrival: at, objectives, ..Request::example(0) };
    let (first, end) = (at + spread, at + spread * 3);
    let took = AttemptEnding::Finished;
    collector.submitted(&request, at);
    collector.dispatched(&request, 0, instance, at);
    collector.first_token(&request, first);
    collector.attempt_ended(instance, at, took, Tokens(50), end);
    let completion = Completion {
        request,
        ending: Ending::Finished,
        dispatched: Some(at),
        first_token: Some(first),
        ended: end,
        usage: Usage { prompt: Tokens(100), output: Tokens(50), cached: Tokens(0) },
        cost: Usd(0.001),
    };
    collector.ended(&completion, Some(&Estimate::default()), Some(instance));
}

fn filled(instances: u32) -> Collector {
    let mut collector = Collector::new(Timestamp::ZERO);
    for i in 0..instances {
        let record = ExecutionInstance::new(format!("i{i}"), "localhost", 8000, "m");
        collector.name_instance(InstanceId::new(i, 0), &record, Timestamp::ZERO);
    }
    (0..100_000).for_each(|i| life(&mut collector, i));
    collector
}

fn record(criterion: &mut Criterion) {
    let mut sketch = Sketch::default();
    let mut i = 0u64;
    criterion.bench_function("sketch/record", |bencher| {
        bencher.iter(|| {
            i += 1;
            sketch.record_ns(black_box(20_000_000 + i * 7919 % 60_000_000));
        });
    });
    criterion.bench_function("sketch/stream of 500 gaps", |bencher| {
        bencher.iter(|| {
            let mut stream = Sketch::default();
            (0..500u64).for_each(|i| stream.record_ns(black_box(20_000_000 + i * 7919 % 900_000)));
            sketch.merge(&stream);
        });
    });
    let mut collector = filled(64);
    let mut i = 100_000;
    criterion.bench_function("collector/life of a request, five records", |bencher| {
        bencher.iter(|| {
            i += 1;
            life(&mut collector, i);
        });
    });
    for instances in [64, 1000] {
        let mut collector = filled(instances);
        criterion.bench_function(&format!("collector/snapshot of {instances}"), |bencher| {
            bencher.iter(|| collector.snapshot(Timestamp::from_secs(10)));
        });
    }
}

criterion_group!(benches, record);
criterion_main!(benches);
