//! The same prompt prefix to the same instance, without any table.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998) of model + prompt prefix: every process picks
//! the same instance, and when one of n leaves, only its 1/n of the keys moves. Load is bounded
//! (after Mirrokni, Thorup and Zadimoghaddam, 2018): an instance above `bound` × the mean load is
//! passed over for the next in the key's own order.

use std::cmp::Reverse;

use sagellm_types::{Candidate, Candidates, InstanceId, Places, Request, Timestamp, stable_hash};
use serde::{Deserialize, Serialize};

use crate::favourites::append_least;
use crate::{LoadBalanced, Router};

/// Settings of [`Locality`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalityConfig {
    /// How many times the mean load an instance may have, at least 1.
    pub bound: f64,
}

impl Default for LocalityConfig {
    fn default() -> Self {
        Self { bound: 1.5 }
    }
}

/// Sends requests with the same prompt prefix to the same instance.
#[derive(Clone, Debug)]
pub struct Locality {
    bound: f64,
    fallback: LoadBalanced,
}

impl Locality {
    /// Returns a router with these settings.
    pub fn new(config: &LocalityConfig) -> Self {
        Self { bound: config.bound, fallback: LoadBalanced }
    }
}

/// Returns what a request shares with those that profit from the same cache.
fn key(request: &Request) -> Option<u64> {
    let own = match (request.prefix, request.session, request.user) {
        (Some(prefix), _, _) => prefix.0,
        (None, Some(session), _) => session.0,
        (None, None, user) => user?.0,
    };
    Some(own ^ u64::from(request.model.0).rotate_left(32))
}

/// Returns an instance's weight for a key; the largest wins.
fn weight(key: u64, candidate: &Candidate) -> u64 {
    stable_hash(&key.to_le_bytes(), candidate.key)
}

impl Router for Locality {
    fn pick(
        &mut self,
        request: &Request,
        candidates: Candidates<'_>,
        now: Timestamp,
    ) -> InstanceId {
        let Some(key) = key(request) else {
            return self.fallback.pick(request, candidates, now);
        };
        let total: u64 = candidates.iter().map(|c| u64::from(c.load.sequences)).sum();
        let mean = (total + 1) as f64 / candidates.len() as f64;
        let limit = (mean * self.bound).max(1.0);
        // The least loaded is always below the limit, so somebody is.
        candidates.least_by(|c| (f64::from(c.load.sequences) >= limit, Reverse(weight(key, c)))).id
    }

    fn favourites(
        &self,
        request: &Request,
        open: &[Candidate],
        _: &Places,
        out: &mut Vec<InstanceId>,
    ) {
        let Some(key) = key(request) else { return };
        append_least(open, out, |candidate| Some(Reverse(weight(key, candidate))));
    }

    fn name(&self) -> &'static str {
        "locality"
    }
}
