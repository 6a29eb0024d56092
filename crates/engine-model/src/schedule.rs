//! What the next step computes: vLLM's V1 scheduler (`v1/core/sched/scheduler.py`).
//!
//! Sequences in the batch come first, each with the token that it lacks or the next chunk of its
//! prompt; what is left of the token budget goes to waiting ones, in order, until one does not fit.
//! When a sequence in the batch finds no block, the newest (under `priority`: the least urgent)
//! loses all of its own and waits to be computed again; in such a step nobody joins. A sequence whose
//! prompt is read from another engine ([`Leg`](crate::Leg)) takes its blocks in its turn, and joins
//! before all others once they have been filled.
//! Not modelled: encoder budgets, speculative tokens, LoRA limits, asynchronous scheduling.

use sagellm_perf::{Batch, Picos};

use crate::engine::Engine;
use crate::run::Run;
use crate::{Event, EventKind, Pace, Policy};

/// Why no further waiting sequence joined the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// None waits that has arrived.
    NoneWaits,
    /// Others were preempted in this step.
    Preempted,
    /// Tokens or seats are used up; that stays so while the batch stays.
    Full,
    /// Its blocks are not to be had.
    NoBlocks,
}

impl Engine {
    /// Chooses what is computed from now on, and for how many steps.
    ///
    /// `None` if nothing can be: what waits finds no blocks, because they are kept for other engines
    /// or being filled by them.
    pub(crate) fn schedule(&mut self, events: &mut Vec<Event>) -> Option<Run> {
        let mut budget = self.config.max_num_batched_tokens;
        let preempted = self.schedule_running(&mut budget, events);
        let stop = match preempted && !self.running.is_empty() {
            true => Stop::Preempted,
            false => self.admit(&mut budget),
        };
        if self.running.is_empty() {
            return None;
        }
        let (first, near, until) = self.batch();
        let steps = match self.config.pace {
            Pace::Step => 1,
            Pace::Leap => self.leap(&first, stop).min(until),
        };
        let time = self.cost.run(&first, near);
        let mut run = Run { start: self.now, time, first, near, steps, done: 0 };
        if let Some(timer) = self.next_timer() {
            // What ends with a step is seen before the next one begins.
            run.cut(timer - Picos(1));
        }
        Some(run)
    }

    /// Gives the sequences in the batch their tokens; returns whether any had to be preempted.
    fn schedule_running(&mut self, budget: &mut u32, events: &mut Vec<Event>) -> bool {
        let mut preempted = false;
        let mut next = 0;
        while next < self.running.len() && *budget > 0 {
            let place = self.running[next];
            let slot = &self.slots[place as usize];
            let tokens = (slot.tokens() - slot.computed).min(*budget).min(self.config.chunk());
            let need = (slot.computed + tokens).div_ceil(self.config.block_size) - slot.blocks();
            let mut kept = true;
            while kept && need > self.blocks.available() {
                let victim = self.victim();
                *budget += self.preempt(victim, events);
                preempted = true;
                kept = victim != next;
                next -= usize::from(victim < next);
            }
            if !kept {
                break;
            }
            self.give(place, tokens, need);
            *budget -= tokens;
            next += 1;
        }
        preempted
    }

    /// Returns the place in the batch of the sequence that others may push out.
    fn victim(&self) -> usize {
        let last = self.running.len() - 1;
        match self.config.scheduling_policy {
            Policy::Fcfs => last,
            Policy::Priority => (0..=last)
                .max_by_key(|&i| {
                    let slot = &self.slots[self.running[i] as usize];
                    (slot.sequence.priority, slot.order)
                })
                .expect("a sequence that finds no block is in the batch"),
        }
    }

    /// Sends a sequence of the batch back to wait; returns the tokens that it had in this step.
    fn preempt(&mut self, victim: usize, events: &mut Vec<Event>) -> u32 {
        let place = self.running.remove(victim);
        let slot = &self.slots[place as usize];
        let (scheduled, id) = (slot.scheduled, slot.sequence.id);
        self.waiting.insert((slot.sequence.priority, slot.order, place));
        self.release(place);
        self.counters.preemptions += 1;
        events.push(Event { id, at: self.now.timestamp(), kind: EventKind::Preempted });
        scheduled
    }

