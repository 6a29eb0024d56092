//! A fleet in virtual time: the very core that serves, among modelled engines.
//!
//! Time goes from event to event: an arrival, the end of a run of engine steps, an answer to a probe,
//! a timer of the core. What happens at one time happens in that order, engines by their number.
//! Nothing is drawn but what the workload and the core draw from their seeds.

use std::collections::BTreeMap;
use std::time::Duration;

use sagellm_engine_model::{Engine, EngineConfig, EventKind, Sequence};
use sagellm_fleet::{ProbeAnswer, ProbeTicket};
use sagellm_manager::{Command, Config, ControlPlane, Event, NewRequest, PromptSize};
use sagellm_monitoring::{Report, Sample, Sketch, Tally};
use sagellm_perf::StepCost;
use sagellm_strategies::queue::{IndexedHeap, Places};
use sagellm_types::{
    Attempt, Ending, ExecutionInstance, FailureKind, InstanceId, PrefixHash, Ratio, SessionId,
    Timestamp, Tokens, Usage, UserId,
};
use sagellm_workload::{Arrival, BLOCK, Workload};
use thiserror::Error;

/// One engine of a fleet.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What the control plane is told of it.
    pub spec: ExecutionInstance,
    /// Its settings.
    pub engine: EngineConfig,
    /// How long its steps take.
    pub cost: StepCost,
}

/// What a simulation came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The report, as a run against real engines gives it. Gaps between tokens are not known where
    /// runs of steps are leapt over.
    pub report: Report,
    /// Engine steps.
    pub steps: u64,
    /// Events that the core was told, and commands that it gave.
    pub core_calls: u64,
    /// Share of prompt tokens that were found in prefix caches; `None` without those.
    pub prefix_hit_rate: Option<f64>,
    /// Sequences that had to be computed anew since others needed their blocks.
    pub preemptions: u64,
    /// Requests that had not ended when nothing could happen any more.
    pub unfinished: u64,
}

/// A fleet that cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FleetError {
    /// There is no engine.
    #[error("the fleet has no engine")]
    Empty,
    /// An engine is refused by the control plane.
    #[error("{0}")]
    Refused(String),
}

/// How long an engine takes to answer a probe.
const PROBE: Duration = Duration::from_millis(2);
/// The engine notices a closed connection after this.
const ABORT: Duration = Duration::from_millis(60);
/// Requests come once the engines have said that they are ready.
const START: Duration = Duration::from_secs(1);
/// Nothing is waited for longer than this after the last arrival.
const LATEST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The core is told of so many output tokens at a time.
const PROGRESS: u64 = 64;

/// Something that happens later, beside engine steps and arrivals.
#[derive(Clone, Copy, Debug)]
enum Later {
    Probed { host: u32, instance: InstanceId, ticket: ProbeTicket },
    Aborted { host: u32, sequence: u64 },
    Rejected(Attempt),
}

/// An attempt at an engine.
#[derive(Clone, Copy, Debug)]
struct Running {
    attempt: Attempt,
    output: u64,
    told: u64,
    cached: u64,
}

struct Host {
    engine: Engine,
    running: BTreeMap<u64, Running>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    first_token: Option<Timestamp>,
    ended: Option<(Timestamp, Ending)>,
    usage: Usage,
}

struct Simulation<'a> {
    workload: &'a Workload,
    core: ControlPlane,
    now: Timestamp,
    hosts: Vec<Host>,
    /// By slot of the instance, its host.
    places: Vec<u32>,
    /// When each engine's run of steps ends.
    boundaries: IndexedHeap<(Timestamp, u32)>,
    boundary_places: Places,
    later: BTreeMap<(Timestamp, u64), Later>,
    count: u64,
    /// By slot of the request, the arrival that it is.
    arrivals: Vec<u32>,
    seen: Vec<Seen>,
    sequences: u64,
    calls: u64,
    open: u64,
}

