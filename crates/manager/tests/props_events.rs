//! Any order of events keeps the books right: without engines, so that very many orders are tried.

use std::time::Duration;

use proptest::prelude::*;
use sagellm_fleet::{FleetConfig, ProbeAnswer, ProbeTicket, WindowLimit};
use sagellm_manager::{Command, Config, ControlPlane, NewRequest, QueueConfig};
use sagellm_perf::PromptSize;
use sagellm_routing::RouterConfig;
use sagellm_strategies::{SloAwareConfig, StrategyConfig};
use sagellm_types::{
    Attempt, Ending, ExecutionInstance, ExecutionInstanceType, FailureKind, InstanceId, Objectives,
    PdSeparationConfig, Ratio, RequestPriority, Seed, Timestamp, Tokens, Usage, UserId,
};
use support::Watched;

#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod support;

/// What happens next. Places are taken modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        model: u8,
        user: u8,
        priority: u8,
        prompt: u16,
        output: u16,
        e2e: Option<u16>,
        preferred: u8,
    },
    Cancel(u8),
    FirstToken(u8),
    Progress(u8, u16),
    Finish(u8, u16),
    Fail(u8, u8, bool),
    /// Something of an attempt that is over.
    Late(u8, bool),
    /// A probe is answered; with another number than 0 a later one than the oldest.
    Probe {
        which: u8,
        healthy: bool,
        running: u8,
        waiting: u8,
        usage: u8,
    },
    Register {
        model: u8,
        kind: u8,
        window: u8,
        kv: u16,
    },
    Drain(u8),
    Remove(u8),
    Strategy(u8),
    Router(u8),
    /// Time passes and every timeout is handled when it is due.
    Pass(u16),
    /// Time passes and events come before the timeouts.
    Jump(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let submit =
        (any::<[u8; 4]>(), 1..3000u16, 1..600u16, proptest::option::weighted(0.3, 1..8000u16));
    prop_oneof![
        8 => submit.prop_map(|([model, user, priority, preferred], prompt, output, e2e)| {
            Step::Submit { model, user, priority, prompt, output, e2e, preferred }
        }),
        1 => any::<u8>().prop_map(Step::Cancel),
        2 => any::<u8>().prop_map(Step::FirstToken),
        1 => any::<(u8, u16)>().prop_map(|(which, n)| Step::Progress(which, n % 2000)),
        4 => any::<(u8, u16)>().prop_map(|(which, n)| Step::Finish(which, n % 2000)),
        2 => any::<(u8, u8, bool)>().prop_map(|(which, kind, begun)| Step::Fail(which, kind, begun)),
        1 => any::<(u8, bool)>().prop_map(|(which, good)| Step::Late(which, good)),
        4 => (any::<[u8; 4]>(), proptest::bool::weighted(0.8)).prop_map(
            |([which, running, waiting, usage], healthy)| Step::Probe {
                which: which.saturating_sub(200), healthy, running: running % 8, waiting: waiting % 4, usage,
            }
        ),
        2 => (any::<[u8; 3]>(), 500..9000u16).prop_map(|([model, kind, window], kv)| {
            Step::Register { model, kind, window, kv }
        }),
        1 => any::<u8>().prop_map(Step::Drain),
        1 => any::<u8>().prop_map(Step::Remove),
        1 => any::<u8>().prop_map(Step::Strategy),
        1 => any::<u8>().prop_map(Step::Router),
        3 => (0..1500u16).prop_map(Step::Pass),
        1 => (0..3000u16).prop_map(Step::Jump),
    ]
}

/// Settings under which every rule has to hold.
fn config() -> impl Strategy<Value = Config> {
    (0..STRATEGIES, any::<[bool; 4]>(), 1..8u8, 0..9usize, 0..3000u64).prop_map(
        |(strategy, [fair, fixed, retry, roles], failures, backfill, patience_ms)| Config {
            strategy: strategy_of(strategy),
            fairness: fair.then(Default::default),
            queue: QueueConfig { max_waiting: 40, max_wait_ms: NEVER_MS, backfill, patience_ms },
            retry: sagellm_manager::RetryConfig {
                max: 1 + u16::from(retry),
                burst: if retry { 100 } else { 2 },
                ..Default::default()
            },
            fleet: FleetConfig {
                window: if fixed { WindowLimit::Fixed } else { WindowLimit::Auto },
                failure_threshold: u32::from(failures),
                ..FleetConfig::default()
            },
            pd: PdSeparationConfig {
                enabled: roles,
                enable_kv_cache_transfer: false,
                ..Default::default()
            },
            explain: sagellm_manager::ExplainConfig { keep: 16 },
            seed: Seed(u64::from(failures)),
            ..Config::default()
        },
    )
}

