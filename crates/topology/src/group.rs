//! Groups of GPUs: the best one, disjoint ones, and what a placement leaves.
//!
//! A group is the better, the wider the narrowest way inside of it is (a collective waits for that);
//! then the fewer hops and the fewer NUMA nodes; then by its places. Up to [`EXACT`] GPUs the best is
//! found by looking at all; beyond, groups are grown from each GPU by the neighbour that keeps them
//! best, and then improved by exchanges. Where nearness is a hierarchy (switches, hosts, racks) that
//! finds a group as wide as the best, and the best if it lies within one NUMA node; one that has to span
//! nodes may have more hops.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::Topology;

/// Up to so many GPUs all groups are looked at.
pub const EXACT: usize = 16;

/// How good a group is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Its GPUs, by place, in ascending order.
    pub gpus: Vec<usize>,
    /// GB/s in one direction of the narrowest way inside; infinite for a single GPU.
    pub gb_per_s: f64,
    /// Hops of all ways inside.
    pub hops: u32,
    /// NUMA nodes that it spans, of all hosts.
    pub numa_nodes: u32,
}

impl Group {
    /// Returns whether it is better than `other`.
    fn better(&self, other: &Self) -> bool {
        let order = other.gb_per_s.total_cmp(&self.gb_per_s);
        let order = order.then(self.hops.cmp(&other.hops));
        let order = order.then(self.numa_nodes.cmp(&other.numa_nodes));
        order.then_with(|| self.gpus.cmp(&other.gpus)).is_lt()
    }
}

impl Topology {
    /// Returns how good a group of GPUs is.
    ///
    /// # Panics
    /// If a place is not below the number of GPUs.
    pub fn group(&self, gpus: &[usize]) -> Group {
        let mut gpus = gpus.to_vec();
        gpus.sort_unstable();
        let (mut gb_per_s, mut hops) = (f64::INFINITY, 0_u32);
        for (place, &a) in gpus.iter().enumerate() {
            for &b in &gpus[..place] {
                let way = self.way(a, b);
                gb_per_s = gb_per_s.min(way.gb_per_s);
                hops = hops.saturating_add(way.hops);
            }
        }
        let mut numa: Vec<(usize, Option<u32>)> =
            gpus.iter().map(|&gpu| (self.gpus[gpu].host, self.gpus[gpu].numa)).collect();
        numa.sort_unstable();
        numa.dedup();
        Group { gb_per_s, hops, numa_nodes: numa.len() as u32, gpus }
    }

    /// Returns the best group of `size` GPUs among `free`; `None` if there are fewer.
    ///
    /// ```
    /// use sagellm_topology::Topology;
    ///
    /// let machine = Topology::preset("hgx-h100", 1)?;
    /// let group = machine.best_group(4, &[1, 2, 3, 5, 6, 7]).expect("six are free");
    /// // All are one switch apart: those of one NUMA node are better.
    /// assert_eq!((group.gb_per_s, group.numa_nodes), (450.0, 2));
    /// # Ok::<(), sagellm_topology::UnknownPreset>(())
    /// ```
    ///
    /// # Panics
    /// If a place is not below the number of GPUs.
    pub fn best_group(&self, size: usize, free: &[usize]) -> Option<Group> {
        let mut free = free.to_vec();
        free.sort_unstable();
        free.dedup();
        if size == 0 || size > free.len() {
            return None;
        }
        if free.len() <= EXACT { self.best_of_all(size, &free) } else { self.grown(size, &free) }
    }

    /// Returns `count` disjoint groups of `size` GPUs among `free`: up to [`EXACT`] of them the best
    /// together (the narrowest of all groups, then hops and NUMA nodes in sum), beyond the best that is
    /// left each time; `None` if there are too few GPUs.
    ///
    /// # Panics
    /// If a place is not below the number of GPUs.
    pub fn disjoint_groups(&self, count: usize, size: usize, free: &[usize]) -> Option<Vec<Group>> {
        if size == 0 || count.checked_mul(size)? > free.len() {
            return None;
        }
        let mut free = free.to_vec();
        free.sort_unstable();
        free.dedup();
        if count * size > free.len() {
            return None;
        }
        if free.len() <= EXACT {
            return Partition::of(self, count, size, &free).solve();
        }
        let mut groups = Vec::with_capacity(count);
        for _ in 0..count {
            let group = self.grown(size, &free)?;
            free.retain(|gpu| !group.gpus.contains(gpu));
            groups.push(group);
        }
        Some(groups)
    }

