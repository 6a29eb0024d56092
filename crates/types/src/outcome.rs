//! How a request ended, and what it took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Request, Timestamp, Tokens, Usd};

/// Tokens as an engine reported them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt: Tokens,
    /// Output tokens.
    pub output: Tokens,
    /// Prompt tokens found in the prefix cache; zero if the engine does not say.
    pub cached: Tokens,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection.
    Connect,
    /// The connection broke, or the answer ended too early.
    Reset,
    /// The engine is starting or going: 502, 503, 504, or a 500 that says that it died.
    Unavailable,
    /// The engine's own queue is full: it is well, and another may have room.
    Busy,
    /// The engine's own error that another engine would repeat: 4xx, other 5xx.
    Rejected,
    /// Nothing came in time.
    Timeout,
    /// The answer was not HTTP, JSON or SSE as expected.
    Garbage,
    /// The instance was taken for dead before its first byte.
    InstanceDown,
}

impl FailureKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Reset,
        Self::Unavailable,
        Self::Busy,
        Self::Rejected,
        Self::Timeout,
        Self::Garbage,
        Self::InstanceDown,
    ];

    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Rejected => "rejected",
            Self::Timeout => "timeout",
            Self::Garbage => "garbage",
            Self::InstanceDown => "instance_down",
        }
    }

    /// Returns whether another instance might succeed.
    pub const fn retryable(self) -> bool {
        !matches!(self, Self::Rejected)
    }

    /// Returns whether the engine, not the request, is to blame.
    pub const fn blames_instance(self) -> bool {
        !matches!(self, Self::Rejected | Self::Busy)
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefuseReason {
    /// As many requests wait as may.
    QueueFull,
    /// It could not be on time.
    Hopeless,
    /// No registered instance serves the model.
    UnknownModel,
    /// Instances serve the model, but not requests of this type.
    UnsupportedType,
    /// The control plane is going down.
    Stopping,
}

impl RefuseReason {
    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Hopeless => "hopeless",
            Self::UnknownModel => "unknown_model",
            Self::UnsupportedType => "unsupported_type",
            Self::Stopping => "stopping",
        }
    }
}

/// Why a waiting or running request was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpireReason {
    /// Its end-to-end deadline passed.
    Deadline,
    /// It waited longer than anything may.
    QueueTimeout,
}

impl ExpireReason {
    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::QueueTimeout => "queue_timeout",
        }
    }
}

/// How a request ended. Every request ends exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Answered in full.
    Finished,
    /// Answered with an error.
    Failed(FailureKind),
    /// Its client went away.
    Cancelled,
    /// It was not done in time.
    Expired(ExpireReason),
    /// It was not taken; an honest client may try again after the time given.
    Refused {
        /// Why.
        reason: RefuseReason,
        /// When it would be worth trying again.
        retry_after: Option<Duration>,
    },
}

impl Ending {
    /// Returns the name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired(_) => "expired",
            Self::Refused { .. } => "refused",
        }
    }
}

/// A request that has ended: what it asked for, when what happened, what it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Completion {
    /// The request.
    pub request: Request,
    /// How it ended.
    pub ending: Ending,
    /// When its last attempt was dispatched.
    pub dispatched: Option<Timestamp>,
    /// When its first token came.
    pub first_token: Option<Timestamp>,
    /// When it ended.
    pub ended: Timestamp,
    /// Tokens, as reported or counted.
    pub usage: Usage,
    /// Attributed cost.
    pub cost: Usd,
}

impl Completion {
    /// Returns the time from arrival to dispatch.
    pub fn wait(&self) -> Option<Duration> {
        Some(self.dispatched?.since(self.request.arrival))
    }

    /// Returns the time from arrival to the first token.
    pub fn ttft(&self) -> Option<Duration> {
        Some(self.first_token?.since(self.request.arrival))
    }

    /// Returns the time from arrival to the end.
    pub fn e2e(&self) -> Duration {
        self.ended.since(self.request.arrival)
    }

    /// Returns the mean time per output token after the first: (E2E − TTFT) / (output − 1).
    pub fn tpot(&self) -> Option<Duration> {
        let gaps = u32::try_from(self.usage.output.0.checked_sub(1)?).ok()?;
        self.ended.since(self.first_token?).checked_div(gaps)
    }

    /// Returns whether the request met all that it asked for: `None` if it asked for nothing.
    /// Failures, refusals and expiries miss; a cancelled request is not counted.
    pub fn on_time(&self) -> Option<bool> {
        let o = &self.request.objectives;
        if !o.any() || self.ending == Ending::Cancelled {
            return None;
        }
        if self.ending != Ending::Finished {
            return Some(false);
        }
        let within = |limit: Option<Duration>, took: Option<Duration>| match (limit, took) {
            (Some(limit), Some(took)) => took <= limit,
            (Some(_), None) | (None, _) => true,
        };
        // A one-token answer has no gaps, and an answer that came whole has its first token at its end.
        let ttft = self.ttft().unwrap_or_else(|| self.e2e());
        Some(
            within(o.ttft, Some(ttft))
                && within(o.tpot, self.tpot())
                && within(o.e2e, Some(self.e2e())),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Objectives;

    fn completion(ending: Ending, objectives: Objectives) -> Completion {
        Completion {
            request: Request { objectives, ..Request::example(0) },
            ending,
            dispatched: Some(Timestamp::from_millis(10)),
            first_token: Some(Timestamp::from_millis(100)),
            ended: Timestamp::from_millis(1100),
            usage: Usage { prompt: Tokens(5), output: Tokens(11), cached: Tokens(0) },
            cost: Usd(0.0),
        }
    }

    fn check(
        ending: Ending,
        ttft: Option<u64>,
        tpot: Option<u64>,
        e2e: Option<u64>,
        expected: Option<bool>,
    ) {
        let ms = |v: Option<u64>| v.map(Duration::from_millis);
        let objectives = Objectives { ttft: ms(ttft), tpot: ms(tpot), e2e: ms(e2e) };
        assert_eq!(completion(ending, objectives).on_time(), expected);
    }

    #[test]
    fn every_objective_must_be_met() {
        check(Ending::Finished, Some(100), Some(100), Some(1100), Some(true));
        check(Ending::Finished, Some(99), None, None, Some(false));
        check(Ending::Finished, None, Some(99), None, Some(false));
        check(Ending::Finished, None, None, Some(1099), Some(false));
        check(Ending::Finished, None, None, None, None);
    }

    #[test]
    fn failures_miss_and_cancellations_do_not_count() {
        check(Ending::Failed(FailureKind::Reset), Some(1000), None, None, Some(false));
        check(Ending::Expired(ExpireReason::Deadline), None, None, Some(5000), Some(false));
        check(Ending::Cancelled, Some(1), None, None, None);
    }
}
