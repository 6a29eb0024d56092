//! What is asked: a model, GPUs, traffic, limits, and what is to be best.

use std::str::FromStr;

use sagellm_perf::{
    Calibration, DoesNotFit, Fabric, Gpu, IllegalLayout, Layout, Link, ModelSpec, OperatorCost,
};
use sagellm_types::ParallelismType;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A question to the planner.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The model.
    pub model: &'a ModelSpec,
    /// The GPUs that there are: so many of each type. An instance stays within one type.
    pub gpus: Vec<(&'a Gpu, u32)>,
    /// The traffic.
    pub workload: Workload,
    /// What every request is to keep in the mean.
    pub limits: Limits,
    /// What is to be best.
    pub objective: Objective,
    /// How engines may be set.
    pub engine: EngineLimits,
    /// How much is to be served, and what it may cost.
    pub demand: Demand,
    /// The ways between GPUs, if they are known; else as datasheets and nodes allow.
    pub links: Option<&'a dyn Links>,
    /// The only strategy that is asked, if one is wanted (the seed's `parallelism_hint`).
    pub hint: Option<ParallelismType>,
    /// The only layout that is asked, if one is wanted.
    pub layout: Option<Layout>,
    /// Whether prompts may be computed by instances of their own.
    pub split: Split,
}

impl<'a> Question<'a> {
    /// Asks how `model` is best laid over `gpus` for `workload`: the most requests per second, without
    /// limits, each request on one instance.
    pub fn new(model: &'a ModelSpec, gpus: &[(&'a Gpu, u32)], workload: Workload) -> Self {
        Self {
            model,
            gpus: gpus.to_vec(),
            workload,
            limits: Limits::default(),
            objective: Objective::default(),
            engine: EngineLimits::default(),
            demand: Demand::default(),
            links: None,
            hint: None,
            layout: None,
            split: Split::default(),
        }
    }
}

/// Whether prompts are computed by instances of their own, which hand keys and values over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Each request stays on one instance.
    #[default]
    Never,
    /// Whichever is better.
    Also,
    /// They always are.
    Only,
}

impl Split {
    /// All of them, by name.
    pub const NAMES: [(&'static str, Self); 3] =
        [("never", Self::Never), ("also", Self::Also), ("only", Self::Only)];
}

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, known)| *known);
        found.ok_or_else(|| format!("`{text}`: expected never, also or only"))
    }
}

/// Tells how instances are seated on the GPUs of a machine or a cluster, and the ways between them.
pub trait Links: std::fmt::Debug {
    /// Returns how instances of so many GPUs of a type can be seated beside each other, if no other size
    /// is there: fewer on wider ways, say, or more on narrower ones.
    fn seatings(&self, gpu: &Gpu, gpus: u32) -> Vec<Seating>;

    /// Returns how many GPUs of a type the largest machine has.
    fn per_machine(&self, gpu: &Gpu) -> u32;

    /// Returns the narrowest way from a GPU of one type to a GPU of another; `None` if it is not known.
    fn between(&self, from: &Gpu, to: &Gpu) -> Option<Link>;
}

/// Instances of one size beside each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Seating {
    /// How many.
    pub instances: u32,
    /// The machines that each is spread over, in equal parts.
    pub machines: u32,
    /// The narrowest way inside of the parts of so many GPUs into which they are divided; the usual one
    /// where a size is not named.
    pub ways: Vec<(u32, Link)>,
}

impl Seating {
    /// Returns how instances of `size` GPUs are seated on `count` GPUs in machines of `each`, the last of
    /// which holds the rest; `None` if no machines hold one in equal parts.
    pub fn on_machines(each: u32, size: u32, count: u32) -> Option<Self> {
        let (full, rest) = (count / each, count % each);
        let (instances, machines) = match size.div_ceil(each) {
            1 => (full * (each / size) + rest / size, 1),
            machines if size.is_multiple_of(each) => (full / machines, machines),
            _ => return None,
        };
        (instances > 0).then_some(Self { instances, machines, ways: Vec::new() })
    }

