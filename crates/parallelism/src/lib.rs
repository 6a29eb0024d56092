//! How to lay a model over GPUs.
//!
//! A [`Question`] is a model, GPUs, the shape of requests, limits and an objective; [`plan`] answers
//! with a ranked list of layouts and the Pareto front, each with what it gives, what it costs and of
//! what its time is made. Five [`ParallelismStrategy`]s propose layouts that vLLM would load; memory and
//! times come from `sagellm-perf`. Pure: no IO, no clock.
//!
//! ```
//! use sagellm_parallelism::{Limits, Objective, Question, Workload, plan};
//! use sagellm_perf::{Gpu, ModelSpec};
//!
//! let model = ModelSpec::named("llama-3.1-70b-fp8")?;
//! let question = Question {
//!     limits: Limits { tpot: Some(0.025), ..Limits::default() },
//!     objective: Objective::Throughput,
//!     ..Question::new(&model, &[(Gpu::named("H100")?, 8)], Workload::new(1_000.0, 200.0))
//! };
//! for plan in plan(&question)?.plans.iter().take(3) {
//!     println!("{} × {}: {:.0} tokens/s/GPU", plan.instances, plan.layout, plan.tokens_per_s_per_gpu);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod front;
mod laid;
mod plan;
mod point;
mod question;
mod search;
mod split;
mod strategy;
mod together;

pub use plan::{
    Answer, ParallelismConfig, Plan, PlanInterval, Prefill, Rejected, auto_optimize,
    compare_strategies, plan, plan_exhaustively, recommend_parallelism_config,
};
pub use question::{
    Demand, EngineLimits, Limits, Links, Objective, PlanError, Question, Seating, Split, Workload,
};
pub use strategy::{
    Data, Expert, Hybrid, ParallelismStrategy, Pipeline, Tensor, sizes, supported_strategies,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
