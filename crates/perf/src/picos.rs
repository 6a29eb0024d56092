//! Whole picoseconds: the time inside engines.
//!
//! Integers, so that adding a run of steps one by one and all at once gives the same result, and
//! so fine that a cost per KV token of some ten nanoseconds keeps four digits.

use std::ops::{Add, AddAssign, Mul, Sub};
use std::time::Duration;

use sagellm_types::Timestamp;
use serde::{Deserialize, Serialize};

/// A time or a stretch of time, in picoseconds: up to 213 days. Arithmetic saturates.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Picos(pub u64);

impl Picos {
    /// No time.
    pub const ZERO: Self = Self(0);
    /// Longer than everything.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns `nanos` nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos.saturating_mul(1_000))
    }

    /// Returns `micros` microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000_000))
    }

    /// Returns `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000_000))
    }

    /// Returns the picoseconds nearest to `secs` seconds; zero if that is negative or not a number.
    pub fn from_secs_f64(secs: f64) -> Self {
        Self((secs * 1e12 + 0.5) as u64)
    }

    /// Returns the seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 * 1e-12
    }

    /// Returns the nanoseconds.
    pub fn as_nanos_f64(self) -> f64 {
        self.0 as f64 * 1e-3
    }

    /// Returns the duration, rounded up to nanoseconds so that nothing happens too early.
    pub const fn duration(self) -> Duration {
        Duration::from_nanos(self.0.div_ceil(1_000))
    }

    /// Returns the point in time that lies this far after the start, rounded up to nanoseconds.
    pub const fn timestamp(self) -> Timestamp {
        Timestamp::from_nanos(self.0.div_ceil(1_000))
    }

    /// Returns the time from the start to `at`.
    pub const fn until(at: Timestamp) -> Self {
        Self::from_nanos(at.as_nanos())
    }
}

impl Add for Picos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Picos {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Picos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<u64> for Picos {
    type Output = Self;
    fn mul(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

/// Returns the nanoseconds of `duration`.
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_secs() as f64 * 1e9 + f64::from(duration.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_round_up_and_come_back() {
        assert_eq!(Picos(1_001).timestamp(), Timestamp::from_nanos(2));
        assert_eq!(Picos::until(Timestamp::from_nanos(2)), Picos(2_000));
        assert_eq!(Picos::from_secs_f64(-1.0), Picos::ZERO);
        assert_eq!(Picos::from_secs_f64(1e-9), Picos(1_000));
    }
}
