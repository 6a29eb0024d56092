//! A matrix of who is how near to whom, and the tree that it implies.
//!
//! `nvidia-smi topo -m` and NVML tell relations of pairs, not switches: devices that are joined at
//! one level are in one group of that level, so the groups of all levels are a tree of switches, host
//! bridges and NUMA nodes. Bandwidths are assumptions ([`Speeds`]) where the matrix tells none.

use petgraph::graph::{NodeIndex, UnGraph};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::topology::Node;
use crate::{Gpu, Host, Link, LinkKind, Nic, Topology};

/// How two devices of a host are joined: the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Relation {
    /// The same device.
    Same,
    /// So many bonded NVLinks.
    Nvlink(u32),
    /// At most one PCIe switch.
    Switch,
    /// Several PCIe switches, no host bridge.
    Switches,
    /// One host bridge.
    Bridge,
    /// Several host bridges of one NUMA node.
    Node,
    /// Several NUMA nodes.
    System,
}

/// Bandwidths and latencies that a matrix does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Speeds {
    /// GB/s of one NVLink, in one direction.
    pub nvlink: f64,
    /// GB/s of the PCIe link of a device, in one direction.
    pub pcie: f64,
    /// GB/s between the NUMA nodes of a host, in one direction.
    pub smp: f64,
    /// GB/s of a network card, in one direction.
    pub network: f64,
    /// Microseconds between hosts.
    pub network_latency_us: f64,
}

impl Default for Speeds {
    /// NVLink of the second to fourth generation (V100 to H200), PCIe 4.0 × 16, UPI or xGMI as far as
    /// one device gets of it, a network of 400 Gb/s.
    fn default() -> Self {
        Self { nvlink: 25.0, pcie: 32.0, smp: 20.0, network: 50.0, network_latency_us: 5.0 }
    }
}

/// Microseconds through an NVLink, a PCIe link, and from one NUMA node to another.
const NVLINK_US: f64 = 0.5;
const PCIE_US: f64 = 0.3;
const SMP_US: f64 = 0.4;

/// Links that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Contradiction {
    /// A device of which it is said.
    pub(crate) of: String,
    message: String,
}

impl Contradiction {
    /// A pair is related otherwise in the other direction.
    pub(crate) fn of_pair(a: &str, b: &str, there: Relation, back: Relation) -> Self {
        let (there, back) = (there.code(), back.code());
        let message = format!("{a} to {b} is said to be {there}, {b} to {a} {back}");
        Self { of: a.to_owned(), message }
    }

    /// Two devices share a switch with a third, and are apart.
    fn of_switch(third: &str, a: &str, b: &str, relation: Relation) -> Self {
        let (pix, relation) = (Relation::Switch.code(), relation.code());
        let message = format!(
            "{a} and {b} are each said to be {pix} to {third}, and {relation} to each other"
        );
        Self { of: a.to_owned(), message }
    }
}

/// One host as relations of its devices: GPUs first, then network cards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    /// Its GPUs.
    pub(crate) gpus: Vec<Gpu>,
    /// Its network cards.
    pub(crate) nics: Vec<Nic>,
    /// Relations of all devices to all, by rows.
    pub(crate) relations: Vec<Vec<Relation>>,
}

impl Matrix {
    /// Returns the name of a device.
    pub(crate) fn name(&self, device: usize) -> &str {
        match device.checked_sub(self.gpus.len()) {
            None => &self.gpus[device].name,
            Some(nic) => &self.nics[nic].name,
        }
    }

