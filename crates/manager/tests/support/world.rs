//! Modelled engines, clients and faults around the core, in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use sagellm_engine_model::{Engine, EngineConfig, EventKind, Pace, Sequence};
use sagellm_fleet::{ProbeAnswer, ProbeTicket};
use sagellm_manager::{Command, Config, ControlPlane, NewRequest};
use sagellm_perf::{LinearCost, PromptSize};
use sagellm_strategies::SchedulingStrategy;
use sagellm_types::{
    Attempt, Ending, ExecutionInstance, FailureKind, InstanceId, Ratio, RequestId, Rng, Seed,
    Timestamp, Tokens, Usage,
};

use super::Watched;

/// A request and how many tokens its answer will have.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) new: NewRequest,
    pub(crate) output: u32,
}

/// Returns a request of so many prompt and output tokens, whose length is known beforehand.
pub(crate) fn ask(prompt: u64, output: u32) -> Ask {
    let prompt = PromptSize::Tokens(prompt);
    Ask { new: NewRequest { prompt, max_tokens: Some(output), ..NewRequest::default() }, output }
}

/// How an engine is started.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) spec: ExecutionInstance,
    pub(crate) engine: EngineConfig,
    pub(crate) cost: LinearCost,
}

impl Machine {
    /// Returns an engine that runs `slots` requests at once, with `kv` tokens of KV.
    pub(crate) fn new(name: &str, slots: u32, kv: u32) -> Self {
        let engine = EngineConfig {
            num_blocks: kv / 16,
            max_num_seqs: slots,
            pace: Pace::Leap,
            ..EngineConfig::default()
        };
        let mut spec = ExecutionInstance::new(name, "localhost", 8000, "llama-7b");
        spec.max_concurrent_requests = slots;
        spec.kv_cache_tokens = Some(u64::from(kv));
        Self { spec, engine, cost: LinearCost::TINY }
    }
}

/// Whether an engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Up,
    /// Its port is closed.
    Crashed,
    /// It accepts and never answers.
    Hung,
}

struct Running {
    attempt: Attempt,
    prompt: u64,
    output: u64,
    told: u64,
}

struct Host {
    engine: Engine,
    cost: LinearCost,
    health: Health,
    running: BTreeMap<u64, Running>,
}

type Todo = Box<dyn FnOnce(&mut World)>;

/// The core among modelled engines.
pub(crate) struct World {
    pub(crate) watched: Watched,
    pub(crate) now: Timestamp,
    /// How long an engine takes to answer a probe.
    pub(crate) probe_delay: Duration,
    /// Share of refused clients that come back when they were told to.
    pub(crate) clients_return: f64,
    /// The later self of each client that came back.
    pub(crate) returned: BTreeMap<RequestId, RequestId>,
    hosts: BTreeMap<InstanceId, Host>,
    asks: BTreeMap<RequestId, Ask>,
    agenda: BTreeMap<(Timestamp, u64), Todo>,
    /// Entries of the agenda beside answers to probes, which never end.
    planned: usize,
    sequences: u64,
    chance: Rng,
}

/// A probe that is not answered is given up after this.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// The engine notices a closed connection after this.
const ABORT_DELAY: Duration = Duration::from_millis(60);

impl World {
    pub(crate) fn new(config: &Config) -> Self {
        Self::of(ControlPlane::new(config, Timestamp::ZERO))
    }

    pub(crate) fn with_strategy(config: &Config, strategy: Box<dyn SchedulingStrategy>) -> Self {
        Self::of(ControlPlane::with_strategy(config, strategy, Timestamp::ZERO))
    }

    fn of(core: ControlPlane) -> Self {
        Self {
            watched: Watched::new(core),
            now: Timestamp::ZERO,
            probe_delay: Duration::from_millis(2),
            clients_return: 0.0,
            chance: Seed(0).stream("clients"),
            returned: BTreeMap::new(),
            hosts: BTreeMap::new(),
            asks: BTreeMap::new(),
            agenda: BTreeMap::new(),
            planned: 0,
            sequences: 0,
        }
    }

    // ---- what a scenario does

    /// Lets `todo` happen at `at`.
    pub(crate) fn at(&mut self, at: Timestamp, todo: impl FnOnce(&mut Self) + 'static) {
        self.planned += 1;
        self.later(at, |world| {
            world.planned -= 1;
            todo(world);
        });
    }

    fn later(&mut self, at: Timestamp, todo: impl FnOnce(&mut Self) + 'static) {
        self.sequences += 1;
        self.agenda.insert((at.max(self.now), self.sequences), Box::new(todo));
    }

