//! The engine: sequences in, tokens out, one step after the other.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_perf::{Picos, StepCost, Work};
use sagellm_types::Timestamp;
use sagellm_types::planted::{self, Bug};

use crate::blocks::Blocks;
use crate::run::Run;
use crate::{EngineConfig, Event, EventKind, Gauges, Leg, Rejection, Sequence, Transfer};

/// A vLLM engine as a pure state machine: no clock, no IO, no randomness.
///
/// The caller owns time: [`Engine::next_boundary`] says when something can happen next, and
/// [`Engine::advance`] makes it happen. Call `advance(now)` before `submit` and `abort`, so that
/// they find the engine as it is at that time.
///
/// ```
/// use sagellm_engine_model::{Engine, EngineConfig, EventKind, Sequence};
/// use sagellm_perf::{Layout, OperatorCost};
/// use sagellm_types::Timestamp;
///
/// let cost = OperatorCost::preset("llama-3.1-8b", Some("H100"), Layout::tensor(1));
/// let mut engine = Engine::new(EngineConfig::default(), cost);
/// let sequence = Sequence { id: 7, prompt_tokens: 100, output_tokens: 3, ..Default::default() };
/// engine.submit(sequence, Timestamp::ZERO).expect("it fits");
/// let mut events = Vec::new();
/// while let Some(boundary) = engine.next_boundary() {
///     engine.advance(boundary, &mut events);
/// }
/// let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
/// assert_eq!(kinds[0], EventKind::FirstToken { cached: 0 });
/// assert_eq!(kinds[1..], [EventKind::Tokens(1), EventKind::Tokens(1), EventKind::Finished]);
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) cost: StepCost,
    /// What all steps so far had to do, if that is kept.
    meter: Option<Box<Work>>,
    /// The end of the last step, or when an idle engine got work.
    pub(crate) now: Picos,
    pub(crate) run: Option<Run>,
    pub(crate) slots: Vec<Slot>,
    vacant: Vec<u32>,
    pub(crate) places: IndexMap<u64, u32, FxBuildHasher>,
    /// Slots in the batch, in the order in which they joined it.
    pub(crate) running: Vec<u32>,
    /// Slots that wait, by (priority, order of arrival).
    pub(crate) waiting: BTreeSet<(i64, u64, u32)>,
    arrivals: u64,
    /// No step is worth beginning before: what waits finds no blocks.
    idle_until: Picos,
    /// Slots whose sequences have ended and whose blocks stay for another engine, by the end of
    /// their lease.
    pub(crate) kept: BTreeSet<(Picos, u32)>,
    /// Slots whose keys and values are on their way here, by when they will have come.
    pub(crate) reading: BTreeSet<(Picos, u32)>,
    /// Slots whose keys and values have come, ordered as those that wait; they join first.
    pub(crate) received: BTreeSet<(i64, u64, u32)>,
    /// Until when the link from other engines is taken.
    pub(crate) link_free: Picos,
    pub(crate) blocks: Blocks,
    pub(crate) counters: Gauges,
}

/// A sequence inside the engine.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) sequence: Sequence,
    pub(crate) arrived: Picos,
    /// Its place in the order of arrival; a preempted sequence keeps it.
    pub(crate) order: u64,
    /// Output tokens so far.
    pub(crate) produced: u32,
    /// Tokens whose KV is there.
    pub(crate) computed: u32,
    /// Tokens computed in the step under way.
    pub(crate) scheduled: u32,
    /// Blocks held alone.
    pub(crate) private: u32,
    /// Places of stored blocks held.
    pub(crate) held: Vec<u32>,
    /// Prompt blocks that were found, stored, or turned out to be stored by another.
    pub(crate) hashed: u32,
    /// Prompt tokens found, or read from elsewhere, when it was first scheduled.
    pub(crate) cached: Option<u32>,
    /// How its keys and values will be read, if they are not computed here.
    pub(crate) transfer: Option<Transfer>,
    /// When its lease runs out or its read ends, while one of the two is under way.
    pub(crate) timer: Picos,
}

impl Slot {
    /// Returns the tokens whose KV must be there before the next output token can be drawn.
    pub(crate) fn tokens(&self) -> u32 {
        self.sequence.prompt_tokens + self.produced
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.private + self.held.len() as u32
    }

    /// Returns whether the step under way draws one token from a finished prefill.
    pub(crate) fn decodes(&self) -> bool {
        self.scheduled == 1 && self.produced > 0 && self.computed + 1 == self.tokens()
    }

    pub(crate) fn remaining(&self) -> u32 {
        self.sequence.output_tokens - self.produced
    }

    pub(crate) fn waiting_key(&self, place: u32) -> (i64, u64, u32) {
        (self.sequence.priority, self.order, place)
    }
}

