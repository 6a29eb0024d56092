//! Figures over the last minute and since the start, without a clock.
//!
//! Time comes with the events. Twelve slots of five seconds make the window; a slot that is over
//! is never changed again, so a reader shares it instead of copying it, and merges outside of the
//! writer's lock. One record touches one slot; the total since the start is merged once per slot.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sagellm_types::Timestamp;

/// How long one slot lasts.
pub const SLOT: Duration = Duration::from_secs(5);
/// Slots in the window, the one that is being filled included.
pub const SLOTS: u64 = 12;

/// Over which time a figure is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The last minute: eleven full slots of five seconds and the one that is being filled.
    Window,
    /// Since the start.
    Start,
}

impl Span {
    /// Returns how much time the span covers at `now`, if everything began at `start`.
    pub fn length(self, start: Timestamp, now: Timestamp) -> Duration {
        match self {
            Self::Window => now.since(start.max(slot_start(oldest(slot_of(now))))),
            Self::Start => now.since(start),
        }
    }
}

/// What can be kept per slot and added up.
pub trait Summary: Clone + Default {
    /// Adds what `other` holds.
    fn merge(&mut self, other: &Self);
    /// Forgets everything; keeps memory where it can.
    fn clear(&mut self);
}

/// A summary since the start and over the window.
#[derive(Clone, Debug, Default)]
pub struct Rolling<T> {
    slot: u64,
    /// When the slot is over.
    until: Timestamp,
    current: Current<T>,
    /// Slots of the window that are over, the oldest first; shared as a whole with readers.
    closed: Arc<VecDeque<(u64, Arc<T>)>>,
    /// All slots that are over, since the start.
    total: Arc<T>,
}

/// The slot that is being filled. A record must not pay for readers that may come: only the first
/// one after a reader came looks whether it is still there.
#[derive(Clone, Debug)]
enum Current<T> {
    Own(Box<T>),
    Shared(Arc<T>),
}

impl<T: Default> Default for Current<T> {
    fn default() -> Self {
        Self::Own(Box::default())
    }
}

impl<T: Summary> Current<T> {
    fn own(&mut self) -> &mut T {
        if let Self::Shared(_) = self
            && let Self::Shared(shared) = std::mem::take(self)
        {
            *self = Self::Own(Box::new(Arc::unwrap_or_clone(shared)));
        }
        match self {
            Self::Own(own) => own,
            Self::Shared(_) => unreachable!("it was taken back"),
        }
    }

    fn into_shared(self) -> Arc<T> {
        match self {
            Self::Own(own) => Arc::from(own),
            Self::Shared(shared) => shared,
        }
    }

    fn share(&mut self) -> Arc<T> {
        let shared = std::mem::take(self).into_shared();
        *self = Self::Shared(Arc::clone(&shared));
        shared
    }
}

impl<T> AsRef<T> for Current<T> {
    fn as_ref(&self) -> &T {
        match self {
            Self::Own(own) => own,
            Self::Shared(shared) => shared,
        }
    }
}

impl<T: Summary> Rolling<T> {
    /// Returns the summary to record into at `now`. An event from before the current slot is
    /// recorded into the current one. Cost: O(1); O(size of the summary) once per slot, and when a
    /// reader still holds the current slot.
    pub fn at(&mut self, now: Timestamp) -> &mut T {
        if now >= self.until {
            self.advance(now);
        }
        self.current.own()
    }

    /// Returns what was recorded until now, for a reader. Cost: O(1), and nothing is copied unless
    /// it still lives at the next record.
    pub fn share(&mut self) -> Self {
        Self {
            slot: self.slot,
            until: self.until,
            current: Current::Shared(self.current.share()),
            closed: Arc::clone(&self.closed),
            total: Arc::clone(&self.total),
        }
    }

    /// Returns a merged copy of what was recorded over `span`, seen at `now`.
    pub fn read(&self, span: Span, now: Timestamp) -> T {
        let mut sum = T::default();
        self.add_to(&mut sum, span, now);
        sum
    }