const NEVER_MS: u64 = 1 << 40;
const STRATEGIES: u8 = 6;

fn strategy_of(number: u8) -> StrategyConfig {
    match StrategyConfig::NAMES.get(usize::from(number % STRATEGIES)) {
        Some(name) => StrategyConfig::parse(name).expect("offered"),
        None => {
            StrategyConfig::SloAware(SloAwareConfig { refuse_hopeless: true, ..Default::default() })
        }
    }
}

/// The core with what is outside of it: probes under way and attempts.
struct Outside {
    watched: Watched,
    now: Timestamp,
    probes: Vec<(InstanceId, ProbeTicket)>,
    running: Vec<Attempt>,
    over: Vec<Attempt>,
    names: u32,
}

impl Outside {
    fn new(config: &Config) -> Self {
        let watched = Watched::new(ControlPlane::new(config, Timestamp::ZERO));
        let now = Timestamp::ZERO;
        let (probes, running, over) = Default::default();
        let mut outside = Self { watched, now, probes, running, over, names: 0 };
        outside.take(Step::Register { model: 0, kind: 0, window: 3, kv: 4000 });
        outside.take(Step::Probe { which: 0, healthy: true, running: 0, waiting: 0, usage: 0 });
        outside
    }

    fn took(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Dispatch(dispatch) => self.running.push(dispatch.attempt),
                Command::Abort(attempt) => self.ended(attempt),
                Command::Probe { instance, ticket, .. } => self.probes.push((instance, ticket)),
                Command::End { .. } | Command::Notice(_) => {}
            }
        }
    }

    fn ended(&mut self, attempt: Attempt) {
        self.running.retain(|&running| running != attempt);
        self.over.push(attempt);
    }

    fn instance(&self, place: u8) -> Option<InstanceId> {
        let all: Vec<InstanceId> = self.watched.core.fleet().iter().map(|found| found.id).collect();
        pick(&all, place)
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        let commands = match step {
            Step::Submit { model, user, priority, prompt, output, e2e, preferred } => {
                let name = MODELS[usize::from(model) % MODELS.len()];
                let new = NewRequest {
                    model: self.watched.core.models().resolve(name).map(|found| found.id),
                    user: Some(UserId(u64::from(user % 4))),
                    priority: RequestPriority::ALL[usize::from(priority) % 5],
                    objectives: Objectives {
                        e2e: e2e.map(|ms| Duration::from_millis(ms.into())),
                        ttft: (user > 200).then_some(Duration::from_millis(700)),
                        tpot: None,
                    },
                    prompt: PromptSize::Tokens(prompt.into()),
                    max_tokens: Some(output.into()),
                    preferred: (preferred > 180).then(|| self.instance(preferred)).flatten(),
                    ..NewRequest::default()
                };
                self.watched.submit(new, now).1
            }
            Step::Cancel(place) => {
                let all: Vec<_> = self.watched.book.keys().copied().collect();
                let Some(request) = pick(&all, place) else { return };
                if let Some(attempt) = self.watched.book[&request].running {
                    self.ended(attempt);
                }
                self.watched.cancelled(request, now)
            }
            Step::FirstToken(place) => {
                let Some(attempt) = pick(&self.running, place) else { return };
                self.watched.first_token(attempt, now)
            }
            Step::Progress(place, output) => {
                let Some(attempt) = pick(&self.running, place) else { return };
                self.watched.progress(attempt, output.into(), now)
            }
            Step::Finish(place, output) => {
                let Some(attempt) = pick(&self.running, place) else { return };
                self.ended(attempt);
                self.watched.finished(attempt, usage(output), now)
            }
            Step::Fail(place, kind, begun) => {
                let Some(attempt) = pick(&self.running, place) else { return };
                self.ended(attempt);
                let kind = FailureKind::ALL[usize::from(kind) % FailureKind::ALL.len()];
                self.watched.failed(attempt, kind, begun, now)
            }
            Step::Late(place, good) => {
                let Some(attempt) = pick(&self.over, place) else { return };
                if good {
                    self.watched.finished(attempt, usage(7), now)
                } else {
                    self.watched.failed(attempt, FailureKind::Reset, false, now)
                }
            }
            Step::Probe { which, healthy, running, waiting, usage } => {
                if self.probes.is_empty() {
                    return;
                }
                let (instance, ticket) = self.probes.remove(usize::from(which) % self.probes.len());
                let answer = ProbeAnswer {
                    healthy,
                    requests: Some((running.into(), waiting.into())),
                    kv_usage: Some(Ratio(f64::from(usage) / 255.0)),
                    kv_tokens: None,
                };
                self.watched.probed(instance, ticket, answer, now)
            }
            Step::Register { model, kind, window, kv } => {
                if self.watched.core.fleet().iter().count() >= 6 {
                    return;
                }
                self.names += 1;
                let mut spec = ExecutionInstance::new(
                    format!("vllm-{}", self.names),
                    "localhost",
                    8000,
                    MODELS[usize::from(model) % MODELS.len()],
                );
                spec.max_concurrent_requests = 1 + u32::from(window % 6);
                spec.kv_cache_tokens = Some(kv.into());
                spec.instance_type = TYPES[usize::from(kind) % TYPES.len()];
                self.watched.act(now, |core| {
                    core.register(spec, now).expect("a good instance");
                })
            }
            Step::Drain(place) => {
                let Some(instance) = self.instance(place) else { return };
                self.watched.act(now, |core| core.drain(instance, now))
            }
            Step::Remove(place) => {
                let Some(instance) = self.instance(place) else { return };
                self.watched.act(now, |core| {
                    core.remove(instance, now);
                })
            }
            Step::Strategy(number) => {
                self.watched.act(now, |core| core.set_strategy(&strategy_of(number), now))
            }
            Step::Router(number) => {
                let name = RouterConfig::NAMES[usize::from(number) % RouterConfig::NAMES.len()];
                let router = RouterConfig::parse(name).expect("offered");
                self.watched.act(now, |core| core.set_router(&router))
            }
            Step::Pass(ms) => return self.pass(Duration::from_millis(ms.into())),
            Step::Jump(ms) => {
                self.now += Duration::from_millis(ms.into());
                return;
            }
        };
        self.took(commands);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.watched.core.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            let now = self.now;
            let commands = self.watched.act(now, |core| core.handle_timeout(now));
            self.took(commands);
        }
        self.now = end;
    }

    /// Lets everything end well: engines answer, attempts finish, and each model has an instance.
    fn settle(&mut self) {
        for model in 0..MODELS.len() as u8 {
            self.names += 1;
            self.take(Step::Register { model, kind: 0, window: 5, kv: 8000 });
            let name = format!("last-{}", self.names);
            let spec = ExecutionInstance::new(name, "localhost", 8000, MODELS[usize::from(model)]);
            let now = self.now;
            let commands = self.watched.act(now, |core| {
                core.register(spec, now).expect("a good instance");
            });
            self.took(commands);
        }
        for _ in 0..400 {
            while !self.probes.is_empty() {
                self.take(Step::Probe {
                    which: 0,
                    healthy: true,
                    running: 0,
                    waiting: 0,
                    usage: 0,
                });
            }
            for attempt in self.running.clone() {
                self.ended(attempt);
                let commands = self.watched.finished(attempt, usage(50), self.now);
                self.took(commands);
            }
            self.pass(Duration::from_millis(500));
            if self.watched.open() == 0 && self.watched.charges() == 0 {
                return;
            }
        }
        panic!("{} requests never ended", self.watched.open());
    }
}

