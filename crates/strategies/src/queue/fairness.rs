//! Fairness between users: who has been served least goes first.
//!
//! A virtual token counter per user (Sheng et al., "Fairness in Serving Large Language Models",
//! OSDI 2024): serving a request adds 1 × input + 2 × output tokens, first as forecast, then
//! corrected by what was used. For users who have requests waiting over the same interval the
//! counters differ by at most 2 × max(largest request, weighted tokens in flight). A user who
//! comes back starts no lower than the least counter of those who wait: idleness gains no credit,
//! and debts are kept.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{Forecast, Usage, UserId};
use serde::{Deserialize, Serialize};

/// Settings of fairness between users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FairnessConfig {
    /// What an input token counts.
    pub input_weight: u64,
    /// What an output token counts.
    pub output_weight: u64,
}

impl Default for FairnessConfig {
    fn default() -> Self {
        Self { input_weight: 1, output_weight: 2 }
    }
}

impl FairnessConfig {
    /// Returns what a request counts, as forecast.
    pub fn forecast(&self, forecast: &Forecast) -> u64 {
        self.input_weight * forecast.prompt.0 + self.output_weight * forecast.output.0
    }

    /// Returns what a request counts, as used.
    pub fn used(&self, usage: &Usage) -> u64 {
        self.input_weight * usage.prompt.0 + self.output_weight * usage.output.0
    }
}

/// The counters of users who have nothing waiting but are still in debt.
#[derive(Clone, Debug, Default)]
pub(super) struct Debts {
    counters: IndexMap<Option<UserId>, u64, FxBuildHasher>,
    /// No one who comes back starts lower.
    floor: u64,
}

/// Beyond this many, debts that have been passed are dropped.
const KEPT: usize = 4_096;

impl Debts {
    /// Raises the floor to the counter of who is served next.
    pub(super) fn served(&mut self, counter: u64) {
        self.floor = self.floor.max(counter);
    }

    /// Returns the counter at which `user` comes back.
    pub(super) fn back(&mut self, user: Option<UserId>) -> u64 {
        self.counters.swap_remove(&user).map_or(self.floor, |own| own.max(self.floor))
    }

    /// Keeps the counter of a user who has nothing more waiting.
    pub(super) fn leave(&mut self, user: Option<UserId>, counter: u64) {
        if self.counters.len() >= KEPT {
            let floor = self.floor;
            self.counters.retain(|_, own| *own > floor);
        }
        self.counters.insert(user, counter);
    }

    /// Corrects the counter of a user who has nothing waiting.
    pub(super) fn correct(&mut self, user: Option<UserId>, change: i64) {
        let floor = self.floor;
        let counter = self.counters.entry(user).or_insert(floor);
        *counter = counter.saturating_add_signed(change);
    }
}
