//! Near the instance whose prefix cache knows the request: there, else over NVLink, else on its
//! machine, else in its rack, else anywhere.
//!
//! Near what? The reference: the instance that the request prefers, else the one that last served its
//! conversation, else the one that last served its user. A candidate that is much more loaded than
//! the least loaded one is passed over, so that nearness never costs more than that. Who is served
//! elsewhere is served near there from then on.

use sagellm_types::{Candidate, Candidates, Distance, InstanceId, Places, Request, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Router;
use crate::favourites::append_least;
use crate::ties::{Key, Ties, beginning};

/// Settings of [`TopologyAware`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopologyAwareConfig {
    /// How much more of its capacity than the least loaded instance a near one may have reserved, as
    /// a share from 0 to 1, before it is passed over.
    pub overload: f64,
    /// Of how many conversations and users, together, it is kept who last served them.
    pub capacity: usize,
}

impl Default for TopologyAwareConfig {
    fn default() -> Self {
        Self { overload: 0.3, capacity: 65_536 }
    }
}

/// Sends requests to where their conversation or user was served last, or near there.
#[derive(Clone, Debug)]
pub struct TopologyAware {
    overload: f64,
    ties: Ties,
}

impl TopologyAware {
    /// Returns a router with these settings.
    pub fn new(config: &TopologyAwareConfig) -> Self {
        Self { overload: config.overload, ties: Ties::new(config.capacity) }
    }

    /// Returns the instance near which a request is placed.
    pub fn reference(&self, request: &Request) -> Option<InstanceId> {
        let last = |key: Option<Key>| self.ties.get(key?);
        request
            .preferred
            .or_else(|| last(Key::of_session(request)))
            .or_else(|| last(Key::of_user(request)))
    }
}

impl Router for TopologyAware {
    fn pick(
        &mut self,
        request: &Request,
        candidates: Candidates<'_>,
        now: Timestamp,
    ) -> InstanceId {
        let picked = match self.reference(request) {
            Some(reference) => {
                let least = candidates.least_by(|c| c.load.fraction()).load.fraction();
                // The least loaded is never passed over, so somebody is left.
                let rank = |c: &Candidate| {
                    let load = c.load.fraction();
                    (load - least > self.overload, candidates.distance(reference, c.id), load)
                };
                candidates.least_by(|c| rank(c)).id
            }
            None => beginning(candidates, now),
        };
        for key in [Key::of_session(request), Key::of_user(request)].into_iter().flatten() {
            self.ties.set(key, picked);
        }
        picked
    }

    fn favourites(
        &self,
        request: &Request,
        open: &[Candidate],
        places: &Places,
        out: &mut Vec<InstanceId>,
    ) {
        let Some(reference) = self.reference(request) else { return };
        append_least(open, out, |candidate| {
            let distance = places.distance(reference, candidate.id);
            (distance < Distance::Far).then(|| (distance, candidate.load.fraction()))
        });
    }

    fn name(&self) -> &'static str {
        "topology_aware"
    }
}
