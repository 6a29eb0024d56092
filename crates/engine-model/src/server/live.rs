//! The engine between its clients: one task paces it, requests join and leave it under a lock.
//!
//! Steps end at *absolute* model times (`next = previous + step`), so a timer that fires late
//! delivers everything that has become due at once, and nothing drifts.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use sagellm_types::Timestamp;
use sagellm_types::clock::Clock;
use tokio::sync::Notify;

use super::metrics::Stats;
use super::{Fault, ServerConfig};
use crate::{Engine, Event, EventKind, Gauges, Rejection, Sequence};

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) config: ServerConfig,
    pub(super) clock: Clock,
    pub(super) models: Vec<String>,
    pub(super) healthy: AtomicBool,
    pub(super) in_flight: AtomicUsize,
    pub(super) requests: AtomicU32,
    pub(super) fault: Mutex<Fault>,
    core: Mutex<Core>,
    /// Tells the pacing task that the next boundary may have changed.
    paced: Notify,
}

/// What the lock guards.
struct Core {
    engine: Engine,
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    events: Vec<Event>,
    stats: Stats,
}

/// A place for a sequence; its generation is the upper half of the sequence's id.
struct Entry {
    generation: u32,
    live: Option<Live>,
}

/// A sequence that has not ended.
struct Live {
    progress: Arc<Progress>,
    choice: usize,
    finish: &'static str,
    submitted: Timestamp,
    first: Timestamp,
    last: Timestamp,
    tokens: u32,
}

/// How far the answers of one request are; filled by the engine, read by the response.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Reached>);

#[derive(Debug, Default)]
struct Reached {
    choices: Vec<Reach>,
    waker: Option<Waker>,
}

/// How far one answer is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reach {
    pub(super) tokens: u32,
    /// Prompt tokens found in the prefix cache.
    pub(super) cached: u32,
    pub(super) finished: bool,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Reached> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Copies how far the answers are into `reach`, and has the task woken when there is more.
    pub(super) fn poll(&self, reach: &mut Vec<Reach>, context: &Context<'_>) {
        let mut reached = self.lock();
        reach.clear();
        reach.extend_from_slice(&reached.choices);
        match &mut reached.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }

    fn update(&self, choice: usize, change: impl FnOnce(&mut Reach), wakers: &mut Vec<Waker>) {
        let mut reached = self.lock();
        change(&mut reached.choices[choice]);
        wakers.extend(reached.waker.take());
    }
}

/// A sequence to run, before it has an id.
pub(super) struct Job {
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) prefix_blocks: Vec<u64>,
    pub(super) priority: i64,
    pub(super) finish: &'static str,
}

/// The sequences of a request; dropping it aborts those that have not ended.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    ids: Vec<u64>,
    pub(super) progress: Arc<Progress>,
}