/// Runs `workload` on a fleet of `machines` under the control plane of `config`; `progress` is told
/// now and then how many requests have come.
///
/// # Errors
/// If there is no engine, or the control plane refuses one.
pub fn simulate(
    config: &Config,
    machines: &[Machine],
    workload: &Workload,
    progress: impl Fn(usize),
) -> Result<Outcome, FleetError> {
    if machines.is_empty() {
        return Err(FleetError::Empty);
    }
    let mut simulation = Simulation {
        workload,
        core: ControlPlane::new(config, Timestamp::ZERO),
        now: Timestamp::ZERO,
        hosts: Vec::new(),
        places: Vec::new(),
        boundaries: IndexedHeap::default(),
        boundary_places: Places::default(),
        later: BTreeMap::new(),
        count: 0,
        arrivals: Vec::new(),
        seen: vec![Seen::default(); workload.arrivals.len()],
        sequences: 0,
        calls: 0,
        open: 0,
    };
    for machine in machines {
        simulation.add(machine)?;
    }
    simulation.run(progress);
    Ok(simulation.outcome(config))
}

impl Simulation<'_> {
    fn add(&mut self, machine: &Machine) -> Result<(), FleetError> {
        let id = self
            .core
            .register(machine.spec.clone(), self.now)
            .map_err(|error| FleetError::Refused(error.to_string()))?;
        if self.places.len() <= id.index() {
            self.places.resize(id.index() + 1, u32::MAX);
        }
        self.places[id.index()] = self.hosts.len() as u32;
        let engine = Engine::with_cost(machine.engine, machine.cost.clone());
        self.hosts.push(Host { engine, running: BTreeMap::new() });
        self.carry_out();
        Ok(())
    }

    fn run(&mut self, progress: impl Fn(usize)) {
        let arrivals = &self.workload.arrivals;
        let mut next_arrival = 0;
        let last = arrivals.last().map_or(Timestamp::ZERO, |arrival| arrival.at);
        let latest = last + START + LATEST;
        while next_arrival < arrivals.len() || self.open > 0 {
            let arrival = arrivals.get(next_arrival).map(|arrival| arrival.at + START);
            let engine = self.boundaries.peek().map(|((at, _), _)| at);
            let later = self.later.first_key_value().map(|((at, _), _)| *at);
            let timer = self.core.poll_timeout();
            let Some(now) = [arrival, engine, later, timer].into_iter().flatten().min() else {
                return;
            };
            if now > latest {
                return;
            }
            self.now = now.max(self.now);
            while let Some((_, host)) =
                self.boundaries.peek().filter(|((at, _), _)| *at <= self.now)
            {
                self.advance(host);
            }
            while let Some(entry) = self.later.first_entry().filter(|e| e.key().0 <= self.now) {
                let later = entry.remove();
                self.happen(later);
            }
            if self.core.poll_timeout().is_some_and(|at| at <= self.now) {
                self.core.handle_timeout(self.now);
                self.calls += 1;
                self.carry_out();
            }
            while arrivals.get(next_arrival).is_some_and(|next| next.at + START <= self.now) {
                self.arrive(next_arrival);
                next_arrival += 1;
                if next_arrival.is_multiple_of(1_000) {
                    progress(next_arrival);
                }
            }
        }
    }

    fn arrive(&mut self, index: usize) {
        let arrival = &self.workload.arrivals[index];
        let class = self.workload.class(arrival);
        let model = self.core.models().only().map(|found| found.id);
        let user = arrival.user.map(|user| UserId::of(format!("{}-{user}", class.name)));
        let new = NewRequest {
            model,
            user,
            priority: class.priority,
            objectives: class.objectives(),
            session: arrival.session.map(|session| SessionId::of(session.to_string())),
            prefix: arrival.blocks.first().map(|block| PrefixHash::of(block.to_le_bytes())),
            prompt: PromptSize::Tokens(arrival.prompt.0),
            max_tokens: Some(u32::try_from(arrival.output.0.max(1)).unwrap_or(u32::MAX)),
            ..NewRequest::default()
        };
        self.open += 1;
        self.calls += 1;
        let slot_ahead = self.arrivals.len();
        let id = self.core.submit(new, self.now);
        if id.index() >= slot_ahead {
            self.arrivals.resize(id.index() + 1, u32::MAX);
        }
        self.arrivals[id.index()] = index as u32;
        self.carry_out();
    }

    fn tell(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.calls += 1;
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.core.poll_command() {
            self.calls += 1;
            match command {
                Command::Dispatch(dispatch) => self.start(dispatch.attempt, dispatch.instance),
                Command::Abort(attempt) => self.abort(attempt),
                Command::Probe { instance, ticket } => {
                    let host = self.places[instance.index()];
                    self.after(PROBE, Later::Probed { host, instance, ticket });
                }
                Command::End { request, ending } => {
                    let index = self.arrivals[request.index()] as usize;
                    self.end(index, ending);
                }
                Command::Notice(_) => {}
            }
        }
    }

    fn end(&mut self, index: usize, ending: Ending) {
        debug_assert!(self.seen[index].ended.is_none(), "a request ends once");
        self.seen[index].ended = Some((self.now, ending));
        self.open -= 1;
    }

    fn after(&mut self, time: Duration, later: Later) {
        self.count += 1;
        self.later.insert((self.now + time, self.count), later);
    }

    fn happen(&mut self, later: Later) {
        match later {
            Later::Probed { host, instance, ticket } => {
                self.advance(host);
                self.tell_progress(host);
                let gauges = self.hosts[host as usize].engine.gauges();
                let kv_tokens = self.hosts[host as usize].engine.config().kv_tokens();
                let answer = ProbeAnswer {
                    healthy: true,
                    requests: Some((gauges.running, gauges.waiting)),
                    kv_usage: Some(Ratio(gauges.kv_usage())),
                    kv_tokens: Some(Tokens(kv_tokens)),
                };
                self.tell(Event::Probed { instance, ticket, answer, models: None });
            }
            Later::Aborted { host, sequence } => {
                let now = self.now;
                self.hosts[host as usize].engine.abort(sequence, now);
                self.reschedule(host);
            }
            Later::Rejected(attempt) => {
                let kind = FailureKind::Rejected;
                self.tell(Event::Failed { attempt, kind, begun: false });
            }
        }
    }

    fn start(&mut self, attempt: Attempt, instance: InstanceId) {
        let arrival = &self.workload.arrivals[self.arrivals[attempt.request.index()] as usize];
        let host = self.places[instance.index()];
        self.sequences += 1;
        let id = self.sequences;
        let now = self.now;
        self.advance(host);
        let at = &mut self.hosts[host as usize];
        let sequence = Sequence {
            id,
            prompt_tokens: arrival.prompt.0.max(1) as u32,
            output_tokens: arrival.output.0.max(1) as u32,
            prefix_blocks: blocks(arrival, at.engine.config()),
            priority: 0,
        };
        match at.engine.submit(sequence, now) {
            Ok(()) => {
                at.running.insert(id, Running { attempt, output: 0, told: 0, cached: 0 });
                self.reschedule(host);
            }
            // Longer than the engine's context: another would say the same.
            Err(_) => self.after(Duration::from_millis(1), Later::Rejected(attempt)),
        }
    }

    fn abort(&mut self, attempt: Attempt) {
        for host in 0..self.hosts.len() as u32 {
            let running = &self.hosts[host as usize].running;
            let found = running.iter().find(|(_, running)| running.attempt == attempt);
            if let Some((&sequence, _)) = found {
                self.hosts[host as usize].running.remove(&sequence);
                self.after(ABORT, Later::Aborted { host, sequence });
                return;
            }
        }
    }

    fn reschedule(&mut self, host: u32) {
        let places = &mut self.boundary_places;
        match (self.hosts[host as usize].engine.next_boundary(), places.contains(host)) {
            (Some(at), true) => self.boundaries.update((at, host), host, places),
            (Some(at), false) => self.boundaries.push((at, host), host, places),
            (None, true) => drop(self.boundaries.remove(host, places)),
            (None, false) => {}
        }
    }

    /// Lets an engine compute until now and tells the core what came.
    fn advance(&mut self, host: u32) {
        let now = self.now;
        let mut events = Vec::new();
        self.hosts[host as usize].engine.advance(now, &mut events);
        self.reschedule(host);
        for event in events {
            let Some(running) = self.hosts[host as usize].running.get_mut(&event.id) else {
                continue;
            };
            let attempt = running.attempt;
            let index = self.arrivals[attempt.request.index()] as usize;
            match event.kind {
                EventKind::FirstToken { cached } => {
                    running.output = 1;
                    running.cached = u64::from(cached);
                    self.seen[index].first_token = Some(event.at);
                    self.tell(Event::FirstToken(attempt));
                }
                EventKind::Tokens(more) => running.output += u64::from(more),
                EventKind::Finished => {
                    let usage = Usage {
                        prompt: self.workload.arrivals[index].prompt,
                        output: Tokens(running.output),
                        cached: Tokens(running.cached),
                    };
                    self.hosts[host as usize].running.remove(&event.id);
                    self.seen[index].usage = usage;
                    self.end(index, Ending::Finished);
                    self.tell(Event::Finished { attempt, usage, gaps: None });
                }
                EventKind::Preempted => {}
            }
        }
    }

    /// Tells the core how far the answers of an engine have come. It hears that when the engine is
    /// probed, so that it makes no difference whether steps are leapt over.
    fn tell_progress(&mut self, host: u32) {
        let further = |running: &&mut Running| running.output - running.told >= PROGRESS;
        let told: Vec<(Attempt, Tokens)> = self.hosts[host as usize]
            .running
            .values_mut()
            .filter(further)
            .map(|running| {
                running.told = running.output;
                (running.attempt, Tokens(running.output))
            })
            .collect();
        for (attempt, output) in told {
            self.tell(Event::Progress { attempt, output });
        }
    }

    fn outcome(mut self, config: &Config) -> Outcome {
        let gaps = Sketch::default();
        let mut tally = Tally::default();
        let mut unfinished = 0;
        for (arrival, seen) in self.workload.arrivals.iter().zip(&self.seen) {
            let class = self.workload.class(arrival);
            let (ended, ending) = seen.ended.unwrap_or_else(|| {
                unfinished += 1;
                (self.now, Ending::Failed(FailureKind::Timeout))
            });
            tally.record(
                &class.name,
                &Sample {
                    due: arrival.at + START,
                    ending,
                    wait: None,
                    first_token: seen.first_token,
                    ended,
                    usage: seen.usage,
                    objectives: class.objectives(),
                    cost: None,
                    gaps: &gaps,
                },
            );
        }
        let snapshot = self.core.snapshot(self.now);
        let known = Report::from(&snapshot.figures);
        let report = Report {
            strategy: Some(snapshot.strategy.to_owned()),
            router: known.router,
            queue_wait_ms: known.queue_wait_ms,
            cost: known.cost,
            instances: known.instances,
            strategy_intervals: known.strategy_intervals,
            ..tally.report()
        };
        let gauges: Vec<_> = self.hosts.iter().map(|host| host.engine.gauges()).collect();
        let (hits, queries) = gauges
            .iter()
            .fold((0, 0), |(hits, all), g| (hits + g.prefix_hits, all + g.prefix_queries));
        Outcome {
            report: report.with_seed(config.seed),
            steps: gauges.iter().map(|g| g.steps).sum(),
            core_calls: self.calls,
            prefix_hit_rate: (queries > 0).then(|| hits as f64 / queries as f64),
            preemptions: gauges.iter().map(|g| g.preemptions).sum(),
            unfinished,
        }
    }
}

/// Returns the hashes of a prompt's full blocks of the engine's size.
fn blocks(arrival: &Arrival, engine: &EngineConfig) -> Vec<u64> {
    if arrival.blocks.is_empty() || !engine.enable_prefix_caching {
        return Vec::new();
    }
    let size = u64::from(engine.block_size);
    let full = (arrival.prompt.0 / size) as usize;
    let hash = |block: usize| {
        // It covers a part of one block of the trace, or several of them.
        let (first, last) = (block as u64 * size, (block as u64 + 1) * size - 1);
        let ids = arrival.blocks.get((first / BLOCK) as usize..=(last / BLOCK) as usize)?;
        let begin = (first % BLOCK + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Some(ids.iter().fold(begin, |hash, id| (hash ^ id).wrapping_mul(0xD6E8_FEB8_6659_FD93)))
    };
    (0..full).map_while(hash).collect()
}
