//! Fleets in virtual time: every request ends once, and leaping changes nothing.

use sagellm_engine_model::{EngineConfig, Pace};
use sagellm_manager::{Config, RouterConfig, StrategyConfig};
use sagellm_perf::{Calibration, Gpu, Layout, ModelSpec, OperatorCost};
use sagellm_simulator::{FleetError, Machine, Outcome, simulate};
use sagellm_types::{ExecutionInstance, Seed};
use sagellm_workload::{Workload, peaks};

fn machines(count: u32, pace: Pace, blocks: u32) -> Vec<Machine> {
    let model = ModelSpec::named("gpt-oss-20b").expect("known");
    let gpu = Gpu::named("A100").expect("known");
    let cost = OperatorCost::new(&model, gpu, Layout::tensor(1), Calibration::of(gpu));
    let engine =
        EngineConfig { num_blocks: blocks, max_num_seqs: 16, pace, ..EngineConfig::default() };
    let spec = |n: u32| ExecutionInstance {
        max_concurrent_requests: 16,
        kv_cache_tokens: Some(engine.kv_tokens()),
        ..ExecutionInstance::new(format!("e{n}"), "simulated", 1, "gpt-oss-20b")
    };
    (0..count).map(|n| Machine { spec: spec(n), engine, cost: cost.into() }).collect()
}

fn workload() -> Workload {
    peaks(30.0).generate(Seed(3)).expect("a good workload")
}

fn run(strategy: &str, machines: &[Machine]) -> Outcome {
    let config = Config {
        strategy: StrategyConfig::parse(strategy).expect("offered"),
        router: RouterConfig::LoadBalanced,
        ..Config::default()
    };
    simulate(&config, machines, &workload(), |_| {}).expect("a good fleet")
}

#[test]
fn every_request_ends_once_under_every_strategy() {
    for strategy in ["fifo", "priority", "slo_aware", "cost_optimized", "adaptive"] {
        let outcome = run(strategy, &machines(2, Pace::Leap, 4_000));
        let requests = outcome.report.requests;
        let ended = requests.finished + requests.failed + requests.rejected + requests.expired;
        assert_eq!(requests.submitted, workload().arrivals.len() as u64, "{strategy}");
        assert_eq!((ended, outcome.unfinished), (requests.submitted, 0), "{strategy}");
        assert!(
            requests.finished > 0 && outcome.report.queue_wait_ms.max > Some(0.0),
            "{strategy}"
        );
    }
}

#[test]
fn leaping_over_steps_gives_the_same_report() {
    for (strategy, blocks) in [("fifo", 4_000), ("adaptive", 4_000), ("slo_aware", 400)] {
        let leapt = run(strategy, &machines(2, Pace::Leap, blocks));
        let stepped = run(strategy, &machines(2, Pace::Step, blocks));
        assert_eq!(leapt, stepped, "{strategy}, {blocks} blocks");
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    let machines = machines(3, Pace::Leap, 1_000);
    assert_eq!(run("adaptive", &machines), run("adaptive", &machines));
}

#[test]
fn a_fleet_that_cannot_be_is_named() {
    let config = Config::default();
    let none = simulate(&config, &[], &workload(), |_| {});
    assert_eq!(none, Err(FleetError::Empty));
    let mut twice = machines(2, Pace::Leap, 100);
    twice[1].spec.instance_id = twice[0].spec.instance_id.clone();
    let error = simulate(&config, &twice, &workload(), |_| {}).expect_err("one name for two");
    assert!(error.to_string().contains("e0"), "{error}");
}
