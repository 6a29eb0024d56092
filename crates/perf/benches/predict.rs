//! What is paid per request for predictions: a forecast, a lesson, an estimate.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use sagellm_perf::{Flavour, Forecaster, Lesson, LinearCost, Observed, Predictor, PromptSize};
use sagellm_types::{
    Estimator, InstanceId, Load, ModelId, Request, Timestamp, Tokens, Usage, UserId,
};

fn benches(c: &mut Criterion) {
    let mut forecaster = Forecaster::new(LinearCost::TINY);
    let forecast = forecaster.forecast(ModelId(0), None, PromptSize::Bytes(4000), None);
    let lesson = |user: u64| Lesson {
        model: ModelId(0),
        user: Some(UserId::of(user.to_le_bytes())),
        prompt: PromptSize::Bytes(4000),
        forecast: &forecast,
        usage: Usage { prompt: Tokens(1000), output: Tokens(200), cached: Tokens::ZERO },
        ttft: Some(Duration::from_millis(50)),
        tpot: Some(Duration::from_millis(20)),
    };
    (0..20_000).for_each(|user| forecaster.learn(&lesson(user)));
    let mut user = 0;
    c.bench_function("perf/forecast", |b| {
        b.iter(|| {
            user = (user + 1) % 20_000;
            let user = UserId::of(u64::to_le_bytes(user));
            forecaster.forecast(ModelId(0), Some(user), PromptSize::Bytes(4000), Some(500))
        });
    });
    c.bench_function("perf/learn", |b| {
        b.iter(|| {
            user = (user + 1) % 20_000;
            forecaster.learn(black_box(&lesson(user)));
        });
    });

    let mut predictor = Predictor::new();
    (0..64).for_each(|i| predictor.insert(InstanceId::new(i, 0), Flavour::default()));
    let (request, load) = (Request::example(0), Load { sequences: 9, ..Load::default() });
    let mut index = 0;
    c.bench_function("perf/estimate", |b| {
        b.iter(|| {
            index = (index + 1) % 64;
            predictor.estimate(
                black_box(&request),
                InstanceId::new(index, 0),
                black_box(&load),
                Timestamp::ZERO,
            )
        });
    });
    let observed = Observed {
        prompt: Tokens(1000),
        output: Tokens(200),
        sequences: 9,
        reserved: Tokens(9000),
        ttft: Some(Duration::from_millis(50)),
        tpot: Some(Duration::from_millis(20)),
    };
    c.bench_function("perf/observe", |b| {
        b.iter(|| predictor.observe(InstanceId::new(3, 0), black_box(&observed)));
    });
}

criterion_group!(predict, benches);
criterion_main!(predict);