const MODELS: [&str; 2] = ["llama-7b", "qwen-1.5b"];
const TYPES: [ExecutionInstanceType; 4] = [
    ExecutionInstanceType::General,
    ExecutionInstanceType::Prefilling,
    ExecutionInstanceType::Decoding,
    ExecutionInstanceType::LlmEmbedding,
];

fn pick<T: Copy>(all: &[T], place: u8) -> Option<T> {
    (!all.is_empty()).then(|| all[usize::from(place) % all.len()])
}

fn usage(output: u16) -> Usage {
    Usage { prompt: Tokens(100), output: Tokens(output.into()), cached: Tokens::ZERO }
}

proptest! {
    #[test]
    fn every_request_ends_once_and_all_charges_return_to_zero(
        config in config(),
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut outside = Outside::new(&config);
        for step in steps {
            outside.take(step);
        }
        let waited: Vec<_> = outside.watched.book.iter()
            .filter(|(_, record)| record.ended.is_none() && record.asked.objectives.e2e.is_none())
            .map(|(&id, _)| id)
            .collect();
        outside.settle();
        for id in waited {
            let ending = outside.watched.book[&id].ending();
            prop_assert_eq!(ending, Some(Ending::Finished), "{:?} was neither served nor cancelled", id);
        }
        for found in outside.watched.core.fleet().iter() {
            prop_assert_eq!((found.sequences, found.tokens), (0, Tokens::ZERO));
            prop_assert_eq!(found.hold, None);
        }
    }
}
