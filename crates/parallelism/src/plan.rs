//! The answer: plans, each of which says what it gives and of what its times are made.

use sagellm_perf::{Layout, WorkShares};
use sagellm_types::{ParallelismType, Phase};
use serde::Serialize;

use crate::question::{PlanError, Question, Split};
use crate::search::search;

/// An operating point of a layout: so many requests at a time on each instance.
///
/// Where prompts have instances of their own, `layout`, `instances`, `requests` and what is said of
/// steps and KV tokens are those of the instances that decode; where several types of GPU share the
/// traffic, those of the first type, and `types` has each with its own figures. `gpus`, times, what is given
/// and paid, `interval` and `chance` are those of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Which strategy proposed the layout.
    pub strategy: ParallelismType,
    /// The GPU.
    pub gpu: String,
    /// The layout of one instance, as it is written: `tp4`, `tp1dp8ep`.
    pub layout: String,
    /// GPUs of one instance.
    pub gpus_per_instance: u32,
    /// Instances.
    pub instances: u32,
    /// GPUs that all of them take.
    pub gpus: u32,
    /// Requests at a time on each instance.
    pub requests: u32,
    /// Most tokens computed in a step of a rank.
    pub max_num_batched_tokens: u32,
    /// The instances that compute prompts, if they have their own.
    pub prefill: Option<Prefill>,
    /// The types of GPU that share the traffic, if there are several: each as a plan of its own, the one that
    /// gives the most first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<Self>,
    /// Seconds to the first token, in the mean.
    pub ttft: f64,
    /// Seconds per output token after the first.
    pub tpot: f64,
    /// Seconds to the last token.
    pub e2e: f64,
    /// Requests per second, all instances together.
    pub requests_per_s: f64,
    /// Output tokens per second and GPU.
    pub tokens_per_s_per_gpu: f64,
    /// Output tokens per second that one request gets.
    pub tokens_per_s_per_user: f64,
    /// US dollars per million output tokens.
    pub usd_per_million: f64,
    /// Rent of all its GPUs, in US dollars per hour.
    pub usd_per_hour: f64,
    /// KV tokens that fit into one instance.
    pub kv_tokens: u64,
    /// The share of them that is left free.
    pub kv_free: f64,
    /// Of what a decode step is made.
    pub decode: WorkShares,
    /// Share of the time that prompts take.
    pub prompts: f64,
    /// What 80 % of runs on real engines like this took, as multiples of these times.
    pub interval: PlanInterval,
    /// How likely it keeps the limits, by that and, where one is on the time to first or last token, by the room
    /// that its KV cache leaves; 1 without limits.
    pub chance: f64,
}

impl Plan {
    /// Returns the plan of each type of GPU that shares the traffic: itself, if there is one.
    pub fn each_type(&self) -> &[Self] {
        if self.types.is_empty() { std::slice::from_ref(self) } else { &self.types }
    }
}

/// The instances that compute prompts and hand their keys and values over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prefill {
    /// The GPU.
    pub gpu: String,
    /// The layout of one instance.
    pub layout: String,
    /// GPUs of one instance.
    pub gpus_per_instance: u32,
    /// Instances.
    pub instances: u32,
    /// Most tokens computed in a step of a rank.
    pub max_num_batched_tokens: u32,
    /// Share of the time that they compute.
    pub busy: f64,
    /// Seconds that keys and values of one request take to the instance that decodes.
    pub transfer: f64,
}

/// What 80 % of runs took, as multiples of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PlanInterval {
    /// Of the time to first token.
    pub ttft: (f64, f64),
    /// Of the time per output token.
    pub tpot: (f64, f64),
}

/// A layout that was not taken, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejected {
    /// The GPU.
    pub gpu: String,
    /// The layout.
    pub layout: String,
    /// Why.
    pub why: String,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The best operating point of each layout, and of each layout that decodes what others have
    /// prefilled; the best first.
    pub plans: Vec<Plan>,
    /// Operating points of which none is better in all of tokens per second and GPU, tokens per second and
    /// request, dollars per token and time to first token, from the fastest for a request to the slowest.
    /// Figures are compared in steps of 3 %; of the instances that prefill, the fewest and the
    /// most are looked at.
    pub front: Vec<Plan>,
    /// Layouts that do not fit or do not keep the limits.
    pub rejected: Vec<Rejected>,
    /// Layouts that were looked at.
    pub layouts: usize,
    /// Operating points that were computed.
    pub points: usize,
}

