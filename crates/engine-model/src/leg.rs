//! Prefill on one engine, decode on another: KV blocks that wait to be read, and reads under way.
//!
//! The rules are those of vLLM's NIXL connector: the prefill engine keeps the blocks of a prompt
//! until they have been read or their lease has run out; the decode engine reserves the blocks, reads
//! what its own prefix cache lacks, computes the last prompt token again and goes on from there. An
//! engine has no fixed role: each sequence says which part of its request it is.

use std::collections::BTreeSet;

use sagellm_perf::{Dtype, Link, ModelSpec, Picos};
use sagellm_types::Timestamp;

use crate::engine::Engine;
use crate::{Event, EventKind};

/// Which part of a request a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Leg {
    /// All of it.
    #[default]
    Whole,
    /// Its prefill: after its last token (its first, usually) the blocks stay for another engine,
    /// until [`Engine::handed_over`] or the end of their lease.
    Prefill,
    /// Its decode: the keys and values of the prompt are read from another engine.
    Decode(Transfer),
}

/// How long reading keys and values from another engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Transfer {
    /// What passes before the first block comes.
    pub latency: Picos,
    /// What each block takes. An engine reads one prompt after the other: they share its link.
    pub per_block: Picos,
}

impl Transfer {
    /// Returns the time over `link` of blocks of `block_size` tokens of `model`, kept in `kv`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sagellm_engine_model::Transfer;
    /// use sagellm_perf::{Dtype, Link, ModelSpec, Picos};
    ///
    /// // 131,072 bytes per token, over 400 Gbit/s.
    /// let model = ModelSpec::named("llama-3.1-8b").unwrap();
    /// let link = Link { bytes_per_second: 50e9, latency: Duration::from_micros(10) };
    /// let transfer = Transfer::over(&link, &model, Dtype::Bf16, 16);
    /// assert_eq!((transfer.latency, transfer.per_block), (Picos(10_000_000), Picos(41_943_040)));
    /// ```
    pub fn over(link: &Link, model: &ModelSpec, kv: Dtype, block_size: u32) -> Self {
        let seconds = link.kv_seconds(model, kv, u64::from(block_size));
        Self {
            latency: Picos::from_secs_f64(link.latency.as_secs_f64()),
            per_block: Picos::from_secs_f64(seconds),
        }
    }
}

impl Engine {
    /// Tells that the blocks kept for another engine under `id` have been read; they are free from
    /// now on. Returns whether there were any: their lease may have run out.
    pub fn handed_over(&mut self, id: u64, now: Timestamp) -> bool {
        let Some(&place) = self.places.get(&id) else { return false };
        if !self.kept.remove(&(self.slots[place as usize].timer, place)) {
            return false;
        }
        self.release(place);
        self.vacate(place);
        self.wake(Picos::until(now));
        true
    }

    /// Keeps the blocks of a sequence that has ended for another engine.
    pub(crate) fn keep(&mut self, place: u32, at: Picos) {
        let expiry = at + Picos::from_millis(self.config.kv_lease_ms);
        self.slots[place as usize].timer = expiry;
        self.kept.insert((expiry, place));
    }

    /// Returns when the next lease runs out or the next read ends, whichever is first.
    pub(crate) fn next_timer(&self) -> Option<Picos> {
        let first = |timers: &BTreeSet<(Picos, u32)>| timers.first().map(|timer| timer.0);
        first(&self.kept).into_iter().chain(first(&self.reading)).min()
    }

    /// Drops the blocks whose lease has run out, and lets sequences whose keys and values have come
    /// join the batch.
    pub(crate) fn settle(&mut self, events: &mut Vec<Event>) {
        while let Some(&(expiry, place)) = self.kept.first()
            && expiry <= self.now
        {
            self.kept.pop_first();
            self.counters.leases_expired += 1;
            self.release(place);
            self.vacate(place);
        }
        while let Some(&(ready, place)) = self.reading.first()
            && ready <= self.now
        {
            self.reading.pop_first();
            let slot = &self.slots[place as usize];
            self.received.insert(slot.waiting_key(place));
            let id = slot.sequence.id;
            events.push(Event { id, at: self.now.timestamp(), kind: EventKind::Received });
        }
    }

    /// Begins to read what the prefix cache lacks of a prompt, into `need` new blocks, after what is
    /// being read already.
    pub(crate) fn read(&mut self, place: u32, transfer: Transfer, need: u32) {
        self.blocks.take(need);
        let begin = self.link_free.max(self.now);
        self.link_free = begin + transfer.per_block * u64::from(need);
        let ready = self.link_free + transfer.latency;
        let slot = &mut self.slots[place as usize];
        slot.private += need;
        self.counters.received_tokens += u64::from(slot.sequence.prompt_tokens - slot.computed);
        // The last token is computed again, so that there is something to draw from.
        slot.computed = slot.sequence.prompt_tokens - 1;
        slot.cached = Some(slot.computed);
        slot.transfer = None;
        slot.timer = ready;
        self.reading.insert((ready, place));
    }
}
