//! Random worlds: small fleets under random policies, traffic, faults, operators and clients, with
//! every invariant recomputed after every event.
//!
//! A seed is a world. `cargo xtask props` runs thousands of them, and `cargo xtask props --seed N` one
//! again.

use std::time::Duration;

use sagellm_engine_model::{EngineConfig, Pace};
use sagellm_manager::{Config, RouterConfig, StrategyConfig};
use sagellm_perf::LinearCost;
use sagellm_strategies::queue::FairnessConfig;
use sagellm_types::{ExecutionInstance, RequestPriority, Rng, Seed, Timestamp, Tokens};
use sagellm_workload::{Arrivals, Gaps, Length, Rate, SloClass, Workload, WorkloadConfig};

use crate::{
    Coverage, FaultKind, FaultRule, Machine, Simulation, SimulationError, Strike, strikes,
};

/// A random world.
#[derive(Clone, Debug)]
pub struct RandomWorld {
    /// The control plane.
    pub config: Config,
    /// The engines.
    pub machines: Vec<Machine>,
    /// The traffic.
    pub workload: Workload,
    /// What faults, operators and clients do.
    pub strikes: Vec<(Timestamp, Strike)>,
}

/// Seconds in which requests come.
const SPAN: f64 = 20.0;

impl RandomWorld {
    /// Returns the world of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Seed(seed).stream("world");
        let machines: Vec<Machine> =
            (0..1 + rng.below(4) as u32).map(|number| machine(number, &mut rng)).collect();
        let config = config(seed, &mut rng);
        let slots: u32 = machines.iter().map(|machine| machine.engine.max_num_seqs).sum();
        let workload = workload(seed, slots, &mut rng);
        let strikes = all_strikes(seed, machines.len() as u32, &workload, &mut rng);
        Self { config, machines, workload, strikes }
    }

    /// Runs it with every check, and returns what it came across.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn run(&self) -> Result<Coverage, SimulationError> {
        let simulation = Simulation {
            config: &self.config,
            machines: &self.machines,
            workload: &self.workload,
            strikes: &self.strikes,
            warm_up: Duration::ZERO,
            check: true,
        };
        simulation.run(|_| {}).map(|outcome| outcome.coverage)
    }
}

fn one_of<T: Clone>(choices: &[T], rng: &mut Rng) -> T {
    choices[rng.below(choices.len())].clone()
}

fn machine(number: u32, rng: &mut Rng) -> Machine {
    let cost = LinearCost::TINY.scaled(one_of(&[1.0, 1.0, 3.0], rng));
    let engine = EngineConfig {
        num_blocks: one_of(&[24, 40, 80, 400], rng),
        max_num_seqs: one_of(&[2, 4, 8], rng),
        max_num_batched_tokens: one_of(&[64, 512, 8_192], rng),
        enable_prefix_caching: rng.unit() < 0.5,
        max_num_queued_reqs: one_of(&[None, None, Some(2)], rng),
        pace: one_of(&[Pace::Leap, Pace::Leap, Pace::Step], rng),
        ..EngineConfig::default()
    };
    // An operator may say too much of an engine, or nothing.
    let told = one_of(&[None, Some(1), Some(1), Some(2)], rng);
    let spec = ExecutionInstance {
        max_concurrent_requests: engine.max_num_seqs * one_of(&[1, 1, 2], rng),
        kv_cache_tokens: told.map(|times| times * engine.kv_tokens()),
        price_per_gpu_hour: one_of(&[1.0, 1.0, 4.0], rng),
        machine_id: Some(format!("m{}", number / 2)),
        ..ExecutionInstance::new(format!("e{number}"), "simulated", 1, "m")
    };
    let start_up = one_of(&[Duration::ZERO, Duration::ZERO, Duration::from_secs(2)], rng);
    Machine { spec, cost: cost.into(), engine, start_up }
}

fn strategy(rng: &mut Rng) -> StrategyConfig {
    StrategyConfig::parse(one_of(&StrategyConfig::NAMES, rng)).expect("offered")
}

