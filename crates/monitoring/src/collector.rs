//! The one registry: takes the control plane's events, gives a snapshot.
//!
//! Every record is a few additions under the caller's lock: no allocation in steady state, no
//! formatting, no work proportional to the fleet. A snapshot shares what is over and copies the
//! rest; figures, records, reports and exposition are computed from it outside of the lock.

use std::sync::Arc;
use std::time::Duration;

use sagellm_types::{
    Completion, EngineState, Estimate, ExecutionInstance, GpuSample, InstanceId, Load, ModelId,
    Request, Timestamp, Tokens,
};

use crate::Sketch;
use crate::fleetwide::Fleetwide;
use crate::instance::{AttemptEnding, EngineGauges, InstanceFigures};
use crate::level::Level;
use crate::series::Series;
use crate::snapshot::{Interval, Model, Snapshot};
use crate::window::Rolling;

/// Models that have figures of their own; those named later share one line.
pub const MODELS: usize = 256;
/// Strategy intervals that are kept.
pub const INTERVALS: usize = 1024;
/// How long figures of an instance that has gone are shown. Its work stays in the totals for ever.
pub const RETENTION: Duration = Duration::from_secs(600);

/// Whether a probe was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It was.
    Answered,
    /// It was not, or not in time, or not well.
    Failed,
}

/// Summarises what happens in a control plane.
#[derive(Clone, Debug)]
pub struct Collector {
    start: Timestamp,
    first_submitted: Option<Timestamp>,
    last_ended: Timestamp,
    waiting: Level,
    engine_waiting: Level,
    fleetwide: Rolling<Fleetwide>,
    models: Vec<Model>,
    instances: Vec<Option<InstanceFigures>>,
    gone: Vec<InstanceFigures>,
    router: Arc<str>,
    intervals: Arc<Vec<Interval>>,
}

