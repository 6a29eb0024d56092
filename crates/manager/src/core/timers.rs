//! What is due when.
//!
//! Deadlines of waiting requests can be withdrawn, and an instance has one probe ahead of it: both
//! live in indexed heaps. Everything else is rare and is checked when it fires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use sagellm_fleet::ChargeId;
use sagellm_strategies::queue::{IndexedHeap, Places, PoolId};
use sagellm_types::{InstanceId, RequestId, Timestamp};

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// An attempt that was given up is over at the engine by now.
    Release(ChargeId),
    /// A pool whose strategy wanted to wait.
    Wake(PoolId),
    /// A look at how hard the fleet is pressed.
    Pressure,
}

/// What is due for slots, one each: (when, generation) by slot.
#[derive(Clone, Debug, Default)]
struct Due {
    heap: IndexedHeap<(Timestamp, u32)>,
    places: Places,
}

impl Due {
    fn set(&mut self, slot: u32, generation: u32, at: Timestamp) {
        if self.places.contains(slot) {
            self.heap.update((at, generation), slot, &mut self.places);
        } else {
            self.heap.push((at, generation), slot, &mut self.places);
        }
    }

    fn clear(&mut self, slot: u32) {
        if self.places.contains(slot) {
            self.heap.remove(slot, &mut self.places);
        }
    }

    /// Returns when the first is due: never if there is none.
    fn next(&self) -> Timestamp {
        self.heap.peek().map_or(Timestamp::MAX, |((at, _), _)| at)
    }

    /// Takes out the slot and generation that came due first, if any has.
    fn pop(&mut self, now: Timestamp) -> Option<(u32, u32)> {
        let ((at, generation), slot) = self.heap.peek()?;
        (at <= now).then(|| {
            self.heap.remove(slot, &mut self.places);
            (slot, generation)
        })
    }
}

/// All timers.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    deadlines: Due,
    probes: Due,
    others: BinaryHeap<Reverse<(Timestamp, u64, Timer)>>,
    set: u64,
}

impl Timers {
    /// Gives a waiting request until `at`.
    pub(super) fn set_deadline(&mut self, request: RequestId, at: Timestamp) {
        self.deadlines.set(request.index() as u32, request.generation(), at);
    }

    /// Withdraws the deadline of a request, if it has one.
    pub(super) fn clear_deadline(&mut self, request: RequestId) {
        self.deadlines.clear(request.index() as u32);
    }

    /// Returns whether a deadline has come.
    pub(super) fn any_expired(&self, now: Timestamp) -> bool {
        self.deadlines.next() <= now
    }

    /// Returns a request whose deadline has come, and withdraws it.
    pub(super) fn expired(&mut self, now: Timestamp) -> Option<RequestId> {
        self.deadlines.pop(now).map(|(slot, generation)| RequestId::new(slot, generation))
    }

    /// Lets the next probe of an instance be due at `at` instead of when it was.
    pub(super) fn set_probe(&mut self, instance: InstanceId, at: Timestamp) {
        self.probes.set(instance.index() as u32, instance.generation(), at);
    }

    /// Returns an instance whose probe is due, and withdraws it.
    pub(super) fn probe_due(&mut self, now: Timestamp) -> Option<InstanceId> {
        self.probes.pop(now).map(|(slot, generation)| InstanceId::new(slot, generation))
    }

    /// Sets a timer.
    pub(super) fn set(&mut self, at: Timestamp, timer: Timer) {
        self.set += 1;
        self.others.push(Reverse((at, self.set, timer)));
    }

    /// Returns a timer that has come due.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Timer> {
        if self.others.peek()?.0.0 > now {
            return None;
        }
        self.others.pop().map(|Reverse((_, _, timer))| timer)
    }

    /// Returns when the next one is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let other = self.others.peek().map_or(Timestamp::MAX, |Reverse((at, _, _))| *at);
        let next = self.deadlines.next().min(self.probes.next()).min(other);
        (next < Timestamp::MAX).then_some(next)
    }
}
