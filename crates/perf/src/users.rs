//! What single users' answers are like, for the most recent of them.
//!
//! A bounded table: a new entry takes the place of the one that learnt least recently, so that the
//! memory is fixed whatever comes, and the answer does not depend on chance.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{ModelId, UserId};

/// Mean output length of one user with one model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserMean {
    samples: u32,
    pub(crate) mean: f64,
    /// How far to believe it against the model's mean: 0 to 1.
    pub(crate) weight: f64,
}

impl UserMean {
    fn learn(&mut self, value: f64) {
        if self.samples < MOST_SAMPLES {
            self.samples += 1;
            self.weight = f64::from(self.samples) / (f64::from(self.samples) + DOUBT);
        }
        self.mean += (value - self.mean) / f64::from(self.samples);
    }
}

/// Older answers fade once a user has given so many.
const MOST_SAMPLES: u32 = 32;
/// Answers of a user that count as much as the model's mean.
const DOUBT: f64 = 4.0;
const NONE: u32 = u32::MAX;

type Key = (ModelId, UserId);

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    mean: UserMean,
    newer: u32,
    older: u32,
}

/// A table of at most `capacity` users, in the order in which they last learnt.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    places: IndexMap<Key, u32, FxBuildHasher>,
    entries: Vec<Entry>,
    newest: u32,
    oldest: u32,
    capacity: usize,
}

impl Users {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            places: IndexMap::default(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            capacity: capacity.clamp(1, NONE as usize),
        }
    }

    pub(crate) fn get(&self, model: ModelId, user: UserId) -> Option<UserMean> {
        let place = *self.places.get(&(model, user))?;
        Some(self.entries[place as usize].mean)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes in one output length. Cost: O(1).
    pub(crate) fn learn(&mut self, model: ModelId, user: UserId, value: f64) {
        let key = (model, user);
        let place = match self.places.get(&key) {
            Some(&place) => {
                self.unlink(place);
                place
            }
            None => self.make_room(key),
        };
        self.entries[place as usize].mean.learn(value);
        self.link_newest(place);
    }

    /// Returns the unlinked place of a new entry.
    fn make_room(&mut self, key: Key) -> u32 {
        let fresh = Entry {
            key,
            mean: UserMean { samples: 0, mean: 0.0, weight: 0.0 },
            newer: NONE,
            older: NONE,
        };
        let place = if self.entries.len() < self.capacity {
            self.entries.push(fresh);
            (self.entries.len() - 1) as u32
        } else {
            let place = self.oldest;
            self.unlink(place);
            let gone = std::mem::replace(&mut self.entries[place as usize], fresh);
            self.places.swap_remove(&gone.key);
            place
        };
        self.places.insert(key, place);
        place
    }

    fn unlink(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let before = self.newest;
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older) = (NONE, before);
        match before {
            NONE => self.oldest = place,
            before => self.entries[before as usize].newer = place,
        }
        self.newest = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_learnt_user_makes_room() {
        let (model, mut users) = (ModelId(0), Users::new(3));
        for user in [1, 2, 3, 1, 4, 2, 5] {
            users.learn(model, UserId(user), user as f64);
        }
        let known = |user| users.get(model, UserId(user)).is_some();
        assert_eq!(users.len(), 3);
        assert_eq!([1, 2, 3, 4, 5].map(known), [false, true, false, true, true]);
    }

    #[test]
    fn the_same_user_of_two_models_is_two_entries() {
        let mut users = Users::new(8);
        users.learn(ModelId(0), UserId(1), 10.0);
        users.learn(ModelId(1), UserId(1), 90.0);
        assert_eq!(users.get(ModelId(0), UserId(1)).map(|m| m.mean), Some(10.0));
        assert_eq!(users.get(ModelId(1), UserId(1)).map(|m| m.mean), Some(90.0));
    }
}
