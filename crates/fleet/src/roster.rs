//! Rosters: per pool of requests, the instances that could take them and those with room.
//!
//! The list of open instances is kept by events and never rebuilt for a decision.

use sagellm_types::{Candidate, InstanceId};

/// A roster, by its place in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RosterId(pub u32);

/// In the table of places: not open.
const CLOSED: u32 = u32::MAX;

/// The instances of one pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    pub(crate) members: Vec<InstanceId>,
    pub(crate) open: Vec<Candidate>,
    places: Vec<u32>,
}

impl Roster {
    /// Makes the list of open instances true for one member: its candidate, or `None` if it has no
    /// room. O(1).
    pub(crate) fn update(&mut self, instance: InstanceId, candidate: Option<Candidate>) {
        let index = instance.index();
        if index >= self.places.len() {
            self.places.resize(index + 1, CLOSED);
        }
        match (self.places[index], candidate) {
            (CLOSED, None) => {}
            (CLOSED, Some(candidate)) => {
                self.places[index] = self.open.len() as u32;
                self.open.push(candidate);
            }
            (place, Some(candidate)) => self.open[place as usize] = candidate,
            (place, None) => {
                self.open.swap_remove(place as usize);
                self.places[index] = CLOSED;
                if let Some(moved) = self.open.get(place as usize) {
                    self.places[moved.id.index()] = place;
                }
            }
        }
    }

    pub(crate) fn find(&self, instance: InstanceId) -> Option<&Candidate> {
        let place = *self.places.get(instance.index())?;
        self.open.get(place as usize).filter(|candidate| candidate.id == instance)
    }
}