/// Answers a question.
///
/// ```
/// use sagellm_parallelism::{Limits, Question, Workload, plan};
/// use sagellm_perf::{Gpu, ModelSpec};
///
/// let model = ModelSpec::named("qwen3-32b")?;
/// let answer = plan(&Question {
///     limits: Limits { ttft: Some(1.0), tpot: Some(0.030), ..Limits::default() },
///     ..Question::new(&model, &[(Gpu::named("H200")?, 8)], Workload::new(4_000.0, 500.0))
/// })?;
/// let best = &answer.plans[0];
/// assert!(best.ttft <= 1.0 && best.tpot <= 0.030 && best.gpus == 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a figure cannot be, nothing fits, or the limits are out of reach; with what would do.
pub fn plan(question: &Question<'_>) -> Result<Answer, PlanError> {
    search(question, true)
}

/// Returns the best plan (the seed's name for the question).
///
/// # Errors
/// As [`plan`].
pub fn auto_optimize(question: &Question<'_>) -> Result<Plan, PlanError> {
    Ok(plan(question)?.plans.swap_remove(0))
}

/// Returns the best plan of each strategy on one type of GPU, the best first; without those that have none.
///
/// # Errors
/// As [`plan`].
pub fn compare_strategies(question: &Question<'_>) -> Result<Vec<Plan>, PlanError> {
    let mut best: Vec<Plan> = Vec::new();
    let of_one = plan(question)?.plans.into_iter().filter(|plan| plan.types.is_empty());
    for plan in of_one {
        if !best.iter().any(|known| known.strategy == plan.strategy) {
            best.push(plan);
        }
    }
    Ok(best)
}

/// The sizes with which an instance is started, under the seed's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ParallelismConfig {
    /// GPUs that share every layer.
    pub tensor_parallel_size: u32,
    /// Stages.
    pub pipeline_parallel_size: u32,
    /// Ranks that compute attention for their own requests.
    pub data_parallel_size: u32,
    /// Whether experts are spread instead of cut.
    pub enable_expert_parallel: bool,
}

/// Returns how an instance of a role is best laid out (the seed's `recommend_parallelism_config`): one
/// that prefills or decodes as the best plan splits the two, any other as the best plan without a split, on
/// the type of GPU that gives the most.
///
/// ```
/// use sagellm_parallelism::{Limits, Question, Workload, recommend_parallelism_config};
/// use sagellm_perf::{Gpu, ModelSpec};
/// use sagellm_types::Phase;
///
/// let model = ModelSpec::named("llama-3.1-70b-fp8")?;
/// let question = Question {
///     limits: Limits { ttft: Some(2.0), tpot: Some(0.030), ..Limits::default() },
///     ..Question::new(&model, &[(Gpu::named("H100")?, 8)], Workload::new(8_000.0, 300.0))
/// };
/// let decode = recommend_parallelism_config(&question, Phase::Decoding)?;
/// assert!(decode.tensor_parallel_size >= 2 && decode.data_parallel_size == 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`plan`].
pub fn recommend_parallelism_config(
    question: &Question<'_>,
    phase: Phase,
) -> Result<ParallelismConfig, PlanError> {
    let split = if phase == Phase::Hybrid { Split::Never } else { Split::Only };
    let best = auto_optimize(&Question { split, ..question.clone() })?;
    let best = &best.each_type()[0];
    let layout = match (phase, &best.prefill) {
        (Phase::Prefilling, Some(prefill)) => &prefill.layout,
        _ => &best.layout,
    };
    let layout: Layout = layout.parse().expect("the planner writes layouts that can be read");
    Ok(ParallelismConfig {
        tensor_parallel_size: layout.tensor,
        pipeline_parallel_size: layout.pipeline,
        data_parallel_size: layout.data,
        enable_expert_parallel: layout.expert,
    })
}

/// Answers a question by looking at every operating point of every layout.
#[doc(hidden)]
pub fn plan_exhaustively(question: &Question<'_>) -> Result<Answer, PlanError> {
    search(question, false)
}
