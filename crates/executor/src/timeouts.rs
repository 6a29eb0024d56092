//! How long each part of a call may take, in model time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The settings of the timeouts of traffic. Milliseconds of model time; zero is no limit, except for
/// the connection, which always has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// To make a connection.
    pub connect_ms: u64,
    /// From the call to the first byte of the answer's body: the wait inside the engine and prefill.
    pub first_token_ms: u64,
    /// Between two pieces of the body, while the client keeps reading. vLLM falls silent for ever when
    /// it is stopped in the midst of a stream, so this must not be unlimited.
    pub idle_ms: u64,
    /// From the call to the end of the answer.
    pub total_ms: u64,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self { connect_ms: 2_000, first_token_ms: 300_000, idle_ms: 120_000, total_ms: 3_600_000 }
    }
}

/// How long the parts of one call may take. [`Duration::MAX`] is no limit. The connection's limit is
/// the client's, see [`crate::Clients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the call to the first byte of the answer's body.
    pub first_token: Duration,
    /// Between two pieces of the body.
    pub idle: Duration,
    /// From the call to the end of the answer.
    pub total: Duration,
}

impl Timeouts {
    /// Returns limits that end a call after `total`, whatever it does.
    pub const fn within(total: Duration) -> Self {
        Self { first_token: total, idle: total, total }
    }
}

impl From<&TimeoutsConfig> for Timeouts {
    fn from(config: &TimeoutsConfig) -> Self {
        Self {
            first_token: limit(config.first_token_ms),
            idle: limit(config.idle_ms),
            total: limit(config.total_ms),
        }
    }
}

fn limit(millis: u64) -> Duration {
    if millis == 0 { Duration::MAX } else { Duration::from_millis(millis) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_limit() {
        let config = TimeoutsConfig { idle_ms: 0, total_ms: 5, ..TimeoutsConfig::default() };
        let limits = Timeouts::from(&config);
        assert_eq!((limits.idle, limits.total), (Duration::MAX, Duration::from_millis(5)));
        assert_eq!(limits.first_token, Duration::from_secs(300));
    }
}
