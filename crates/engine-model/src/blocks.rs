//! KV blocks: who holds them, and which full prompt blocks can be found again.
//!
//! A block is free, held by one sequence alone, or *stored*: known by its hash, held by any number
//! of sequences. A stored block that nobody holds stays until its room is needed; the one that was
//! let go longest ago makes room first. (vLLM keeps free and forgotten blocks in one queue, so it
//! may drop a stored block while unused ones remain; here unused ones go first.)

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

const NONE: u32 = u32::MAX;

/// A stored block.
#[derive(Clone, Copy, Debug)]
struct Stored {
    hash: u64,
    holders: u32,
    /// Neighbours in the list of those that nobody holds.
    newer: u32,
    older: u32,
}

/// The blocks of an engine.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    total: u32,
    /// Blocks held by one sequence each and not stored.
    private: u32,
    /// Stored blocks that somebody holds.
    shared: u32,
    stored: Vec<Stored>,
    vacant: Vec<u32>,
    /// Places of stored blocks, by hash.
    places: HashTable<u32>,
    newest: u32,
    oldest: u32,
}

/// Returns a hash whose every bit depends on all of `hash`: callers' hashes may be counted up.
fn spread(hash: u64) -> u64 {
    let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 32)
}

impl Blocks {
    pub(crate) fn new(total: u32) -> Self {
        Self {
            total,
            private: 0,
            shared: 0,
            stored: Vec::new(),
            vacant: Vec::new(),
            places: HashTable::new(),
            newest: NONE,
            oldest: NONE,
        }
    }

    /// Returns the blocks that sequences hold.
    pub(crate) fn used(&self) -> u32 {
        self.private + self.shared
    }

    /// Returns all blocks.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// Returns the blocks held by one sequence each.
    pub(crate) fn private(&self) -> u32 {
        self.private
    }

    /// Returns how many hold the stored block at `place`.
    pub(crate) fn holders(&self, place: u32) -> u32 {
        self.stored[place as usize].holders
    }

    /// Returns the blocks that are held or stored.
    pub(crate) fn committed(&self) -> u32 {
        self.private + self.places.len() as u32
    }

    /// Returns the blocks that can be had, if need be by dropping stored ones that nobody holds.
    pub(crate) fn available(&self) -> u32 {
        self.total - self.used()
    }

    /// Returns the blocks that are neither held nor stored.
    pub(crate) fn unused(&self) -> u32 {
        self.total - self.committed()
    }

    /// Takes `count` blocks for one sequence alone.
    ///
    /// # Panics
    /// If fewer are available.
    pub(crate) fn take(&mut self, count: u32) {
        assert!(count <= self.available(), "blocks are never over-committed");
        self.private += count;
        self.drop_surplus();
    }

    /// Gives back `count` blocks that were held alone.
    pub(crate) fn give_back(&mut self, count: u32) {
        self.private -= count;
    }

    fn place(&self, hash: u64) -> Option<u32> {
        let same = |&place: &u32| self.stored[place as usize].hash == hash;
        self.places.find(spread(hash), same).copied()
    }

    /// Returns how many of `hashes`, from the front, are stored, and how many of those nobody holds.
    pub(crate) fn find(&self, hashes: &[u64]) -> (u32, u32) {
        let (mut found, mut unheld) = (0, 0);
        for hash in hashes {
            let Some(place) = self.place(*hash) else { break };
            found += 1;
            unheld += u32::from(self.stored[place as usize].holders == 0);
        }
        (found, unheld)
    }

    /// Holds the stored block of `hash` and returns its place, or `None` if it is not stored.
    pub(crate) fn hold(&mut self, hash: u64) -> Option<u32> {
        let place = self.place(hash)?;
        if self.stored[place as usize].holders == 0 {
            self.unlink(place);
            self.shared += 1;
        }
        self.stored[place as usize].holders += 1;
        Some(place)
    }