    /// Returns how fragmented the GPUs `free` are: the share of them that lies outside of the largest
    /// groups within which ways are as wide as anywhere in the topology. 0 if all of them are as near to
    /// each other as GPUs can be, or if none or one is free.
    ///
    /// # Panics
    /// If a place is not below the number of GPUs.
    pub fn fragmentation(&self, free: &[usize]) -> f64 {
        let all = 0..self.gpus.len();
        let pairs =
            all.clone().flat_map(|a| all.clone().filter(move |&b| b != a).map(move |b| (a, b)));
        let widest = pairs.map(|(a, b)| self.bandwidth(a, b)).fold(0.0, f64::max);
        if free.len() < 2 {
            return 0.0;
        }
        // Within the widest links nearness is transitive but for meshes, where a neighbourhood stands
        // for a group.
        let near = |&a: &usize| {
            let reached = free.iter().filter(|&&b| b == a || self.bandwidth(a, b) >= widest);
            reached.count()
        };
        let largest = free.iter().map(near).max().unwrap_or(0);
        1.0 - largest as f64 / free.len() as f64
    }

    fn best_of_all(&self, size: usize, free: &[usize]) -> Option<Group> {
        let mut best: Option<Group> = None;
        let mut chosen = Vec::with_capacity(size);
        self.combine(size, free, &mut chosen, &mut |gpus| {
            let group = self.group(gpus);
            if best.as_ref().is_none_or(|best| group.better(best)) {
                best = Some(group);
            }
        });
        best
    }

    fn combine(
        &self,
        size: usize,
        free: &[usize],
        chosen: &mut Vec<usize>,
        each: &mut impl FnMut(&[usize]),
    ) {
        if chosen.len() == size {
            return each(chosen);
        }
        let lacking = size - chosen.len();
        for place in 0..=free.len().saturating_sub(lacking) {
            let Some(&gpu) = free.get(place) else { return };
            chosen.push(gpu);
            self.combine(size, &free[place + 1..], chosen, each);
            chosen.pop();
        }
    }

    /// Grows a group from each GPU that differs from the others, and improves the best by exchanges.
    fn grown(&self, size: usize, free: &[usize]) -> Option<Group> {
        // GPUs of one node that see the same around them stand for each other.
        let mut seen = BTreeSet::new();
        let sight = |&gpu: &usize| {
            let way = |&other: &usize| self.way(gpu, other);
            let mut ways: Vec<(u64, u32)> =
                free.iter().map(way).map(|way| (way.gb_per_s.to_bits(), way.hops)).collect();
            ways.sort_unstable();
            (self.gpus[gpu].host, self.gpus[gpu].numa, ways)
        };
        let seeds: Vec<usize> =
            free.iter().copied().filter(|gpu| seen.insert(sight(gpu))).collect();
        let mut best: Option<Group> = None;
        for seed in seeds {
            let mut group = self.group(&[seed]);
            while group.gpus.len() < size {
                let others = free.iter().filter(|gpu| !group.gpus.contains(gpu));
                let with = others.map(|&gpu| (self.joined(&group, gpu), gpu));
                let better = |a: &((f64, u32, u32), usize), b: &((f64, u32, u32), usize)| {
                    let (a, b) = (a.0, b.0);
                    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2))
                };
                let ((gb_per_s, hops, numa_nodes), gpu) = with.min_by(better)?;
                group.gpus.push(gpu);
                (group.gb_per_s, group.hops, group.numa_nodes) = (gb_per_s, hops, numa_nodes);
            }
            group.gpus.sort_unstable();
            if best.as_ref().is_none_or(|best| group.better(best)) {
                best = Some(group);
            }
        }
        let mut best = best?;
        while let Some(better) = self.exchanged(&best, free) {
            best = better;
        }
        Some(best)
    }

    /// Returns how good a group is with one GPU more: its narrowest way, hops and NUMA nodes.
    fn joined(&self, group: &Group, gpu: usize) -> (f64, u32, u32) {
        let node = |gpu: usize| (self.gpus[gpu].host, self.gpus[gpu].numa);
        let (mut gb_per_s, mut hops) = (group.gb_per_s, group.hops);
        for &member in &group.gpus {
            let way = self.way(member, gpu);
            gb_per_s = gb_per_s.min(way.gb_per_s);
            hops = hops.saturating_add(way.hops);
        }
        let new = !group.gpus.iter().any(|&member| node(member) == node(gpu));
        (gb_per_s, hops, group.numa_nodes + u32::from(new))
    }

    /// Returns a better group that differs in one GPU, if there is one.
    fn exchanged(&self, group: &Group, free: &[usize]) -> Option<Group> {
        let outside: Vec<usize> =
            free.iter().copied().filter(|gpu| !group.gpus.contains(gpu)).collect();
        (0..group.gpus.len()).find_map(|place| {
            outside.iter().find_map(|&other| {
                let mut gpus = group.gpus.clone();
                gpus[place] = other;
                let candidate = self.group(&gpus);
                candidate.better(group).then_some(candidate)
            })
        })
    }
}

