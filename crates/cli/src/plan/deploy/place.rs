//! Which GPUs of which machines each instance of a plan takes.

use anyhow::{Result, bail};
use sagellm_parallelism::Plan;
use sagellm_perf::{Gpu, Layout};
use sagellm_topology::{Distance, Topology};

use crate::plan::machines::Machines;

/// An instance and where it runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seated {
    pub(super) name: String,
    pub(super) port: u16,
    /// Its GPUs, machine by machine; the first answers requests. Each machine has as many.
    pub(super) seats: Vec<Seat>,
    /// Instances whose GPUs are joined to its own by NVLink.
    pub(super) peers: Vec<String>,
}

/// The GPUs of an instance on one machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seat {
    pub(super) host: String,
    /// As CUDA counts them on the machine.
    pub(super) gpus: Vec<u32>,
    /// The NUMA node of each, where the machine has several and they are known.
    pub(super) numa: Option<Vec<u32>>,
}

/// The address of the only machine, where its name is not known.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// Seats the instances of a plan on one type of GPU beside those of `seated`, that are on others: where
/// machines are known, in groups that are disjoint and as well joined as can be; else in order, none of
/// them over two machines that one would hold. Those of a machine have the ports from `first_port` on.
///
/// # Errors
/// If they cannot be seated.
pub(super) fn seat(
    plan: &Plan,
    machines: Option<&Machines>,
    first_port: u16,
    (seated, alone): (&[Seated], bool),
) -> Result<Vec<Seated>> {
    let (size, count) = (plan.gpus_per_instance, plan.instances);
    let gpu = Gpu::named(&plan.gpu)?;
    let layout: Layout = plan.layout.parse()?;
    let (seats, topology) = match machines {
        Some(machines) => {
            let seats = machines.seats(gpu, size, layout.tensor, count);
            let Some((topology, groups)) = seats else {
                bail!("there are no {count} disjoint groups of {size} GPUs");
            };
            let seats = groups.iter().map(|gpus| on_hosts(topology, gpus)).collect();
            (seats, Some((topology, groups)))
        }
        None => (in_order(gpu, size, count, hosts(seated), alone), None),
    };
    // They become names of files and services.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut hosts = seats.iter().flatten().map(|seat: &Seat| &seat.host);
    if let Some(odd) = hosts.find(|host| !host.chars().all(plain) || host.starts_with('.')) {
        bail!("host `{odd}`: expected letters, digits, `-`, `_` and `.`");
    }
    let name = |place: usize| format!("engine-{}", seated.len() + place);
    let mut own: Vec<Seated> = Vec::new();
    for (place, seats) in seats.into_iter().enumerate() {
        let here = |other: &&Seated| other.seats[0].host == seats[0].host;
        let before = seated.iter().chain(&own).filter(here).count();
        let port = first_port.saturating_add(u16::try_from(before).unwrap_or(u16::MAX));
        own.push(Seated { name: name(place), port, seats, peers: Vec::new() });
    }
    if let Some((topology, groups)) = topology {
        for (a, group) in groups.iter().enumerate() {
            let near =
                |&b: &usize| b != a && topology.distance(group, &groups[b]) == Distance::Linked;
            own[a].peers = (0..groups.len()).filter(near).map(name).collect();
        }
    }
    Ok(own)
}

/// Returns how many machines are taken.
fn hosts(seated: &[Seated]) -> u32 {
    let all = seated.iter().flat_map(|instance| &instance.seats).map(|seat| &seat.host);
    all.collect::<std::collections::BTreeSet<_>>().len() as u32
}

/// Groups GPUs by their machine.
fn on_hosts(topology: &Topology, gpus: &[usize]) -> Vec<Seat> {
    let mut seats: Vec<(usize, Vec<usize>)> = Vec::new();
    for &gpu in gpus {
        let host = topology.gpus()[gpu].host;
        match seats.iter_mut().find(|(known, _)| *known == host) {
            Some((_, of_host)) => of_host.push(gpu),
            None => seats.push((host, vec![gpu])),
        }
    }
    let seat = |(host, of_host): (usize, Vec<usize>)| {
        let all = topology.gpus();
        let of = |gpu: &&sagellm_topology::Gpu| gpu.host == host;
        let first = all.iter().find(of).and_then(|gpu| gpu.numa);
        let several = all.iter().filter(of).any(|gpu| gpu.numa != first);
        let numa: Option<Vec<u32>> = of_host.iter().map(|&gpu| all[gpu].numa).collect();
        Seat {
            host: topology.hosts()[host].name.clone(),
            gpus: of_host.iter().map(|&gpu| all[gpu].index).collect(),
            numa: numa.filter(|_| several),
        }
    };
    seats.into_iter().map(seat).collect()
}

/// Seats instances in order on machines of the usual size, that come after `taken` others.
fn in_order(gpu: &Gpu, size: u32, count: u32, taken: u32, alone: bool) -> Vec<Vec<Seat>> {
    let node = gpu.per_host();
    let whole = size.div_ceil(node);
    let per_node = (node / size).max(1);
    let hosts = if size > node { whole * count } else { count.div_ceil(per_node) };
    let host = |place: u32| match hosts {
        1 if taken == 0 && alone => LOOPBACK.to_owned(),
        _ => format!("node-{}", taken + place),
    };
    let seats = |instance: u32| match size > node {
        true => (0..whole)
            .map(|part| Seat {
                host: host(instance * whole + part),
                gpus: (0..size / whole).collect(),
                numa: None,
            })
            .collect(),
        false => {
            let first = instance % per_node * size;
            let gpus = (first..first + size).collect();
            vec![Seat { host: host(instance / per_node), gpus, numa: None }]
        }
    };
    (0..count).map(seats).collect()
}
