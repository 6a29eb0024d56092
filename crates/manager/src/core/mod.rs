//! The control plane as a synchronous state machine.
//!
//! Life of a request: submitted → admitted or refused → waiting → reserved → dispatched → first
//! token → finished | failed | cancelled | expired. Every request ends exactly once; a failed
//! attempt before its first byte may be followed by another.

mod dispatch;
mod event;
mod explain;
mod life;
mod models;
mod pools;
mod pressure;
mod requests;
mod timers;
mod view;

use std::collections::VecDeque;
use std::time::Duration;

use sagellm_fleet::Fleet;
use sagellm_monitoring::{AttemptEnding, Collector, Sketch};
use sagellm_pd::{PhasePlacer, Placer};
use sagellm_perf::{Forecaster, Lesson, LinearCost, Observed, Predictor};
use sagellm_routing::Router;
use sagellm_strategies::queue::{PoolId, Queue};
use sagellm_strategies::{Admission, Observation, SchedulingStrategy, StrategyConfig};
use sagellm_types::{
    Attempt, Completion, Ending, ExpireReason, FailureKind, InstanceId, ModelId, RefuseReason,
    Request, RequestId, Timestamp, Tokens, Usage, Usd,
};

pub use event::{Command, Dispatch, Event, NewRequest, Notice};
pub use explain::{Considered, Excluded, Explanation};
pub use life::RegisterError;
pub use models::{Models, Resolved};
pub use view::{Counts, InstanceView, ModelView, PoolView, Snapshot};

use crate::Config;
use dispatch::Scratch;
use explain::Explanations;
use pools::Pools;
use pressure::PressureGauge;
use requests::{Live, Requests, Try};
use timers::{Timer, Timers};

/// How long the engine may need to notice that a connection is closed: the charge of an attempt
/// that was given up is released after this. vLLM takes 60 to 100 ms.
const LINGER: Duration = Duration::from_millis(100);

/// A full queue is not worth trying again before this, whatever is predicted.
const SOON: Duration = Duration::from_secs(1);

/// The control plane: decides for every request when and where it runs.
///
/// No async, no clock, no channel, no lock and no ambient randomness inside.
pub struct ControlPlane {
    config: Config,
    strategy: Box<dyn SchedulingStrategy>,
    router: Box<dyn Router>,
    placer: PhasePlacer,
    queue: Queue,
    pools: Pools,
    fleet: Fleet,
    models: Models,
    requests: Requests,
    timers: Timers,
    forecaster: Forecaster,
    predictor: Predictor,
    monitor: Collector,
    gauge: PressureGauge,
    explanations: Explanations,
    commands: VecDeque<Command>,
    scratch: Scratch,
    counts: Counts,
    retry_tokens: f64,
    revision: u64,
    stopping: bool,
}

impl ControlPlane {
    /// Returns a control plane without instances. The settings are taken as validated.
    pub fn new(config: &Config, now: Timestamp) -> Self {
        let strategy = config.strategy.build();
        Self::with_strategy(config, strategy, now)
    }

    /// Returns a control plane with a strategy of the caller's own.
    pub fn with_strategy(
        config: &Config,
        strategy: Box<dyn SchedulingStrategy>,
        now: Timestamp,
    ) -> Self {
        let router = config.router.build(config.seed);
        let mut monitor = Collector::new(now);
        monitor.strategy(strategy.name(), "configured", now);
        monitor.router(router.name());
        let mut timers = Timers::default();
        timers.set(now + pressure::INTERVAL, Timer::Pressure);
        Self {
            revision: strategy.revision(),
            strategy,
            router,
            placer: PhasePlacer::new(config.pd.clone()),
            queue: Queue::new(config.fairness.clone()),
            pools: Pools::default(),
            fleet: Fleet::new(config.fleet.clone()),
            models: Models::new(&config.models.aliases),
            requests: Requests::default(),
            timers,
            forecaster: Forecaster::new(LinearCost::preset("", None, 1)),
            predictor: Predictor::new(),
            monitor,
            gauge: PressureGauge::default(),
            explanations: Explanations::new(config.explain.keep),
            commands: VecDeque::new(),
            scratch: Scratch::new(config.seed),
            counts: Counts::default(),
            retry_tokens: f64::from(config.retry.burst),
            stopping: false,
            config: config.clone(),
        }
    }

    // ---- requests

