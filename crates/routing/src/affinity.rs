//! The same conversation, or the same user, to the same instance, whose prefix cache knows them.
//!
//! The tie is broken when the instance is much more loaded than the least loaded one, and the
//! conversation moves for good. Ties are bounded: the two youngest generations are kept.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{Candidate, Candidates, InstanceId, Request, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{LoadBalanced, Router};

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
    config: AffinityConfig,
    young: IndexMap<u64, InstanceId, FxBuildHasher>,
    old: IndexMap<u64, InstanceId, FxBuildHasher>,
    fallback: LoadBalanced,
}

impl Affinity {
    /// Returns a router with these settings.
    pub fn new(config: &AffinityConfig) -> Self {
        Self {
            config: config.clone(),
            young: IndexMap::default(),
            old: IndexMap::default(),
            fallback: LoadBalanced,
        }
    }

    /// Returns the instance to which a request's conversation or user is tied.
    pub fn tie(&self, request: &Request) -> Option<InstanceId> {
        let key = key(request)?;
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    /// Forgets all ties.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    fn remember(&mut self, key: u64, instance: InstanceId) {
        if self.young.len() >= (self.config.capacity / 2).max(1) {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, instance);
    }
}

/// Returns what ties a request: its conversation, else its user, for its model.
fn key(request: &Request) -> Option<u64> {
    let own = match (request.session, request.user) {
        (Some(session), _) => session.0,
        (None, Some(user)) => user.0.rotate_left(1),
        (None, None) => return None,
    };
    Some(own ^ u64::from(request.model.0).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

impl Router for Affinity {
    fn pick(
        &mut self,
        request: &Request,
        candidates: Candidates<'_>,
        now: Timestamp,
    ) -> InstanceId {
        let Some(key) = key(request) else {
            return self.fallback.pick(request, candidates, now);
        };
        let tied = self.tie(request).and_then(|tied| candidates.find(tied));
        let picked = match tied {
            Some(tied) => {
                let least = candidates.least_by(|c| c.load.fraction());
                let excess = tied.load.fraction() - least.load.fraction();
                if excess <= self.config.overload { tied.id } else { least.id }
            }
            None => self.fallback.pick(request, candidates, now),
        };
        self.remember(key, picked);
        picked
    }

    fn favourites(&self, request: &Request, _: &[Candidate], out: &mut Vec<InstanceId>) {
        out.extend(self.tie(request));
    }

    fn name(&self) -> &'static str {
        "affinity"
    }
}
