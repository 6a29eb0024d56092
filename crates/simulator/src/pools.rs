//! Prompts on engines of their own, decodes on others: two pools of modelled engines and the link
//! between them, without a control plane.
//!
//! The control plane does not hand keys and values over yet, so no scenario can have such a fleet. What
//! a plan promises of one can be checked all the same: requests come as in a workload, the engine with
//! the fewest prompts computes the prompt, the one with the fewest requests reads its keys and values
//! and decodes. Nobody is refused; whose keys and values are read after their lease has run out fails.

use sagellm_engine_model::{Engine, EngineConfig, Event, EventKind, Leg, Sequence, Transfer};
use sagellm_perf::StepCost;
use sagellm_types::Timestamp;
use sagellm_workload::Workload;

/// Engines of one role, all alike.
#[derive(Clone, Debug)]
pub struct Pool {
    /// How many.
    pub engines: u32,
    /// Their settings.
    pub config: EngineConfig,
    /// How long their steps take.
    pub cost: StepCost,
}

/// Two pools and the way between them.
#[derive(Clone, Debug)]
pub struct Pools {
    /// Those that compute prompts.
    pub prefill: Pool,
    /// Those that decode.
    pub decode: Pool,
    /// How long keys and values take from one to another.
    pub transfer: Transfer,
}

/// What a request saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    /// When it came.
    pub arrived: Timestamp,
    /// Seconds to its first token.
    pub ttft: f64,
    /// Seconds per output token after the first; `None` if there is none.
    pub tpot: Option<f64>,
    /// Seconds to its last token.
    pub e2e: f64,
}

/// A request under way.
#[derive(Clone, Copy)]
struct Open {
    source: usize,
    first: Option<Timestamp>,
}

struct Engines {
    engines: Vec<Engine>,
    /// Requests at each.
    load: Vec<u32>,
    /// When each is next due, `None` when it is idle.
    due: Vec<Option<Timestamp>>,
}

impl Engines {
    fn new(pool: &Pool) -> Self {
        let count = pool.engines.max(1) as usize;
        let engines = vec![Engine::new(pool.config, pool.cost.clone()); count];
        Self { engines, load: vec![0; count], due: vec![None; count] }
    }

    /// Returns the first engine that is due, and when.
    fn next(&self) -> Option<(Timestamp, usize)> {
        let due = self.due.iter().enumerate().filter_map(|(place, due)| Some(((*due)?, place)));
        due.min()
    }

    /// Gives a sequence to the engine with the fewest; returns which it is, or `None` if it refuses.
    fn submit(
        &mut self,
        sequence: Sequence,
        now: Timestamp,
        log: &mut Vec<Event>,
    ) -> Option<usize> {
        let place = (0..self.load.len()).min_by_key(|&place| self.load[place])?;
        self.advance(place, now, log);
        self.engines[place].submit(sequence, now).ok()?;
        self.load[place] += 1;
        self.due[place] = self.engines[place].next_boundary();
        Some(place)
    }

    fn advance(&mut self, place: usize, now: Timestamp, log: &mut Vec<Event>) {
        self.engines[place].advance(now, log);
        self.due[place] = self.engines[place].next_boundary();
    }
}

impl Pools {
    /// Serves a workload, and returns what each request saw that ended well, in the order in which they
    /// did: not those that are longer than an engine takes, nor those whose lease ran out.
    pub fn serve(&self, workload: &Workload) -> Vec<Served> {
        let (mut prefill, mut decode) = (Engines::new(&self.prefill), Engines::new(&self.decode));
        let mut open: Vec<Option<Open>> = vec![None; workload.arrivals.len()];
        let mut served = Vec::with_capacity(workload.arrivals.len());
        let (mut log, mut coming) = (Vec::new(), workload.arrivals.iter().enumerate().peekable());
        loop {
            let arrival = coming.peek().map(|(_, arrival)| arrival.at);
            let first = prefill.next().map(|next| next.0);
            let second = decode.next().map(|next| next.0);
            let Some(now) = arrival.into_iter().chain(first).chain(second).min() else {
                return served;
            };
            if second == Some(now) {
                let (_, place) = decode.next().expect("one is due");
                decode.advance(place, now, &mut log);
                for event in log.drain(..) {
                    let id = event.id as usize;
                    let Some(request) = &mut open[id] else { continue };
                    match event.kind {
                        EventKind::Received => {
                            let source = request.source;
                            let there = prefill.engines[source].handed_over(event.id, now);
                            prefill.due[source] = prefill.engines[source].next_boundary();
                            if !there {
                                // The lease ran out before they were read: the request fails.
                                decode.engines[place].abort(event.id, now);
                                decode.due[place] = decode.engines[place].next_boundary();
                                decode.load[place] -= 1;
                                open[id] = None;
                            }
                        }
                        EventKind::FirstToken { .. } => request.first = Some(event.at),
                        EventKind::Finished => {
                            decode.load[place] -= 1;
                            let since =
                                |at: Timestamp, from: Timestamp| at.since(from).as_secs_f64();
                            let arrival = &workload.arrivals[id];
                            let (first, at) = (request.first.unwrap_or(event.at), event.at);
                            let gaps = arrival.output.0.saturating_sub(1);
                            served.push(Served {
                                arrived: arrival.at,
                                ttft: since(first, arrival.at),
                                tpot: (gaps > 0).then(|| since(at, first) / gaps as f64),
                                e2e: since(at, arrival.at),
                            });
                            open[id] = None;
                        }
                        EventKind::Tokens(_) | EventKind::Preempted => {}
                    }
                }
            } else if first == Some(now) {
                let (_, place) = prefill.next().expect("one is due");
                prefill.advance(place, now, &mut log);
                let ended = log.drain(..).filter(|event| event.kind == EventKind::Finished);
                for id in ended.map(|event| event.id).collect::<Vec<_>>() {
                    prefill.load[place] -= 1;
                    let arrival = &workload.arrivals[id as usize];
                    let leg = Leg::Decode(self.transfer);
                    let sequence = Self::sequence(id, arrival.prompt.0, arrival.output.0, leg);
                    if decode.submit(sequence, now, &mut log).is_none() {
                        prefill.engines[place].handed_over(id, now);
                        open[id as usize] = None;
                    }
                }
            } else if let Some((id, arrival)) = coming.next() {
                let sequence = Self::sequence(id as u64, arrival.prompt.0, 1, Leg::Prefill);
                let source = prefill.submit(sequence, now, &mut log);
                open[id] = source.map(|source| Open { source, first: None });
            }
        }
    }

    fn sequence(id: u64, prompt: u64, output: u64, leg: Leg) -> Sequence {
        let counted = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        Sequence {
            id,
            prompt_tokens: counted(prompt),
            output_tokens: counted(output.max(1)),
            leg,
            ..Sequence::default()
        }
    }
}