    /// Takes a request in and returns its id. What becomes of it comes as commands: a dispatch, at
    /// once or later, or its end if it is refused.
    pub fn submit(&mut self, new: NewRequest, now: Timestamp) -> RequestId {
        let id = self.requests.next_id();
        let model = new.model.unwrap_or(ModelId(u32::MAX));
        let max_tokens = if new.kind == sagellm_types::RequestType::Embedding {
            Some(1)
        } else {
            new.max_tokens
        };
        let forecast = self.forecaster.forecast(model, new.user, new.prompt, max_tokens);
        let request = Request {
            id,
            kind: new.kind,
            model,
            user: new.user,
            priority: new.priority,
            arrival: now,
            objectives: new.objectives,
            cost_budget: new.cost_budget,
            session: new.session,
            prefix: new.prefix,
            forecast,
            preferred: new.preferred,
        };
        self.counts.submitted += 1;
        self.retry_tokens =
            (self.retry_tokens + self.config.retry.budget).min(f64::from(self.config.retry.burst));
        self.monitor.submitted(&request, now);
        let pool = match self.admit(&request, new.model.is_some(), now) {
            Ok(pool) => pool,
            Err(ending) => {
                self.requests.skip(id);
                self.finish_request(&request, None, ending, now);
                self.commands.push_back(Command::End { request: id, ending });
                return id;
            }
        };
        self.requests.insert(Live {
            request,
            label: new.label,
            prompt: new.prompt,
            pool,
            tries: 0,
            retries: 0,
            running: None,
            charged: 0,
            failed_on: Vec::new(),
            cost: Usd(0.0),
            stuck_since: None,
            explained: None,
            hold: None,
        });
        self.enqueue(id, now);
        self.expire(now);
        self.dispatch_new(pool, id, now);
        id
    }

