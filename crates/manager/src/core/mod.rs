//! The control plane as a synchronous state machine.
//!
//! Life of a request: submitted → admitted or refused → waiting → reserved → dispatched → first
//! token → finished | failed | cancelled | expired. Every request ends exactly once; a failed
//! attempt before its first byte may be followed by another.

mod attempts;
mod dispatch;
mod ends;
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
use sagellm_monitoring::Collector;
use sagellm_pd::{PhasePlacer, Placer};
use sagellm_perf::{Forecaster, Layout, LinearCost, Predictor};
use sagellm_routing::Router;
use sagellm_strategies::queue::{PoolId, Queue};
use sagellm_strategies::{Admission, SchedulingStrategy, StrategyConfig};
use sagellm_types::{Ending, ModelId, RefuseReason, Request, RequestId, Timestamp, Usd};

pub use event::{Command, Dispatch, Event, NewRequest, Notice};
pub use explain::{Considered, Excluded, Explained, Explanation};
pub use life::RegisterError;
pub use models::{Models, Offer, Resolved};
pub use view::{Counts, InstanceView, ModelView, PoolView, Snapshot};

use crate::Config;
use dispatch::Scratch;
use explain::Explanations;
use pools::Pools;
use pressure::PressureGauge;
use requests::{Live, Requests};
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
            forecaster: Forecaster::new(LinearCost::preset("", None, Layout::tensor(1))),
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
            refusals: 0,
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
            Event::GpusSampled { instance, sample } => self.gpus_sampled(instance, sample),
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
                Timer::Wake(pool) => {
                    let wake = &mut self.pools.get_mut(pool).wake;
                    *wake = wake.filter(|&at| at > now);
                    self.dispatch(pool, now);
                }
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
}
