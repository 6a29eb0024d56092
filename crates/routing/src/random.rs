//! An instance drawn at random.

use sagellm_types::{Candidates, InstanceId, Request, Rng, Timestamp};

use crate::Router;

/// Sends each request to an instance drawn at random, each as likely as the others.
#[derive(Clone, Debug)]
pub struct Random {
    rng: Rng,
}

impl Random {
    /// Returns a router that draws from `rng`.
    pub fn new(rng: Rng) -> Self {
        Self { rng }
    }
}

impl Router for Random {
    fn pick(&mut self, _: &Request, candidates: Candidates<'_>, _: Timestamp) -> InstanceId {
        candidates.get(self.rng.below(candidates.len())).id
    }

    fn name(&self) -> &'static str {
        "random"
    }
}