/// How good a set of groups is: the narrowest of all, then hops and NUMA nodes together.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Worth {
    gb_per_s: f64,
    hops: u32,
    numa_nodes: u32,
}

impl Worth {
    const BEST: Self = Self { gb_per_s: f64::INFINITY, hops: 0, numa_nodes: 0 };

    fn with(self, group: &Group) -> Self {
        Self {
            gb_per_s: self.gb_per_s.min(group.gb_per_s),
            hops: self.hops.saturating_add(group.hops),
            numa_nodes: self.numa_nodes + group.numa_nodes,
        }
    }

    fn better(&self, other: &Self) -> bool {
        let order = other.gb_per_s.total_cmp(&self.gb_per_s);
        order.then(self.hops.cmp(&other.hops)).then(self.numa_nodes.cmp(&other.numa_nodes)).is_lt()
    }
}

/// The search for the best disjoint groups of few GPUs: branch and bound over groups that contain the
/// first GPU that is left, or leave it out if there are GPUs to spare.
struct Partition {
    /// All groups, each as a set of bits over the free GPUs, by their first GPU; the best first.
    by_first: Vec<Vec<(u32, Group)>>,
    count: usize,
    spare: usize,
    /// The least hops and NUMA nodes of any group: what is still to come costs at least that.
    least: (u32, u32),
    best: Option<(Worth, Vec<Group>)>,
}

impl Partition {
    fn of(topology: &Topology, count: usize, size: usize, free: &[usize]) -> Self {
        let mut by_first: Vec<Vec<(u32, Group)>> = vec![Vec::new(); free.len()];
        let bit = |gpu: &usize| 1_u32 << free.iter().position(|other| other == gpu).unwrap_or(0);
        topology.combine(size, free, &mut Vec::new(), &mut |gpus| {
            let group = topology.group(gpus);
            let bits = group.gpus.iter().map(bit).fold(0, |all, bit| all | bit);
            by_first[bits.trailing_zeros() as usize].push((bits, group));
        });
        for groups in &mut by_first {
            groups.sort_by(|a, b| {
                if a.1.better(&b.1) {
                    std::cmp::Ordering::Less
                } else {
                    std::cmp::Ordering::Greater
                }
            });
        }
        let all = || by_first.iter().flatten().map(|(_, group)| group);
        let least = (
            all().map(|group| group.hops).min().unwrap_or(0),
            all().map(|group| group.numa_nodes).min().unwrap_or(0),
        );
        Self { by_first, count, spare: free.len() - count * size, least, best: None }
    }

    fn solve(mut self) -> Option<Vec<Group>> {
        let all = self.by_first.len();
        self.place((1_u32 << all).wrapping_sub(1), self.spare, Worth::BEST, &mut Vec::new());
        self.best.map(|(_, groups)| groups)
    }

    fn place(&mut self, left: u32, spare: usize, worth: Worth, chosen: &mut Vec<(usize, usize)>) {
        let missing = (self.count - chosen.len()) as u32;
        let at_best = Worth {
            hops: worth.hops.saturating_add(missing * self.least.0),
            numa_nodes: worth.numa_nodes + missing * self.least.1,
            ..worth
        };
        if self.best.as_ref().is_some_and(|(best, _)| !at_best.better(best)) {
            return;
        }
        if missing == 0 {
            let groups = chosen
                .iter()
                .map(|&(first, place)| self.by_first[first][place].1.clone())
                .collect();
            self.best = Some((worth, groups));
            return;
        }
        if left == 0 {
            return;
        }
        let first = left.trailing_zeros() as usize;
        for place in 0..self.by_first[first].len() {
            let (bits, group) = &self.by_first[first][place];
            if bits & left == *bits {
                let (next, worth) = (left & !bits, worth.with(group));
                chosen.push((first, place));
                self.place(next, spare, worth, chosen);
                chosen.pop();
            }
        }
        if spare > 0 {
            self.place(left & !(1 << first), spare - 1, worth, chosen);
        }
    }
}
