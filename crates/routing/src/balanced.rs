//! Routers that compare load.

use sagellm_types::{Candidates, InstanceId, Request, Rng, Timestamp};

use crate::Router;

/// Sends each request to the instance with the least reserved work relative to its capacity.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadBalanced;

impl Router for LoadBalanced {
    fn pick(&mut self, _: &Request, candidates: Candidates<'_>, _: Timestamp) -> InstanceId {
        candidates.least_by(|c| (c.load.fraction(), c.load.tokens)).id
    }

    fn name(&self) -> &'static str {
        "load_balanced"
    }
}

/// Sends each request to the less loaded of two instances drawn at random.
///
/// Keeps the longest queue near `ln ln n` with two reads instead of `n` (Mitzenmacher, 2001).
#[derive(Clone, Debug)]
pub struct PowerOfTwo {
    rng: Rng,
}

impl PowerOfTwo {
    /// Returns a router that draws from `rng`.
    pub fn new(rng: Rng) -> Self {
        Self { rng }
    }
}

impl Router for PowerOfTwo {
    fn pick(&mut self, _: &Request, candidates: Candidates<'_>, _: Timestamp) -> InstanceId {
        let (a, b) = candidates.draw_two(&mut self.rng);
        if a.load.fraction() <= b.load.fraction() { a.id } else { b.id }
    }

    fn name(&self) -> &'static str {
        "power_of_two"
    }
}

/// Sends each request to the instance with the fewest requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastConnections;

impl Router for LeastConnections {
    fn pick(&mut self, _: &Request, candidates: Candidates<'_>, _: Timestamp) -> InstanceId {
        candidates.least_by(|c| c.load.sequences).id
    }

    fn name(&self) -> &'static str {
        "least_connections"
    }
}

/// Sends each request to the instance whose requests have recently ended soonest; one that has
/// not been tried yet goes first, and equals are told apart by load.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastResponseTime;

impl Router for LeastResponseTime {
    fn pick(&mut self, _: &Request, candidates: Candidates<'_>, _: Timestamp) -> InstanceId {
        candidates.least_by(|c| (c.load.latency, c.load.sequences)).id
    }

    fn name(&self) -> &'static str {
        "least_response_time"
    }
}