    /// Returns how many instances of `size` GPUs find a seat on such machines beside so many others, that fill
    /// one machine after the other, the one with the rest first or last.
    pub(crate) fn beside(each: u32, size: u32, count: u32, (other, others): (u32, u32)) -> u32 {
        let (full, rest) = (count / each, count % each);
        let room = |free: u32| if size > each { 0 } else { free / size };
        let seated = |full: u32, partly: u32| {
            let whole = if size > each { full / (size / each) } else { 0 };
            full * room(each) + whole + partly
        };
        if other > each {
            return match full.checked_sub(others * (other / each)) {
                Some(left) => seated(left, room(rest)),
                None => 0,
            };
        }
        let (of_machine, of_rest) = (each / other, rest / other);
        let filled = |in_rest: u32| {
            let (machines, last) =
                ((others - in_rest) / of_machine, (others - in_rest) % of_machine);
            let taken = machines + u32::from(last > 0);
            let free = full.checked_sub(taken)?;
            let in_last = if last > 0 { room(each - last * other) } else { 0 };
            let beside = machines * room(each - of_machine * other) + in_last;
            Some(seated(free, beside + room(rest - in_rest * other)))
        };
        filled(0).max(filled(of_rest.min(others))).unwrap_or(0)
    }

    /// Returns why vLLM cannot start a layout that is seated so, if it cannot: the GPUs that share a layer
    /// lie on one machine or fill several, and so do those of a rank of data parallelism.
    pub(crate) fn refuses(&self, layout: Layout) -> Option<String> {
        if self.machines <= 1 {
            return None;
        }
        let here = layout.gpus() / self.machines;
        let (tensor, of_rank) = (layout.tensor, layout.tensor * layout.pipeline);
        if !here.is_multiple_of(tensor) && !tensor.is_multiple_of(here) {
            return Some(format!("{tensor} GPUs that share a layer would lie across machines"));
        }
        (layout.data > 1 && !here.is_multiple_of(of_rank))
            .then(|| format!("a rank of {of_rank} GPUs would lie over several machines"))
    }
}

/// How much is to be served, and what it may cost.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Demand {
    /// Requests per second. Plans are then ranked by their rent first: the fewest instances that give
    /// so much.
    pub requests_per_s: Option<f64>,
    /// US dollars per hour that all GPUs together may cost.
    pub usd_per_hour: Option<f64>,
}

impl Demand {
    /// Returns the budget and what rounding may have taken of it, in US dollars per hour.
    pub(crate) fn budget(&self) -> f64 {
        self.usd_per_hour.map_or(f64::INFINITY, |usd| usd * (1.0 + 1e-9))
    }

    /// Returns how many times a rent can be paid beside another.
    pub(crate) fn affords(&self, usd_per_hour: f64, beside: f64) -> u32 {
        ((self.budget() - beside) / usd_per_hour).max(0.0) as u32
    }
}

/// The shape of requests, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Prompt tokens that are computed.
    pub prompt: f64,
    /// Prompt tokens that are found in a prefix cache.
    pub cached: f64,
    /// Output tokens.
    pub output: f64,
}

impl Workload {
    /// Requests of `prompt` and `output` tokens, of which no cache knows any.
    pub const fn new(prompt: f64, output: f64) -> Self {
        Self { prompt, cached: 0.0, output }
    }

    /// Returns the tokens that a request has seen, in the mean over its answer.
    pub(crate) fn context(&self) -> f64 {
        self.prompt + self.cached + 0.5 * self.output
    }
}

/// Limits on mean times, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Time to first token.
    pub ttft: Option<f64>,
    /// Time per output token after the first.
    pub tpot: Option<f64>,
    /// Time to the last token.
    pub e2e: Option<f64>,
}

/// How engines may be set, named as vLLM names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineLimits {
    /// Most sequences in a step of a rank that may be planned.
    pub max_num_seqs: u32,
    /// Most tokens computed in a step of a rank: each of these is tried.
    pub max_num_batched_tokens: Vec<u32>,
    /// Longest context that must fit; the workload's own when smaller.
    pub max_model_len: u32,
}

