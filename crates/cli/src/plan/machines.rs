//! The machines of a topology, as the planner asks for them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use sagellm_parallelism::{Links, Seating, sizes};
use sagellm_perf::{Gpu, Link};
use sagellm_topology::{EXACT, Group, Topology};

/// The GPUs of a topology by type, and how instances are seated on them.
#[derive(Debug)]
pub(super) struct Machines {
    topology: Topology,
    kinds: Vec<Kind>,
}

#[derive(Debug)]
struct Kind {
    gpu: &'static Gpu,
    /// Which of the topology's GPUs they are.
    places: Vec<usize>,
    /// How instances of each size are seated, the widest first.
    seated: Vec<(u32, Vec<Seated>)>,
}

/// Instances of one size.
#[derive(Debug)]
struct Seated {
    /// The GPUs of each: as many on every machine that it is on.
    groups: Vec<Vec<usize>>,
    seating: Seating,
}

impl Machines {
    pub(super) fn of(topology: Topology) -> Result<Self> {
        let mut kinds: Vec<(&'static Gpu, Vec<usize>)> = Vec::new();
        for (place, found) in topology.gpus().iter().enumerate() {
            let name = found.model.as_deref().with_context(|| {
                format!("the topology does not say what {} is: give its model", found.name)
            })?;
            let gpu = Gpu::named(name)?;
            match kinds.iter_mut().find(|(known, _)| known.name == gpu.name) {
                Some((_, places)) => places.push(place),
                None => kinds.push((gpu, vec![place])),
            }
        }
        let kind = |(gpu, places): (&'static Gpu, Vec<usize>)| {
            let seated = |size| (size, Seated::of(&topology, gpu, size as usize, &places));
            let each = largest(&topology, &places);
            let seated = sizes(each, places.len() as u32).into_iter().map(seated).collect();
            Kind { gpu, places, seated }
        };
        let kinds = kinds.into_iter().map(kind).collect();
        Ok(Self { topology, kinds })
    }

    pub(super) fn counts(&self) -> Vec<(&'static Gpu, u32)> {
        self.kinds.iter().map(|kind| (kind.gpu, kind.places.len() as u32)).collect()
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Returns the topology, and how so many instances are seated, each with those of its GPUs side by
    /// side that share its layers; `None` if there is no room.
    pub(super) fn seats(
        &self,
        gpu: &Gpu,
        gpus: u32,
        tensor: u32,
        instances: u32,
    ) -> Option<(&Topology, Vec<Vec<usize>>)> {
        let topology = &self.topology;
        let enough = |seated: &&Seated| seated.seating.instances >= instances;
        let groups = &self.seated(gpu, gpus).iter().find(enough)?.groups;
        let parted = |group: &Vec<usize>| match parts(topology, group, tensor as usize) {
            Some(parts) => parts.into_iter().flat_map(|part| part.gpus).collect(),
            None => group.clone(),
        };
        Some((topology, groups.iter().take(instances as usize).map(parted).collect()))
    }

    fn seated(&self, gpu: &Gpu, gpus: u32) -> &[Seated] {
        let kind = self.kinds.iter().find(|kind| kind.gpu.name == gpu.name);
        let found = kind.and_then(|kind| kind.seated.iter().find(|(size, _)| *size == gpus));
        found.map_or(&[], |(_, seated)| seated)
    }
}

impl Seated {
    /// Seats as many instances as there can be on ways as wide as anywhere, and as many as there can be
    /// at all, if that is more.
    fn of(topology: &Topology, gpu: &Gpu, size: usize, places: &[usize]) -> Vec<Self> {
        let most = places.len() / size;
        let good =
            |group: &Group, least: f64| group.gb_per_s >= least && is_even(topology, &group.gpus);
        let of_many = (places.len() > EXACT).then(|| host_by_host(topology, size, places));
        let seat = |least: f64| match &of_many {
            Some(groups) => {
                let groups: Vec<Group> =
                    groups.iter().filter(|group| good(group, least)).cloned().collect();
                (!groups.is_empty()).then_some(groups)
            }
            None => (1..=most).rev().find_map(|count| {
                let groups = topology.disjoint_groups(count, size, places)?;
                groups.iter().all(|group| good(group, least)).then_some(groups)
            }),
        };
        let widest = match &of_many {
            Some(groups) => groups.iter().map(|group| group.gb_per_s).fold(0.0, f64::max),
            None => topology.best_group(size, places).map_or(0.0, |group| group.gb_per_s),
        };
        let mut found: Vec<Self> = Vec::new();
        for groups in [seat(0.999 * widest), seat(0.0)].into_iter().flatten() {
            if found.last().is_none_or(|known| known.groups.len() < groups.len()) {
                found.push(Self::new(topology, gpu, groups));
            }
        }
        found
    }

    fn new(topology: &Topology, gpu: &Gpu, groups: Vec<Group>) -> Self {
        let groups: Vec<Vec<usize>> = groups.into_iter().map(|group| group.gpus).collect();
        let size = groups.first().map_or(0, Vec::len);
        let way = |part: usize| {
            let of_group = |group: &Vec<usize>| {
                let parts = parts(topology, group, part)?;
                parts.iter().map(|part| part.gb_per_s).reduce(f64::min)
            };
            let narrowest = groups.iter().map(of_group).reduce(|a, b| Some(a?.min(b?)))??;
            // What an exchange between nodes takes more is known of the network alone.
            let usual = Link::among(gpu, part as u32);
            let narrow = narrowest * 1e9 < gpu.peer_bandwidth();
            let latency = if narrow { usual.latency } else { Duration::ZERO };
            Some((part as u32, Link { bytes_per_second: narrowest * 1e9, latency }))
        };
        let parts = (2..=size).filter(|part| size.is_multiple_of(*part));
        let ways = parts.filter_map(way).collect();
        let machines = |group: &Vec<usize>| by_machine(topology, group).len() as u32;
        let machines = groups.iter().map(machines).max().unwrap_or(1);
        let seating = Seating { instances: groups.len() as u32, machines, ways };
        Self { groups, seating }
    }
}

/// Returns the groups of `size` GPUs of many machines: within one where it has so many, else of whole
/// machines that have as many each, those of one rack together.
fn host_by_host(topology: &Topology, size: usize, places: &[usize]) -> Vec<Group> {
    let mut hosts: BTreeMap<(Option<&str>, usize), Vec<usize>> = BTreeMap::new();
    for &gpu in places {
        let host = topology.gpus()[gpu].host;
        let rack = topology.hosts()[host].rack.as_deref();
        hosts.entry((rack, host)).or_default().push(gpu);
    }
    let within = hosts.values().filter(|of_host| of_host.len() >= size);
    let groups: Vec<Group> = within
        .filter_map(|of_host| topology.disjoint_groups(of_host.len() / size, size, of_host))
        .flatten()
        .collect();
    if !groups.is_empty() {
        return groups;
    }
    let mut numbers: Vec<usize> = hosts.values().map(Vec::len).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.dedup();
    let of_alike = |each: usize| {
        let whole: Vec<&Vec<usize>> =
            hosts.values().filter(|of_host| of_host.len() == each).collect();
        let together = whole.chunks_exact(size / each);
        let gpus = |hosts: &[&Vec<usize>]| -> Vec<usize> {
            hosts.iter().copied().flatten().copied().collect()
        };
        together.map(|hosts| topology.group(&gpus(hosts))).collect()
    };
    let dividing = numbers.into_iter().filter(|each| size.is_multiple_of(*each));
    dividing.flat_map(|each| -> Vec<Group> { of_alike(each) }).collect()
}

/// Divides the GPUs of an instance into the best parts of `size`.
fn parts(topology: &Topology, group: &[usize], size: usize) -> Option<Vec<Group>> {
    if group.len() > EXACT {
        let parts = host_by_host(topology, size, group);
        return (parts.len() * size == group.len()).then_some(parts);
    }
    topology.disjoint_groups(group.len() / size.max(1), size, group)
}

/// Returns how many of these GPUs each machine has that has any.
fn by_machine(topology: &Topology, places: &[usize]) -> Vec<u32> {
    let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
    for &gpu in places {
        *counts.entry(topology.gpus()[gpu].host).or_default() += 1;
    }
    counts.into_values().collect()
}

/// Returns how many of these GPUs the machine has that has most of them.
fn largest(topology: &Topology, places: &[usize]) -> u32 {
    by_machine(topology, places).into_iter().max().unwrap_or(1)
}

/// Returns whether a group has as many GPUs on every machine that it is on: engines want that.
fn is_even(topology: &Topology, group: &[usize]) -> bool {
    by_machine(topology, group).windows(2).all(|pair| pair[0] == pair[1])
}

impl Links for Machines {
    fn seatings(&self, gpu: &Gpu, gpus: u32) -> Vec<Seating> {
        self.seated(gpu, gpus).iter().map(|seated| seated.seating.clone()).collect()
    }

    fn per_machine(&self, gpu: &Gpu) -> u32 {
        let kind = self.kinds.iter().find(|kind| kind.gpu.name == gpu.name);
        kind.map_or(1, |kind| largest(&self.topology, &kind.places))
    }

    fn between(&self, from: &Gpu, to: &Gpu) -> Option<Link> {
        let places = |gpu: &Gpu| {
            let kind = self.kinds.iter().find(|kind| kind.gpu.name == gpu.name);
            kind.map_or(&[][..], |kind| &kind.places)
        };
        let pairs = places(from).iter().flat_map(|&a| places(to).iter().map(move |&b| (a, b)));
        let apart = pairs.filter(|(a, b)| a != b);
        let narrowest = apart.map(|(a, b)| self.topology.bandwidth(a, b)).reduce(f64::min)?;
        Some(Link { bytes_per_second: narrowest * 1e9, latency: Duration::from_micros(10) })
    }
}