    /// Lets a request arrive at `at`.
    pub(crate) fn arrive(&mut self, at: Timestamp, ask: Ask) {
        self.at(at, move |world| {
            world.submit(ask);
        });
    }

    /// Registers an engine that answers.
    pub(crate) fn add(&mut self, machine: Machine) -> InstanceId {
        let (mut added, now) = (None, self.now);
        let commands = self.watched.act(now, |core| {
            added = Some(core.register(machine.spec, now).expect("a good instance"));
        });
        let id = added.expect("registered");
        let (engine, cost) = (Engine::new(machine.engine, machine.cost), machine.cost);
        self.hosts.insert(id, Host { engine, cost, health: Health::Up, running: BTreeMap::new() });
        self.carry_out(commands);
        id
    }

    pub(crate) fn submit(&mut self, ask: Ask) -> RequestId {
        let model = self.watched.core.models().resolve("llama-7b").map(|found| found.id);
        let new = NewRequest { model: ask.new.model.or(model), ..ask.new.clone() };
        let (id, commands) = self.watched.submit(new, self.now);
        self.asks.insert(id, ask);
        self.carry_out(commands);
        id
    }

    pub(crate) fn cancel(&mut self, request: RequestId) {
        let running = self.watched.book[&request].running;
        let commands = self.watched.cancelled(request, self.now);
        if let Some(attempt) = running {
            self.at(self.now + ABORT_DELAY, move |world| world.drop_sequence(attempt));
        }
        self.carry_out(commands);
    }

    /// The engine dies: its connections break and its port is closed.
    pub(crate) fn crash(&mut self, instance: InstanceId) {
        let Some(host) = self.hosts.get_mut(&instance) else { return };
        host.health = Health::Crashed;
        host.engine = Engine::new(*host.engine.config(), host.cost);
        for running in std::mem::take(&mut host.running).into_values() {
            self.fail(running.attempt, FailureKind::Reset);
        }
    }

    /// The engine accepts, computes and says nothing any more.
    pub(crate) fn hang(&mut self, instance: InstanceId) {
        if let Some(host) = self.hosts.get_mut(&instance) {
            host.health = Health::Hung;
        }
    }

    /// The engine answers again; one that was dead starts empty.
    pub(crate) fn restart(&mut self, instance: InstanceId) {
        if let Some(host) = self.hosts.get_mut(&instance) {
            host.health = Health::Up;
        }
    }

    pub(crate) fn drain(&mut self, instance: InstanceId) {
        let now = self.now;
        let commands = self.watched.act(now, |core| core.drain(instance, now));
        self.carry_out(commands);
    }

    pub(crate) fn remove(&mut self, instance: InstanceId) {
        let now = self.now;
        let commands = self.watched.act(now, |core| {
            core.remove(instance, now);
        });
        self.carry_out(commands);
    }

    /// Runs until `end`.
    pub(crate) fn run_until(&mut self, end: Timestamp) {
        while let Some(next) = self.next().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    /// Runs until every request has ended.
    ///
    /// # Panics
    /// If some have not by `latest`.
    pub(crate) fn run_out(&mut self, latest: Timestamp) {
        while self.planned > 0 || self.watched.open() > 0 || self.watched.charges() > 0 {
            let next = self.next().expect("the core looks at its pressure for ever");
            assert!(
                next <= latest,
                "{} requests have not ended by {latest:?}",
                self.watched.open()
            );
            self.now = self.now.max(next);
            self.step();
        }
    }

    // ---- what happens

    fn next(&self) -> Option<Timestamp> {
        let agenda = self.agenda.keys().next().map(|(at, _)| *at);
        let core = self.watched.core.poll_timeout();
        let engines = self.hosts.values().filter(|host| host.health == Health::Up);
        let engine = engines.filter_map(|host| host.engine.next_boundary()).min();
        agenda.into_iter().chain(core).chain(engine).min()
    }

    fn step(&mut self) {
        let now = self.now;
        let instances: Vec<InstanceId> = self.hosts.keys().copied().collect();
        instances.into_iter().for_each(|instance| self.advance(instance));
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            entry.remove()(self);
        }
        if self.watched.core.poll_timeout().is_some_and(|at| at <= now) {
            let commands = self.watched.act(now, |core| core.handle_timeout(now));
            self.carry_out(commands);
        }
    }

