//! An engine of the world: what runs there, whether it answers, what it has done.

use std::collections::BTreeMap;
use std::time::Duration;

use sagellm_engine_model::{Engine, Gauges};
use sagellm_perf::Picos;
use sagellm_types::{Attempt, Timestamp};

use super::Machine;

/// Whether an engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Up,
    /// Its port is closed.
    Down,
    /// It accepts and never answers.
    Hung,
}

/// An attempt at an engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) attempt: Attempt,
    pub(super) output: u64,
    pub(super) told: u64,
    pub(super) cached: u64,
}

pub(super) struct Host {
    pub(super) machine: Machine,
    pub(super) engine: Engine,
    pub(super) condition: Condition,
    pub(super) probes_lost: bool,
    pub(super) running: BTreeMap<u64, Running>,
    /// What its earlier lives have done.
    past: Gauges,
    /// When it was registered, and for how long earlier registrations lasted.
    pub(super) since: Timestamp,
    pub(super) rented: Duration,
}

impl Host {
    pub(super) fn new(machine: &Machine, now: Timestamp) -> Self {
        Self {
            engine: Engine::with_cost(machine.engine, machine.cost.clone()),
            machine: machine.clone(),
            condition: Condition::Up,
            probes_lost: false,
            running: BTreeMap::new(),
            past: Gauges::default(),
            since: now,
            rented: Duration::ZERO,
        }
    }

    /// Starts its engine anew, empty; returns what ran there.
    pub(super) fn restart(&mut self) -> Vec<Attempt> {
        self.past = self.done();
        self.engine = Engine::with_cost(self.machine.engine, self.machine.cost.clone());
        let broken = std::mem::take(&mut self.running);
        broken.into_values().map(|running| running.attempt).collect()
    }

    /// Returns what it has done in all its lives.
    pub(super) fn done(&self) -> Gauges {
        let (past, now) = (&self.past, self.engine.gauges());
        Gauges {
            prefix_queries: past.prefix_queries + now.prefix_queries,
            prefix_hits: past.prefix_hits + now.prefix_hits,
            prompt_tokens: past.prompt_tokens + now.prompt_tokens,
            generation_tokens: past.generation_tokens + now.generation_tokens,
            preemptions: past.preemptions + now.preemptions,
            finished: past.finished + now.finished,
            steps: past.steps + now.steps,
            busy: Picos(past.busy.0 + now.busy.0),
            ..now
        }
    }

    /// Returns the rent of all its GPUs, in US dollars per second.
    pub(super) fn rent_per_second(&self) -> f64 {
        let spec = &self.machine.spec;
        spec.price_per_gpu_hour * f64::from(spec.gpu_count) / 3_600.0
    }

    /// Returns for how long it has been registered.
    pub(super) fn registered(&self, now: Timestamp) -> Duration {
        self.rented + now.since(self.since)
    }
}