fn config(seed: u64, rng: &mut Rng) -> Config {
    let mut config = Config {
        strategy: strategy(rng),
        router: RouterConfig::parse(one_of(&RouterConfig::NAMES, rng)).expect("offered"),
        fairness: (rng.unit() < 0.4).then(FairnessConfig::default),
        seed: Seed(seed),
        ..Config::default()
    };
    config.queue.max_waiting = one_of(&[8, 100, 100_000], rng);
    config.queue.max_wait_ms = one_of(&[2_000, 15_000, 60_000], rng);
    config.queue.patience_ms = one_of(&[0, 200, 2_000], rng);
    config.queue.backfill = one_of(&[0, 2, 8], rng);
    config.retry.max = one_of(&[0, 1, 3], rng);
    config
}

fn workload(seed: u64, slots: u32, rng: &mut Rng) -> Workload {
    let class = |number: usize, rng: &mut Rng| {
        let limit = |choices: &[Option<f64>], rng: &mut Rng| one_of(choices, rng);
        let longest = one_of(&[60, 300, 900], rng);
        SloClass {
            name: format!("c{number}"),
            priority: one_of(&RequestPriority::ALL, rng),
            users: one_of(&[0, 1, 5], rng),
            ttft_ms: limit(&[None, Some(100.0), Some(2_000.0)], rng),
            tpot_ms: limit(&[None, Some(6.0), Some(40.0)], rng),
            e2e_ms: limit(&[None, None, Some(1_000.0), Some(6_000.0)], rng),
            prompt: Some(Length::Uniform { min: 1, max: longest }),
            output: Some(Length::Uniform { min: 1, max: one_of(&[20, 150, 400], rng) }),
            shared_prefix: one_of(&[0, 0, 512], rng) * u64::from(longest < 300),
            ..SloClass::default()
        }
    };
    let classes = (0..1 + rng.below(3)).map(|number| class(number, rng)).collect();
    let rate = f64::from(slots) * one_of(&[0.3, 0.8, 2.0], rng);
    let shape = if rng.unit() < 0.5 {
        Rate::Constant { per_s: rate }
    } else {
        Rate::Square { high_per_s: 2.0 * rate, low_per_s: 0.0, high_s: 3.0, low_s: 3.0 }
    };
    let arrivals = Arrivals { rate: shape, gaps: Gaps::Poisson, bursts: None };
    let config =
        WorkloadConfig { classes, max_requests: Some(140), ..WorkloadConfig::new(arrivals, SPAN) };
    config.generate(Seed(seed)).expect("good settings").cap(Tokens(1_000), Tokens(u64::MAX))
}

fn all_strikes(
    seed: u64,
    engines: u32,
    workload: &Workload,
    rng: &mut Rng,
) -> Vec<(Timestamp, Strike)> {
    let mut rules = Vec::new();
    let kinds = [
        FaultKind::Crash,
        FaultKind::Crash,
        FaultKind::Hang,
        FaultKind::Slow,
        FaultKind::Flap,
        FaultKind::LostProbe,
    ];
    for kind in kinds {
        if rng.unit() < 0.35 {
            rules.push(FaultRule {
                at_s: Some(rng.unit() * SPAN),
                for_s: 0.5 + 6.0 * rng.unit(),
                ..FaultRule::new(kind)
            });
        }
    }
    let end = Timestamp::from_secs(60);
    let mut list = strikes(&rules, engines, end, Seed(seed)).expect("good rules");
    let time = |rng: &mut Rng| Timestamp::from_millis((rng.unit() * SPAN * 1e3) as u64);
    if rng.unit() < 0.35 {
        // Who is drained comes back, so that nothing waits for ever.
        let (engine, at) = (rng.below(engines as usize) as u32, time(rng));
        list.push((at, Strike::Drain(engine)));
        list.push((at + Duration::from_secs(3), Strike::Replace(engine)));
    }
    if rng.unit() < 0.2 {
        list.push((time(rng), Strike::Replace(rng.below(engines as usize) as u32)));
    }
    for _ in 0..rng.below(3) {
        list.push((time(rng), Strike::Choose(strategy(rng))));
    }
    let leaving = one_of(&[0.0, 0.1, 0.3], rng);
    for (number, arrival) in workload.arrivals.iter().enumerate() {
        if rng.unit() < leaving {
            let patience = Duration::from_secs_f64(rng.unit() * rng.unit() * 3.0);
            list.push((arrival.at + patience, Strike::Leave(number as u32)));
        }
    }
    list.sort_by_key(|strike| strike.0);
    list
}
