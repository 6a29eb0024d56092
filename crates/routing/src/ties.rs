//! Which instance last served whom: a conversation, a user.
//!
//! Bounded: the two youngest generations are kept, and a tie that is used stays young.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{Candidates, InstanceId, Request, Timestamp};

/// Who is tied: a conversation or a user, for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

impl Key {
    /// Returns the key of a request's conversation.
    pub(crate) fn of_session(request: &Request) -> Option<Self> {
        Some(Self::new(request.session?.0, request))
    }

    /// Returns the key of a request's user.
    pub(crate) fn of_user(request: &Request) -> Option<Self> {
        Some(Self::new(request.user?.0.rotate_left(1), request))
    }

    fn new(own: u64, request: &Request) -> Self {
        Self(own ^ u64::from(request.model.0).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

/// The instances that last served.
#[derive(Clone, Debug)]
pub(crate) struct Ties {
    capacity: usize,
    young: IndexMap<Key, InstanceId, FxBuildHasher>,
    old: IndexMap<Key, InstanceId, FxBuildHasher>,
}

impl Ties {
    /// Returns no ties, with room for so many.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, young: IndexMap::default(), old: IndexMap::default() }
    }

    /// Returns the instance that last served `key`.
    pub(crate) fn get(&self, key: Key) -> Option<InstanceId> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    /// Notes that `instance` serves `key`.
    pub(crate) fn set(&mut self, key: Key, instance: InstanceId) {
        if self.young.len() >= (self.capacity / 2).max(1) && !self.young.contains_key(&key) {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, instance);
    }
}

/// Returns where somebody begins whom nobody has served: the least loaded, of equals the one that was
/// given the fewest prompts of late, so that those who come to an idle fleet do not all begin, and
/// stay, at one instance.
pub(crate) fn beginning(candidates: Candidates<'_>, now: Timestamp) -> InstanceId {
    candidates.least_by(|c| (c.load.fraction(), c.load.prefilled.per_second(now))).id
}
