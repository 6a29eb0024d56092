//! Five levels with ageing.
//!
//! rank = arrival + level × horizon. A request is overtaken only by one that is more urgent, and
//! only if that one arrives no more than (levels between them) × horizon later; so ageing needs no
//! re-ordering, and nobody starves.

use std::time::Duration;

use sagellm_types::{Request, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Rank, SchedulingStrategy, Urgency};

/// Settings of [`Priority`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorityConfig {
    /// How much later a request may arrive and still overtake one that is a level less urgent, in
    /// milliseconds.
    pub horizon_ms: u64,
}

impl Default for PriorityConfig {
    fn default() -> Self {
        Self { horizon_ms: 30_000 }
    }
}

/// Serves urgent levels first, and ages the others.
#[derive(Clone, Debug)]
pub struct Priority {
    horizon: Duration,
}

impl Priority {
    /// Returns the strategy with these settings.
    pub fn new(config: &PriorityConfig) -> Self {
        Self { horizon: Duration::from_millis(config.horizon_ms) }
    }
}

impl SchedulingStrategy for Priority {
    fn urgency(&self, request: &Request, _: Timestamp) -> Urgency {
        let handicap = self.horizon.saturating_mul(request.priority.level() as u32);
        Urgency::fixed(Rank::at(request.arrival + handicap))
    }

    fn name(&self) -> &'static str {
        "priority"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::RequestPriority;

    #[test]
    fn a_level_is_worth_one_horizon() {
        let strategy = Priority::new(&PriorityConfig::default());
        let rank = |priority, arrival| {
            let request = Request { priority, arrival, ..Request::example(0) };
            strategy.urgency(&request, Timestamp::ZERO).rank
        };
        let low = rank(RequestPriority::Low, Timestamp::ZERO);
        assert!(rank(RequestPriority::Normal, Timestamp::from_millis(29_999)) < low);
        assert!(rank(RequestPriority::Normal, Timestamp::from_millis(30_001)) > low);
        assert!(rank(RequestPriority::Critical, Timestamp::from_millis(89_999)) < low);
    }
}
