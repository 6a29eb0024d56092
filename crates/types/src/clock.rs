//! The one clock that shells read, and the only place where the machine's time is asked for.
//!
//! Time scaling belongs here: model time = start + elapsed × speed. Deadlines, ageing, probes,
//! engine steps and arrivals all live in model time, so reports need no conversion.

use std::time::{Duration, Instant};

use crate::Timestamp;

/// A monotonic clock that may run faster or slower than the machine's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    speed: f64,
}

impl Clock {
    /// Returns a clock that starts now and runs at real speed.
    pub fn real() -> Self {
        Self::scaled(1.0)
    }

    /// Returns a clock that starts now and runs `speed` times as fast as the machine's.
    ///
    /// # Panics
    /// If `speed` is not a positive finite number.
    pub fn scaled(speed: f64) -> Self {
        assert!(speed.is_finite() && speed > 0.0, "a clock's speed is a positive number");
        Self { origin: machine_now(), speed }
    }

    /// Returns how fast the clock runs; 1.0 is real time.
    pub fn speed(&self) -> f64 {
        self.speed
    }

    /// Returns the present model time.
    pub fn now(&self) -> Timestamp {
        self.at(machine_now())
    }

    /// Returns the model time at which the machine's clock showed `instant`.
    pub fn at(&self, instant: Instant) -> Timestamp {
        let elapsed = instant.saturating_duration_since(self.origin);
        if self.speed == 1.0 {
            Timestamp::ZERO + elapsed
        } else {
            Timestamp::ZERO + elapsed.mul_f64(self.speed)
        }
    }

    /// Returns the machine's instant at which model time will be `at`, for `sleep_until`.
    pub fn instant(&self, at: Timestamp) -> Instant {
        // Far enough for "never" and small enough for the machine's clock.
        const FAR: Duration = Duration::from_secs(86_400 * 365);
        let wait = Duration::from_nanos(at.as_nanos());
        let wait = if self.speed == 1.0 { wait } else { self.machine(wait) };
        self.origin + wait.min(FAR)
    }

    /// Returns how long a stretch of model time takes on the machine's clock.
    pub fn machine(&self, model: Duration) -> Duration {
        Duration::try_from_secs_f64(model.as_secs_f64() / self.speed).unwrap_or(Duration::MAX)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
fn machine_now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_time_and_machine_time_convert_both_ways() {
        let clock = Clock::scaled(10.0);
        let at = Timestamp::from_secs(5);
        assert_eq!(clock.instant(at) - clock.origin, Duration::from_millis(500));
        assert_eq!(clock.at(clock.instant(at)), at);
        assert_eq!(clock.machine(Duration::from_secs(1)), Duration::from_millis(100));
    }

    #[test]
    fn never_is_an_instant_too() {
        assert!(Clock::real().instant(Timestamp::MAX) > machine_now());
    }
}