    /// Takes in what happened. Returns whether it was of interest: an event of an attempt that is
    /// over, or of an earlier life of an instance, is counted and dropped.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> bool {
        // It may come before the timeout that was due before it.
        self.expire(now);
        let dropped = self.counts.stale;
        match event {
            Event::FirstToken(attempt) => self.first_token(attempt, now),
            Event::Progress { attempt, output } => {
                if let Some(running) = self.attempt(attempt) {
                    running.output = output;
                    let charge = running.charge;
                    self.fleet.grow(charge, output);
                } else {
                    self.stale(now);
                }
            }
            Event::Finished { attempt, usage, gaps } => self.finished(attempt, usage, gaps, now),
            Event::Failed { attempt, kind, begun } => self.failed(attempt, kind, begun, now),
            Event::Cancelled(request) => self.cancelled(request, now),
            Event::Probed { instance, ticket, answer, models } => {
                self.probed(instance, ticket, &answer, models, now);
            }
        }
        self.counts.stale == dropped
    }

    /// Does what is due at `now`; to be called when `poll_timeout` has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.expire(now);
        while let Some(instance) = self.timers.probe_due(now) {
            self.send_probe(instance, now);
        }
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Release(charge) => self.release(charge, now),
                Timer::Wake(pool) => self.dispatch(pool, now),
                Timer::Pressure => {
                    self.look_at_pressure(now);
                    self.timers.set(now + pressure::INTERVAL, Timer::Pressure);
                }
            }
        }
    }

    /// Returns the next thing that the shell has to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Returns when `handle_timeout` is to be called.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// Refuses everything from now on; what was accepted goes on.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Orders waiting and coming requests by another strategy.
    pub fn set_strategy(&mut self, config: &StrategyConfig, now: Timestamp) {
        self.strategy = config.build();
        self.config.strategy = config.clone();
        self.monitor.strategy(self.strategy.name(), "set by operator", now);
        self.expire(now);
        self.reorder(now);
    }

    /// Places coming attempts by another router.
    pub fn set_router(&mut self, config: &sagellm_routing::RouterConfig) {
        self.router = config.build(self.config.seed);
        self.config.router = config.clone();
        self.monitor.router(self.router.name());
    }

    /// Returns the table of model names.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Returns the fleet.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Returns the registry of what happened.
    pub fn monitor(&self) -> &Collector {
        &self.monitor
    }

    /// Tells how long a submission took to its dispatch with room in the fleet, on the machine's clock.
    pub fn record_decision_time(&mut self, took: Duration, now: Timestamp) {
        self.monitor.decision(took, now);
    }

    // ---- admission

    fn admit(
        &mut self,
        request: &Request,
        model_known: bool,
        now: Timestamp,
    ) -> Result<PoolId, Ending> {
        let refuse = |reason, retry_after| Err(Ending::Refused { reason, retry_after });
        if self.stopping {
            return refuse(RefuseReason::Stopping, None);
        }
        if !model_known {
            return refuse(RefuseReason::UnknownModel, None);
        }
        let Some(pool) = self.pool_of(request, now) else {
            let served = self.fleet.iter().any(|f| self.pools.serves(f.id, request.model));
            let reason =
                if served { RefuseReason::UnsupportedType } else { RefuseReason::UnknownModel };
            return refuse(reason, None);
        };
        let pressure = self.gauge.seen_from(&self.queue, pool);
        if self.queue.len() >= self.config.queue.max_waiting {
            return refuse(RefuseReason::QueueFull, Some(pressure.wait.max(SOON)));
        }
        match self.strategy.admit(request, &pressure, now) {
            Admission::Admit => Ok(pool),
            Admission::Refuse { reason, retry_after } => refuse(reason, retry_after),
        }
    }

    /// Returns the pool of a request, or `None` if no instance takes requests of its type.
    fn pool_of(&mut self, request: &Request, now: Timestamp) -> Option<PoolId> {
        let roles = self.pools.roles(request.model);
        let phase = match self.placer.place(request, &roles, now) {
            sagellm_pd::Placement::Colocated(phase) => phase,
            // A fleet that would split is refused when it is registered.
            sagellm_pd::Placement::Split => sagellm_types::Phase::Prefilling,
        };
        let pool = self.pools.get_or_add(
            (request.model, request.kind, phase),
            &mut self.queue,
            &mut self.fleet,
        );
        (!self.fleet.members(self.pools.roster(pool)).is_empty()).then_some(pool)
    }

    fn enqueue(&mut self, id: RequestId, now: Timestamp) {
        let live = self.requests.get(id).expect("a request that is queued is live");
        let urgency = self.strategy.urgency(&live.request, now);
        self.queue.push(live.pool, &live.request, urgency);
        let longest = live.request.arrival + Duration::from_millis(self.config.queue.max_wait_ms);
        let until = live.request.deadline().map_or(longest, |deadline| deadline.min(longest));
        self.timers.set_deadline(id, until);
        self.monitor.queue_length(self.queue.len() as u64, now);
    }

    /// Takes a request out of the queue, unserved.
    fn dequeue(&mut self, id: RequestId, now: Timestamp) {
        if self.queue.remove(id) {
            self.timers.clear_deadline(id);
            self.monitor.queue_length(self.queue.len() as u64, now);
        }
    }

    // ---- attempts

    fn attempt(&mut self, attempt: Attempt) -> Option<&mut Try> {
        self.requests.get_mut(attempt.request)?.attempt(attempt)
    }

    fn stale(&mut self, now: Timestamp) {
        self.counts.stale += 1;
        self.monitor.stale(now);
    }

    fn first_token(&mut self, attempt: Attempt, now: Timestamp) {
        let Some(live) = self.requests.get_mut(attempt.request) else { return self.stale(now) };
        let request = live.request;
        match live.attempt(attempt) {
            Some(running) if running.first_token.is_none() => running.first_token = Some(now),
            _ => return self.stale(now),
        }
        self.monitor.first_token(&request, now);
    }

    fn finished(
        &mut self,
        attempt: Attempt,
        usage: Usage,
        gaps: Option<Box<Sketch>>,
        now: Timestamp,
    ) {
        let Some(running) = self.attempt(attempt).copied() else { return self.stale(now) };
        let live = self.requests.remove(attempt.request).expect("an attempt's request is live");
        self.fleet.succeeded(running.instance, now.since(running.dispatched));
        let cost = live.cost + self.fleet.release(running.charge, now).map_or(Usd(0.0), |r| r.1);
        if let Some(gaps) = &gaps {
            self.monitor.gaps(gaps, now);
        }
        let completion = Completion {
            request: live.request,
            ending: Ending::Finished,
            dispatched: Some(running.dispatched),
            first_token: running.first_token,
            ended: now,
            usage,
            cost,
        };
        self.learn(&live, &running, &completion);
        self.close(&live, Some(&running), &completion, AttemptEnding::Finished, now);
        self.after_release(running.instance, now);
    }

    fn failed(&mut self, attempt: Attempt, kind: FailureKind, begun: bool, now: Timestamp) {
        let Some(running) = self.attempt(attempt).copied() else { return self.stale(now) };
        let (_, cost) = self.fleet.release(running.charge, now).unzip();
        let live = self.requests.get_mut(attempt.request).expect("an attempt's request is live");
        live.cost += cost.unwrap_or_default();
        let begun = begun || running.first_token.is_some();
        let transition = self.fleet.failed(running.instance, kind, now);
        self.retry_or_end(attempt.request, running, kind, begun, now);
        if let Some(transition) = transition {
            self.transition(running.instance, transition, "its attempts fail", now);
        } else if kind.blames_instance() {
            self.send_probe_soon(running.instance, now);
        }
        self.after_release(running.instance, now);
    }

    /// Tries the request again elsewhere, or ends it. Its running attempt is over.
    fn retry_or_end(
        &mut self,
        id: RequestId,
        running: Try,
        kind: FailureKind,
        begun: bool,
        now: Timestamp,
    ) {
        if !begun && self.may_retry(id, running.instance, kind, now) {
            let live = self.requests.get_mut(id).expect("may_retry found it");
            live.running = None;
            live.retries += 1;
            live.failed_on.push(running.instance);
            let (user, pool, charged) = (live.request.user, live.pool, live.charged);
            live.charged = 0;
            self.queue.settle(pool, user, charged, 0);
            let ending = AttemptEnding::Failed(kind);
            self.monitor.attempt_ended(
                running.instance,
                running.dispatched,
                ending,
                Tokens(0),
                now,
            );
            self.monitor.retried(now);
            self.counts.retries += 1;
            self.enqueue(id, now);
            self.dispatch(pool, now);
            return;
        }
        let live = self.requests.remove(id).expect("a failed attempt's request is live");
        let completion = Completion {
            request: live.request,
            ending: Ending::Failed(kind),
            dispatched: Some(running.dispatched),
            first_token: running.first_token,
            ended: now,
            usage: Usage { output: running.output, ..Usage::default() },
            cost: live.cost,
        };
        self.close(&live, Some(&running), &completion, AttemptEnding::Failed(kind), now);
        self.commands.push_back(Command::End { request: id, ending: completion.ending });
    }

    fn may_retry(
        &mut self,
        id: RequestId,
        instance: InstanceId,
        kind: FailureKind,
        now: Timestamp,
    ) -> bool {
        let Some(live) = self.requests.get(id) else { return false };
        if live.request.deadline().is_some_and(|deadline| deadline <= now) {
            return false;
        }
        // An attempt that never reached an engine costs nothing to try again, but not for ever.
        let free = kind == FailureKind::Connect;
        let most =
            if free { self.config.retry.max.saturating_mul(4) } else { self.config.retry.max };
        if !kind.retryable() || live.retries >= most {
            return false;
        }
        let elsewhere = self.elsewhere(live.pool, &live.failed_on, instance);
        if !elsewhere && !free {
            return false;
        }
        if !free {
            if self.retry_tokens < 1.0 {
                return false;
            }
            self.retry_tokens -= 1.0;
        }
        true
    }

    fn cancelled(&mut self, id: RequestId, now: Timestamp) {
        let Some(live) = self.requests.get(id) else { return self.stale(now) };
        let running = live.running;
        if running.is_none() {
            self.dequeue(id, now);
        }
        let live = self.requests.remove(id).expect("it was there");
        let completion = Completion {
            request: live.request,
            ending: Ending::Cancelled,
            dispatched: running.map(|running| running.dispatched),
            first_token: running.and_then(|running| running.first_token),
            ended: now,
            usage: Usage { output: running.map_or(Tokens(0), |r| r.output), ..Usage::default() },
            cost: live.cost,
        };
        if let Some(running) = running {
            self.timers.set(now + LINGER, Timer::Release(running.charge));
        }
        let (pool, hold) = (live.pool, live.hold);
        self.close(&live, running.as_ref(), &completion, AttemptEnding::Abandoned, now);
        self.end_hold(hold, now);
        if running.is_none() {
            // Who stood behind it may fit where it did not.
            self.dispatch(pool, now);
        }
    }

    /// Gives up the waiting requests whose deadline has come: all of them, before what they held
    /// goes to others.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let mut freed = Vec::new();
        while let Some(request) = self.timers.expired(now) {
            freed.extend(self.expired(request, now));
        }
        for (pool, hold) in freed {
            self.end_hold(hold, now);
            self.dispatch(pool, now);
        }
    }

    /// Ends a waiting request whose time is up; returns its pool and what was kept free for it.
    fn expired(&mut self, id: RequestId, now: Timestamp) -> Option<(PoolId, Option<InstanceId>)> {
        if !self.queue.remove(id) {
            return None;
        }
        self.monitor.queue_length(self.queue.len() as u64, now);
        let live = self.requests.remove(id).expect("a waiting request is live");
        let on_deadline = live.request.deadline().is_some_and(|deadline| deadline <= now);
        let reason = if on_deadline { ExpireReason::Deadline } else { ExpireReason::QueueTimeout };
        let ending = Ending::Expired(reason);
        self.finish_request(&live.request, Some(&live), ending, now);
        self.commands.push_back(Command::End { request: id, ending });
        Some((live.pool, live.hold))
    }

    /// Releases the charge of an attempt that was given up.
    fn release(&mut self, charge: sagellm_fleet::ChargeId, now: Timestamp) {
        if let Some((charge, cost)) = self.fleet.release(charge, now) {
            self.counts.lingering_usd += cost;
            self.after_release(charge.instance, now);
        }
    }

    // ---- ends

    /// Ends a request that has no attempt.
    fn finish_request(
        &mut self,
        request: &Request,
        live: Option<&Live>,
        ending: Ending,
        now: Timestamp,
    ) {
        let completion = Completion {
            request: *request,
            ending,
            dispatched: None,
            first_token: None,
            ended: now,
            usage: Usage::default(),
            cost: live.map_or(Usd(0.0), |live| live.cost),
        };
        self.account(live, &completion, None, now);
    }

    /// Ends a request whose last attempt is over.
    fn close(
        &mut self,
        live: &Live,
        running: Option<&Try>,
        completion: &Completion,
        ending: AttemptEnding,
        now: Timestamp,
    ) {
        if let Some(running) = running {
            let output = completion.usage.output;
            self.monitor.attempt_ended(running.instance, running.dispatched, ending, output, now);
            if let Some(fairness) = self.queue.fairness() {
                let used = match completion.ending {
                    Ending::Finished => fairness.used(&completion.usage),
                    // Nobody says what was computed: its prompt at least, if it got a token.
                    _ => {
                        let prompt = match running.first_token {
                            Some(_) => live.request.forecast.prompt,
                            None => Tokens(0),
                        };
                        let usage = Usage { prompt, ..completion.usage };
                        live.charged.min(fairness.used(&usage))
                    }
                };
                self.queue.settle(live.pool, live.request.user, live.charged, used);
            }
        }
        self.account(Some(live), completion, running, now);
    }

    /// The one place where a request ends.
    fn account(
        &mut self,
        live: Option<&Live>,
        completion: &Completion,
        running: Option<&Try>,
        now: Timestamp,
    ) {
        self.counts.end(&completion.ending);
        if let Some(number) = live.and_then(|live| live.explained) {
            self.explanations.ended(number, completion.request.id, completion.ending.name());
        }
        self.monitor.ended(
            completion,
            running.and_then(|running| running.estimate.as_ref()),
            running.map(|running| running.instance),
        );
        self.gauge.ended(completion);
        self.strategy.observe(Observation::Ended(completion), now);
    }

    /// Compares what was predicted with what happened.
    fn learn(&mut self, live: &Live, running: &Try, completion: &Completion) {
        let ttft = running.first_token.map(|first| first.since(running.dispatched));
        let tpot = completion.tpot().filter(|_| completion.usage.output.0 > 1);
        let usage = completion.usage;
        self.forecaster.learn(&Lesson {
            model: live.request.model,
            user: live.request.user,
            prompt: live.prompt,
            forecast: &live.request.forecast,
            usage,
            ttft,
            tpot,
        });
        let known = if usage.prompt.0 > 0 { usage.prompt } else { live.request.forecast.prompt };
        let (sequences, reserved) = running.met;
        self.predictor.observe(
            running.instance,
            &Observed {
                prompt: known.saturating_sub(usage.cached),
                output: usage.output,
                sequences,
                reserved,
                ttft,
                tpot,
            },
        );
    }
}
