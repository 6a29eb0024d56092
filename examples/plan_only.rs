//! The planner alone: how to lay a model over eight GPUs, in ten lines and without IO.
//!
//! `cargo run --example plan_only`. Nothing but `sagellm-parallelism` and `sagellm-perf` is needed.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use sagellm_parallelism::{Limits, Objective, Question, Workload, plan};
use sagellm_perf::{Gpu, ModelSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = ModelSpec::named("qwen3-32b")?;
    let answer = plan(&Question {
        limits: Limits { ttft: Some(1.0), tpot: Some(0.030), ..Limits::default() },
        objective: Objective::Goodput,
        ..Question::new(&model, &[(Gpu::named("H200")?, 8)], Workload::new(4_000.0, 500.0))
    })?;
    for plan in answer.plans.iter().take(3) {
        println!("{} × {}: {:.2} requests/s", plan.instances, plan.layout, plan.requests_per_s);
    }
    Ok(())
}

#[test]
fn it_runs() {
    main().expect("a model that fits");
}
