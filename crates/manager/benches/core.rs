//! What one request costs under the lock: one submission, one decision, one end, in a fleet that is
//! full while many wait. Commands are drained, timeouts and probes handled as they come.

use std::collections::VecDeque;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use sagellm_fleet::ProbeAnswer;
use sagellm_manager::{
    Command, Config, ControlPlane, Event, ExplainConfig, NewRequest, QueueConfig,
};
use sagellm_perf::PromptSize;
use sagellm_routing::RouterConfig;
use sagellm_strategies::StrategyConfig;
use sagellm_strategies::queue::FairnessConfig;
use sagellm_types::{
    Attempt, ExecutionInstance, ModelId, Objectives, RequestPriority, Rng, Seed, Timestamp, Tokens,
    Usage, UserId,
};

/// Everything that is on by default, and fairness.
fn everything() -> Config {
    Config {
        strategy: StrategyConfig::parse("adaptive").expect("offered"),
        router: RouterConfig::LoadBalanced,
        fairness: Some(FairnessConfig::default()),
        queue: QueueConfig { max_waiting: 2_000_000, max_wait_ms: 1 << 40, ..Default::default() },
        ..Config::default()
    }
}

/// As little as can be.
fn least() -> Config {
    Config {
        strategy: StrategyConfig::Fifo,
        router: RouterConfig::PowerOfTwo,
        fairness: None,
        explain: ExplainConfig { keep: 0 },
        ..everything()
    }
}

/// A full fleet with requests waiting.
struct Plane {
    core: ControlPlane,
    now: Timestamp,
    running: VecDeque<Attempt>,
    rng: Rng,
}

/// Requests that an instance runs at once.
const SLOTS: u32 = 16;
/// The fleet serves some ten thousand requests per second.
const TICK: Duration = Duration::from_micros(100);

impl Plane {
    fn new(config: &Config) -> Self {
        let core = ControlPlane::new(config, Timestamp::ZERO);
        let rng = Seed(1).stream("bench");
        Self { core, now: Timestamp::ZERO, running: VecDeque::new(), rng }
    }

    fn add(&mut self, model: &str, instances: u32) -> ModelId {
        for number in 0..instances {
            let name = format!("{model}-{number}");
            let mut spec = ExecutionInstance::new(name, "localhost", 8000, model);
            spec.max_concurrent_requests = SLOTS;
            spec.kv_cache_tokens = Some(400_000);
            self.core.register(spec, self.now).expect("a good instance");
        }
        self.drain();
        self.core.models().resolve(model).expect("registered").id
    }

    fn submit(&mut self, model: ModelId) {
        let draw = self.rng.next_u64();
        let e2e = Duration::from_secs(600 + draw % 600);
        let request = NewRequest {
            model: Some(model),
            user: Some(UserId(draw >> 16 & 1023)),
            priority: RequestPriority::ALL[(draw >> 32) as usize % 5],
            objectives: Objectives { e2e: Some(e2e), ..Objectives::NONE },
            prompt: PromptSize::Bytes(400 + (draw >> 40) % 4_000),
            max_tokens: Some(512),
            ..NewRequest::default()
        };
        self.core.submit(request, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(command) = self.core.poll_command() {
            match command {
                Command::Dispatch(dispatch) => self.running.push_back(dispatch.attempt),
                Command::Probe { instance, ticket, .. } => {
                    let answer = ProbeAnswer::healthy();
                    let event = Event::Probed { instance, ticket, answer, models: None };
                    self.core.handle(event, self.now);
                }
                _ => {}
            }
        }
    }

    /// Goes past the first dwell of `adaptive`, with all learnt that is learnt.
    fn warm_up(&mut self, model: ModelId) {
        (0..100_000).for_each(|_| self.turn(model));
    }

    /// One request comes, one ends, and one is dispatched in its place.
    fn turn(&mut self, model: ModelId) {
        self.now += TICK;
        if self.core.poll_timeout().is_some_and(|at| at <= self.now) {
            self.core.handle_timeout(self.now);
            self.drain();
        }
        self.submit(model);
        let attempt = self.running.pop_front().expect("the fleet is full");
        let usage = Usage { prompt: Tokens(400), output: Tokens(200), cached: Tokens::ZERO };
        self.core.handle(Event::Finished { attempt, usage, gaps: None }, self.now);
        self.drain();
    }
}

/// Returns a full fleet with so many waiting, warmed up.
fn full(config: &Config, instances: u32, waiting: u32) -> (Plane, ModelId) {
    let mut plane = Plane::new(config);
    let model = plane.add("llama-7b", instances);
    (0..instances * SLOTS + waiting).for_each(|_| plane.submit(model));
    assert_eq!(plane.running.len(), (instances * SLOTS) as usize);
    plane.warm_up(model);
    assert_eq!(plane.core.snapshot(plane.now).waiting, waiting as usize);
    (plane, model)
}

/// Returns a fleet with room whose other model has very many waiting that have nowhere to go.
fn blocked() -> (Plane, ModelId) {
    let mut plane = Plane::new(&everything());
    let other = plane.add("qwen-72b", 1);
    (0..SLOTS + 10_000).for_each(|_| plane.submit(other));
    plane.running.clear();
    let model = plane.add("llama-7b", 64);
    (0..64 * SLOTS / 2).for_each(|_| plane.submit(model));
    plane.warm_up(model);
    assert_eq!(plane.core.snapshot(plane.now).waiting, 10_000);
    (plane, model)
}

/// Returns a fleet with much room: all instances are about equally loaded.
fn roomy(instances: u32) -> (Plane, ModelId) {
    let mut plane = Plane::new(&everything());
    let model = plane.add("llama-7b", instances);
    (0..instances).for_each(|_| plane.submit(model));
    plane.warm_up(model);
    (plane, model)
}

fn bench(criterion: &mut Criterion, name: &str, setup: impl Fn() -> (Plane, ModelId)) {
    let mut ready = None;
    criterion.bench_function(name, |bencher| {
        let (plane, model) = ready.get_or_insert_with(&setup);
        bencher.iter(|| plane.turn(*model));
    });
}

fn core(criterion: &mut Criterion) {
    bench(criterion, "core/adaptive_64", || full(&everything(), 64, 10_000));
    bench(criterion, "core/fifo_64", || full(&least(), 64, 10_000));
    bench(criterion, "core/adaptive_1000", || full(&everything(), 1_000, 10_000));
    bench(criterion, "core/adaptive_1000_roomy", || roomy(1_000));
    bench(criterion, "core/adaptive_64_1m_waiting", || full(&everything(), 64, 1_000_000));
    bench(criterion, "core/adaptive_64_other_model_blocked", blocked);
}

criterion_group!(benches, core);
criterion_main!(benches);