impl Default for EngineLimits {
    /// Up to 256 sequences, as simulated engines have it by default; steps of 2,048, 8,192 and 16,384
    /// tokens.
    fn default() -> Self {
        Self {
            max_num_seqs: 256,
            max_num_batched_tokens: vec![2_048, 8_192, 16_384],
            max_model_len: 0,
        }
    }
}

/// What is to be best, of plans that keep the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Output tokens per second and GPU.
    Throughput,
    /// The time to the last token of a request.
    Latency,
    /// US dollars per million output tokens.
    Cost,
    /// Requests per second of all GPUs together, times how likely they keep the limits.
    #[default]
    Goodput,
}

impl Objective {
    /// All of them, by name.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("throughput", Self::Throughput),
        ("latency", Self::Latency),
        ("cost", Self::Cost),
        ("goodput", Self::Goodput),
    ];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, known)| *known);
        let known = || Self::NAMES.map(|(name, _)| name).join(", ");
        found.ok_or_else(|| format!("unknown objective `{text}`: expected {}", known()))
    }
}

/// A question that has no answer.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There is no GPU.
    #[error("there is no GPU to plan for")]
    NoGpu,
    /// A figure cannot be.
    #[error("{field} = {found}: expected {expected}")]
    Figure {
        /// The field.
        field: &'static str,
        /// What it is.
        found: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// No layout is legal.
    #[error("no layout is legal: {0}")]
    Illegal(IllegalLayout),
    /// The model fits in no legal layout.
    #[error("{error} in the largest layout ({layout}); {enough}")]
    TooLarge {
        /// What is lacking in the layout that lacks the least.
        error: Box<DoesNotFit>,
        /// That layout.
        layout: String,
        /// The smallest fleet that would do.
        enough: String,
    },
    /// A request, or the context that is to fit, is longer than the model's.
    #[error("{tokens:.0} tokens are to fit into a context; {model} takes up to {most}")]
    TooLong {
        /// The tokens.
        tokens: f64,
        /// The model.
        model: String,
        /// Its longest context.
        most: u32,
    },
    /// Not even one instance can be paid for.
    #[error(
        "one instance costs {least:.2} US dollars per hour at least, the budget is {budget:.2}"
    )]
    TooDear {
        /// The budget, in US dollars per hour.
        budget: f64,
        /// The rent of the cheapest instance that fits.
        least: f64,
    },
    /// The strategy that is asked for has no layout for this model on these GPUs.
    #[error("no layout of kind {kind:?} is legal for this model on these GPUs")]
    NoneOfKind {
        /// The strategy.
        kind: ParallelismType,
    },
    /// The limits can be kept, and the demand cannot.
    #[error(
        "{wanted:.2} requests per second are wanted; within the limits and the budget these GPUs give at \
         most {most:.2}"
    )]
    TooFew {
        /// Requests per second that are wanted.
        wanted: f64,
        /// The most that any layout gives.
        most: f64,
    },
    /// What fits cannot be seated on the machines.
    #[error("no machines hold an instance that the model fits into: {why}")]
    Apart {
        /// What stands against it.
        why: String,
    },
    /// The layout that is asked takes more GPUs than there are.
    #[error("{layout} takes {gpus} GPUs of one type: there are {most}")]
    TooWide {
        /// The layout.
        layout: Layout,
        /// Its GPUs.
        gpus: u32,
        /// The most that there are of one type.
        most: u32,
    },
    /// Prompts were to have instances of their own, and there are not enough GPUs for two.
    #[error(
        "no two instances fit beside each other: a split needs one that prefills and one that decodes"
    )]
    NoRoomToSplit,
    /// The limits cannot be kept even by a single request.
    #[error(
        "no layout keeps the limits: alone, a request has {ttft_ms:.0} ms to its first token at best, \
         {tpot_ms:.1} ms per token at best, and {e2e_s:.1} s to its end at best"
    )]
    OutOfReach {
        /// The least time to first token of any layout, in milliseconds.
        ttft_ms: f64,
        /// The least time per output token of any, in milliseconds.
        tpot_ms: f64,
        /// The least time to the last token of any, in seconds.
        e2e_s: f64,
    },
}