    /// Lets an engine compute until now and tells the core what came.
    fn advance(&mut self, instance: InstanceId) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&instance) else { return };
        if host.health != Health::Up || host.engine.next_boundary().is_none_or(|at| at > now) {
            return;
        }
        let mut events = Vec::new();
        host.engine.advance(now, &mut events);
        for event in events {
            let Some(host) = self.hosts.get_mut(&instance) else { return };
            let Some(running) = host.running.get_mut(&event.id) else { continue };
            let attempt = running.attempt;
            let commands = match event.kind {
                EventKind::FirstToken { .. } => {
                    running.output = 1;
                    self.watched.first_token(attempt, now)
                }
                EventKind::Tokens(more) => {
                    running.output += u64::from(more);
                    if running.output - running.told < 64 {
                        continue;
                    }
                    running.told = running.output;
                    let output = running.output;
                    self.watched.progress(attempt, output, now)
                }
                EventKind::Finished => {
                    let usage = Usage {
                        prompt: Tokens(running.prompt),
                        output: Tokens(running.output),
                        cached: Tokens::ZERO,
                    };
                    host.running.remove(&event.id);
                    self.watched.finished(attempt, usage, now)
                }
                EventKind::Preempted | EventKind::Received => continue,
            };
            self.carry_out(commands);
        }
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Dispatch(dispatch) => self.start(dispatch.attempt, dispatch.instance),
                Command::Abort(attempt) => self.drop_sequence(attempt),
                Command::Probe { instance, ticket, .. } => self.probe(instance, ticket),
                Command::End { request, ending } => self.come_back(request, ending),
                Command::Notice(_) => {}
            }
        }
    }

    fn start(&mut self, attempt: Attempt, instance: InstanceId) {
        let (now, ask) = (self.now, &self.asks[&attempt.request]);
        let PromptSize::Tokens(prompt) = ask.new.prompt else { panic!("a world counts tokens") };
        let output = ask.output;
        self.sequences += 1;
        let id = self.sequences;
        let host = self.hosts.get_mut(&instance).expect("dispatched to a host");
        if host.health == Health::Crashed {
            return self.fail(attempt, FailureKind::Connect);
        }
        let sequence = Sequence {
            id,
            prompt_tokens: prompt as u32,
            output_tokens: output,
            ..Sequence::default()
        };
        match host.engine.submit(sequence, now) {
            Ok(()) => {
                host.running.insert(id, Running { attempt, prompt, output: 0, told: 0 });
            }
            Err(_) => self.fail(attempt, FailureKind::Rejected),
        }
    }

    /// Lets an attempt fail a moment later.
    fn fail(&mut self, attempt: Attempt, kind: FailureKind) {
        self.at(self.now + Duration::from_millis(1), move |world| {
            let commands = world.watched.failed(attempt, kind, false, world.now);
            world.carry_out(commands);
        });
    }

    fn drop_sequence(&mut self, attempt: Attempt) {
        for host in self.hosts.values_mut() {
            let found = host.running.iter().find(|(_, running)| running.attempt == attempt);
            if let Some((&id, _)) = found {
                host.running.remove(&id);
                host.engine.abort(id, self.now);
            }
        }
    }

    fn probe(&mut self, instance: InstanceId, ticket: ProbeTicket) {
        let up = self.hosts.get(&instance).is_none_or(|host| host.health != Health::Hung);
        let after = if up { self.probe_delay } else { PROBE_TIMEOUT };
        self.later(self.now + after, move |world| {
            let answer = world.answer(instance);
            let commands = world.watched.probed(instance, ticket, answer, world.now);
            world.carry_out(commands);
        });
    }

    fn answer(&self, instance: InstanceId) -> ProbeAnswer {
        let host = self.hosts.get(&instance).filter(|host| host.health == Health::Up);
        let Some(host) = host else { return ProbeAnswer::default() };
        let gauges = host.engine.gauges();
        ProbeAnswer {
            healthy: true,
            requests: Some((gauges.running, gauges.waiting)),
            kv_usage: Some(Ratio(gauges.kv_usage())),
            kv_tokens: Some(Tokens(host.engine.config().kv_tokens())),
        }
    }

    fn come_back(&mut self, request: RequestId, ending: Ending) {
        let Ending::Refused { retry_after: Some(after), .. } = ending else { return };
        if self.chance.unit() < self.clients_return {
            let ask = self.asks[&request].clone();
            // Retry-After is sent in whole seconds.
            let after = Duration::from_secs(after.as_secs_f64().ceil() as u64);
            self.at(self.now + after, move |world| {
                let later = world.submit(ask);
                world.returned.insert(request, later);
            });
        }
    }
}
