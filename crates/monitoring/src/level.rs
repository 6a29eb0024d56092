//! A quantity that changes at events and holds between them, such as the length of the queue:
//! its mean, weighted by time, and its peak, over the window and since the start.

use sagellm_types::Timestamp;

use crate::window::{SLOTS, Span, oldest, slot_of, slot_start};

/// A quantity that holds between changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Level {
    value: u64,
    start: Timestamp,
    changed: Timestamp,
    area: u128,
    peak: u64,
    /// The slot that `changed` falls into, by its place, and when it is over.
    current: usize,
    until: Timestamp,
    slots: [Slot; SLOTS as usize],
}

/// One slot of the window; `area` is in quantity × nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u64,
    area: u128,
    peak: u64,
}

impl Level {
    /// Returns a quantity that is zero from `start` on.
    pub fn new(start: Timestamp) -> Self {
        let mut level = Self { start, changed: start, ..Self::default() };
        level.enter(slot_of(start));
        level
    }

    /// Returns the quantity as it is.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Sets the quantity. Cost: O(slots since the last change), at most twelve.
    pub fn set(&mut self, value: u64, now: Timestamp) {
        self.hold_until(now);
        self.value = value;
        self.peak = self.peak.max(value);
        let slot = &mut self.slots[self.current];
        slot.peak = slot.peak.max(value);
    }

    /// Returns the mean over `span`, weighted by time; the quantity itself if no time has passed.
    pub fn mean(&self, span: Span, now: Timestamp) -> f64 {
        let seen = self.seen(now);
        let length = span.length(self.start, seen.changed).as_nanos();
        if length == 0 {
            return self.value as f64;
        }
        let area = match span {
            Span::Start => seen.area,
            Span::Window => seen.window().map(|slot| slot.area).sum(),
        };
        area as f64 / length as f64
    }

    /// Returns the peak over `span`.
    pub fn peak(&self, span: Span, now: Timestamp) -> u64 {
        let seen = self.seen(now);
        match span {
            Span::Start => seen.peak,
            Span::Window => seen.window().map(|slot| slot.peak).max().unwrap_or(0),
        }
    }

    fn seen(&self, now: Timestamp) -> Self {
        let mut seen = *self;
        seen.hold_until(now);
        seen
    }

    fn window(&self) -> impl Iterator<Item = &Slot> {
        let oldest = oldest(slot_of(self.changed));
        self.slots.iter().filter(move |slot| slot.number >= oldest)
    }

    fn hold_until(&mut self, now: Timestamp) {
        if now <= self.changed {
            return;
        }
        let value = self.value;
        let held = area(value, self.changed, now);
        self.area += held;
        if now < self.until {
            self.slots[self.current].area += held;
            self.changed = now;
            return;
        }
        let last = slot_of(now);
        for number in slot_of(self.changed).max(oldest(last))..=last {
            let from = slot_start(number).max(self.changed);
            let until = slot_start(number + 1).min(now);
            let slot = self.slot(number);
            slot.area += area(value, from, until);
            slot.peak = slot.peak.max(value);
        }
        self.changed = now;
        self.enter(last);
    }

    fn enter(&mut self, number: u64) {
        self.slot(number);
        (self.current, self.until) = ((number % SLOTS) as usize, slot_start(number + 1));
    }

    fn slot(&mut self, number: u64) -> &mut Slot {
        let slot = &mut self.slots[(number % SLOTS) as usize];
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot
    }
}

fn area(value: u64, from: Timestamp, until: Timestamp) -> u128 {
    u128::from(value) * u128::from(until.as_nanos() - from.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_weighted_by_time() {
        let mut level = Level::new(Timestamp::from_secs(10));
        level.set(4, Timestamp::from_secs(12));
        level.set(1, Timestamp::from_secs(18));
        // 2 s of 0, 6 s of 4 and 2 s of 1.
        let now = Timestamp::from_secs(20);
        assert_eq!(level.mean(Span::Window, now), 2.6);
        assert_eq!(level.mean(Span::Start, now), 2.6);
        assert_eq!(level.peak(Span::Window, now), 4);
    }

    #[test]
    fn an_old_peak_leaves_the_window() {
        let mut level = Level::new(Timestamp::ZERO);
        level.set(100, Timestamp::from_secs(1));
        level.set(2, Timestamp::from_secs(2));
        let now = Timestamp::from_secs(600);
        assert_eq!((level.peak(Span::Window, now), level.peak(Span::Start, now)), (2, 100));
        assert_eq!(level.mean(Span::Window, now), 2.0);
    }

    #[test]
    fn a_peak_of_no_duration_is_seen() {
        let mut level = Level::new(Timestamp::ZERO);
        level.set(7, Timestamp::from_secs(3));
        level.set(0, Timestamp::from_secs(3));
        assert_eq!(level.peak(Span::Window, Timestamp::from_secs(4)), 7);
        assert_eq!(level.mean(Span::Start, Timestamp::from_secs(4)), 0.0);
    }
}