    /// Turns a block that was held alone into the stored block of `hash`, held once, and returns
    /// its place; `None` if such a block is stored already: then the sequence keeps its own.
    pub(crate) fn store(&mut self, hash: u64) -> Option<u32> {
        let fresh = Stored { hash, holders: 1, newer: NONE, older: NONE };
        let place = self.vacant.last().copied().unwrap_or(self.stored.len() as u32);
        let stored = &self.stored;
        let entry = self.places.entry(
            spread(hash),
            |&place| stored[place as usize].hash == hash,
            |&place| spread(stored[place as usize].hash),
        );
        match entry {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => drop(vacant.insert(place)),
        }
        match self.vacant.pop() {
            Some(place) => self.stored[place as usize] = fresh,
            None => self.stored.push(fresh),
        }
        self.private -= 1;
        self.shared += 1;
        Some(place)
    }

    /// Lets go of the stored block at `place`; it stays until its room is needed.
    pub(crate) fn let_go(&mut self, place: u32) {
        let block = &mut self.stored[place as usize];
        block.holders -= 1;
        if block.holders > 0 {
            return;
        }
        self.shared -= 1;
        let before = self.newest;
        (block.newer, block.older) = (NONE, before);
        match before {
            NONE => self.oldest = place,
            before => self.stored[before as usize].newer = place,
        }
        self.newest = place;
    }

    /// Forgets every stored block that nobody holds.
    pub(crate) fn forget_unheld(&mut self) {
        while self.oldest != NONE {
            self.drop_oldest();
        }
    }

    fn drop_surplus(&mut self) {
        while self.committed() > self.total {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let place = self.oldest;
        self.unlink(place);
        let hash = self.stored[place as usize].hash;
        if let Ok(entry) = self.places.find_entry(spread(hash), |&other| other == place) {
            entry.remove();
        }
        self.vacant.push(place);
    }

    fn unlink(&mut self, place: u32) {
        let Stored { newer, older, .. } = self.stored[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.stored[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.stored[older as usize].newer = newer,
        }
    }

    /// Returns whether the counts agree with one another, for tests.
    #[cfg(test)]
    fn sound(&self) -> bool {
        let held = self.places.iter().filter(|p| self.stored[**p as usize].holders > 0).count();
        held == self.shared as usize
            && self.private as usize + self.places.len() <= self.total as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores blocks of the given hashes and lets them go, in that order.
    fn storing(total: u32, hashes: &[u64]) -> Blocks {
        let mut blocks = Blocks::new(total);
        for &hash in hashes {
            blocks.take(1);
            let place = blocks.store(hash).expect("not stored yet");
            blocks.let_go(place);
            assert!(blocks.sound());
        }
        blocks
    }

    #[test]
    fn what_was_let_go_longest_ago_makes_room_first() {
        let mut blocks = storing(4, &[1, 2, 3]);
        assert_eq!((blocks.used(), blocks.available()), (0, 4));
        blocks.take(2);
        assert_eq!(blocks.find(&[1]).0, 0, "one free block and one stored one were taken");
        assert_eq!(blocks.find(&[2, 3]), (2, 2));
        assert!(blocks.sound());
    }

    #[test]
    fn a_held_block_is_never_dropped() {
        let mut blocks = storing(3, &[1, 2]);
        let place = blocks.hold(1).expect("stored");
        blocks.take(2);
        assert_eq!((blocks.find(&[1]).0, blocks.find(&[2]).0, blocks.available()), (1, 0, 0));
        blocks.let_go(place);
        blocks.give_back(2);
        assert_eq!(blocks.used(), 0);
    }

    #[test]
    fn a_block_computed_twice_is_stored_once() {
        let mut blocks = Blocks::new(4);
        blocks.take(2);
        assert!(blocks.store(7).is_some());
        assert_eq!(blocks.store(7), None);
        assert!(blocks.sound());
    }

    #[test]
    #[should_panic(expected = "never over-committed")]
    fn more_than_there_are_cannot_be_taken() {
        Blocks::new(2).take(3);
    }
}
