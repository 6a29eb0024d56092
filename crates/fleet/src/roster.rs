//! Rosters: per pool of requests, the instances that could take them and those with room.
//!
//! The list of open instances is kept by events and never rebuilt for a decision.

use sagellm_types::{Candidate, InstanceId, MAX_CANDIDATES};

use crate::tournament::Tournament;

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
    /// By place in `open`, how loaded; kept only where a policy cannot be shown everybody.
    by_load: Option<Tournament>,
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
                self.rank(self.open.len() - 1);
            }
            (place, Some(candidate)) => {
                self.open[place as usize] = candidate;
                self.rank(place as usize);
            }
            (place, None) => {
                self.open.swap_remove(place as usize);
                self.places[index] = CLOSED;
                if let Some(moved) = self.open.get(place as usize) {
                    self.places[moved.id.index()] = place;
                }
                self.rank(place as usize);
                self.rank(self.open.len());
            }
        }
    }

    /// Makes the tournament true for a place of `open`.
    fn rank(&mut self, place: usize) {
        if let Some(by_load) = &mut self.by_load {
            by_load.set(place, self.open.get(place).map(|c| c.load.fraction() as f32));
        }
    }

    /// Adds a member.
    pub(crate) fn enlist(&mut self, instance: InstanceId) {
        self.members.push(instance);
        if self.members.len() > MAX_CANDIDATES && self.by_load.is_none() {
            self.by_load = Some(Tournament::default());
            (0..self.open.len()).for_each(|place| self.rank(place));
        }
    }

    /// Takes a member out. O(members).
    pub(crate) fn delist(&mut self, instance: InstanceId) {
        self.update(instance, None);
        self.members.retain(|member| *member != instance);
    }

    /// Appends the places in `open` of the `count` least loaded, if there are too many to show all.
    pub(crate) fn least_loaded(&self, count: usize, out: &mut Vec<usize>) {
        if let Some(by_load) = &self.by_load {
            by_load.least(count, out);
        }
    }

    pub(crate) fn find(&self, instance: InstanceId) -> Option<&Candidate> {
        let place = *self.places.get(instance.index())?;
        self.open.get(place as usize).filter(|candidate| candidate.id == instance)
    }
}
