//! The cheapest instance that is good enough.
//!
//! Order: that of `slo_aware`; a request that asks for nothing ranks behind more of those that do, so
//! that they can have the cheap instances. Place: among the instances on which no promise is predicted to use
//! more than half of its limit (what is saved is small beside a broken promise) and that meet the
//! request's budget, those whose cost is within `slack` of the cheapest; the router picks among them.
//! Where no instance is that safe, the promise decides, as under `slo_aware`.

use sagellm_types::{CandidateSet, Request, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Narrowing, SchedulingStrategy, SloAware, SloAwareConfig, Urgency};

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

/// Instances on which no promise uses more than this share of its limit are safe.
const SAFE: f64 = 0.5;

/// Runs each request where it is cheapest among the instances that keep its promises.
#[derive(Clone, Debug)]
pub struct CostOptimized {
    promises: SloAware,
    slack: f64,
}

impl CostOptimized {
    /// Returns the strategy with these settings.
    pub fn new(config: &CostOptimizedConfig) -> Self {
        let CostOptimizedConfig { default_horizon_ms, slack } = *config;
        let promises = SloAwareConfig { default_horizon_ms, ..SloAwareConfig::default() };
        Self { promises: SloAware::new(&promises), slack }
    }
}

impl SchedulingStrategy for CostOptimized {
    fn urgency(&self, request: &Request, now: Timestamp) -> Urgency {
        self.promises.urgency(request, now)
    }

    fn narrow(
        &mut self,
        request: &Request,
        candidates: &mut CandidateSet<'_>,
        now: Timestamp,
    ) -> Narrowing {
        let strains = self.promises.measure(request, candidates, now);
        if !strains.iter().any(|strain| strain.most() <= SAFE) {
            // Nobody is safe: promises come first, and saving later.
            return self.promises.narrow_measured(request, candidates, now);
        }
        let mut each = strains.iter();
        candidates.retain(|_| each.next().is_some_and(|strain| strain.most() <= SAFE));
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
