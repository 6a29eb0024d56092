//! Operating points, in figures only: there are many, and few become a [`Plan`].

use std::cmp::Ordering;

use sagellm_perf::{Interval, Steady, SteadyLimits, SteadyLoad};

use crate::laid::Laid;
use crate::plan::{Plan, PlanInterval, Prefill};
use crate::question::{Limits, Objective, Question};
use crate::split::transfer;

/// An operating point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// The layout that decodes, by its place among those laid.
    pub(crate) laid: usize,
    pub(crate) instances: u32,
    /// Requests at a time on each instance.
    pub(crate) requests: u32,
    /// Which of its budgets of tokens per step.
    pub(crate) budget: usize,
    /// The layout that computes the prompts, and its instances.
    pub(crate) prefill: Option<(usize, u32)>,
    pub(crate) gpus: u32,
    pub(crate) ttft: f64,
    pub(crate) tpot: f64,
    pub(crate) e2e: f64,
    /// Requests per second of all instances.
    pub(crate) per_s: f64,
    pub(crate) per_gpu: f64,
    pub(crate) per_user: f64,
    pub(crate) usd_per_hour: f64,
    pub(crate) usd_per_million: f64,
    pub(crate) chance: f64,
}

/// Times of a point, before it is known how many instances there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) ttft: f64,
    pub(crate) tpot: f64,
    /// How far off the two may be.
    pub(crate) interval: PlanInterval,
    /// The share of the KV cache that requests fill.
    pub(crate) filled: f64,
}

impl Point {
    /// Returns the point with these times: `per_s` requests per second for `usd_per_hour`.
    pub(crate) fn new(
        question: &Question<'_>,
        times: &Times,
        (laid, instances): (usize, u32),
        (requests, budget): (u32, usize),
        prefill: Option<(usize, u32)>,
        (per_s, gpus, usd_per_hour): (f64, u32, f64),
    ) -> Self {
        let Times { ttft, tpot, interval, filled } = *times;
        let output = question.workload.output;
        let rest = (output - 1.0).max(0.0) * tpot;
        let e2e = ttft + rest;
        let keeps = |interval, found, limit: Option<f64>| {
            limit.map_or(1.0, |limit| Interval::chance(interval, found, limit))
        };
        let whole =
            |of: fn((f64, f64)) -> f64| (of(interval.ttft) * ttft + of(interval.tpot) * rest) / e2e;
        let limits = &question.limits;
        let chance = keeps(interval.ttft, ttft, limits.ttft)
            * keeps(interval.tpot, tpot, limits.tpot)
            * keeps((whole(|ends| ends.0), whole(|ends| ends.1)), e2e, limits.e2e)
            // Who finds no room waits for its first token.
            * limits.ttft.or(limits.e2e).map_or(1.0, |_| Interval::room(filled));
        Self {
            laid,
            instances,
            requests,
            budget,
            prefill,
            gpus,
            ttft,
            tpot,
            e2e,
            per_s,
            per_gpu: per_s * output / f64::from(gpus),
            per_user: if tpot > 0.0 { 1.0 / tpot } else { output / e2e },
            usd_per_hour,
            usd_per_million: usd_per_hour / 3600.0 / (per_s * output) * 1e6,
            chance,
        }
    }

    /// Returns how two points compare: the better first.
    pub(crate) fn order(&self, other: &Self, question: &Question<'_>) -> Ordering {
        let value = |point: &Self| match question.objective {
            Objective::Throughput => -point.per_gpu,
            Objective::Latency => point.e2e,
            Objective::Cost => point.usd_per_million,
            Objective::Goodput => -point.per_s * point.chance,
        };
        let order = value(self).total_cmp(&value(other));
        let order = match question.demand.requests_per_s {
            Some(_) => self.usd_per_hour.total_cmp(&other.usd_per_hour).then(order),
            None => order,
        };
        // Of equals, the one with fewer GPUs, then the plainer.
        let plain = |point: &Self| (point.gpus, point.prefill, point.laid, point.budget);
        order.then_with(|| plain(self).cmp(&plain(other)))
    }

    /// Returns whether it keeps the limits, and comes to an end at all.
    pub(crate) fn keeps(&self, limits: &Limits) -> bool {
        limits.hold(self.ttft, self.tpot, self.e2e)
    }

    /// Returns which limit it breaks.
    pub(crate) fn broken(&self, limits: &Limits) -> Option<String> {
        let over = |limit: Option<f64>, found: f64| limit.filter(|limit| found > *limit);
        let at = self.requests;
        if let Some(limit) = over(limits.tpot, self.tpot) {
            let (found, limit) = (self.tpot * 1e3, limit * 1e3);
            return Some(format!("TPOT {found:.1} ms with {at} at a time, limit {limit:.1}"));
        }
        if let Some(limit) = over(limits.ttft, self.ttft) {
            let (found, limit) = (self.ttft * 1e3, limit * 1e3);
            return Some(format!("TTFT {found:.0} ms with {at} at a time, limit {limit:.0}"));
        }
        let limit = over(limits.e2e, self.e2e)?;
        Some(format!("E2E {:.1} s with {at} at a time, limit {limit:.1}", self.e2e))
    }