    /// Adds what was recorded over `span`, seen at `now`, to `sum`.
    pub fn add_to(&self, sum: &mut T, span: Span, now: Timestamp) {
        let oldest = oldest(slot_of(now));
        match span {
            Span::Start => sum.merge(&self.total),
            Span::Window => {
                for (_, closed) in self.closed.iter().filter(|(slot, _)| *slot >= oldest) {
                    sum.merge(closed);
                }
            }
        }
        if span == Span::Start || self.slot >= oldest {
            sum.merge(self.current.as_ref());
        }
    }

    fn advance(&mut self, now: Timestamp) {
        let slot = slot_of(now);
        Arc::make_mut(&mut self.total).merge(self.current.as_ref());
        let closed = Arc::make_mut(&mut self.closed);
        let mut fresh = Current::default();
        while closed.front().is_some_and(|(old, _)| *old < oldest(slot)) {
            // The memory of a slot that leaves the window serves the next one.
            if let Some(mut old) = closed.pop_front().and_then(|(_, old)| Arc::into_inner(old)) {
                old.clear();
                fresh = Current::Own(Box::new(old));
            }
        }
        let done = std::mem::replace(&mut self.current, fresh);
        if self.slot >= oldest(slot) {
            closed.push_back((self.slot, done.into_shared()));
        }
        (self.slot, self.until) = (slot, slot_start(slot + 1));
    }
}

/// Returns the number of the slot into which `now` falls.
pub(crate) fn slot_of(now: Timestamp) -> u64 {
    now.as_nanos() / SLOT.as_nanos() as u64
}

/// Returns when a slot begins.
pub(crate) fn slot_start(slot: u64) -> Timestamp {
    Timestamp::from_nanos(slot.saturating_mul(SLOT.as_nanos() as u64))
}

/// Returns the oldest slot of the window whose last slot is `slot`.
pub(crate) fn oldest(slot: u64) -> u64 {
    slot.saturating_sub(SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Count(u64);
    impl Summary for Count {
        fn merge(&mut self, other: &Self) {
            self.0 += other.0;
        }
        fn clear(&mut self) {
            self.0 = 0;
        }
    }

    fn check(rolling: &Rolling<Count>, now: u64, window: u64, start: u64) {
        let now = Timestamp::from_secs(now);
        assert_eq!(rolling.read(Span::Window, now).0, window, "window at {now:?}");
        assert_eq!(rolling.read(Span::Start, now).0, start, "since start at {now:?}");
    }

    #[test]
    fn what_is_older_than_a_minute_leaves_the_window_and_stays_in_the_total() {
        let mut rolling = Rolling::<Count>::default();
        for second in 0..100 {
            rolling.at(Timestamp::from_secs(second)).0 += 1;
        }
        // At 99 s the window reaches back to 40 s: twelve slots, the last one full.
        check(&rolling, 99, 60, 100);
        check(&rolling, 120, 35, 100);
        check(&rolling, 1000, 0, 100);
        rolling.at(Timestamp::from_secs(1000)).0 += 1;
        check(&rolling, 1000, 1, 101);
    }

    #[test]
    fn a_late_event_is_not_lost() {
        let mut rolling = Rolling::<Count>::default();
        rolling.at(Timestamp::from_secs(50)).0 += 1;
        rolling.at(Timestamp::from_secs(3)).0 += 1;
        check(&rolling, 50, 2, 2);
    }

    #[test]
    fn what_a_reader_holds_stays_as_it_was_when_the_original_goes_on() {
        let mut rolling = Rolling::<Count>::default();
        rolling.at(Timestamp::ZERO).0 += 1;
        let copy = rolling.share();
        rolling.at(Timestamp::ZERO).0 += 1;
        check(&copy, 0, 1, 1);
        check(&rolling.share(), 0, 2, 2);
        for second in 1..200 {
            rolling.at(Timestamp::from_secs(second)).0 += 1;
        }
        check(&copy, 0, 1, 1);
        check(&rolling, 199, 60, 201);
    }

    #[test]
    fn the_window_is_as_long_as_the_time_since_the_start_until_it_is_full() {
        let (start, at) = (Timestamp::from_secs(2), Timestamp::from_secs);
        assert_eq!(Span::Window.length(start, at(12)), Duration::from_secs(10));
        assert_eq!(Span::Window.length(start, at(103)), Duration::from_secs(58));
        assert_eq!(Span::Start.length(start, at(103)), Duration::from_secs(101));
    }
}