    /// Checks that what is said of a pair is said of it in both directions, and that devices which share a
    /// switch with another share it with each other.
    ///
    /// # Errors
    /// The first devices of which it is not so.
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        for a in 0..self.relations.len() {
            for b in 0..a {
                let (there, back) = (self.relations[a][b], self.relations[b][a]);
                let same = |relation| relation == Relation::Same;
                if there != back || same(there) {
                    let (a, b) = (self.name(a), self.name(b));
                    return Err(Contradiction::of_pair(a, b, there, back));
                }
            }
        }
        let apart =
            |relation| matches!(relation, Relation::Bridge | Relation::Node | Relation::System);
        for (third, row) in self.relations.iter().enumerate() {
            let beside = |device: &usize| row[*device] == Relation::Switch;
            let switched: Vec<usize> = (0..row.len()).filter(beside).collect();
            for (place, &a) in switched.iter().enumerate() {
                if let Some(&b) = switched[..place].iter().find(|&&b| apart(self.relations[a][b])) {
                    let relation = self.relations[a][b];
                    let [third, a, b] = [third, b, a].map(|device| self.name(device));
                    return Err(Contradiction::of_switch(third, a, b, relation));
                }
            }
        }
        Ok(())
    }
}

/// Joins hosts, given as matrices, to one topology; `joined` names the fast domain that spans hosts,
/// if there is one: an NVLink domain larger than a host.
pub(crate) fn join(hosts: Vec<(Host, Matrix, Speeds)>, across: Option<f64>) -> Topology {
    let mut graph: UnGraph<Node, Link> = UnGraph::default();
    let (mut all_hosts, mut all_gpus, mut all_nics) = (Vec::new(), Vec::new(), Vec::new());
    let many = hosts.len() > 1;
    let network = many.then(|| graph.add_node(Node::Network));
    let domain = across.map(|gb_per_s| (graph.add_node(Node::NvSwitch { host: None }), gb_per_s));
    for (number, (host, matrix, speeds)) in hosts.into_iter().enumerate() {
        let gpus = matrix.gpus.len();
        let mut devices: Vec<NodeIndex> = Vec::new();
        for gpu in &matrix.gpus {
            devices.push(graph.add_node(Node::Gpu(all_gpus.len())));
            all_gpus.push(Gpu { host: number, ..gpu.clone() });
        }
        for nic in &matrix.nics {
            devices.push(graph.add_node(Node::Nic(all_nics.len())));
            all_nics.push(Nic { host: number, ..nic.clone() });
        }
        let roots = tree(&mut graph, &matrix, &devices, number, &speeds);
        match domain {
            Some((domain, gb_per_s)) => {
                for &device in &devices[..gpus] {
                    let link = Link { kind: LinkKind::Nvlink, gb_per_s, latency_us: NVLINK_US };
                    graph.add_edge(device, domain, link);
                }
            }
            None => nvlinks(&mut graph, &matrix, &devices, number, &speeds),
        }
        if let Some(network) = network {
            let link = Link {
                kind: LinkKind::Network,
                gb_per_s: speeds.network,
                latency_us: speeds.network_latency_us / 2.0,
            };
            // A host without network cards is joined all the same, through its NUMA nodes.
            let ports = if matrix.nics.is_empty() { &roots } else { &devices[gpus..].to_vec() };
            for &port in ports {
                graph.add_edge(port, network, link);
            }
        }
        all_hosts.push(host);
    }
    Topology::new(all_hosts, all_gpus, all_nics, graph)
}