    /// Returns the plan that it is.
    pub(crate) fn plan(&self, question: &Question<'_>, all: &[Laid<'_>]) -> Plan {
        let laid = &all[self.laid];
        let steady = laid.steady(question, self.requests, self.budget, self.prefill.is_some());
        let context = question.workload.context();
        let (max_num_batched_tokens, kv_tokens) = laid.budgets[self.budget];
        let prefill = self.prefill.map(|(place, instances)| {
            let source = &all[place];
            let (budget, prompts) = source.prompts(question);
            Prefill {
                gpu: source.gpu.name.clone(),
                layout: source.layout.to_string(),
                gpus_per_instance: source.layout.gpus(),
                instances,
                max_num_batched_tokens: budget,
                busy: prompts.busy(self.per_s / f64::from(instances)),
                transfer: transfer(question, source, laid),
            }
        });
        let interval = match self.prefill {
            None => laid.interval(question, self.requests),
            Some((place, _)) => all[place].handed(question, laid, self.requests),
        };
        Plan {
            strategy: laid.strategy,
            gpu: laid.gpu.name.clone(),
            layout: laid.layout.to_string(),
            gpus_per_instance: laid.layout.gpus(),
            instances: self.instances,
            gpus: self.gpus,
            requests: self.requests,
            max_num_batched_tokens,
            prefill,
            types: Vec::new(),
            ttft: self.ttft,
            tpot: self.tpot,
            e2e: self.e2e,
            requests_per_s: self.per_s,
            tokens_per_s_per_gpu: self.per_gpu,
            tokens_per_s_per_user: self.per_user,
            usd_per_million: self.usd_per_million,
            usd_per_hour: self.usd_per_hour,
            kv_tokens,
            kv_free: (1.0 - laid.filled(question, self.requests, self.budget)).max(0.0),
            decode: laid.cost.shares(steady.running, context),
            prompts: steady.prompts,
            interval,
            chance: self.chance,
        }
    }
}

impl Limits {
    /// Returns whether these times keep them, and come to an end at all.
    fn hold(&self, ttft: f64, tpot: f64, e2e: f64) -> bool {
        let within = |limit: Option<f64>, found: f64| limit.is_none_or(|limit| found <= limit);
        e2e.is_finite()
            && within(self.tpot, tpot)
            && within(self.ttft, ttft)
            && within(self.e2e, e2e)
    }

    /// Returns whether requests of so many output tokens keep them with these times.
    pub(crate) fn kept(&self, ttft: f64, tpot: f64, output: f64) -> bool {
        self.hold(ttft, tpot, ttft + (output - 1.0).max(0.0) * tpot)
    }
}

impl Laid<'_> {
    /// Returns how many requests an instance runs at once: as its KV cache and its seats allow.
    pub(crate) fn seats(&self, question: &Question<'_>, budget: usize) -> u32 {
        let fitting = self.budgets[budget].1 as f64 / question.workload.context();
        let seats = f64::from(question.engine.max_num_seqs) * f64::from(self.layout.data);
        fitting.min(seats).max(1.0) as u32
    }

    /// Returns the share of its KV cache that so many requests at a time fill.
    pub(crate) fn filled(&self, question: &Question<'_>, requests: u32, budget: usize) -> f64 {
        let running = requests.min(self.seats(question, budget));
        f64::from(running) * question.workload.context() / self.budgets[budget].1 as f64
    }

    /// Returns what an instance gives with so many requests at a time; of those whose prompts others
    /// have computed only the last token is left to compute.
    pub(crate) fn steady(
        &self,
        question: &Question<'_>,
        requests: u32,
        budget: usize,
        handed: bool,
    ) -> Steady {
        let (workload, (step_tokens, kv_tokens)) = (question.workload, self.budgets[budget]);
        let limits = SteadyLimits {
            kv_tokens: kv_tokens as f64,
            sequences: f64::from(question.engine.max_num_seqs) * f64::from(self.layout.data),
            step_tokens: f64::from(step_tokens),
        };
        let whole = workload.prompt + workload.cached;
        let (prompt, cached) = match handed {
            true => (1.0, whole - 1.0),
            false => (workload.prompt, workload.cached),
        };
        let load = SteadyLoad {
            requests: f64::from(requests),
            prompt,
            cached,
            output: workload.output,
            rounds: f64::INFINITY,
        };
        Steady::of(&self.cost, &limits, &load)
    }

    /// Returns whether decode steps alone break the limit, with so many requests and with any more: fewer
    /// than one for each stage of each rank may take longer than more, which share the stages.
    pub(crate) fn too_slow(&self, question: &Question<'_>, requests: u32, steady: &Steady) -> bool {
        let filled = requests >= self.layout.pipeline * self.layout.data;
        filled && question.limits.tpot.is_some_and(|limit| steady.decode > limit)
    }

    /// Returns how far its times may be off with so many requests at a time.
    pub(crate) fn interval(&self, question: &Question<'_>, requests: u32) -> PlanInterval {
        let Interval { ttft, tpot, .. } = self.interval.at(question.model, self.gpu, requests);
        PlanInterval { ttft, tpot }
    }

    /// Returns how far times may be off where this layout computes the prompts and `decode` the rest.
    pub(crate) fn handed(
        &self,
        question: &Question<'_>,
        decode: &Laid<'_>,
        requests: u32,
    ) -> PlanInterval {
        let ttft = self.interval(question, 1).ttft;
        PlanInterval { ttft, ..decode.interval(question, requests) }
    }
}
