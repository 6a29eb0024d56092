//! A tournament tree: the least of many keys, and the few next to it, while keys change.
//!
//! Each inner node repeats the lesser of its two children, so a change costs the height of the
//! tree and the least is at the root (Knuth, TAOCP vol. 3, 5.4.1).

/// A key that loses against every other: nobody plays at this place.
const ABSENT: f32 = f32::INFINITY;

/// The bits of a subtree's order that hold its node.
const NODE: u64 = (1 << 27) - 1;

/// The least keys among places `0..n`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tournament {
    /// Node 1 is the root, the children of `i` are `2i` and `2i + 1`, leaves begin at `width`.
    nodes: Vec<f32>,
    width: usize,
}

impl Tournament {
    /// Gives a place a key, or takes its key away. O(log n).
    pub(crate) fn set(&mut self, place: usize, key: Option<f32>) {
        if place >= self.width {
            self.grow(place + 1);
        }
        let mut node = self.width + place;
        self.nodes[node] = key.unwrap_or(ABSENT);
        while node > 1 {
            node /= 2;
            let least = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
            if self.nodes[node] == least {
                break;
            }
            self.nodes[node] = least;
        }
    }

    /// Appends the `count` places with the least keys to `out`, in their order; keys are not negative.
    /// O(count × log n), and O(count) for each of the few nodes that come among the best met so far.
    pub(crate) fn least(&self, count: usize, out: &mut Vec<usize>) {
        // The best subtrees that have not been entered, the best last: no more than are wanted.
        let mut frontier: Vec<u64> = Vec::with_capacity(count + 1);
        frontier.extend((self.width > 0 && self.nodes[1] != ABSENT).then(|| self.order(1)));
        for wanted in (0..count).rev() {
            let Some(best) = frontier.pop() else { return };
            let mut node = (best & NODE) as usize;
            // Down to the leaf that has won here; who lost on the way waits for its turn.
            while node < self.width {
                let (left, right) = (2 * node, 2 * node + 1);
                let left_wins = self.nodes[left] <= self.nodes[right];
                let (winner, loser) = if left_wins { (left, right) } else { (right, left) };
                node = winner;
                if self.nodes[loser] == ABSENT || wanted == 0 {
                    continue;
                }
                let order = self.order(loser);
                if frontier.len() >= wanted {
                    if frontier[0] <= order {
                        continue;
                    }
                    frontier.remove(0);
                }
                let place = frontier.partition_point(|&other| other > order);
                frontier.insert(place, order);
            }
            out.push(node - self.width);
        }
    }

    /// Returns the order of a subtree as one number: by key; of equal ones the deepest, else all of an
    /// idle fleet would be looked at.
    fn order(&self, node: usize) -> u64 {
        let depth = u64::from(node.ilog2());
        let key = u64::from((self.nodes[node] + 0.0).to_bits());
        key << 32 | (31 - depth) << NODE.count_ones() | node as u64
    }

    fn grow(&mut self, places: usize) {
        let leaves: Vec<f32> = self.nodes.get(self.width..).unwrap_or_default().to_vec();
        self.width = places.next_power_of_two();
        self.nodes = vec![ABSENT; 2 * self.width];
        self.nodes[self.width..self.width + leaves.len()].copy_from_slice(&leaves);
        for node in (1..self.width).rev() {
            self.nodes[node] = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_many_equal_ones_few_are_looked_at() {
        let mut tree = Tournament::default();
        (0..100_000).for_each(|place| tree.set(place, Some(0.5)));
        let mut least = Vec::new();
        tree.least(4, &mut least);
        assert_eq!(least, [0, 1, 2, 3]);
    }

    proptest! {
        #[test]
        fn it_agrees_with_sorting(
            changes in proptest::collection::vec((0..200_usize, proptest::option::of(0..50_u8)), 1..400),
            count in 0..20_usize,
        ) {
            let (mut tree, mut keys) = (Tournament::default(), vec![None; 200]);
            for (place, key) in changes {
                tree.set(place, key.map(f32::from));
                keys[place] = key;
            }
            let mut least = Vec::new();
            tree.least(count, &mut least);
            let got: Vec<_> = least.iter().map(|&place| keys[place]).collect();
            let mut sorted: Vec<_> = keys.iter().copied().filter(Option::is_some).collect();
            sorted.sort_unstable();
            sorted.truncate(count);
            prop_assert_eq!(got, sorted);
            least.sort_unstable();
            least.dedup();
            prop_assert_eq!(least.len(), count.min(keys.iter().flatten().count()));
        }
    }
}
