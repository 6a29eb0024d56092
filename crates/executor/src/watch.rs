//! The one timer of a call.
//!
//! A stream delivers a piece every few milliseconds for minutes, so its timer is not set anew for each:
//! it stays armed for an earlier moment, and when it fires too early it is armed for the right one. A
//! stream that never falls silent touches the runtime's timers once per idle timeout.
//!
//! Silence is counted from the moment at which somebody waits for bytes: a client that stops reading for
//! an hour is not the engine's fault.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sagellm_types::Timestamp;
use sagellm_types::clock::Clock;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{TimeoutKind, Timeouts};

/// Watches one call.
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Clock,
    sleep: Pin<Box<Sleep>>,
    armed: Timestamp,
    total: Timestamp,
    idle: Duration,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Nothing of the body has come.
    First { until: Timestamp },
    /// Something has come; since when the next piece is waited for.
    Flowing { since: Option<Timestamp> },
}

impl Watch {
    /// Starts the watch now. Needs a tokio runtime.
    pub(crate) fn start(clock: Clock, limits: Timeouts) -> Self {
        let now = clock.now();
        let (until, total) = (now + limits.first_token, now + limits.total);
        let armed = until.min(total);
        let sleep = Box::pin(sleep_until(Instant::from_std(clock.instant(armed))));
        Self { clock, sleep, armed, total, idle: limits.idle, phase: Phase::First { until } }
    }

    /// Notes that a piece of the body came.
    pub(crate) fn progress(&mut self) {
        self.phase = Phase::Flowing { since: None };
    }

    /// Is ready once the call has taken too long; to be asked whenever nothing came.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<TimeoutKind> {
        let (until, kind) = match &mut self.phase {
            Phase::First { until } => (*until, TimeoutKind::FirstToken),
            Phase::Flowing { since } => {
                let since = *since.get_or_insert_with(|| self.clock.now());
                (since + self.idle, TimeoutKind::Idle)
            }
        };
        let (until, kind) =
            if self.total < until { (self.total, TimeoutKind::Total) } else { (until, kind) };
        if until < self.armed {
            self.arm(until);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.clock.now() >= until {
                return Poll::Ready(kind);
            }
            self.arm(until);
        }
        Poll::Pending
    }

    fn arm(&mut self, at: Timestamp) {
        self.armed = at;
        self.sleep.as_mut().reset(Instant::from_std(self.clock.instant(at)));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const FAR: Duration = Duration::from_secs(3600);

    async fn expiry(mut watch: Watch) -> (TimeoutKind, Duration) {
        let start = watch.clock.now();
        let kind = poll_fn(|cx| watch.poll_expired(cx)).await;
        (kind, watch.clock.now().since(start))
    }

    #[tokio::test]
    async fn the_nearest_limit_ends_the_call_in_model_time() {
        let limits = Timeouts { first_token: Duration::from_secs(2), idle: FAR, total: FAR };
        // A hundred times as fast as the machine: two seconds pass in twenty milliseconds.
        let (kind, after) = expiry(Watch::start(Clock::scaled(100.0), limits)).await;
        assert_eq!(kind, TimeoutKind::FirstToken);
        assert!(after >= Duration::from_secs(2) - Duration::from_millis(1), "{after:?}");
        let limits = Timeouts { first_token: FAR, idle: FAR, total: Duration::from_secs(1) };
        let (kind, _) = expiry(Watch::start(Clock::scaled(100.0), limits)).await;
        assert_eq!(kind, TimeoutKind::Total);
    }

    #[tokio::test]
    async fn silence_counts_from_when_somebody_waits() {
        let limits = Timeouts { first_token: FAR, idle: Duration::from_secs(2), total: FAR };
        let mut watch = Watch::start(Clock::scaled(100.0), limits);
        watch.progress();
        tokio::time::sleep(Duration::from_millis(40)).await;
        // Four seconds went by unasked, and still it has two to go.
        let (kind, after) = expiry(watch).await;
        assert_eq!(kind, TimeoutKind::Idle);
        assert!(after >= Duration::from_secs(2) - Duration::from_millis(1), "{after:?}");
    }

    #[tokio::test]
    async fn no_limit_never_ends() {
        let mut watch = Watch::start(Clock::scaled(1e6), Timeouts::within(Duration::MAX));
        watch.progress();
        let ended = tokio::time::timeout(Duration::from_millis(20), expiry(watch)).await;
        assert!(ended.is_err());
    }
}
