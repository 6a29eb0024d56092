//! What is due when.
//!
//! Deadlines of waiting requests can be withdrawn and live in an indexed heap; everything else is
//! rare and is checked when it fires.

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
    /// A probe.
    Probe(InstanceId),
    /// A pool whose strategy wanted to wait.
    Wake(PoolId),
    /// A look at how hard the fleet is pressed.
    Pressure,
}

/// All timers.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    deadlines: IndexedHeap<(Timestamp, u32)>,
    places: Places,
    others: BinaryHeap<Reverse<(Timestamp, u64, Timer)>>,
    set: u64,
}

impl Timers {
    /// Gives a waiting request until `at`.
    pub(super) fn set_deadline(&mut self, request: RequestId, at: Timestamp) {
        let slot = request.index() as u32;
        self.deadlines.push((at, request.generation()), slot, &mut self.places);
    }

    /// Withdraws the deadline of a request, if it has one.
    pub(super) fn clear_deadline(&mut self, request: RequestId) {
        let slot = request.index() as u32;
        if self.places.contains(slot) {
            self.deadlines.remove(slot, &mut self.places);
        }
    }

    /// Returns a request whose deadline has come, and withdraws it.
    pub(super) fn expired(&mut self, now: Timestamp) -> Option<RequestId> {
        let ((at, generation), slot) = self.deadlines.peek()?;
        (at <= now).then(|| {
            self.deadlines.remove(slot, &mut self.places);
            RequestId::new(slot, generation)
        })
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
        let deadline = self.deadlines.peek().map(|((at, _), _)| at);
        let other = self.others.peek().map(|Reverse((at, _, _))| *at);
        match (deadline, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}