impl Engine {
    /// Returns an idle engine whose steps take `cost`. Counts of zero are taken as one, and
    /// `max_model_len` as no longer than the whole cache.
    pub fn new(config: EngineConfig, cost: impl Into<StepCost>) -> Self {
        let config = config.sound();
        Self {
            config,
            cost: cost.into(),
            meter: None,
            now: Picos::ZERO,
            run: None,
            slots: Vec::new(),
            vacant: Vec::new(),
            places: IndexMap::default(),
            running: Vec::new(),
            waiting: BTreeSet::new(),
            arrivals: 0,
            idle_until: Picos::ZERO,
            kept: BTreeSet::new(),
            reading: BTreeSet::new(),
            received: BTreeSet::new(),
            link_free: Picos::ZERO,
            blocks: Blocks::new(config.num_blocks),
            counters: Gauges { num_blocks: config.num_blocks, ..Gauges::default() },
        }
    }

    /// Keeps from now on what steps have to do, by operator, if their cost tells that.
    pub fn meter(&mut self) {
        self.meter.get_or_insert_default();
    }

    /// Returns what the steps have had to do since [`Engine::meter`]; all zero before.
    pub fn metered(&self) -> Work {
        self.meter.as_deref().copied().unwrap_or_default()
    }

    /// Returns the settings, as they were made sound.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Lets steps that begin from now on cost `cost`.
    pub fn set_cost(&mut self, cost: impl Into<StepCost>) {
        self.cost = cost.into();
        let now = self.now;
        if let Some(run) = &mut self.run {
            run.cut(now);
        }
    }

    /// Takes a sequence; it joins the batch at the next step that has room for it.
    ///
    /// # Errors
    /// If it is empty, too long, not the only one of its id, or the queue is full.
    pub fn submit(&mut self, mut sequence: Sequence, now: Timestamp) -> Result<(), Rejection> {
        let now = Picos::until(now);
        let (id, most) = (sequence.id, self.config.max_model_len);
        let tokens = u64::from(sequence.prompt_tokens) + u64::from(sequence.output_tokens);
        if sequence.prompt_tokens == 0 {
            return Err(Rejection::Empty);
        }
        if tokens > u64::from(most) {
            return Err(Rejection::TooLong { tokens, most });
        }
        if self.places.contains_key(&id) {
            return Err(Rejection::Duplicate { id });
        }
        if let Some(most) = self.config.max_num_queued_reqs
            && self.waiting.len() >= most as usize
        {
            return Err(Rejection::QueueFull { most });
        }
        sequence.prefix_blocks.truncate((sequence.prompt_tokens / self.config.block_size) as usize);
        if self.config.scheduling_policy == crate::Policy::Fcfs {
            sequence.priority = 0;
        }
        self.arrivals += 1;
        let transfer = match sequence.leg {
            Leg::Decode(transfer) => Some(transfer),
            Leg::Whole | Leg::Prefill => None,
        };
        let slot = Slot {
            sequence,
            arrived: now,
            order: self.arrivals,
            produced: 0,
            computed: 0,
            scheduled: 0,
            private: 0,
            held: Vec::new(),
            hashed: 0,
            cached: None,
            transfer,
            timer: Picos::ZERO,
        };
        let place = match self.vacant.pop() {
            Some(place) => place,
            None => self.slots.len() as u32,
        };
        self.waiting.insert(slot.waiting_key(place));
        match self.slots.get_mut(place as usize) {
            Some(vacant) => *vacant = slot,
            None => self.slots.push(slot),
        }
        self.places.insert(id, place);
        self.wake(now);
        Ok(())
    }

    /// Looks again at what waits after the step under way; an idle engine at once.
    pub(crate) fn wake(&mut self, now: Picos) {
        self.idle_until = self.idle_until.min(now);
        if let Some(run) = &mut self.run {
            run.cut(now);
        }
    }

    /// Drops a sequence at once, whatever it is doing; the step under way takes its time all the
    /// same. Returns whether there was one that had not ended.
    pub fn abort(&mut self, id: u64, now: Timestamp) -> bool {
        let Some(&place) = self.places.get(&id) else { return false };
        let slot = &self.slots[place as usize];
        let (key, timer) = (slot.waiting_key(place), (slot.timer, place));
        if self.kept.contains(&timer) {
            return false;
        }
        self.wake(Picos::until(now));
        let apart =
            self.waiting.remove(&key) || self.received.remove(&key) || self.reading.remove(&timer);
        if !apart {
            self.running.retain(|running| *running != place);
        }
        if !planted::is(Bug::BlocksKept) {
            self.release(place);
        }
        self.vacate(place);
        true
    }

    /// Returns when something can happen next: the end of the step under way (of the run, when
    /// leaping), or what wakes an idle engine: an arrival, the end of a read or of a lease; `None`
    /// when there is nothing to come.
    pub fn next_boundary(&self) -> Option<Timestamp> {
        match &self.run {
            Some(run) => Some(run.end_of(run.steps).timestamp()),
            None => self.next_start().map(Picos::timestamp),
        }
    }

