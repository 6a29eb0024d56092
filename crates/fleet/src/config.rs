//! Settings of the fleet.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many requests an instance takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowLimit {
    /// As many as the engine starts at once: learnt from its own queue.
    #[default]
    Auto,
    /// The instance's `max_concurrent_requests`, whatever the engine says.
    Fixed,
}

/// Settings of the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetConfig {
    /// Share of an instance's KV tokens that may be reserved, above 0 and up to 1.
    pub fill: f64,
    /// How many requests an instance takes at once: `auto` or `fixed`.
    pub window: WindowLimit,
    /// Time between probes of an instance that is ready, in milliseconds.
    pub probe_interval_ms: u64,
    /// Time between probes of an instance that is starting or down, in milliseconds.
    pub down_probe_interval_ms: u64,
    /// Probes or attempts that fail in a row before an instance is taken for down.
    pub failure_threshold: u32,
    /// How long an instance stays down at least after its attempts have failed in a row, whatever
    /// its probes say, in milliseconds: an engine that is going down still answers `/health`.
    pub quarantine_ms: u64,
    /// Requests that an instance takes at once when it comes back; doubled at each good probe.
    pub slow_start: u32,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            fill: 0.95,
            window: WindowLimit::Auto,
            probe_interval_ms: 1_000,
            down_probe_interval_ms: 500,
            failure_threshold: 3,
            quarantine_ms: 2_000,
            slow_start: 4,
        }
    }
}

impl FleetConfig {
    /// Returns when the next probe is due after one of an instance that is `ready` or not.
    pub fn interval(&self, ready: bool) -> Duration {
        Duration::from_millis(if ready {
            self.probe_interval_ms
        } else {
            self.down_probe_interval_ms
        })
    }

    /// Returns what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// A sentence that names the setting, its value and what is accepted.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.fill > 0.0 && self.fill <= 1.0) {
            return Err(format!("fleet.fill = {}: must be above 0 and up to 1", self.fill));
        }
        for (name, value) in [
            ("probe_interval_ms", self.probe_interval_ms),
            ("down_probe_interval_ms", self.down_probe_interval_ms),
            ("failure_threshold", u64::from(self.failure_threshold)),
            ("slow_start", u64::from(self.slow_start)),
        ] {
            if value == 0 {
                return Err(format!("fleet.{name} = 0: must be at least 1"));
            }
        }
        Ok(())
    }
}