impl Ticket {
    /// Waits until all sequences have ended; returns how far each came.
    pub(super) async fn finished(&self) -> Vec<Reach> {
        let mut reach = Vec::new();
        poll_fn(|context| {
            self.progress.poll(&mut reach, context);
            if reach.iter().all(|r| r.finished) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        reach
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.abort(&self.ids);
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(config: ServerConfig, clock: Clock) -> Self {
        let models = std::iter::once(&config.model).chain(&config.aliases).cloned().collect();
        let engine = Engine::new(config.engine, config.cost.clone());
        let core = Core {
            engine,
            entries: Vec::new(),
            vacant: Vec::new(),
            events: Vec::new(),
            stats: Stats::default(),
        };
        Self {
            config,
            clock,
            models,
            healthy: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            requests: AtomicU32::new(0),
            fault: Mutex::new(Fault::None),
            core: Mutex::new(core),
            paced: Notify::new(),
        }
    }

    /// Paces the engine for ever.
    pub(super) async fn pace(self: Arc<Self>) {
        loop {
            let next = self.step(|_| {});
            let changed = self.paced.notified();
            match next {
                None => changed.await,
                Some(next) => {
                    let next = tokio::time::Instant::from_std(self.clock.instant(next));
                    tokio::select! {
                        () = tokio::time::sleep_until(next) => {}
                        () = changed => {}
                    }
                }
            }
        }
    }

    /// Brings the engine up to now, lets `act` change it, and returns when it wants to go on.
    fn step(&self, act: impl FnOnce(&mut Core)) -> Option<Timestamp> {
        let mut wakers = Vec::new();
        let next = {
            let mut core = self.lock();
            core.advance(self.clock.now(), &mut wakers);
            act(&mut core);
            core.engine.next_boundary()
        };
        wakers.into_iter().for_each(Waker::wake);
        next
    }

    /// Hands `jobs` to the engine: all of them or none.
    ///
    /// # Errors
    /// If the engine refuses one.
    pub(super) fn submit(self: &Arc<Self>, jobs: Vec<Job>) -> Result<Ticket, Rejection> {
        let progress = Arc::new(Progress::default());
        progress.lock().choices.resize(jobs.len(), Reach::default());
        let mut ids = Vec::with_capacity(jobs.len());
        let mut refused = None;
        self.step(|core| {
            let now = self.clock.now();
            for (choice, job) in jobs.into_iter().enumerate() {
                match core.submit(job, choice, &progress, now) {
                    Ok(id) => ids.push(id),
                    Err(rejection) => {
                        refused = Some(rejection);
                        core.stats.rejections += 1;
                        break;
                    }
                }
            }
        });
        // From here on a drop aborts, which is also how a half-taken request is given back.
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket { shared: Arc::clone(self), ids, progress };
        self.paced.notify_one();
        match refused {
            Some(rejection) => Err(rejection),
            None => Ok(ticket),
        }
    }

    fn abort(&self, ids: &[u64]) {
        let now = self.clock.now();
        self.step(|core| ids.iter().for_each(|id| core.abort(*id, now)));
        self.paced.notify_one();
    }

    /// Lets the engine's steps take `factor` times as long from now on.
    pub(super) fn slow(&self, factor: f64) {
        let cost = self.config.cost.scaled(factor);
        self.step(|core| core.engine.set_cost(cost));
        self.paced.notify_one();
    }

    /// Reads the engine and its figures, brought up to now.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Gauges, &Stats) -> T) -> T {
        let mut out = None;
        self.step(|core| out = Some(read(&core.engine.gauges(), &core.stats)));
        out.expect("the step has run")
    }

    pub(super) fn reset_prefix_cache(&self) {
        self.step(|core| core.engine.reset_prefix_cache());
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("no holder of this lock panics")
    }
}

impl Core {
    fn submit(
        &mut self,
        job: Job,
        choice: usize,
        progress: &Arc<Progress>,
        now: Timestamp,
    ) -> Result<u64, Rejection> {
        let place = match self.vacant.pop() {
            Some(place) => place,
            None => {
                self.entries.push(Entry { generation: 0, live: None });
                (self.entries.len() - 1) as u32
            }
        };
        let entry = &mut self.entries[place as usize];
        let id = u64::from(entry.generation) << 32 | u64::from(place);
        let sequence = Sequence {
            id,
            prompt_tokens: job.prompt_tokens,
            output_tokens: job.output_tokens,
            prefix_blocks: job.prefix_blocks,
            priority: job.priority,
            ..Sequence::default()
        };
        if let Err(rejection) = self.engine.submit(sequence, now) {
            self.vacant.push(place);
            return Err(rejection);
        }
        entry.live = Some(Live {
            progress: Arc::clone(progress),
            choice,
            finish: job.finish,
            submitted: now,
            first: now,
            last: now,
            tokens: 0,
        });
        Ok(id)
    }

    fn abort(&mut self, id: u64, now: Timestamp) {
        if self.engine.abort(id, now) {
            self.vacate(id);
        }
    }

    fn vacate(&mut self, id: u64) {
        let place = id as u32;
        let entry = &mut self.entries[place as usize];
        entry.live = None;
        entry.generation = entry.generation.wrapping_add(1);
        self.vacant.push(place);
    }

    fn advance(&mut self, now: Timestamp, wakers: &mut Vec<Waker>) {
        let mut events = std::mem::take(&mut self.events);
        self.engine.advance(now, &mut events);
        for event in events.drain(..) {
            self.deliver(event, wakers);
        }
        self.events = events;
    }

    fn deliver(&mut self, Event { id, at, kind }: Event, wakers: &mut Vec<Waker>) {
        let live = self.entries[id as u32 as usize].live.as_mut();
        let live = live.expect("the engine speaks of sequences that have not ended");
        match kind {
            EventKind::FirstToken { cached } => {
                live.progress.update(
                    live.choice,
                    |reach| (reach.tokens, reach.cached) = (1, cached),
                    wakers,
                );
                self.stats.ttft.observe(at.since(live.submitted));
                (live.first, live.last, live.tokens) = (at, at, 1);
            }
            EventKind::Tokens(tokens) => {
                live.progress.update(live.choice, |reach| reach.tokens += tokens, wakers);
                self.stats.inter_token.observe(at.since(live.last));
                live.last = at;
                live.tokens += tokens;
            }
            EventKind::Finished => {
                live.progress.update(live.choice, |reach| reach.finished = true, wakers);
                self.stats.e2e.observe(at.since(live.submitted));
                if live.tokens > 1 {
                    self.stats.per_token.observe(at.since(live.first) / (live.tokens - 1));
                }
                *self.stats.success(live.finish) += 1;
                self.vacate(id);
            }
            EventKind::Preempted | EventKind::Received => {}
        }
    }
}
