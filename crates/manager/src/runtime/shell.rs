//! The core behind a mutex, with the real clock and real engines.
//!
//! The task that owns a client's connection locks, calls the core, drains its commands, unlocks,
//! then delivers. Under the lock: no await, no formatting, nothing proportional to the fleet.
//! Bytes never pass here: whoever holds a permit calls the engine itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sagellm_api::ModelCard;
use sagellm_executor::{
    Clients, DcgmExporter, Engine, GpuReader, HttpConfig, HttpEngine, Probe, ProbeConfig,
    SettingsError,
};
use sagellm_fleet::{ProbeAnswer, ProbeTicket};
use sagellm_routing::RouterConfig;
use sagellm_strategies::{SchedulingStrategy, StrategyConfig};
use sagellm_types::clock::Clock;
use sagellm_types::{ExecutionInstance, GpuSource, InstanceId, Ratio, RequestId, Timestamp};
use tokio::sync::Notify;

use super::gpus::Gpus;
use super::slot::{Message, Slot};
use super::ticket::Ticket;
use crate::{
    Command, Config, ControlPlane, Event, NewRequest, Notice, Offer, RegisterError, Snapshot,
};

/// Makes the engine that calls a registered instance.
pub trait EngineFactory: Send + Sync {
    /// Returns an engine for `instance`.
    ///
    /// # Errors
    /// If its address or key cannot be used.
    fn engine(&self, instance: &ExecutionInstance) -> Result<Arc<dyn Engine>, SettingsError>;

    /// Returns what samples the GPUs of `instance`; `None` if nothing does.
    ///
    /// # Errors
    /// If they cannot be read where `gpu_metrics` says.
    fn gpus(
        &self,
        instance: &ExecutionInstance,
        probes: &ProbeConfig,
    ) -> Result<Option<Arc<dyn GpuReader>>, SettingsError> {
        let _ = (instance, probes);
        Ok(None)
    }
}

/// Makes engines over HTTP that share their connections.
#[derive(Clone, Debug)]
pub struct HttpEngines {
    clients: Clients,
}

impl HttpEngines {
    /// Returns a factory with these settings.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub fn new(config: &HttpConfig, clock: Clock) -> Result<Self, SettingsError> {
        Ok(Self { clients: Clients::new(config, clock)? })
    }
}

impl EngineFactory for HttpEngines {
    fn engine(&self, instance: &ExecutionInstance) -> Result<Arc<dyn Engine>, SettingsError> {
        let key = instance.api_key.as_deref();
        Ok(Arc::new(HttpEngine::new(&instance.base_url(), key, &self.clients)?))
    }

    fn gpus(
        &self,
        instance: &ExecutionInstance,
        probes: &ProbeConfig,
    ) -> Result<Option<Arc<dyn GpuReader>>, SettingsError> {
        let url = match &instance.gpu_metrics {
            None => return Ok(None),
            Some(GpuSource::Nvml) => return Err(SettingsError::NoDriver),
            Some(GpuSource::Dcgm(url)) => url,
        };
        let (gpus, count) = (instance.gpus(), instance.gpu_count);
        Ok(Some(Arc::new(DcgmExporter::new(url, gpus, count, &self.clients, probes)?)))
    }
}

/// Why an instance could not be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShellError {
    /// The control plane does not take it.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// It could not be called.
    #[error("instance `{instance}`: {source}")]
    Engine {
        /// The instance's name.
        instance: String,
        /// Why not.
        source: SettingsError,
    },
}

/// The engine of a registered instance.
#[derive(Clone)]
pub struct Line {
    /// The instance.
    pub id: InstanceId,
    /// Its name.
    pub name: Arc<str>,
    /// How it is called.
    pub engine: Arc<dyn Engine>,
    gpus: Option<Gpus>,
}

/// Something to do once the lock is released.
enum Delivery {
    Post(Arc<Slot>, Message),
    Probe { line: Line, ticket: ProbeTicket },
    Notice(Notice),
}

