//! Prompts on engines of their own: what the closed forms of the planner say, request by request.

use std::time::Duration;

use sagellm_engine_model::Transfer;
use sagellm_perf::{
    Gpu, Layout, Link, ModelSpec, OperatorCost, Prompts, Steady, SteadyLimits, SteadyLoad,
};
use sagellm_simulator::{EngineSettings, Machine, Pool, Pools, Scenario};
use sagellm_types::Seed;
use sagellm_workload::{Arrivals, Length, Origin, Source, WorkloadConfig};

const GPU: &str = "H100";

fn pool(model: &ModelSpec, layout: &str, engines: u32, max_num_batched_tokens: u32) -> Pool {
    let engine = EngineSettings { max_num_batched_tokens, ..EngineSettings::default() };
    let scenario = Scenario::of(&model.name, "", engine);
    let fleet = format!("{engines}x{GPU}:{layout}");
    let machines: Vec<Machine> = scenario.machines(&fleet, model).expect("it fits");
    Pool { engines, config: machines[0].engine, cost: machines[0].cost.clone() }
}

/// Checks mean times at a share of what one prefilling instance can do; one decodes.
fn check(name: &str, prefill: &str, decode: &str, request: (u64, u64), busy: f64) {
    check_in(8_192, name, (prefill, decode), request, busy);
}

/// The same with so many tokens per step.
fn check_in(
    step_tokens: u32,
    name: &str,
    (prefill, decode): (&str, &str),
    (prompt, output): (u64, u64),
    busy: f64,
) {
    let model = ModelSpec::named(name).expect("known");
    let gpu = Gpu::named(GPU).expect("known");
    let cost =
        |layout: &str| OperatorCost::preset(name, Some(GPU), layout.parse().expect("a layout"));
    let own = |layout: &str| pool(&model, layout, 1, step_tokens);
    let kv_tokens = own(prefill).config.kv_tokens();
    let prompts = Prompts::of(&cost(prefill), step_tokens, kv_tokens, prompt as f64, 0.0);
    let per_s = busy / prompts.each;
    let layouts: [Layout; 2] = [prefill, decode].map(|layout| layout.parse().expect("a layout"));
    let link = Link::among(gpu, layouts[0].gpus() + layouts[1].gpus());
    let transfer = Transfer::over(&link, &model, sagellm_perf::Dtype::Bf16, 16);
    let pools = Pools { prefill: own(prefill), decode: own(decode), transfer };
    let constant = |tokens| Length::Constant { tokens };
    let workload = Source::new(Origin::Drawn(WorkloadConfig {
        prompt: constant(prompt),
        output: constant(output),
        ..WorkloadConfig::new(Arrivals::poisson(per_s), 3_000.0 / per_s)
    }))
    .at(1.0, Seed(7))
    .expect("it can be drawn");
    let served = pools.serve(&workload);
    assert_eq!(served.len(), workload.arrivals.len(), "everybody is served");
    let mean = |of: &dyn Fn(&sagellm_simulator::Served) -> f64| {
        served.iter().map(of).sum::<f64>() / served.len() as f64
    };
    // What is there at once follows from the rate (Little).
    let tpot = mean(&|served| served.tpot.unwrap_or(0.0));
    let requests = per_s * (output - 1) as f64 * tpot;
    let limits = SteadyLimits {
        kv_tokens: pools.decode.config.kv_tokens() as f64,
        sequences: 256.0,
        step_tokens: f64::from(step_tokens),
    };
    let load = SteadyLoad {
        requests,
        prompt: 1.0,
        cached: (prompt - 1) as f64,
        output: output as f64,
        rounds: f64::INFINITY,
    };
    let steady = Steady::of(&cost(decode), &limits, &load);
    let moved = link.kv_seconds(&model, sagellm_perf::Dtype::Bf16, prompt)
        + link.latency.max(Duration::ZERO).as_secs_f64();
    // Engines have no work beside their steps here.
    let ways = prompts.ways + cost(decode).overhead(prompt);
    let ttft = prompts.ttft(per_s) + moved + steady.ttft + 0.5 * steady.decode - ways;
    let found = mean(&|served| served.ttft);
    let close = |predicted: f64, found: f64, within: f64| (predicted / found - 1.0).abs() < within;
    let told = format!("{name} {prefill} → {decode} at {busy}: ");
    assert!(close(ttft, found, 0.1), "{told}TTFT {ttft:.4} against {found:.4}");
    assert!(close(steady.tpot, tpot, 0.1), "{told}TPOT {:.4} against {tpot:.4}", steady.tpot);
}

#[test]
fn closed_forms_of_a_split_hold_request_by_request() {
    check("llama-3.1-8b", "tp1", "tp1", (4_000, 200), 0.3);
    check("llama-3.1-8b", "tp1", "tp1", (4_000, 200), 0.7);
    check("llama-3.1-8b", "tp1", "tp1", (500, 100), 0.5);
    check("qwen3-32b", "tp2", "tp4", (6_000, 300), 0.8);
    check("qwen3-30b-a3b", "tp1", "tp1", (2_000, 100), 0.6);
    check("qwen3-30b-a3b", "tp1dp2", "tp2", (3_000, 100), 0.6);
    check("llama-3.1-8b", "tp1pp2", "tp1", (3_000, 100), 0.5);
    // Parts of two prompts are in the two stages.
    check_in(2_048, "llama-3.1-8b", ("tp1pp2", "tp1"), (6_000, 100), 0.7);
    check_in(2_048, "qwen3-32b", ("tp2pp2", "tp4"), (4_000, 200), 0.8);
    // Two prompts are all that fits.
    check("llama-3.1-70b", "tp1pp2", "tp8", (4_000, 50), 0.3);
    check("qwen3-32b", "tp2", "tp2", (16_000, 100), 0.6);
}

#[test]
fn who_reads_after_the_lease_fails() {
    let model = ModelSpec::named("llama-3.1-8b").expect("known");
    let at_once = |kv_lease_ms| {
        let mut prefill = pool(&model, "tp1", 1, 8_192);
        prefill.config.kv_lease_ms = kv_lease_ms;
        let workload = Source::new(Origin::Drawn(WorkloadConfig {
            prompt: Length::Constant { tokens: 1_000 },
            output: Length::Constant { tokens: 20 },
            ..WorkloadConfig::new(Arrivals::poisson(5.0), 10.0)
        }))
        .at(1.0, Seed(3))
        .expect("it can be drawn");
        let decode = pool(&model, "tp1", 1, 8_192);
        let served = Pools { prefill, decode, transfer: Transfer::default() }.serve(&workload);
        (served.len(), workload.arrivals.len())
    };
    let (served, all) = at_once(30_000);
    assert_eq!(served, all);
    assert_eq!(at_once(0).0, 0);
}
