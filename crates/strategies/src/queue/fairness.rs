//! Fairness between users: who has been served least goes first.
//!
//! A virtual token counter per user (Sheng et al., "Fairness in Serving Large Language Models",
//! OSDI 2024): serving a request adds 1 × input + 2 × output tokens, first as forecast, then
//! corrected by what was used. For users who have requests of one priority waiting over the same
//! interval the counters differ by at most 2 × max(largest request, weighted tokens in flight),
//! both as charged: a forecast that is too large counts in full until its request has ended. A
//! level of priority is worth a fixed number of tokens, so that nobody is passed over for ever. A
//! user who comes back starts no lower than the least counter of those who wait: idleness gains no
//! credit, and debts are kept.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{Forecast, Tokens, Usage, UserId};
use serde::{Deserialize, Serialize};

/// Settings of fairness between users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FairnessConfig {
    /// What an input token counts.
    pub input_weight: u64,
    /// What an output token counts.
    pub output_weight: u64,
    /// How many weighted tokens a priority level is worth: a user with more urgent requests goes
    /// before one who has been served less, up to so much per level.
    pub level_weight: u64,
}

impl Default for FairnessConfig {
    fn default() -> Self {
        Self { input_weight: 1, output_weight: 2, level_weight: 100_000 }
    }
}

impl FairnessConfig {
    /// Returns what a request counts, as forecast.
    pub fn forecast(&self, forecast: &Forecast) -> u64 {
        self.weigh(forecast.prompt, forecast.output)
    }

    /// Returns what a request counts, as used.
    pub fn used(&self, usage: &Usage) -> u64 {
        self.weigh(usage.prompt, usage.output)
    }

    fn weigh(&self, input: Tokens, output: Tokens) -> u64 {
        let input = self.input_weight.saturating_mul(input.0);
        input.saturating_add(self.output_weight.saturating_mul(output.0))
    }
}

/// Returns a counter from which `charged` is taken back and to which `used` is added.
pub(super) fn corrected(counter: u64, charged: u64, used: u64) -> u64 {
    if used >= charged {
        counter.saturating_add(used - charged)
    } else {
        counter.saturating_sub(charged - used)
    }
}

/// The counters of users who have nothing waiting but are still in debt.
#[derive(Clone, Debug)]
pub(super) struct Debts {
    counters: IndexMap<Option<UserId>, u64, FxBuildHasher>,
    /// No one who comes back while nobody waits starts lower.
    floor: u64,
    /// So many debts are looked through for those that have been passed.
    full: usize,
}

/// Fewer debts than this are not looked through.
const KEPT: usize = 4_096;
/// No more debts than this are kept, the largest first: many users come once, and as long as
/// somebody with a low counter waits nobody passes the floor.
const MOST: usize = 65_536;

impl Default for Debts {
    fn default() -> Self {
        Self { counters: IndexMap::default(), floor: 0, full: KEPT }
    }
}

impl Debts {
    /// Raises the floor to the least counter of those who wait.
    pub(super) fn raise(&mut self, least: u64) {
        self.floor = self.floor.max(least);
    }

    /// Returns the counter at which `user` comes back, while `least` is that of those who wait.
    pub(super) fn back(&mut self, user: Option<UserId>, least: Option<u64>) -> u64 {
        let floor = least.unwrap_or(self.floor);
        self.counters.swap_remove(&user).map_or(floor, |own| own.max(floor))
    }

    /// Keeps the counter of a user who has nothing more waiting. O(1) amortised.
    pub(super) fn leave(&mut self, user: Option<UserId>, counter: u64) {
        if self.counters.len() >= self.full {
            let floor = self.floor;
            self.counters.retain(|_, own| *own > floor);
            if self.counters.len() > MOST / 2 {
                self.forgive();
            }
            self.full = (2 * self.counters.len()).clamp(KEPT, MOST);
        }
        self.counters.insert(user, counter);
    }

    /// Keeps the largest debts only. O(n).
    fn forgive(&mut self) {
        let mut debts: Vec<u64> = self.counters.values().copied().collect();
        let place = debts.len() - MOST / 4;
        let least = *debts.select_nth_unstable(place).1;
        let mut more = MOST / 4 - self.counters.values().filter(|own| **own > least).count();
        self.counters.retain(|_, own| {
            let keeps = *own > least || (*own == least && more > 0);
            more -= usize::from(keeps && *own == least);
            keeps
        });
    }

    /// Corrects the counter of a user who has nothing waiting.
    pub(super) fn correct(&mut self, user: Option<UserId>, charged: u64, used: u64) {
        let floor = self.floor;
        let counter = self.counters.entry(user).or_insert(floor);
        *counter = corrected(*counter, charged, used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_who_come_once_do_not_pile_up_while_others_wait() {
        let mut debts = Debts::default();
        // The floor stands still, as it does while somebody with a low counter waits.
        for user in 0..300_000 {
            debts.leave(Some(UserId(user)), 1 + user % 1_000);
            assert!(debts.counters.len() <= MOST);
        }
        debts.leave(Some(UserId(u64::MAX)), 1_000_000);
        (0..100_000).for_each(|user| debts.leave(Some(UserId(user)), 1 + user % 1_000));
        assert!(debts.counters.len() > MOST / 8, "equal debts are not all forgiven");
        let owed = debts.back(Some(UserId(u64::MAX)), Some(0));
        assert_eq!(owed, 1_000_000, "the largest debts are kept");
    }

    #[test]
    fn absurd_weights_saturate() {
        let most = FairnessConfig { output_weight: u64::MAX, ..FairnessConfig::default() };
        let usage = Usage { output: Tokens(9), ..Usage::default() };
        assert_eq!(most.used(&usage), u64::MAX);
    }
}