struct Inner {
    core: ControlPlane,
    slots: Vec<Option<(RequestId, Arc<Slot>)>>,
    lines: Vec<Option<Line>>,
    spare: Vec<Delivery>,
}

/// The control plane at work.
pub struct Shell {
    inner: Mutex<Inner>,
    clock: Clock,
    factory: Box<dyn EngineFactory>,
    probes: ProbeConfig,
    /// When the core wants to be called next, in nanoseconds of model time.
    next: AtomicU64,
    sooner: Notify,
    me: Weak<Self>,
}

impl Shell {
    /// Starts a control plane: spawns the task that keeps its time.
    pub fn start(
        config: &Config,
        clock: Clock,
        factory: Box<dyn EngineFactory>,
        probes: ProbeConfig,
    ) -> Arc<Self> {
        Self::start_with(ControlPlane::new(config, clock.now()), clock, factory, probes)
    }

    /// Starts a control plane with a strategy of the caller's own.
    pub fn start_custom(
        config: &Config,
        strategy: Box<dyn SchedulingStrategy>,
        clock: Clock,
        factory: Box<dyn EngineFactory>,
        probes: ProbeConfig,
    ) -> Arc<Self> {
        let core = ControlPlane::with_strategy(config, strategy, clock.now());
        Self::start_with(core, clock, factory, probes)
    }

    fn start_with(
        core: ControlPlane,
        clock: Clock,
        factory: Box<dyn EngineFactory>,
        probes: ProbeConfig,
    ) -> Arc<Self> {
        let inner = Inner { core, slots: Vec::new(), lines: Vec::new(), spare: Vec::new() };
        let shell = Arc::new_cyclic(|me| Self {
            inner: Mutex::new(inner),
            clock,
            factory,
            probes,
            next: AtomicU64::new(0),
            sooner: Notify::new(),
            me: Weak::clone(me),
        });
        tokio::spawn(keep_time(Arc::downgrade(&shell), clock));
        shell
    }

    /// Returns the clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Takes a request in. Its fate comes through the ticket; what the core decides at once is
    /// there at once.
    pub fn submit(&self, new: NewRequest) -> Ticket {
        let began = self.clock.now();
        let slot = Arc::new(Slot::default());
        let (id, deliveries) = self.locked(began, |inner, now| {
            let id = inner.core.submit(new, now);
            let place = id.index();
            if place >= inner.slots.len() {
                inner.slots.resize_with(place + 1, || None);
            }
            inner.slots[place] = Some((id, Arc::clone(&slot)));
            if inner.core.status(id) == Some(sagellm_types::RequestStatus::Scheduled) {
                let took = self.clock.machine(self.clock.now().since(began));
                inner.core.record_decision_time(took, now);
            }
            id
        });
        self.deliver(deliveries);
        let shell = self.me.upgrade().expect("a shell that is called exists");
        Ticket::new(shell, id, slot)
    }

    /// Tells the core what happened; returns whether it was of interest.
    pub fn tell(&self, event: Event) -> bool {
        self.with(|core, now| core.handle(event, now))
    }

    /// Registers an instance and begins to probe it.
    ///
    /// # Errors
    /// [`ShellError`] if it is not taken or cannot be called.
    pub fn register(&self, spec: ExecutionInstance) -> Result<InstanceId, ShellError> {
        let refused = |source| ShellError::Engine { instance: spec.instance_id.clone(), source };
        let engine = self.factory.engine(&spec).map_err(refused)?;
        let gpus = self.factory.gpus(&spec, &self.probes).map_err(refused)?.map(Gpus::new);
        let name: Arc<str> = spec.instance_id.as_str().into();
        let (registered, deliveries) = self.locked(self.clock.now(), |inner, now| {
            let id = inner.core.register(spec, now)?;
            if id.index() >= inner.lines.len() {
                inner.lines.resize(id.index() + 1, None);
            }
            inner.lines[id.index()] = Some(Line { id, name, engine, gpus });
            Ok(id)
        });
        self.deliver(deliveries);
        registered.map_err(ShellError::Register)
    }

