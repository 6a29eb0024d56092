//! Instances and attempts through the core, event by event: roles, retries, falls and returns, the
//! dispatch window, deadlines.

use std::time::Duration;

use sagellm_fleet::{ProbeAnswer, ProbeTicket};
use sagellm_manager::{Command, Config, ControlPlane, NewRequest, RegisterError, RetryConfig};
use sagellm_perf::PromptSize;
use sagellm_strategies::StrategyConfig;
use sagellm_types::{
    Attempt, Ending, EngineState, ExecutionInstance, ExecutionInstanceType, ExpireReason,
    FailureKind, InstanceId, Objectives, PdRoutingPolicy, PdSeparationConfig, RefuseReason,
    RequestId, RequestPriority, RequestStatus, RequestType, Timestamp, Tokens, Usage,
};
use support::{Watched, ms};

#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
#[path = "../support/mod.rs"]
mod support;

/// The core with the probes that it waits for.
struct Plane {
    watched: Watched,
    probes: Vec<(InstanceId, ProbeTicket)>,
    aborted: Vec<Attempt>,
    now: Timestamp,
}

const USAGE: Usage = Usage { prompt: Tokens(100), output: Tokens(20), cached: Tokens(0) };

impl Plane {
    fn new(config: Config) -> Self {
        let watched = Watched::new(ControlPlane::new(&config, Timestamp::ZERO));
        Self { watched, probes: Vec::new(), aborted: Vec::new(), now: Timestamp::ZERO }
    }

    fn fifo() -> Self {
        Self::new(Config { strategy: StrategyConfig::Fifo, ..Config::default() })
    }

    fn took(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Probe { instance, ticket, .. } => self.probes.push((instance, ticket)),
                Command::Abort(attempt) => self.aborted.push(attempt),
                _ => {}
            }
        }
    }

    /// Registers an instance that is ready at once and takes `slots` requests.
    fn add(&mut self, name: &str, slots: u32) -> InstanceId {
        let mut spec = ExecutionInstance::new(name, "localhost", 8000, "llama-7b");
        spec.max_concurrent_requests = slots;
        self.add_spec(spec)
    }

    /// Registers instances that are ready at once and take five requests each.
    fn add_all(&mut self, names: &[&str]) {
        for name in names {
            self.add(name, 5);
        }
    }

    fn add_spec(&mut self, spec: ExecutionInstance) -> InstanceId {
        let (mut id, now) = (None, self.now);
        let commands = self.watched.act(now, |core| {
            id = Some(core.register(spec, now).expect("a good instance"));
        });
        self.took(commands);
        self.probed(ProbeAnswer::healthy());
        id.expect("registered")
    }

    /// Answers all probes under way.
    fn probed(&mut self, answer: ProbeAnswer) {
        for (instance, ticket) in std::mem::take(&mut self.probes) {
            let commands = self.watched.probed(instance, ticket, answer, self.now);
            self.took(commands);
        }
    }

    fn submit(&mut self, new: NewRequest) -> RequestId {
        let model = self.watched.core.models().resolve("llama-7b").map(|found| found.id);
        let (id, commands) = self.watched.submit(NewRequest { model, ..new }, self.now);
        self.took(commands);
        id
    }

    fn finish(&mut self, request: RequestId) {
        let attempt = self.watched.book[&request].running.expect("it runs");
        let commands = self.watched.finished(attempt, USAGE, self.now);
        self.took(commands);
    }

    fn begin(&mut self, request: RequestId) {
        let attempt = self.watched.book[&request].running.expect("it runs");
        let commands = self.watched.first_token(attempt, self.now);
        self.took(commands);
    }

    fn fail(&mut self, request: RequestId, kind: FailureKind) {
        let attempt = self.watched.book[&request].running.expect("it runs");
        let commands = self.watched.failed(attempt, kind, false, self.now);
        self.took(commands);
    }

    /// Lets time pass, answering probes as they come.
    fn pass(&mut self, time: Duration, answer: impl Fn(InstanceId) -> ProbeAnswer) -> usize {
        let (end, mut sent) = (self.now + time, 0);
        while let Some(at) = self.watched.core.poll_timeout().filter(|&at| at <= end) {
            let now = at.max(self.now);
            self.now = now;
            let commands = self.watched.act(now, |core| core.handle_timeout(now));
            self.took(commands);
            for (instance, ticket) in std::mem::take(&mut self.probes) {
                sent += 1;
                let commands = self.watched.probed(instance, ticket, answer(instance), now);
                self.took(commands);
            }
        }
        self.now = end;
        sent
    }

    /// Returns where a request runs.
    fn at(&self, request: RequestId) -> Option<InstanceId> {
        let record = &self.watched.book[&request];
        record.running.and_then(|_| record.placed.last()).map(|placed| placed.instance)
    }

    fn ending(&self, request: RequestId) -> Option<Ending> {
        self.watched.book[&request].ending()
    }

    fn waiting(&mut self) -> usize {
        self.watched.core.snapshot(self.now).waiting
    }

    fn state(&self, instance: InstanceId) -> EngineState {
        self.watched.core.fleet().get(instance).expect("registered").state
    }

    fn window(&self, instance: InstanceId) -> u32 {
        self.watched.core.fleet().get(instance).expect("registered").window()
    }
}

fn sized(prompt: u64, output: u32) -> NewRequest {
    let prompt = PromptSize::Tokens(prompt);
    NewRequest { prompt, max_tokens: Some(output), ..NewRequest::default() }
}

fn small() -> NewRequest {
    sized(100, 20)
}

fn due(new: NewRequest, e2e_ms: u64) -> NewRequest {
    let e2e = Some(Duration::from_millis(e2e_ms));
    NewRequest { objectives: Objectives { e2e, ..Objectives::NONE }, ..new }
}

fn down(dead: InstanceId) -> impl Fn(InstanceId) -> ProbeAnswer {
    move |instance| ProbeAnswer { healthy: instance != dead, ..ProbeAnswer::default() }
}

mod falls;
mod requests;
mod retries;
mod roles;
mod window;