    /// Lets waiting sequences join the batch, in order, until one does not fit.
    fn admit(&mut self, budget: &mut u32) -> Stop {
        let block_size = self.config.block_size;
        let seats = self.config.max_num_seqs as usize;
        while let Some(&(_, _, place)) = self.received.first() {
            if *budget == 0 || self.running.len() >= seats {
                return Stop::Full;
            }
            self.received.pop_first();
            self.running.push(place);
            self.give(place, 1, 0);
            *budget -= 1;
        }
        while let Some(&key) = self.waiting.first() {
            let place = key.2;
            let slot = &self.slots[place as usize];
            if slot.arrived > self.now {
                return Stop::NoneWaits;
            }
            if *budget == 0 || self.running.len() >= seats {
                return Stop::Full;
            }
            // At least the last token is computed, so that there is something to draw from.
            let whole = ((slot.tokens() - 1) / block_size) as usize;
            let hashes = &slot.sequence.prefix_blocks;
            let hashes = &hashes[..hashes.len().min(whole)];
            let (found, unheld) = match self.config.enable_prefix_caching {
                true => self.blocks.find(hashes),
                false => (0, 0),
            };
            let hit = found * block_size;
            let transfer = slot.transfer;
            let tokens = match transfer {
                None => (slot.tokens() - hit).min(*budget).min(self.config.chunk()),
                Some(_) => slot.tokens() - hit,
            };
            let need = (hit + tokens).div_ceil(block_size) - found;
            if need + unheld > self.blocks.available() {
                return Stop::NoBlocks;
            }
            self.waiting.pop_first();
            self.reuse(place, found);
            if let Some(transfer) = transfer {
                self.read(place, transfer, need);
                continue;
            }
            self.running.push(place);
            self.give(place, tokens, need);
            *budget -= tokens;
        }
        Stop::NoneWaits
    }

    /// Lets a sequence hold the first `found` blocks of its prompt, which are stored.
    fn reuse(&mut self, place: u32, found: u32) {
        let slot = &mut self.slots[place as usize];
        for hash in &slot.sequence.prefix_blocks[..found as usize] {
            slot.held.push(self.blocks.hold(*hash).expect("it has just been found"));
        }
        slot.computed = found * self.config.block_size;
        slot.hashed = found;
        if slot.cached.is_none() {
            slot.cached = Some(slot.computed);
            if self.config.enable_prefix_caching {
                self.counters.prefix_queries += u64::from(slot.sequence.prompt_tokens);
                self.counters.prefix_hits += u64::from(slot.computed);
            }
        }
    }

    /// Lets the step compute `tokens` of a sequence in `need` new blocks, and stores those of its
    /// prompt that will be full. (vLLM too stores them when it schedules, not when they are ready,
    /// so that sequences which begin together share their prefix.)
    fn give(&mut self, place: u32, tokens: u32, need: u32) {
        self.blocks.take(need);
        let slot = &mut self.slots[place as usize];
        slot.private += need;
        slot.scheduled = tokens;
        if !self.config.enable_prefix_caching {
            return;
        }
        let full = (slot.computed + tokens) / self.config.block_size;
        let full = full.min(slot.sequence.prefix_blocks.len() as u32);
        while slot.hashed < full {
            let hash = slot.sequence.prefix_blocks[slot.hashed as usize];
            if let Some(stored) = self.blocks.store(hash) {
                slot.private -= 1;
                slot.held.push(stored);
            }
            slot.hashed += 1;
        }
    }

    /// Returns what the step that has just been scheduled processes, how many of its decoding
    /// sequences still see less than the window of short-sighted layers, and for how many steps
    /// that stays so.
    fn batch(&self) -> (Batch, u64, u64) {
        let window = self.cost.window();
        let (mut batch, mut near, mut until) = (Batch::EMPTY, 0, u64::MAX);
        for &place in &self.running {
            let slot = &self.slots[place as usize];
            if slot.decodes() {
                let tokens = u64::from(slot.tokens());
                batch.decode_sequences += 1;
                batch.kv_tokens += tokens;
                batch.window_tokens += tokens.min(window);
                if tokens < window {
                    near += 1;
                    until = until.min(window - tokens);
                }
            } else {
                let (chunk, before) = (u64::from(slot.scheduled), u64::from(slot.computed));
                batch.prefill_tokens += chunk;
                batch.prefill_sequences += u64::from(chunk > 0);
                batch.prefill_pairs += chunk * before + chunk * (chunk + 1) / 2;
                batch.completing += u64::from(slot.computed + slot.scheduled == slot.tokens());
            }
        }
        (batch, near, until)
    }

    /// Returns for how many steps the batch stays as it is: until one ends, a block is missing, or
    /// somebody could join.
    fn leap(&self, first: &Batch, stop: Stop) -> u64 {
        let all_decode = first.decode_sequences == self.running.len() as u64;
        // A sequence that has not arrived yet may cut the run at any step.
        let may_join =
            stop == Stop::Preempted || (stop == Stop::NoneWaits && !self.waiting.is_empty());
        if !all_decode || may_join {
            return 1;
        }
        let slots = || self.running.iter().map(|&place| &self.slots[place as usize]);
        let longest = slots().map(|slot| slot.remaining()).min().unwrap_or(1).max(1);
        // Dropping stored blocks might shorten what a blocked sequence would reuse, and so let it in.
        let limit = match stop {
            Stop::NoBlocks => self.blocks.unused(),
            _ => self.blocks.available(),
        };
        let fits = |steps: u32| {
            let need = slots().map(|slot| {
                u64::from((slot.computed + steps).div_ceil(self.config.block_size) - slot.blocks())
            });
            need.sum::<u64>() <= u64::from(limit)
        };
        if fits(longest) {
            return u64::from(longest);
        }
        let (mut good, mut bad) = (1, longest);
        while good + 1 < bad {
            let middle = good + (bad - good) / 2;
            if fits(middle) { good = middle } else { bad = middle }
        }
        u64::from(good)
    }
}
