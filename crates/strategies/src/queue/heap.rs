//! A heap whose members can be found, moved and removed.
//!
//! Keys that come in ascending order, as they do first come first served, stand in a sorted *run*
//! beside the heap: joining it, and leaving it at the front, is O(1) and touches nobody else. All
//! others are in the heap. Four children per node: half the depth of a binary heap, and the
//! children of a node share a cache line or two. Members are slots (small integers); where each
//! stands is kept in a table that several heaps share, since a slot is in one of them at a time.

use std::collections::VecDeque;

/// In the table of places: not in a heap.
const NOWHERE: u32 = u32::MAX;
/// In the table of places: in the run, under the number in the lower bits.
const RUN: u32 = 1 << 31;
/// The bits of a number in the run; they leave `NOWHERE` out.
const NUMBER: u32 = (1 << 30) - 1;
/// In the run: whoever stood here has left.
const GAP: u32 = u32::MAX;
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

/// Slots in ascending order of their keys. The first and the last are never gaps.
#[derive(Clone, Debug)]
struct Run<K> {
    members: VecDeque<(K, u32)>,
    /// The number of the first; numbers go up by one and wrap after [`NUMBER`].
    first: u32,
    gaps: usize,
}

impl<K: Copy + Ord> Run<K> {
    fn takes(&self, key: K) -> bool {
        self.members.back().is_none_or(|&(last, _)| last <= key)
    }

    fn push(&mut self, key: K, slot: u32, places: &mut Places) {
        places.0[slot as usize] = self.place(self.members.len());
        self.members.push_back((key, slot));
    }

    fn place(&self, index: usize) -> u32 {
        RUN | self.first.wrapping_add(index as u32) & NUMBER
    }

    /// Takes out the member at `place` of the table. O(1) amortised.
    fn remove(&mut self, place: u32, places: &mut Places) -> K {
        let index = (place.wrapping_sub(self.first) & NUMBER) as usize;
        let (key, slot) = self.members[index];
        places.0[slot as usize] = NOWHERE;
        self.members[index].1 = GAP;
        self.gaps += 1;
        while self.members.front().is_some_and(|&(_, slot)| slot == GAP) {
            self.members.pop_front();
            self.first = self.first.wrapping_add(1);
            self.gaps -= 1;
        }
        while self.members.back().is_some_and(|&(_, slot)| slot == GAP) {
            self.members.pop_back();
            self.gaps -= 1;
        }
        if self.gaps > self.members.len() / 2 {
            self.close_gaps(places);
        }
        key
    }

    /// Moves the first `count` members together, so that gaps between them are passed once only.
    /// O(count) and O(1) per gap that goes.
    fn gather(&mut self, count: usize, places: &mut Places) {
        let (mut live, mut end) = (0, 0);
        while live < count && end < self.members.len() {
            live += usize::from(self.members[end].1 != GAP);
            end += 1;
        }
        let gaps = end - live;
        if gaps == 0 {
            return;
        }
        let mut to = end;
        for from in (0..end).rev() {
            if self.members[from].1 != GAP {
                to -= 1;
                self.members[to] = self.members[from];
                places.0[self.members[to].1 as usize] = self.place(to);
            }
        }
        self.members.drain(..gaps);
        self.first = self.first.wrapping_add(gaps as u32);
        self.gaps -= gaps;
    }

    fn close_gaps(&mut self, places: &mut Places) {
        self.members.retain(|&(_, slot)| slot != GAP);
        self.gaps = 0;
        for index in 0..self.members.len() {
            places.0[self.members[index].1 as usize] = self.place(index);
        }
    }
}

/// A min-heap of slots by key.
#[derive(Clone, Debug)]
pub struct IndexedHeap<K> {
    run: Run<K>,
    nodes: Vec<(K, u32)>,
}

impl<K> Default for IndexedHeap<K> {
    fn default() -> Self {
        let run = Run { members: VecDeque::new(), first: 0, gaps: 0 };
        Self { run, nodes: Vec::new() }
    }
}

impl<K: Copy + Ord> IndexedHeap<K> {
    /// Returns how many slots are in it.
    pub fn len(&self) -> usize {
        self.run.members.len() - self.run.gaps + self.nodes.len()
    }

