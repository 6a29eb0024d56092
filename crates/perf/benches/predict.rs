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
    let lesson = |user: UserId| Lesson {
        model: ModelId(0),
        user: Some(user),
        prompt: PromptSize::Bytes(4000),
        forecast: &forecast,
        usage: Usage { prompt: Tokens(1000), output: Tokens(200), cached: Tokens::ZERO },
        ttft: Some(Duration::from_millis(50)),
        tpot: Some(Duration::from_millis(20)),
    };
    let users: Vec<UserId> = (0..20_000_u64).map(|user| UserId::of(user.to_le_bytes())).collect();
    users.iter().for_each(|user| forecaster.learn(&lesson(*user)));
    // A thousand active users are all known; of 20,000 in turn each pushes another one out.
    for active in [1_000, 20_000] {
        let mut turn = users[20_000 - active..].iter().cycle().copied();
        c.bench_function(&format!("perf/forecast/{active}_users"), |b| {
            b.iter(|| {
                forecaster.forecast(ModelId(0), turn.next(), PromptSize::Bytes(4000), Some(500))
            });
        });
        c.bench_function(&format!("perf/learn/{active}_users"), |b| {
            b.iter(|| forecaster.learn(black_box(&lesson(turn.next().expect("cycles")))));
        });
    }

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
        met: Load { sequences: 9, tokens: Tokens(9000), ..Load::default() },
        dispatched: Timestamp::ZERO,
        ttft: Some(Duration::from_millis(50)),
        tpot: Some(Duration::from_millis(20)),
    };
    c.bench_function("perf/observe", |b| {
        b.iter(|| predictor.observe(InstanceId::new(3, 0), black_box(&observed)));
    });
}

criterion_group!(predict, benches);
criterion_main!(predict);