/// Adds the PCIe tree of a host, and returns its NUMA nodes.
fn tree(
    graph: &mut UnGraph<Node, Link>,
    matrix: &Matrix,
    devices: &[NodeIndex],
    host: usize,
    speeds: &Speeds,
) -> Vec<NodeIndex> {
    let pcie = Link { kind: LinkKind::Pcie, gb_per_s: speeds.pcie, latency_us: PCIE_US };
    let count = devices.len();
    let levels = [Relation::Switch, Relation::Switches, Relation::Bridge, Relation::Node];
    // The group of each device at each level, by its least member.
    let mut groups: Vec<usize> = (0..count).collect();
    let mut nodes: Vec<NodeIndex> = devices.to_vec();
    let (mut switches, mut bridges) = (0, 0);
    let mut numas = Vec::new();
    for level in levels {
        let before = groups.clone();
        for a in 0..count {
            for b in 0..a {
                let joined = matches!(matrix.relations[a][b], r if near(r, level));
                let same_numa = level == Relation::Node && numa_of(matrix, a) == numa_of(matrix, b);
                let known = level == Relation::Node && numa_of(matrix, a).is_some();
                if joined || (same_numa && known) {
                    unite(&mut groups, a, b);
                }
            }
        }
        let mut above = nodes.clone();
        for leader in 0..count {
            if groups[leader] != leader {
                continue;
            }
            let members: Vec<usize> = (0..count).filter(|&d| groups[d] == leader).collect();
            let parts: Vec<usize> =
                members.iter().copied().filter(|&device| before[device] == device).collect();
            // A group that adds nobody at this level needs no switch of its own.
            let node = match level {
                Relation::Switch | Relation::Switches if parts.len() < 2 => nodes[leader],
                Relation::Switch | Relation::Switches => {
                    switches += 1;
                    graph.add_node(Node::Switch { host, name: format!("switch {}", switches - 1) })
                }
                Relation::Bridge => {
                    bridges += 1;
                    graph.add_node(Node::Bridge { host, name: format!("bridge {}", bridges - 1) })
                }
                _ => {
                    let numa = members.iter().find_map(|&device| numa_of(matrix, device));
                    let node = graph.add_node(Node::Numa { host, numa });
                    numas.push(node);
                    node
                }
            };
            for &part in &parts {
                if nodes[part] != node {
                    graph.add_edge(nodes[part], node, pcie);
                }
            }
            members.iter().for_each(|&device| above[device] = node);
        }
        nodes = above;
    }
    let smp = Link { kind: LinkKind::Smp, gb_per_s: speeds.smp, latency_us: SMP_US };
    for (place, &numa) in numas.iter().enumerate() {
        for &other in &numas[..place] {
            graph.add_edge(numa, other, smp);
        }
    }
    numas
}

fn near(relation: Relation, level: Relation) -> bool {
    !matches!(relation, Relation::Nvlink(_) | Relation::Same) && relation <= level
}

fn numa_of(matrix: &Matrix, device: usize) -> Option<u32> {
    matrix.gpus.get(device).and_then(|gpu| gpu.numa)
}

fn unite(groups: &mut [usize], a: usize, b: usize) {
    let (keep, drop) = (groups[a].min(groups[b]), groups[a].max(groups[b]));
    groups.iter_mut().filter(|group| **group == drop).for_each(|group| *group = keep);
}

/// Adds the NVLinks of a host: through a switch where each GPU has as many to every other one and they
/// are more than two, else directly.
fn nvlinks(
    graph: &mut UnGraph<Node, Link>,
    matrix: &Matrix,
    devices: &[NodeIndex],
    host: usize,
    speeds: &Speeds,
) {
    let gpus = matrix.gpus.len();
    let lanes = |a: usize, b: usize| match matrix.relations[a][b] {
        Relation::Nvlink(lanes) => lanes,
        _ => 0,
    };
    let link = |lanes: u32| Link {
        kind: LinkKind::Nvlink,
        gb_per_s: f64::from(lanes) * speeds.nvlink,
        latency_us: NVLINK_US,
    };
    /// Without a switch a GPU shares its links out: the most that one has are eighteen.
    const MOST_SHARED: u32 = 18;
    let pairs: Vec<(usize, usize)> = (0..gpus).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
    let first = pairs.first().map_or(0, |&(a, b)| lanes(a, b));
    let even = first > 0 && pairs.iter().all(|&(a, b)| lanes(a, b) == first);
    if even && gpus > 2 && first * (gpus as u32 - 1) > MOST_SHARED {
        let switch = graph.add_node(Node::NvSwitch { host: Some(host) });
        for &gpu in &devices[..gpus] {
            graph.add_edge(gpu, switch, link(first));
        }
        return;
    }
    for (a, b) in pairs {
        if lanes(a, b) > 0 {
            graph.add_edge(devices[a], devices[b], link(lanes(a, b)));
        }
    }
}