impl Question<'_> {
    /// Returns how instances of a layout can be seated, of `count` GPUs.
    pub(crate) fn seatings(&self, gpu: &Gpu, layout: Layout, count: u32) -> Vec<Seating> {
        match self.links {
            Some(links) => links.seatings(gpu, layout.gpus()),
            None => {
                Seating::on_machines(gpu.per_host(), layout.gpus(), count).into_iter().collect()
            }
        }
    }

    /// Returns how many GPUs a machine has at most.
    pub(crate) fn per_machine(&self, gpu: &Gpu) -> u32 {
        self.links.map_or_else(|| gpu.per_host(), |links| links.per_machine(gpu)).max(1)
    }

    /// Returns how long the steps of an instance take that is seated so.
    pub fn cost(&self, gpu: &Gpu, layout: Layout, seating: &Seating) -> OperatorCost {
        let usual = Fabric::of(gpu, layout);
        let known = |part: u32, usual| {
            let found = seating.ways.iter().find(|(size, _)| *size == part);
            found.map_or(usual, |(_, link)| *link)
        };
        let fabric = Fabric {
            tensor: known(layout.tensor, usual.tensor),
            expert: known(layout.expert_group(), usual.expert),
            stage: known(layout.gpus(), usual.stage),
        };
        OperatorCost::over(self.model, gpu, layout, fabric, Calibration::of(gpu))
    }

    /// Returns the tokens of the longest request that must fit.
    pub(crate) fn longest(&self) -> f64 {
        let Workload { prompt, cached, output } = self.workload;
        (prompt + cached + output).max(f64::from(self.engine.max_model_len))
    }

    /// Checks its figures.
    pub(crate) fn validate(&self) -> Result<(), PlanError> {
        if self.gpus.iter().all(|(_, count)| *count == 0) {
            return Err(PlanError::NoGpu);
        }
        if let Some(layout) = self.layout {
            layout.check(self.model).map_err(PlanError::Illegal)?;
            let most = self.gpus.iter().map(|(_, count)| *count).max().unwrap_or(0);
            let gpus = layout.gpus();
            if gpus > most {
                return Err(PlanError::TooWide { layout, gpus, most });
            }
        }
        let (Workload { prompt, cached, output }, limits) = (self.workload, &self.limits);
        let tokens = "a number of tokens from 1 to 10000000";
        for (field, found, least, expected) in [
            ("prompt", prompt, 1.0, tokens),
            ("output", output, 1.0, tokens),
            ("cached", cached, 0.0, "a number of tokens, not below 0"),
            ("ttft", limits.ttft.unwrap_or(1.0), 1e-6, "seconds above 0"),
            ("tpot", limits.tpot.unwrap_or(1.0), 1e-6, "seconds above 0"),
            ("e2e", limits.e2e.unwrap_or(1.0), 1e-6, "seconds above 0"),
            (
                "rate",
                self.demand.requests_per_s.unwrap_or(1.0),
                1e-6,
                "requests per second, above 0 and up to 10000000",
            ),
            (
                "budget",
                self.demand.usd_per_hour.unwrap_or(1.0),
                1e-6,
                "dollars per hour, above 0 and up to 10000000",
            ),
        ] {
            if !(found >= least && found <= 1e7) {
                return Err(PlanError::Figure { field, found, expected });
            }
        }
        let budgets = &self.engine.max_num_batched_tokens;
        let least = budgets.iter().min().map_or(0.0, |least| f64::from(*least));
        for (field, found) in [
            ("max_num_batched_tokens", least),
            ("max_num_seqs", f64::from(self.engine.max_num_seqs)),
        ] {
            if found < 1.0 {
                return Err(PlanError::Figure { field, found, expected: "at least one" });
            }
        }
        let (tokens, most) = (self.longest(), self.model.max_context);
        if tokens > f64::from(most) {
            return Err(PlanError::TooLong { tokens, model: self.model.name.clone(), most });
        }
        Ok(())
    }
}