    /// Returns whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.run.members.is_empty() && self.nodes.is_empty()
    }

    /// Returns the least key and its slot.
    pub fn peek(&self) -> Option<(K, u32)> {
        match (self.run.members.front(), self.nodes.first()) {
            (Some(run), Some(node)) => Some(if run.0 <= node.0 { *run } else { *node }),
            (run, node) => run.or(node).copied(),
        }
    }

    /// Adds `slot`, which is in no heap. O(1) if no key in it is greater, else O(log n).
    pub fn push(&mut self, key: K, slot: u32, places: &mut Places) {
        debug_assert!(!places.contains(slot), "a slot is in one heap at a time");
        places.make_room(slot);
        if self.run.takes(key) {
            return self.run.push(key, slot, places);
        }
        self.nodes.push((key, slot));
        self.rise(self.nodes.len() - 1, places);
    }

    /// Gives `slot`, which is in this heap, a new key. O(log n).
    pub fn update(&mut self, key: K, slot: u32, places: &mut Places) {
        let place = places.0[slot as usize];
        if place & RUN != 0 {
            self.run.remove(place, places);
            return self.push(key, slot, places);
        }
        let place = place as usize;
        let old = std::mem::replace(&mut self.nodes[place].0, key);
        if key < old { self.rise(place, places) } else { self.sink(place, places) }
    }

    /// Removes `slot`, which is in this heap, and returns its key. O(log n); O(1) amortised if it
    /// came in ascending order, when gaps are closed once there are as many as members.
    pub fn remove(&mut self, slot: u32, places: &mut Places) -> K {
        let place = places.0[slot as usize];
        if place & RUN != 0 {
            return self.run.remove(place, places);
        }
        let place = place as usize;
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
        let run = self.run.members.drain(..).filter(|&(_, slot)| slot != GAP);
        self.nodes.extend(run);
        self.run.gaps = 0;
        for (place, (old, slot)) in self.nodes.iter_mut().enumerate() {
            *old = key(*slot, *old);
            places.0[*slot as usize] = place as u32;
        }
        for place in (0..self.nodes.len()).rev() {
            self.sink(place, places);
        }
    }

    /// Iterates over all keys and slots, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (K, u32)> {
        self.run.members.iter().chain(&self.nodes).copied().filter(|member| member.1 != GAP)
    }

    /// Appends the slots at `skip`, `skip` + `stride`, … of the underlying memory to `out`, fewer
    /// where some have left; lets `skip` say where to go on in the next heap.
    pub fn sample(&self, skip: &mut usize, stride: usize, out: &mut Vec<u32>) {
        let all = self.run.members.iter().chain(&self.nodes).skip(*skip).step_by(stride);
        out.extend(all.map(|member| member.1).filter(|&slot| slot != GAP));
        let len = self.run.members.len() + self.nodes.len();
        *skip = *skip + len.saturating_sub(*skip).next_multiple_of(stride) - len;
    }

    /// Appends the `count` least slots in order to `out`. O(count²) amortised, for small counts.
    pub fn least(&mut self, count: usize, out: &mut Vec<u32>, places: &mut Places) {
        self.run.gather(count, places);
        let mut run = self.run.members.iter().filter(|member| member.1 != GAP).peekable();
        let mut frontier: Vec<usize> = Vec::with_capacity(count * ARITY);
        frontier.extend((!self.nodes.is_empty()).then_some(0));
        for _ in 0..count {
            let node = frontier.iter().enumerate().min_by_key(|&(_, &place)| self.nodes[place].0);
            match (run.peek(), node) {
                (None, None) => return,
                (Some(&&(key, slot)), node)
                    if node.is_none_or(|(_, &place)| key <= self.nodes[place].0) =>
                {
                    out.push(slot);
                    run.next();
                }
                (_, Some((at, _))) => {
                    let place = frontier.swap_remove(at);
                    out.push(self.nodes[place].1);
                    frontier.extend(self.children(place));
                }
                (Some(_), None) => unreachable!("the guard takes whatever no node precedes"),
            }
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
        Push(u8, u8),
        Update(u8, u8),
        Remove(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (any::<u8>(), any::<u8>()).prop_map(|(slot, key)| Step::Push(slot, key)),
            (any::<u8>(), any::<u8>()).prop_map(|(slot, key)| Step::Update(slot, key)),
            any::<u8>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..400)
    }

    #[test]
    fn what_comes_in_order_leaves_in_order_however_long_it_goes_on() {
        let (mut heap, mut places) = (IndexedHeap::default(), Places::default());
        heap.run.first = NUMBER - 5;
        (0..20).for_each(|key| heap.push(key, key, &mut places));
        assert!(heap.nodes.is_empty(), "nothing had to be sorted");
        // Those in the middle leave first: the gaps are closed, and the rest is still found.
        (3..17).for_each(|slot| assert_eq!(heap.remove(slot, &mut places), slot));
        assert!(heap.run.members.len() <= 12, "gaps do not pile up");
        let mut least = Vec::new();
        heap.least(9, &mut least, &mut places);
        assert_eq!(least, [0, 1, 2, 17, 18, 19]);
        for slot in [0, 1, 2, 17, 18, 19] {
            assert_eq!(heap.remove(slot, &mut places), slot);
        }
        assert!(heap.is_empty() && heap.run.members.is_empty());
    }

    #[test]
    fn a_sample_goes_on_in_the_next_heap() {
        let mut places = Places::default();
        let heaps = [0..7_u32, 7..8, 8..9, 9..20].map(|slots| {
            let mut heap = IndexedHeap::default();
            slots.for_each(|slot| heap.push(u32::from(slot % 3 == 0), slot, &mut places));
            heap
        });
        let (mut skip, mut out) = (0, Vec::new());
        heaps.iter().for_each(|heap| heap.sample(&mut skip, 4, &mut out));
        assert_eq!(out.len(), 5, "every fourth of 20: {out:?}");
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
                        heap.push((u32::from(key), u32::from(slot)), slot.into(), &mut places);
                        model.insert((key.into(), slot.into()));
                    }
                    Step::Update(slot, key) if places.contains(slot.into()) => {
                        heap.update((u32::from(key), u32::from(slot)), slot.into(), &mut places);
                        let old = find(slot.into(), &model).expect("in both");
                        model.remove(&old);
                        model.insert((key.into(), slot.into()));
                    }
                    Step::Remove(slot) if places.contains(slot.into()) => {
                        let key = heap.remove(slot.into(), &mut places);
                        prop_assert!(model.remove(&key));
                    }
                    _ => {}
                }
                prop_assert_eq!(heap.peek().map(|node| node.0), model.first().copied());
                prop_assert_eq!(heap.len(), model.len());
                let mut least = Vec::new();
                heap.least(5, &mut least, &mut places);
                let expected: Vec<u32> = model.iter().take(5).map(|node| node.1).collect();
                prop_assert_eq!(least, expected);
            }
        }
    }
}
