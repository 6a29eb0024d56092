//! What engines do: take attempts, compute, answer probes, fail.

use sagellm_engine_model::{EngineConfig, EventKind, Sequence};
use sagellm_fleet::{ProbeAnswer, ProbeTicket};
use sagellm_manager::Event;
use sagellm_types::{Attempt, Ending, FailureKind, InstanceId, Ratio, RequestId, Tokens, Usage};
use sagellm_workload::{Arrival, BLOCK};

use super::host::{Condition, Running};
use super::{ABORT, Later, NEWS, NOWHERE, PROBE, PROBE_TIMEOUT, SILENCE, World};
use crate::outcome::{self, Outcome};

/// The core is told of so many output tokens at a time.
const PROGRESS: u64 = 64;

impl World<'_> {
    pub(super) fn probe(&mut self, instance: InstanceId, ticket: ProbeTicket) {
        let host = self.places[instance.index()];
        let at = &self.hosts[host as usize];
        let silent = at.condition == Condition::Hung || at.probes_lost > 0;
        let after = if silent { PROBE_TIMEOUT } else { PROBE };
        let life = self.core.fleet().get(instance).map(|found| found.incarnation);
        let (life, number) = (life.unwrap_or_default(), self.count);
        self.after(after, Later::Probed { host, instance, ticket, life, number });
    }

    pub(super) fn happen(&mut self, later: Later) {
        match later {
            Later::Probed { host, instance, ticket, life, number } => {
                let answer = self.answer(host);
                let current = self.expects_probe(instance, life, number);
                if self.tell(Event::Probed { instance, ticket, answer, models: None }) != current {
                    let what =
                        format!("an answer was believed or dropped against the rule: {current}");
                    self.broken("a probe", what);
                }
            }
            Later::Aborted { host, sequence } => {
                let now = self.now;
                self.hosts[host as usize].engine.abort(sequence, now);
                self.reschedule(host);
                self.verify("an abort");
            }
            Later::Failed { attempt, kind, begun } => {
                // Its client may have left meanwhile: then its charge stays for a moment.
                self.gives_up(attempt);
                self.tell(Event::Failed { attempt, kind, begun });
            }
            Later::Started(host) => self.comes_back(host),
        }
    }

    fn answer(&mut self, host: u32) -> ProbeAnswer {
        let at = &self.hosts[host as usize];
        if at.condition != Condition::Up || at.probes_lost > 0 {
            return ProbeAnswer::default();
        }
        self.advance(host);
        self.tell_progress(host);
        let engine = &self.hosts[host as usize].engine;
        let gauges = engine.gauges();
        ProbeAnswer {
            healthy: true,
            requests: Some((gauges.running, gauges.waiting)),
            kv_usage: Some(Ratio(gauges.kv_usage())),
            kv_tokens: Some(Tokens(engine.config().kv_tokens())),
        }
    }

    pub(super) fn dispatch(&mut self, attempt: Attempt, instance: InstanceId) {
        let arrival = &self.plan.workload.arrivals[self.arrivals[attempt.request.index()] as usize];
        let host = self.places[instance.index()];
        self.sequences += 1;
        let (id, now) = (self.sequences, self.now);
        let failed = |kind| Later::Failed { attempt, kind, begun: false };
        if self.hosts[host as usize].condition == Condition::Down {
            return self.after(NEWS, failed(FailureKind::Connect));
        }
        self.advance(host);
        let at = &mut self.hosts[host as usize];
        let sequence = Sequence {
            id,
            prompt_tokens: counted(arrival.prompt),
            output_tokens: counted(arrival.output),
            prefix_blocks: blocks(arrival, at.engine.config()),
            ..Sequence::default()
        };
        match at.engine.submit(sequence, now) {
            Ok(()) => {
                at.running.insert(id, Running { attempt, output: 0, told: 0, cached: 0 });
                self.whereabouts[attempt.request.index()] = (host, id);
                self.reschedule(host);
            }
            // Longer than the engine's context: another would say the same.
            Err(_) => self.after(NEWS, failed(FailureKind::Rejected)),
        }
    }

    /// Returns the attempt of a request that runs at an engine.
    pub(super) fn running(&self, request: RequestId) -> Option<Attempt> {
        let (host, sequence) = self.whereabouts[request.index()];
        let running = self.hosts.get(host as usize)?.running.get(&sequence)?;
        (running.attempt.request == request).then_some(running.attempt)
    }

    /// Closes the connection of an attempt, if it is still there.
    pub(super) fn abort(&mut self, attempt: Attempt) {
        if self.running(attempt.request) != Some(attempt) {
            return;
        }
        let (host, sequence) = self.whereabouts[attempt.request.index()];
        self.whereabouts[attempt.request.index()] = NOWHERE;
        self.hosts[host as usize].running.remove(&sequence);
        self.after(ABORT, Later::Aborted { host, sequence });
    }

    pub(super) fn reschedule(&mut self, host: u32) {
        let (places, at) = (&mut self.boundary_places, &self.hosts[host as usize]);
        let up = at.condition == Condition::Up;
        let next = at.engine.next_boundary().filter(|_| up);
        match (next, places.contains(host)) {
            (Some(at), true) => self.boundaries.update((at, host), host, places),
            (Some(at), false) => self.boundaries.push((at, host), host, places),
            (None, true) => drop(self.boundaries.remove(host, places)),
            (None, false) => {}
        }
    }

    /// Lets an engine compute until now and tells the core what came.
    pub(super) fn advance(&mut self, host: u32) {
        let at = &mut self.hosts[host as usize];
        if at.condition != Condition::Up {
            return;
        }
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        at.engine.advance(self.now, &mut events);
        self.reschedule(host);
        for event in &events {
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
                        prompt: self.plan.workload.arrivals[index].prompt,
                        output: Tokens(running.output),
                        cached: Tokens(running.cached),
                    };
                    self.hosts[host as usize].running.remove(&event.id);
                    self.seen[index].usage = usage;
                    self.end(index, Ending::Finished);
                    self.tell(Event::Finished { attempt, usage, gaps: None });
                }
                EventKind::Preempted => self.cover(|coverage| coverage.preemption = true),
                EventKind::Received => {}
            }
        }
        events.clear();
        self.events = events;
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

    /// Breaks all connections of an engine: it is empty from now on.
    pub(super) fn breaks(&mut self, host: u32) {
        self.advance(host);
        let now = self.now;
        for attempt in self.hosts[host as usize].restart() {
            let index = self.arrivals[attempt.request.index()] as usize;
            let begun = self.seen[index].first_token.is_some_and(|first| first <= now);
            self.whereabouts[attempt.request.index()] = NOWHERE;
            if begun {
                self.cover(|coverage| coverage.crash_mid_stream = true);
            }
            self.after(NEWS, Later::Failed { attempt, kind: FailureKind::Reset, begun });
        }
    }

    pub(super) fn hangs(&mut self, host: u32) {
        self.advance(host);
        self.hosts[host as usize].condition = Condition::Hung;
        self.reschedule(host);
        // Clients and gateway give up what has begun and falls silent.
        let running = self.hosts[host as usize].running.values();
        let silent: Vec<Attempt> =
            running.filter(|running| running.output > 0).map(|running| running.attempt).collect();
        for attempt in silent {
            let kind = FailureKind::Timeout;
            self.after(SILENCE, Later::Failed { attempt, kind, begun: true });
        }
    }

    pub(super) fn comes_back(&mut self, host: u32) {
        if self.hosts[host as usize].condition == Condition::Hung {
            self.hosts[host as usize].condition = Condition::Down;
            self.breaks(host);
        }
        self.hosts[host as usize].condition = Condition::Up;
        self.reschedule(host);
    }

    /// Adds up what was seen.
    pub(super) fn outcome(&mut self) -> Outcome {
        let now = self.now;
        let engines = self.hosts.iter().map(|host| outcome::EngineFigures {
            done: host.done(),
            rent_per_second: host.rent_per_second(),
            registered: host.registered(now),
        });
        let engines: Vec<_> = engines.collect();
        outcome::of(self, &engines)
    }
}

/// Returns a number of tokens as an engine counts it: at least one.
fn counted(tokens: Tokens) -> u32 {
    u32::try_from(tokens.0.max(1)).unwrap_or(u32::MAX)
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
