//! What one instance did, and how it stands.

use std::sync::Arc;
use std::time::Duration;

use sagellm_types::{
    EngineState, ExecutionInstance, FailureKind, GpuSample, InstanceId, Load, Timestamp, Tokens,
    Usd,
};

use crate::Sketch;
use crate::fleetwide::{merge_counts, place};
use crate::window::{Rolling, Summary};

/// How an attempt ended at its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnding {
    /// The answer came in full.
    Finished,
    /// It failed.
    Failed(FailureKind),
    /// Nobody wanted the answer any more: client gone, deadline passed, hedge lost.
    Abandoned,
}

/// Sums over the attempts of one instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Attempts answered in full.
    pub finished: u64,
    /// Attempts that failed, in the order of [`FailureKind::ALL`].
    pub failures: [u64; FailureKind::ALL.len()],
    /// Attempts that nobody wanted any more.
    pub abandoned: u64,
    /// Output tokens.
    pub output: Tokens,
    /// Attributed cost.
    pub cost: Usd,
    /// Time from dispatch to end, of attempts answered in full.
    pub latency: Sketch,
}

impl Work {
    /// Returns how many attempts failed.
    pub fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    pub(crate) fn end(&mut self, ending: AttemptEnding, took: Duration, output: Tokens) {
        self.output += output;
        match ending {
            AttemptEnding::Finished => {
                self.finished += 1;
                self.latency.record(took);
            }
            AttemptEnding::Failed(kind) => self.failures[place(&FailureKind::ALL, kind)] += 1,
            AttemptEnding::Abandoned => self.abandoned += 1,
        }
    }
}

impl Summary for Work {
    fn merge(&mut self, other: &Self) {
        self.finished += other.finished;
        merge_counts(&mut self.failures, &other.failures);
        self.abandoned += other.abandoned;
        self.output += other.output;
        self.cost += other.cost;
        self.latency.merge(&other.latency);
    }

    fn clear(&mut self) {
        let mut latency = std::mem::take(&mut self.latency);
        latency.clear();
        *self = Self { latency, ..Self::default() };
    }
}

/// What an engine says of itself, as far as it says it.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct EngineGauges {
    /// Requests that it runs, whoever sent them.
    pub running: Option<u64>,
    /// Requests that wait in its own queue.
    pub waiting: Option<u64>,
    /// Share of its KV cache in use, 0 to 1.
    pub kv_usage: Option<f64>,
    /// Requests that somebody else sent it.
    pub foreign: u64,
}

/// One instance: who it is, how it stands and what it did.
#[derive(Clone, Debug)]
pub struct InstanceFigures {
    /// Its id inside the control plane.
    pub id: InstanceId,
    /// Its name.
    pub name: Arc<str>,
    /// The model that it serves.
    pub model: Arc<str>,
    /// Memory of all its GPUs, in GiB; `None` if unknown.
    pub gpu_memory_gb: Option<f64>,
    /// When it was registered.
    pub since: Timestamp,
    /// When it went for good.
    pub gone: Option<Timestamp>,
    /// Where it stands in its life.
    pub state: EngineState,
    /// Its load as the control plane sees it.
    pub load: Load,
    /// What its engine says.
    pub engine: EngineGauges,
    /// Its GPUs, at the last sample.
    pub gpu: GpuSample,
    /// When it was last probed.
    pub last_probe: Option<Timestamp>,
    /// Probes failed in a row.
    pub consecutive_failures: u32,
    /// Attempts running.
    pub running: u64,
    busy: Duration,
    busy_since: Timestamp,
    pub(crate) work: Rolling<Work>,
}

impl InstanceFigures {
    pub(crate) fn new(id: InstanceId, instance: &ExecutionInstance, now: Timestamp) -> Self {
        let memory = f64::from(instance.gpu_count) * instance.gpu_memory_gb;
        Self {
            id,
            name: instance.instance_id.as_str().into(),
            model: instance.model_name.as_str().into(),
            gpu_memory_gb: (memory > 0.0).then_some(memory),
            since: now,
            gone: None,
            state: EngineState::Starting,
            load: Load::default(),
            engine: EngineGauges::default(),
            gpu: GpuSample::default(),
            last_probe: None,
            consecutive_failures: 0,
            running: 0,
            busy: Duration::ZERO,
            busy_since: now,
            work: Rolling::default(),
        }
    }

    /// Returns whether the instance is taken for healthy: it serves, or finishes what it has.
    pub fn is_healthy(&self) -> bool {
        matches!(self.state, EngineState::Ready | EngineState::Draining)
    }

    /// Returns how long at least one attempt ran, until `now`.
    pub fn busy(&self, now: Timestamp) -> Duration {
        let open = if self.running > 0 { now.since(self.busy_since) } else { Duration::ZERO };
        self.busy + open
    }

    pub(crate) fn share(&mut self) -> Self {
        let (name, model) = (Arc::clone(&self.name), Arc::clone(&self.model));
        Self { name, model, work: self.work.share(), ..*self }
    }

    pub(crate) fn dispatched(&mut self, now: Timestamp) {
        if self.running == 0 {
            self.busy_since = now;
        }
        self.running += 1;
    }

    pub(crate) fn attempt_ended(
        &mut self,
        dispatched: Timestamp,
        ending: AttemptEnding,
        output: Tokens,
        now: Timestamp,
    ) {
        if self.running == 1 {
            self.busy += now.since(self.busy_since);
        }
        self.running = self.running.saturating_sub(1);
        self.work.at(now).end(ending, now.since(dispatched), output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Span;

    #[test]
    fn an_instance_is_busy_while_anything_runs() {
        let at = Timestamp::from_secs;
        let record = ExecutionInstance::new("a", "h", 1, "m");
        let mut instance = InstanceFigures::new(InstanceId::new(0, 0), &record, at(0));
        instance.dispatched(at(10));
        instance.dispatched(at(12));
        instance.attempt_ended(at(10), AttemptEnding::Finished, Tokens(5), at(14));
        assert_eq!(instance.busy(at(15)), Duration::from_secs(5));
        let failure = AttemptEnding::Failed(FailureKind::Reset);
        instance.attempt_ended(at(12), failure, Tokens(1), at(16));
        assert_eq!(instance.busy(at(100)), Duration::from_secs(6));
        let work = instance.work.read(Span::Start, at(100));
        assert_eq!((work.finished, work.failed(), work.output), (1, 1, Tokens(6)));
        assert_eq!(work.latency.max(), Some(Duration::from_secs(4)));
    }
}
