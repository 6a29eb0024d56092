//! Instances come, live, fall over, come back and go.

use std::sync::Arc;

use sagellm_fleet::{Instance, ProbeAnswer, ProbeTicket, Transition};
use sagellm_monitoring::{EngineGauges, Probe};
use sagellm_pd::HandOverNeeded;
use sagellm_perf::{Flavour, Layout, LinearCost};
use sagellm_types::{
    Attempt, EngineState, ExecutionInstance, FailureKind, GpuSample, InstanceId, ModelId, Timestamp,
};

use super::models::Offer;
use super::timers::Timer;
use super::{Command, ControlPlane, Notice};

/// Why an instance could not be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Its id is taken or a fact about it is absurd.
    #[error(transparent)]
    Fleet(#[from] sagellm_fleet::RegisterError),
    /// With it, a model could only be served by handing KV over.
    #[error(transparent)]
    HandOver(#[from] HandOverNeeded),
}

/// A model name that stands for "ask the engine".
const ASK: &str = "";

impl ControlPlane {
    /// Registers an instance. It takes requests once its first probe has been answered; with an
    /// empty `model_name` the engine is asked what it serves.
    ///
    /// # Errors
    /// [`RegisterError`] if its id is taken, a fact is absurd, or the fleet would need a hand-over.
    pub fn register(
        &mut self,
        spec: ExecutionInstance,
        now: Timestamp,
    ) -> Result<InstanceId, RegisterError> {
        if spec.model_name != ASK {
            let mut roles = self
                .models
                .resolve(&spec.model_name)
                .map(|found| self.pools.roles(found.id))
                .unwrap_or_default();
            roles.count(spec.instance_type);
            self.placer.check(&spec.model_name, &roles)?;
        }
        let (name, embedding) = (spec.model_name.clone(), spec.embedding_model_loaded.clone());
        let id = self.fleet.register(spec, now)?;
        let spec = &self.fleet.get(id).expect("just registered").spec;
        self.monitor.name_instance(id, spec, now);
        self.predictor.insert(id, Flavour::of(spec));
        for name in [Some(name), embedding].into_iter().flatten().filter(|name| name != ASK) {
            self.serve(id, &name, now);
        }
        self.send_probe(id, now);
        Ok(id)
    }

    /// Stops giving an instance requests; it stops once it has finished what it has.
    pub fn drain(&mut self, instance: InstanceId, now: Timestamp) {
        self.release_hold_of(instance);
        let transition = self.fleet.drain(instance);
        self.monitor.state(instance, EngineState::Draining);
        self.notice(instance, "asked to drain");
        if let Some(transition) = transition {
            self.transition(instance, transition, "drained", now);
        }
    }

    /// Removes an instance: attempts that have not begun are tried elsewhere, the others go on to
    /// their end unseen by policies. Returns its record.
    pub fn remove(&mut self, instance: InstanceId, now: Timestamp) -> Option<ExecutionInstance> {
        self.fleet.get(instance)?;
        self.expire(now);
        self.release_hold_of(instance);
        self.fleet.drain(instance);
        self.abort_unbegun(instance, now);
        let removed = self.fleet.remove(instance)?;
        for &model in self.pools.served_by(instance) {
            self.models.lost(model, instance);
        }
        self.pools.forget(instance, &self.fleet);
        self.predictor.remove(instance);
        self.monitor.instance_gone(instance, now);
        Some(removed.spec)
    }

    /// Returns an instance that serves a model and is ready, in turn, for calls that are too small
    /// to be scheduled; one at which such a call has failed only if there is no other. O(instances).
    pub fn any_ready(&mut self, model: ModelId, failed: Option<InstanceId>) -> Option<InstanceId> {
        let able = || {
            let serves = |found: &&Instance| {
                found.state == EngineState::Ready && self.pools.serves(found.id, model)
            };
            self.fleet.iter().filter(serves).map(|found| found.id)
        };
        let others = able().filter(|&id| Some(id) != failed).count();
        if others == 0 {
            return able().next();
        }
        let turn = self.counts.small_calls as usize % others;
        let found = able().filter(|&id| Some(id) != failed).nth(turn);
        self.counts.small_calls += 1;
        found
    }

    // ---- probes

    pub(super) fn send_probe(&mut self, instance: InstanceId, now: Timestamp) {
        let Some(ticket) = self.fleet.probe_sent(instance, now) else { return };
        self.commands.push_back(Command::Probe { instance, ticket });
    }

    /// Probes an instance whose attempts fail without waiting for its turn.
    pub(super) fn send_probe_soon(&mut self, instance: InstanceId, now: Timestamp) {
        let idle = |found: &Instance| {
            found
                .last_probe
                .is_none_or(|last| now.since(last) >= self.fleet.config().interval(false) / 2)
        };
        if self.fleet.get(instance).is_some_and(idle) {
            self.send_probe(instance, now);
        }
    }

    pub(super) fn probed(
        &mut self,
        instance: InstanceId,
        ticket: ProbeTicket,
        answer: &ProbeAnswer,
        models: Option<Vec<Offer>>,
        now: Timestamp,
    ) {
        if !self.fleet.is_current(instance, ticket) {
            self.stale(now);
            return;
        }
        if let Some(offers) = models.filter(|offers| !offers.is_empty()) {
            self.serves_now(instance, &offers, now);
        }
        let transition = self.fleet.probe_answered(instance, ticket, answer, now);
        let probe = if answer.healthy { Probe::Answered } else { Probe::Failed };
        self.monitor.probed(instance, probe, now);
        if let Some(found) = self.fleet.get(instance) {
            let gauges = EngineGauges {
                running: found.engine_running.map(u64::from),
                waiting: found.engine_waiting.map(u64::from),
                kv_usage: answer.kv_usage.map(|usage| usage.0),
                foreign: u64::from(found.foreign_sequences),
            };
            self.monitor.engine(instance, gauges, now);
            self.monitor.load(instance, found.load());
            let ready = matches!(found.state, EngineState::Ready | EngineState::Draining);
            if found.state != EngineState::Stopped {
                let next = now + self.fleet.config().interval(ready);
                self.timers.set_probe(instance, next);
            }
        }
        let dead = |found: &Instance| {
            found.state == EngineState::Draining
                && found.failures >= self.fleet.config().failure_threshold
        };
        // It stays what it is, but what waits for its first byte need not wait for a dead engine.
        if !answer.healthy && self.fleet.get(instance).is_some_and(dead) {
            self.abort_unbegun(instance, now);
        }
        match transition {
            Some(transition) => {
                self.transition(instance, transition, "its probes say so", now);
            }
            // The window may have grown.
            None => self.after_release(instance, now),
        }
    }

    pub(super) fn gpus_sampled(&mut self, instance: InstanceId, sample: GpuSample) {
        // A stopped instance is not probed any more, so that its last sample would stay for ever.
        let lives = |found: &Instance| found.state != EngineState::Stopped;
        if self.fleet.get(instance).is_some_and(lives) {
            self.monitor.gpu(instance, sample);
        }
    }

    // ---- life

    pub(super) fn transition(
        &mut self,
        instance: InstanceId,
        transition: Transition,
        reason: &'static str,
        now: Timestamp,
    ) {
        if let Some(found) = self.fleet.get(instance) {
            self.monitor.state(instance, found.state);
        }
        self.notice(instance, reason);
        match transition {
            Transition::Ready => self.after_release(instance, now),
            Transition::Down => {
                self.release_hold_of(instance);
                self.abort_unbegun(instance, now);
                self.timers.set_probe(instance, now + self.fleet.config().interval(false));
            }
            Transition::Stopped => self.monitor.gpu(instance, GpuSample::default()),
        }
    }

    fn notice(&mut self, instance: InstanceId, reason: &'static str) {
        if let Some(found) = self.fleet.get(instance) {
            let name: Arc<str> = found.spec.instance_id.as_str().into();
            let notice = Notice::Instance { name, state: found.state, reason };
            self.commands.push_back(Command::Notice(notice));
        }
    }

    /// Gives up the attempts on an instance that have not begun to answer; their requests are tried
    /// elsewhere. Streams that flow are left to themselves.
    fn abort_unbegun(&mut self, instance: InstanceId, now: Timestamp) {
        let unbegun: Vec<Attempt> = self
            .fleet
            .charges()
            .filter(|charge| charge.instance == instance)
            .map(|charge| charge.attempt)
            .collect();
        for attempt in unbegun {
            let Some(running) = self.attempt(attempt).copied() else { continue };
            if running.first_token.is_some() {
                continue;
            }
            self.timers.set(now + super::LINGER, Timer::Release(running.charge));
            self.commands.push_back(Command::Abort(attempt));
            let kind = FailureKind::InstanceDown;
            self.retry_or_end(attempt.request, running, kind, false, now);
        }
    }

    fn release_hold_of(&mut self, instance: InstanceId) {
        let Some(holder) = self.fleet.get(instance).and_then(|found| found.hold) else { return };
        self.fleet.unhold(instance);
        if let Some(live) = self.requests.get_mut(holder) {
            live.hold = None;
        }
    }

    /// Takes an engine at its word about what it serves: it may have come back with other models.
    fn serves_now(&mut self, instance: InstanceId, offers: &[Offer], now: Timestamp) {
        let is_offered = |name: &str| offers.iter().any(|offer| offer.name == name);
        let served = self.pools.served_by(instance).iter().copied();
        let gone: Vec<ModelId> =
            served.filter(|&model| !is_offered(self.models.name(model))).collect();
        for &model in &gone {
            self.pools.unserve(instance, model, &mut self.fleet);
            self.models.lost(model, instance);
            self.notice(instance, "its engine no longer serves a model");
        }
        if !gone.is_empty() {
            // It may be kept free for somebody who wants one of these.
            self.release_hold_of(instance);
            self.after_release(instance, now);
        }
        for offer in offers {
            let model = self.serve(instance, &offer.name, now);
            self.models.describe(model, instance, offer);
        }
    }

    /// Notes that an instance serves a name.
    fn serve(&mut self, instance: InstanceId, name: &str, now: Timestamp) -> ModelId {
        let model = self.models.intern(name);
        if self.pools.serve(instance, model, &mut self.fleet) {
            self.models.gained(model, instance);
            self.monitor.name_model(model, name);
            if let Some(found) = self.fleet.get(instance) {
                let spec = &found.spec;
                let cost = LinearCost::preset(name, spec.gpu_type.as_deref(), Layout::of(spec));
                self.forecaster.set_prior(model, cost);
            }
            self.after_release(instance, now);
        }
        model
    }
}