    /// Removes an instance; streams that flow go on to their end.
    pub fn remove(&self, instance: InstanceId) -> Option<ExecutionInstance> {
        let (removed, deliveries) = self.locked(self.clock.now(), |inner, now| {
            let removed = inner.core.remove(instance, now)?;
            inner.lines[instance.index()] = None;
            Some(removed)
        });
        self.deliver(deliveries);
        removed
    }

    /// Stops giving an instance requests.
    pub fn drain(&self, instance: InstanceId) {
        self.with(|core, now| core.drain(instance, now));
    }

    /// Orders requests by another strategy.
    pub fn set_strategy(&self, config: &StrategyConfig) {
        self.with(|core, now| core.set_strategy(config, now));
    }

    /// Places requests by another router.
    pub fn set_router(&self, config: &RouterConfig) {
        self.with(|core, _| core.set_router(config));
    }

    /// Changes the strategy, the router or both at once; returns the names before and after.
    pub fn set_policies(
        &self,
        strategy: Option<&StrategyConfig>,
        router: Option<&RouterConfig>,
    ) -> [(&'static str, &'static str); 2] {
        self.with(|core, now| {
            let before = core.policies();
            if let Some(strategy) = strategy {
                core.set_strategy(strategy, now);
            }
            if let Some(router) = router {
                core.set_router(router);
            }
            [before, core.policies()]
        })
    }

    /// Refuses everything from now on; what was accepted goes on.
    pub fn stop(&self) {
        self.with(|core, _| core.stop());
    }

    /// Returns the control plane as it stands.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        self.lock().core.snapshot(now)
    }

    /// Returns the line of an instance that serves a model and is ready, for a call that is too
    /// small to be scheduled; another one than where it has `failed`, if there is one.
    pub fn any_line(
        &self,
        model: sagellm_types::ModelId,
        failed: Option<InstanceId>,
    ) -> Option<Line> {
        let mut inner = self.lock();
        let id = inner.core.any_ready(model, failed)?;
        inner.lines[id.index()].clone()
    }

    /// Returns whether the control plane is as it should be: a decision that panicked may have left
    /// it half-way, and whoever watches over the process had better start it anew.
    pub fn is_sound(&self) -> bool {
        !self.inner.is_poisoned()
    }

    /// Asks the core something. Keep it short: it holds the lock.
    pub fn read<R>(&self, ask: impl FnOnce(&ControlPlane, Timestamp) -> R) -> R {
        let now = self.clock.now();
        ask(&self.lock().core, now)
    }

    /// Forgets where a request's owner waits.
    pub(super) fn forget(&self, id: RequestId) {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get_mut(id.index())
            && slot.as_ref().is_some_and(|(owner, _)| *owner == id)
        {
            *slot = None;
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut ControlPlane, Timestamp) -> R) -> R {
        let (result, deliveries) =
            self.locked(self.clock.now(), |inner, now| act(&mut inner.core, now));
        self.deliver(deliveries);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts under the lock and returns what is to be delivered outside of it.
    fn locked<R>(
        &self,
        now: Timestamp,
        act: impl FnOnce(&mut Inner, Timestamp) -> R,
    ) -> (R, Vec<Delivery>) {
        let mut inner = self.lock();
        let result = act(&mut inner, now);
        let mut deliveries = Vec::new();
        while let Some(command) = inner.core.poll_command() {
            if deliveries.capacity() == 0 {
                deliveries = std::mem::take(&mut inner.spare);
            }
            deliveries.extend(inner.address(command));
        }
        let next = inner.core.poll_timeout().map_or(u64::MAX, Timestamp::as_nanos);
        drop(inner);
        if next < self.next.swap(next, Ordering::AcqRel) {
            self.sooner.notify_one();
        }
        (result, deliveries)
    }

    fn deliver(&self, mut deliveries: Vec<Delivery>) {
        for delivery in deliveries.drain(..) {
            match delivery {
                Delivery::Post(slot, message) => slot.push(message),
                Delivery::Probe { line, ticket } => {
                    let shell = self.me.upgrade().expect("a shell that delivers exists");
                    if let Some(gpus) = line.gpus.clone() {
                        tokio::spawn(sample(Arc::clone(&shell), line.clone(), gpus));
                    }
                    tokio::spawn(probe(shell, line, ticket));
                }
                Delivery::Notice(notice) => log(&notice),
            }
        }
        // The emptied list is kept for the next call, unless somebody is at work: it is not worth
        // a wait.
        if deliveries.capacity() > 0
            && let Ok(mut inner) = self.inner.try_lock()
        {
            inner.spare = deliveries;
        }
    }
}