impl Collector {
    /// Returns a collector to which nothing has happened yet, at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            start: now,
            first_submitted: None,
            last_ended: now,
            waiting: Level::new(now),
            engine_waiting: Level::new(now),
            fleetwide: Rolling::default(),
            models: Vec::new(),
            instances: Vec::new(),
            gone: Vec::new(),
            router: "".into(),
            intervals: Arc::default(),
        }
    }

    /// Gives a model its name.
    pub fn name_model(&mut self, model: ModelId, name: &str) {
        let place = model.0 as usize;
        if place < MODELS {
            self.model(model).name = name.into();
        }
    }

    /// Registers an instance, in the state `Starting`.
    pub fn name_instance(&mut self, id: InstanceId, instance: &ExecutionInstance, now: Timestamp) {
        self.instance_gone(id, now);
        let place = id.index();
        if place >= self.instances.len() {
            self.instances.resize(place + 1, None);
        }
        self.instances[place] = Some(InstanceFigures::new(id, instance, now));
    }

    /// Notes that the instance in the slot of `id` has gone for good; it is shown for
    /// [`RETENTION`] longer. Cost: O(instances gone of late).
    pub fn instance_gone(&mut self, id: InstanceId, now: Timestamp) {
        self.gone.retain(|gone| gone.gone.is_some_and(|at| now.since(at) < RETENTION));
        if let Some(mut instance) = self.instances.get_mut(id.index()).and_then(Option::take) {
            let waited = instance.engine.waiting.unwrap_or(0);
            self.engine_waiting.set(self.engine_waiting.value().saturating_sub(waited), now);
            instance.gone = Some(now);
            instance.state = EngineState::Stopped;
            instance.gpu = GpuSample::default();
            instance.engine = EngineGauges::default();
            self.gone.push(instance);
        }
    }

    /// A request came in; every request is submitted once, those that are refused too.
    pub fn submitted(&mut self, request: &Request, now: Timestamp) {
        self.first_submitted.get_or_insert(now);
        self.series(request, now).submitted += 1;
    }

    /// Attempt `n` of a request was dispatched to `instance`; 0 is the first.
    pub fn dispatched(&mut self, request: &Request, n: u16, instance: InstanceId, now: Timestamp) {
        self.fleetwide.at(now).dispatches += 1;
        if n == 0 {
            let wait = now.since(request.arrival);
            self.series(request, now).wait.record(wait);
        }
        if let Some(figures) = self.instance(instance) {
            figures.dispatched(now);
        }
    }

    /// The first token of a request came: once per request.
    pub fn first_token(&mut self, request: &Request, now: Timestamp) {
        let ttft = now.since(request.arrival);
        self.series(request, now).ttft.record(ttft);
    }

    /// An attempt that was dispatched at `dispatched` is over at its instance, after `output`
    /// tokens.
    pub fn attempt_ended(
        &mut self,
        instance: InstanceId,
        dispatched: Timestamp,
        ending: AttemptEnding,
        output: Tokens,
        now: Timestamp,
    ) {
        if let Some(figures) = self.instance(instance) {
            figures.attempt_ended(dispatched, ending, output, now);
        }
    }

    /// A request ended, at the time that `completion` says. `predicted` is what was predicted when
    /// its last attempt was dispatched, `instance` is where that attempt ran.
    pub fn ended(
        &mut self,
        completion: &Completion,
        predicted: Option<&Estimate>,
        instance: Option<InstanceId>,
    ) {
        let now = completion.ended;
        self.last_ended = self.last_ended.max(now);
        self.series(&completion.request, now).end(completion);
        self.fleetwide.at(now).end(completion, predicted);
        if let Some(figures) = instance.and_then(|id| self.instance(id)) {
            figures.work.at(now).cost += completion.cost;
        }
    }

    /// A stream ended whose tokens came with these gaps.
    pub fn gaps(&mut self, gaps: &Sketch, now: Timestamp) {
        self.fleetwide.at(now).itl.merge(gaps);
    }

    /// A request was dispatched `took` after its submission, with room in the fleet.
    pub fn decision(&mut self, took: Duration, now: Timestamp) {
        self.fleetwide.at(now).decision.record(took);
    }

    /// So many requests wait now.
    pub fn queue_length(&mut self, waiting: u64, now: Timestamp) {
        self.waiting.set(waiting, now);
    }

    /// A failed attempt is tried again.
    pub fn retried(&mut self, now: Timestamp) {
        self.fleetwide.at(now).retries += 1;
    }

    /// An event of an unknown attempt or an earlier life was dropped.
    pub fn stale(&mut self, now: Timestamp) {
        self.fleetwide.at(now).stale += 1;
    }

    /// An instance changed its state.
    pub fn state(&mut self, instance: InstanceId, state: EngineState) {
        if let Some(figures) = self.instance(instance) {
            figures.state = state;
        }
    }

    /// An instance's load as the control plane sees it.
    pub fn load(&mut self, instance: InstanceId, load: Load) {
        if let Some(figures) = self.instance(instance) {
            figures.load = load;
        }
    }

    /// An instance was probed.
    pub fn probed(&mut self, instance: InstanceId, probe: Probe, now: Timestamp) {
        self.fleetwide.at(now).probes[probe as usize] += 1;
        if let Some(figures) = self.instance(instance) {
            figures.last_probe = Some(now);
            figures.consecutive_failures = match probe {
                Probe::Answered => 0,
                Probe::Failed => figures.consecutive_failures.saturating_add(1),
            };
        }
    }

    /// An engine told its gauges.
    pub fn engine(&mut self, instance: InstanceId, gauges: EngineGauges, now: Timestamp) {
        if let Some(figures) = self.instance(instance).filter(|figures| figures.gone.is_none()) {
            let before = std::mem::replace(&mut figures.engine, gauges).waiting.unwrap_or(0);
            let others = self.engine_waiting.value().saturating_sub(before);
            self.engine_waiting.set(others + gauges.waiting.unwrap_or(0), now);
        }
    }

    /// The GPUs of an instance were sampled; what is not known of them any more is not in the sample.
    pub fn gpu(&mut self, instance: InstanceId, sample: GpuSample) {
        if let Some(figures) = self.instance(instance).filter(|figures| figures.gone.is_none()) {
            figures.gpu = sample;
        }
    }

    /// Returns the GPUs of an instance, at the last sample.
    pub fn gpu_of(&self, instance: InstanceId) -> GpuSample {
        let figures = self.instances.get(instance.index()).and_then(Option::as_ref);
        figures.filter(|found| found.id == instance).map_or_else(GpuSample::default, |f| f.gpu)
    }

    /// From `now` on requests are ordered by `strategy`; `reason` holds the figures that caused it.
    /// The first call names the strategy that the run begins with and is no switch.
    pub fn strategy(&mut self, strategy: &str, reason: &str, now: Timestamp) {
        let intervals = Arc::make_mut(&mut self.intervals);
        if !intervals.is_empty() {
            self.fleetwide.at(now).switches += 1;
        }
        if intervals.len() == INTERVALS {
            intervals.remove(0);
        }
        intervals.push(Interval { strategy: strategy.into(), from: now, reason: reason.into() });
    }

    /// From now on requests are placed by `router`.
    pub fn router(&mut self, router: &str) {
        self.router = router.into();
    }

    /// Returns what happened until `now`, for readers to look at without the collector. Cost:
    /// O(models + instances), whatever happened; nothing is merged or formatted.
    pub fn snapshot(&mut self, now: Timestamp) -> Snapshot {
        let fresh =
            |gone: &&mut InstanceFigures| gone.gone.is_some_and(|at| now.since(at) < RETENTION);
        let gone = self.gone.iter_mut().filter(fresh);
        let instances = self.instances.iter_mut().flatten().chain(gone);
        Snapshot {
            at: now,
            start: self.start,
            first_submitted: self.first_submitted,
            last_ended: self.last_ended,
            waiting: self.waiting,
            engine_waiting: self.engine_waiting,
            fleetwide: self.fleetwide.share(),
            models: self.models.iter_mut().map(Model::share).collect(),
            instances: instances.map(InstanceFigures::share).collect(),
            router: Arc::clone(&self.router),
            intervals: Arc::clone(&self.intervals),
        }
    }

    fn series(&mut self, request: &Request, now: Timestamp) -> &mut Series {
        self.model(request.model).priorities[request.priority.level()].at(now)
    }

    fn model(&mut self, model: ModelId) -> &mut Model {
        let place = (model.0 as usize).min(MODELS);
        while self.models.len() <= place {
            let number = self.models.len();
            let name =
                if number == MODELS { "other".into() } else { format!("model-{number}").into() };
            self.models.push(Model { name, priorities: Default::default() });
        }
        &mut self.models[place]
    }

    /// Returns the figures of an instance that is registered or has gone of late.
    fn instance(&mut self, id: InstanceId) -> Option<&mut InstanceFigures> {
        match self.instances.get_mut(id.index()) {
            Some(Some(figures)) if figures.id == id => Some(figures),
            _ => self.gone.iter_mut().find(|figures| figures.id == id),
        }
    }
}
