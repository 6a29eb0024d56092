//! A heap whose members can be found, moved and removed.
//!
//! Four children per node: half the depth of a binary heap, and the children of a node share a
//! cache line or two. Members are slots (small integers); where each stands is kept in a table
//! that several heaps share, since a slot is in one of them at a time.

/// In the table of places: not in a heap.
const NOWHERE: u32 = u32::MAX;
const ARITY: usize = 4;

/// Where each slot stands in its heap.
#[derive(Clone, Debug, Default)]
pub struct Places(Vec<u32>);

impl Places {
    /// Returns whether `slot` is in a heap.
    pub fn contains(&self, slot: u32) -> bool {
        self.0.get(slot as usize).is_some_and(|&place| place != NOWHERE)
    }

    fn make_room(&mut self, slot: u32) {
        if slot as usize >= self.0.len() {
            self.0.resize(slot as usize + 1, NOWHERE);
        }
    }
}

/// A min-heap of slots by key.
#[derive(Clone, Debug)]
pub struct IndexedHeap<K> {
    nodes: Vec<(K, u32)>,
}

impl<K> Default for IndexedHeap<K> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

impl<K: Copy + Ord> IndexedHeap<K> {
    /// Returns how many slots are in it.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns the least key and its slot.
    pub fn peek(&self) -> Option<(K, u32)> {
        self.nodes.first().copied()
    }

    /// Adds `slot`, which is in no heap. O(log n).
    pub fn push(&mut self, key: K, slot: u32, places: &mut Places) {
        debug_assert!(!places.contains(slot), "a slot is in one heap at a time");
        places.make_room(slot);
        self.nodes.push((key, slot));
        self.rise(self.nodes.len() - 1, places);
    }

    /// Gives `slot`, which is in this heap, a new key. O(log n).
    pub fn update(&mut self, key: K, slot: u32, places: &mut Places) {
        let place = places.0[slot as usize] as usize;
        let old = std::mem::replace(&mut self.nodes[place].0, key);
        if key < old { self.rise(place, places) } else { self.sink(place, places) }
    }

    /// Removes `slot`, which is in this heap, and returns its key. O(log n).
    pub fn remove(&mut self, slot: u32, places: &mut Places) -> K {
        let place = places.0[slot as usize] as usize;
        let (key, removed) = self.nodes.swap_remove(place);
        debug_assert_eq!(removed, slot, "the table of places is true");
        places.0[slot as usize] = NOWHERE;
        if place < self.nodes.len() {
            if self.nodes[place].0 < key {
                self.rise(place, places);
            } else {
                self.sink(place, places);
            }
        }
        key
    }

    /// Gives every slot a new key. O(n).
    pub fn rekey(&mut self, mut key: impl FnMut(u32, K) -> K, places: &mut Places) {
        for (old, slot) in &mut self.nodes {
            *old = key(*slot, *old);
        }
        for place in (0..self.nodes.len()).rev() {
            self.sink(place, places);
        }
    }

    /// Iterates over the slots in no order that means anything.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().map(|node| node.1)
    }

    /// Returns the slot at `place` of the underlying array, for sampling.
    pub fn sample(&self, place: usize) -> Option<u32> {
        self.nodes.get(place).map(|node| node.1)
    }

    /// Appends the `count` least slots in order to `out`. O(count²), for small counts.
    pub fn least(&self, count: usize, out: &mut Vec<u32>) {
        let mut frontier: Vec<usize> = Vec::with_capacity(count * ARITY);
        frontier.extend((!self.nodes.is_empty()).then_some(0));
        for _ in 0..count {
            let Some((at, _)) =
                frontier.iter().enumerate().min_by_key(|&(_, &place)| self.nodes[place].0)
            else {
                return;
            };
            let place = frontier.swap_remove(at);
            out.push(self.nodes[place].1);
            frontier.extend(self.children(place));
        }
    }

    fn children(&self, place: usize) -> std::ops::Range<usize> {
        let first = place * ARITY + 1;
        first.min(self.nodes.len())..(first + ARITY).min(self.nodes.len())
    }

    fn rise(&mut self, mut place: usize, places: &mut Places) {
        let node = self.nodes[place];
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.nodes[parent].0 <= node.0 {
                break;
            }
            self.settle(place, self.nodes[parent], places);
            place = parent;
        }
        self.settle(place, node, places);
    }

    fn sink(&mut self, mut place: usize, places: &mut Places) {
        let node = self.nodes[place];
        loop {
            let children = self.children(place);
            let first = children.start;
            let Some((&(mut least, _), others)) = self.nodes[children].split_first() else { break };
            // Which child is least cannot be foretold: selected without a branch.
            let mut child = first;
            for (other, &(key, _)) in others.iter().enumerate() {
                let less = key < least;
                child = if less { first + 1 + other } else { child };
                least = if less { key } else { least };
            }
            if node.0 <= least {
                break;
            }
            self.settle(place, self.nodes[child], places);
            place = child;
        }
        self.settle(place, node, places);
    }

    fn settle(&mut self, place: usize, node: (K, u32), places: &mut Places) {
        self.nodes[place] = node;
        places.0[node.1 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8, u32),
        Update(u8, u32),
        Remove(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (any::<u8>(), any::<u32>()).prop_map(|(slot, key)| Step::Push(slot, key)),
            (any::<u8>(), any::<u32>()).prop_map(|(slot, key)| Step::Update(slot, key)),
            any::<u8>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_sorted_set(steps in steps()) {
            let (mut heap, mut places) = (IndexedHeap::default(), Places::default());
            let mut model: BTreeSet<(u32, u32)> = BTreeSet::new();
            for step in steps {
                let find = |slot: u32, model: &BTreeSet<(u32, u32)>| {
                    model.iter().copied().find(|node| node.1 == slot)
                };
                match step {
                    Step::Push(slot, key) if !places.contains(slot.into()) => {
                        heap.push((key, u32::from(slot)), slot.into(), &mut places);
                        model.insert((key, slot.into()));
                    }
                    Step::Update(slot, key) if places.contains(slot.into()) => {
                        heap.update((key, u32::from(slot)), slot.into(), &mut places);
                        let old = find(slot.into(), &model).expect("in both");
                        model.remove(&old);
                        model.insert((key, slot.into()));
                    }
                    Step::Remove(slot) if places.contains(slot.into()) => {
                        let key = heap.remove(slot.into(), &mut places);
                        prop_assert!(model.remove(&key));
                    }
                    _ => {}
                }
                prop_assert_eq!(heap.peek().map(|node| node.0), model.first().copied());
                let mut least = Vec::new();
                heap.least(5, &mut least);
                let expected: Vec<u32> = model.iter().take(5).map(|node| node.1).collect();
                prop_assert_eq!(least, expected);
            }
        }
    }
}
