//! The same conversation, or the same user, to the same instance, whose prefix cache knows them.
//!
//! The tie is broken when the instance is much more loaded than the least loaded one, and the
//! conversation moves for good.

use sagellm_types::{Candidate, Candidates, InstanceId, Places, Request, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Router;
use crate::ties::{Key, Ties, beginning};

/// Settings of [`Affinity`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AffinityConfig {
    /// How much more of its capacity than the least loaded instance the tied one may have reserved,
    /// as a share from 0 to 1, before the tie is broken.
    pub overload: f64,
    /// How many ties are kept.
    pub capacity: usize,
}

impl Default for AffinityConfig {
    fn default() -> Self {
        Self { overload: 0.3, capacity: 65_536 }
    }
}

/// Sends the requests of a conversation or user to the same instance.
#[derive(Clone, Debug)]
pub struct Affinity {
    overload: f64,
    ties: Ties,
}

impl Affinity {
    /// Returns a router with these settings.
    pub fn new(config: &AffinityConfig) -> Self {
        Self { overload: config.overload, ties: Ties::new(config.capacity) }
    }

    /// Returns the instance to which a request's conversation or user is tied.
    pub fn tie(&self, request: &Request) -> Option<InstanceId> {
        self.ties.get(key(request)?)
    }
}

/// Returns what ties a request: its conversation, else its user.
fn key(request: &Request) -> Option<Key> {
    Key::of_session(request).or_else(|| Key::of_user(request))
}

impl Router for Affinity {
    fn pick(
        &mut self,
        request: &Request,
        candidates: Candidates<'_>,
        now: Timestamp,
    ) -> InstanceId {
        let Some(key) = key(request) else {
            return beginning(candidates, now);
        };
        let tied = self.tie(request).and_then(|tied| candidates.find(tied));
        let picked = match tied {
            Some(tied) => {
                let least = candidates.least_by(|c| c.load.fraction());
                let excess = tied.load.fraction() - least.load.fraction();
                if excess <= self.overload { tied.id } else { least.id }
            }
            None => beginning(candidates, now),
        };
        self.ties.set(key, picked);
        picked
    }

    fn favourites(
        &self,
        request: &Request,
        _: &[Candidate],
        _: &Places,
        out: &mut Vec<InstanceId>,
    ) {
        out.extend(self.tie(request));
    }

    fn name(&self) -> &'static str {
        "affinity"
    }
}
