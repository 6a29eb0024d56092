//! How far instances are from each other.
//!
//! Operators name machines, racks and NVLink peers. A [`Places`] keeps stable hashes of the names, so
//! that a distance costs a few comparisons of numbers and nothing is kept for an instance that has
//! gone.

use serde::Serialize;

use crate::{ExecutionInstance, InstanceId, stable_hash};

/// How far two instances, or two groups of GPUs, are from each other; the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// They are one instance, or share a GPU.
    Same,
    /// Their GPUs are joined by NVLink.
    Linked,
    /// They are on one machine.
    Machine,
    /// They are in one rack.
    Rack,
    /// They are further away, or it is not known how far.
    Far,
}

/// Where the instances of a fleet are.
///
/// ```
/// use sagellm_types::{Distance, ExecutionInstance, InstanceId, Places};
///
/// let on = |name: &str, machine: &str| ExecutionInstance {
///     machine_id: Some(machine.into()),
///     ..ExecutionInstance::new(name, "localhost", 8000, "llama-7b")
/// };
/// let [a, b, c] = [0, 1, 2].map(|slot| InstanceId::new(slot, 0));
/// let mut places = Places::default();
/// places.insert(a, &ExecutionInstance { nvlink_peers: vec!["b".into()], ..on("a", "m1") });
/// places.insert(b, &on("b", "m1"));
/// places.insert(c, &on("c", "m1"));
/// assert_eq!(places.distance(b, a), Distance::Linked);
/// assert_eq!(places.distance(b, c), Distance::Machine);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// By slot of the instance.
    slots: Vec<Option<Place>>,
}

/// Where one instance is: hashes of names, `None` where the operator has not told.
#[derive(Clone, Debug)]
struct Place {
    generation: u32,
    name: u64,
    machine: Option<u64>,
    rack: Option<u64>,
    /// Names of those that it reaches over NVLink.
    peers: Box<[u64]>,
}

impl Places {
    /// Returns no places: everything is far from everything.
    pub const fn new() -> Self {
        Self { slots: Vec::new() }
    }

    /// Notes where an instance is.
    pub fn insert(&mut self, id: InstanceId, spec: &ExecutionInstance) {
        let hash = |name: &String| stable_hash(name.as_bytes(), 0);
        if id.index() >= self.slots.len() {
            self.slots.resize(id.index() + 1, None);
        }
        self.slots[id.index()] = Some(Place {
            generation: id.generation(),
            name: hash(&spec.instance_id),
            machine: spec.machine_id.as_ref().map(hash),
            rack: spec.rack_id.as_ref().map(hash),
            peers: spec.nvlink_peers.iter().map(hash).collect(),
        });
    }

    /// Forgets an instance.
    pub fn remove(&mut self, id: InstanceId) {
        if self.get(id).is_some() {
            self.slots[id.index()] = None;
        }
    }

    fn get(&self, id: InstanceId) -> Option<&Place> {
        self.slots.get(id.index())?.as_ref().filter(|place| place.generation == id.generation())
    }

    /// Returns how far two instances are from each other. It is enough that one of two NVLink peers
    /// names the other. O(NVLink peers of both).
    pub fn distance(&self, a: InstanceId, b: InstanceId) -> Distance {
        if a == b {
            return Distance::Same;
        }
        let (Some(a), Some(b)) = (self.get(a), self.get(b)) else { return Distance::Far };
        let same = |a: Option<u64>, b: Option<u64>| a.is_some() && a == b;
        if a.peers.contains(&b.name) || b.peers.contains(&a.name) {
            Distance::Linked
        } else if same(a.machine, b.machine) {
            Distance::Machine
        } else if same(a.rack, b.rack) {
            Distance::Rack
        } else {
            Distance::Far
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: u32) -> InstanceId {
        InstanceId::new(slot, 0)
    }

    fn spec(name: &str, machine: Option<&str>, rack: Option<&str>) -> ExecutionInstance {
        ExecutionInstance {
            machine_id: machine.map(str::to_owned),
            rack_id: rack.map(str::to_owned),
            ..ExecutionInstance::new(name, "h", 1, "m")
        }
    }

    fn check(a: &ExecutionInstance, b: &ExecutionInstance, expected: Distance) {
        let mut places = Places::default();
        places.insert(at(0), a);
        places.insert(at(1), b);
        assert_eq!(places.distance(at(0), at(1)), expected, "{a:?} {b:?}");
        assert_eq!(places.distance(at(1), at(0)), expected, "the same both ways");
    }

    #[test]
    fn the_nearest_of_what_two_have_in_common_counts() {
        let linked = ExecutionInstance {
            nvlink_peers: vec!["b".into()],
            ..spec("a", Some("m1"), Some("r1"))
        };
        check(&linked, &spec("b", Some("m1"), Some("r1")), Distance::Linked);
        check(&linked, &spec("b", Some("m2"), None), Distance::Linked);
        check(&linked, &spec("c", Some("m1"), Some("r1")), Distance::Machine);
        check(&linked, &spec("c", Some("m2"), Some("r1")), Distance::Rack);
        check(&linked, &spec("c", Some("m2"), Some("r2")), Distance::Far);
    }

    #[test]
    fn what_nobody_has_told_is_not_in_common() {
        check(&spec("a", None, None), &spec("b", None, None), Distance::Far);
        check(&spec("a", None, Some("r")), &spec("b", None, Some("r")), Distance::Rack);
    }

    #[test]
    fn who_has_gone_is_near_nobody_not_even_by_the_slot_of_a_successor() {
        let mut places = Places::default();
        places.insert(at(0), &spec("a", Some("m"), None));
        places.insert(at(1), &spec("b", Some("m"), None));
        places.remove(at(1));
        assert_eq!(places.distance(at(0), at(1)), Distance::Far);
        let successor = InstanceId::new(1, 1);
        places.insert(successor, &spec("c", Some("m"), None));
        places.remove(at(1));
        assert_eq!(places.distance(at(0), successor), Distance::Machine);
        assert_eq!(places.distance(at(0), at(1)), Distance::Far);
    }
}
