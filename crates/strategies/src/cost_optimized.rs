//! The cheapest instance that is good enough.
//!
//! Order: by the latest start that keeps the promise; a request without one gives way for a while,
//! so that those with a promise can keep it on cheap instances. Place: among the instances that
//! are predicted to meet the objectives (with twice the known error to spare, since what is saved
//! is small beside a broken promise) and the request's budget, those whose cost is within `slack`
//! of the cheapest; the router picks among them.

use std::time::Duration;

use sagellm_types::{CandidateSet, Choice, Request, Timestamp};
use serde::{Deserialize, Serialize};

use crate::strain::Strain;
use crate::strategy::latest_start;
use crate::{Narrowing, Rank, SchedulingStrategy, Urgency};

/// Settings of [`CostOptimized`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostOptimizedConfig {
    /// A request without an objective ranks as if it had to start this long after its arrival, in
    /// milliseconds.
    pub default_horizon_ms: u64,
    /// Instances this much dearer than the cheapest are offered too, as a share of its cost.
    pub slack: f64,
}

impl Default for CostOptimizedConfig {
    fn default() -> Self {
        Self { default_horizon_ms: 60_000, slack: 0.05 }
    }
}

/// Runs each request where it is cheapest among the instances that keep its promises.
#[derive(Clone, Debug)]
pub struct CostOptimized {
    default_horizon: Duration,
    slack: f64,
}

impl CostOptimized {
    /// Returns the strategy with these settings.
    pub fn new(config: &CostOptimizedConfig) -> Self {
        Self {
            default_horizon: Duration::from_millis(config.default_horizon_ms),
            slack: config.slack,
        }
    }
}

impl SchedulingStrategy for CostOptimized {
    fn urgency(&self, request: &Request, _: Timestamp) -> Urgency {
        let start = latest_start(request).unwrap_or(request.arrival + self.default_horizon);
        Urgency::fixed(Rank::at(start))
    }

    fn narrow(
        &mut self,
        request: &Request,
        candidates: &mut CandidateSet<'_>,
        now: Timestamp,
    ) -> Narrowing {
        let keeps = |c: &Choice<'_>| Strain::of(request, c, 2.0, now).most() <= 1.0;
        if candidates.iter().any(|c| keeps(&c)) {
            candidates.retain(keeps);
        } else if request.objectives.any() {
            // Nobody is safe: what is fastest is what is left, and saving comes later.
            let best = candidates.iter().map(|c| c.estimate().ttft).min().unwrap_or_default();
            candidates.retain(|c| c.estimate().ttft <= best.mul_f64(1.0 + self.slack));
            return Narrowing::Offer;
        }
        if let Some(budget) = request.cost_budget
            && candidates.iter().any(|c| c.estimate().cost <= budget)
        {
            candidates.retain(|c| c.estimate().cost <= budget);
        }
        let cheapest = candidates.iter().map(|c| c.estimate().cost.0).fold(f64::INFINITY, f64::min);
        candidates.retain(|c| c.estimate().cost.0 <= cheapest * (1.0 + self.slack));
        Narrowing::Offer
    }

    fn name(&self) -> &'static str {
        "cost_optimized"
    }
}