impl Inner {
    /// Finds out who gets a command.
    fn address(&self, command: Command) -> Option<Delivery> {
        let slot = |id: RequestId| {
            let (owner, slot) = self.slots.get(id.index())?.as_ref()?;
            (*owner == id).then(|| Arc::clone(slot))
        };
        Some(match command {
            Command::Dispatch(dispatch) => {
                let line = self.lines.get(dispatch.instance.index())?.as_ref()?;
                let message = Message::Go {
                    attempt: dispatch.attempt,
                    instance: dispatch.instance,
                    name: Arc::clone(&line.name),
                    engine: Arc::clone(&line.engine),
                };
                Delivery::Post(slot(dispatch.attempt.request)?, message)
            }
            Command::Abort(attempt) => {
                Delivery::Post(slot(attempt.request)?, Message::Abort(attempt))
            }
            Command::End { request, ending } => {
                Delivery::Post(slot(request)?, Message::End(ending))
            }
            Command::Probe { instance, ticket } => {
                let line = self.lines.get(instance.index())?.clone()?;
                debug_assert_eq!(line.id, instance, "a line is of the instance in its slot");
                Delivery::Probe { line, ticket }
            }
            Command::Notice(notice) => Delivery::Notice(notice),
        })
    }
}

/// Sleeps until the core wants to be called, and calls it, as long as somebody uses the shell.
async fn keep_time(shell: Weak<Shell>, clock: Clock) {
    loop {
        let Some(strong) = shell.upgrade() else { return };
        strong.with(|core, now| core.handle_timeout(now));
        let next = Timestamp::from_nanos(strong.next.load(Ordering::Acquire));
        let until = tokio::time::Instant::from_std(clock.instant(next));
        // Waiting must not keep the shell alive, so it looks up at least once a second.
        let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
        let sooner = strong.sooner.notified();
        tokio::select! {
            () = tokio::time::sleep_until(until.min(patience)) => {}
            () = sooner => {}
        }
    }
}

/// Asks an engine how it is and tells the core.
async fn probe(shell: Arc<Shell>, line: Line, ticket: ProbeTicket) {
    // It may have been started anew with other models, or been given adapters.
    let probe = Probe::new(&shell.probes).with_models();
    let report = probe.run(&*line.engine).await.unwrap_or_default();
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let answer = ProbeAnswer {
        healthy: report.healthy,
        requests: report.gauges.as_ref().map(|g| (count(g.running), count(g.waiting))),
        kv_usage: report.gauges.as_ref().and_then(|g| g.kv_usage).map(Ratio),
        kv_tokens: report.kv_tokens,
    };
    let offer = |card: ModelCard| Offer {
        name: card.id,
        parent: card.parent,
        max_model_len: card.max_model_len,
    };
    let models = report.models.map(|cards| cards.into_iter().map(offer).collect());
    shell.tell(Event::Probed { instance: line.id, ticket, answer, models });
}

/// Samples the GPUs of an instance and tells the core. Apart from its probe, which must not wait for
/// an exporter that hangs.
async fn sample(shell: Arc<Shell>, line: Line, gpus: Gpus) {
    let sample = gpus.sample(&line.name).await;
    shell.tell(Event::GpusSampled { instance: line.id, sample });
}

fn log(notice: &Notice) {
    match notice {
        Notice::Instance { name, state, reason } => {
            tracing::info!(instance = %name, state = state.name(), reason, "instance changed");
        }
        Notice::Switched(switch) => {
            tracing::info!(
                from = switch.from,
                to = switch.to,
                reason = %switch.reason,
                "strategy switched"
            );
        }
    }
}
