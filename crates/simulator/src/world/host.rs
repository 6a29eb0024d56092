//! An engine of the world: what runs there, whether it answers, what it has done.

use std::collections::BTreeMap;
use std::time::Duration;

use sagellm_engine_model::{Engine, Gauges};
use sagellm_perf::{Picos, StepCost};
use sagellm_types::{Attempt, Timestamp};

use super::Machine;

/// Whether an engine answers. Of several faults at once, the last decides how it is down, and it is
/// back when all are over.
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
    /// Faults for which it is down.
    pub(super) down: u32,
    /// Faults for which probes are lost.
    pub(super) probes_lost: u32,
    /// How many times as long its steps take, of each fault.
    slow: Vec<f64>,
    pub(super) running: BTreeMap<u64, Running>,
    /// What its earlier lives have done.
    past: Gauges,
    /// When it was registered.
    since: Timestamp,
}

impl Host {
    pub(super) fn new(machine: &Machine, now: Timestamp) -> Self {
        Self {
            engine: Engine::new(machine.engine, machine.cost.clone()),
            machine: machine.clone(),
            condition: Condition::Up,
            down: 0,
            probes_lost: 0,
            slow: Vec::new(),
            running: BTreeMap::new(),
            past: Gauges::default(),
            since: now,
        }
    }

    /// Starts its engine anew, empty; returns what ran there.
    pub(super) fn restart(&mut self) -> Vec<Attempt> {
        self.past = self.done();
        self.engine = Engine::new(self.machine.engine, self.cost());
        let broken = std::mem::take(&mut self.running);
        broken.into_values().map(|running| running.attempt).collect()
    }

    /// Lets its steps take so many times as long from now on, or, if that ends, no longer.
    pub(super) fn slow(&mut self, factor: f64, begins: bool) {
        match self.slow.iter().position(|&other| other == factor) {
            _ if begins => self.slow.push(factor),
            Some(place) => drop(self.slow.remove(place)),
            None => {}
        }
        self.engine.set_cost(self.cost());
    }

    fn cost(&self) -> StepCost {
        match self.slow.as_slice() {
            [] => self.machine.cost.clone(),
            slow => self.machine.cost.scaled(slow.iter().product()),
        }
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
        self.machine.spec.rent_per_second().0
    }

    /// Returns for how long it has been registered.
    pub(super) fn registered(&self, now: Timestamp) -> Duration {
        now.since(self.since)
    }
}