    /// Lets everything happen that happens up to and at `to`, and appends it to `events`.
    pub fn advance(&mut self, to: Timestamp, events: &mut Vec<Event>) {
        let to = Picos::until(to);
        loop {
            if let Some(run) = self.run {
                let ended = run.ended_by(to);
                if ended > run.done {
                    self.complete(run, ended, events);
                }
                if ended < run.steps {
                    return;
                }
                self.now = run.end_of(run.steps);
                self.run = None;
            }
            match self.next_start() {
                Some(start) if start <= to => {
                    self.now = start;
                    self.settle(events);
                    self.run = self.schedule(events);
                    if self.run.is_none() {
                        self.idle_until = self.next_timer().unwrap_or(Picos::MAX);
                    }
                }
                _ => return,
            }
        }
    }

    /// Returns what the engine shows of itself.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            running: self.running.len() as u32,
            waiting: (self.waiting.len() + self.reading.len() + self.received.len()) as u32,
            used_blocks: self.blocks.used(),
            ..self.counters
        }
    }

    /// Forgets all stored prompt blocks that no sequence holds.
    pub fn reset_prefix_cache(&mut self) {
        self.blocks.forget_unheld();
    }

    /// Returns when the next step can begin, given that none is under way.
    fn next_start(&self) -> Option<Picos> {
        if !self.running.is_empty() {
            return Some(self.now);
        }
        // Preempted ones arrived long ago; only an idle engine looks at arrivals at all.
        let arrivals = self.waiting.iter().map(|&(_, _, place)| self.slots[place as usize].arrived);
        let begin = arrivals.min().map(|arrived| arrived.max(self.idle_until));
        let next = begin.into_iter().chain(self.next_timer()).min();
        let next = if self.received.is_empty() { next } else { Some(self.now) };
        next.map(|next| next.max(self.now))
    }

    /// Gives out the tokens of the steps of `run` up to step `ended`.
    fn complete(&mut self, run: Run, ended: u64, events: &mut Vec<Event>) {
        let steps = (ended - run.done) as u32;
        if let (Some(meter), StepCost::Operators(cost)) = (&mut self.meter, &self.cost) {
            cost.add_run(&run.first, run.near, run.done..ended, meter);
        }
        let at = run.end_of(ended);
        self.counters.steps += u64::from(steps);
        self.counters.busy += run.end_of(ended) - run.end_of(run.done);
        if run.steps > 1 {
            self.make_room((run.steps.min(ended + 1) - run.done) as u32);
        }
        let mut running = std::mem::take(&mut self.running);
        running.retain(|&place| !self.complete_one(place, steps, at, events));
        if ended == run.steps {
            running.iter().for_each(|&place| self.slots[place as usize].scheduled = 0);
        }
        self.running = running;
        if let Some(run) = &mut self.run {
            run.done = ended;
        }
    }

    /// Takes the blocks that the batch needs for `steps` more decode steps; the plan of the run has
    /// seen to it that they can be had.
    fn make_room(&mut self, steps: u32) {
        for &place in &self.running {
            let slot = &mut self.slots[place as usize];
            let mut need = (slot.computed + steps).div_ceil(self.config.block_size) - slot.blocks();
            if planted::is(Bug::BlockTooFew) {
                need = need.saturating_sub(1);
            }
            slot.private += need;
            self.blocks.take(need);
        }
    }

    /// Gives out the tokens of `steps` steps of one sequence, and returns whether it has ended.
    fn complete_one(&mut self, place: u32, steps: u32, at: Picos, events: &mut Vec<Event>) -> bool {
        let slot = &mut self.slots[place as usize];
        if slot.scheduled == 0 {
            return false;
        }
        let id = slot.sequence.id;
        slot.computed += slot.scheduled * steps;
        if slot.computed < slot.tokens() {
            return false;
        }
        let mut event = |kind| events.push(Event { id, at: at.timestamp(), kind });
        if slot.produced == 0 {
            self.counters.prompt_tokens += u64::from(slot.sequence.prompt_tokens);
        }
        if slot.remaining() > 0 {
            event(match slot.produced {
                0 => EventKind::FirstToken { cached: slot.cached.unwrap_or(0) },
                _ => EventKind::Tokens(steps),
            });
            slot.produced += steps;
            self.counters.generation_tokens += u64::from(steps);
        }
        if slot.remaining() > 0 {
            return false;
        }
        event(EventKind::Finished);
        self.counters.finished += 1;
        if slot.sequence.leg == Leg::Prefill {
            self.keep(place, at);
        } else {
            self.release(place);
            self.vacate(place);
        }
        true
    }

    /// Gives back all blocks of a sequence, the last ones first, so that the front of a prompt,
    /// which others are likeliest to share, is dropped last.
    pub(crate) fn release(&mut self, place: u32) {
        let slot = &mut self.slots[place as usize];
        self.blocks.give_back(std::mem::take(&mut slot.private));
        for held in slot.held.drain(..).rev() {
            self.blocks.let_go(held);
        }
        (slot.computed, slot.scheduled, slot.hashed) = (0, 0, 0);
    }

    pub(crate) fn vacate(&mut self, place: u32) {
        self.places.swap_remove(&self.slots[place as usize].sequence.id);
        self.vacant.push(place);
    }
}
