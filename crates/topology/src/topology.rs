//! The graph: devices, switches, NUMA nodes and hosts, and the links between them.

use std::collections::{BinaryHeap, VecDeque};

use petgraph::graph::{NodeIndex, UnGraph};
use petgraph::visit::EdgeRef;
use sagellm_types::Distance;
use serde::Serialize;

use crate::CpuSet;

/// A GPU, with where it sits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// Its name on its host, such as `GPU0`.
    pub name: String,
    /// What it is, such as `H100`, if known.
    pub model: Option<String>,
    /// Its host, by place.
    pub host: usize,
    /// Its number on its host, as CUDA counts.
    pub index: u32,
    /// Its NUMA node on its host, if known.
    pub numa: Option<u32>,
    /// The CPUs that are near it.
    pub cpus: CpuSet,
    /// Its PCI address, if known.
    pub bus_id: Option<String>,
    /// Its memory in bytes, if known.
    pub memory_bytes: Option<u64>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nic {
    /// Its name on its host, such as `mlx5_0`.
    pub name: String,
    /// Its host, by place.
    pub host: usize,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its rack, if known.
    pub rack: Option<String>,
}

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// NVLink, directly or through NVSwitch.
    Nvlink,
    /// PCIe.
    Pcie,
    /// Between NUMA nodes of a host.
    Smp,
    /// Between hosts.
    Network,
}

impl LinkKind {
    /// Returns the name that people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nvlink => "NVLink",
            Self::Pcie => "PCIe",
            Self::Smp => "SMP",
            Self::Network => "network",
        }
    }
}

/// A link: between two neighbours, or the narrowest of a path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// GB/s (10⁹ bytes) in one direction.
    pub gb_per_s: f64,
    /// Microseconds.
    pub latency_us: f64,
}

/// A way between two devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Path {
    /// What lies on it, both ends included.
    pub through: Vec<String>,
    /// GB/s in one direction of its narrowest link.
    pub gb_per_s: f64,
    /// Microseconds, all links together.
    pub latency_us: f64,
    /// What its narrowest link is; `None` from a device to itself.
    pub bottleneck: Option<LinkKind>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Gpu(usize),
    Nic(usize),
    /// A switch of NVLink.
    NvSwitch {
        host: Option<usize>,
    },
    /// A PCIe switch, of the given level in its tree.
    Switch {
        host: usize,
        name: String,
    },
    /// A host bridge: where PCIe ends.
    Bridge {
        host: usize,
        name: String,
    },
    /// A NUMA node.
    Numa {
        host: usize,
        numa: Option<u32>,
    },
    /// What joins hosts.
    Network,
}

/// Ways of GPUs to each other, computed once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Way {
    pub(crate) gb_per_s: f64,
    pub(crate) latency_us: f64,
    pub(crate) hops: u32,
    pub(crate) kind: Option<LinkKind>,
}

impl Way {
    const NONE: Self = Self { gb_per_s: 0.0, latency_us: 0.0, hops: u32::MAX, kind: None };
    const SELF: Self = Self { gb_per_s: f64::INFINITY, latency_us: 0.0, hops: 0, kind: None };
}

/// Hosts with GPUs, network cards, and the links between them.
#[derive(Clone, Debug)]
pub struct Topology {
    pub(crate) hosts: Vec<Host>,
    pub(crate) gpus: Vec<Gpu>,
    pub(crate) nics: Vec<Nic>,
    pub(crate) graph: UnGraph<Node, Link>,
    pub(crate) gpu_nodes: Vec<NodeIndex>,
    pub(crate) nic_nodes: Vec<NodeIndex>,
    /// Ways between GPUs: a square, by rows.
    ways: Vec<Way>,
}

impl Topology {
    /// Returns the topology of a graph, in which GPUs and network cards stand in this order.
    pub(crate) fn new(
        hosts: Vec<Host>,
        gpus: Vec<Gpu>,
        nics: Vec<Nic>,
        graph: UnGraph<Node, Link>,
    ) -> Self {
        let mut gpu_nodes = vec![NodeIndex::end(); gpus.len()];
        let mut nic_nodes = vec![NodeIndex::end(); nics.len()];
        for node in graph.node_indices() {
            match graph[node] {
                Node::Gpu(place) => gpu_nodes[place] = node,
                Node::Nic(place) => nic_nodes[place] = node,
                _ => {}
            }
        }
        let ways = Vec::new();
        let mut topology = Self { hosts, gpus, nics, graph, gpu_nodes, nic_nodes, ways };
        for from in 0..topology.gpus.len() {
            let row = topology.ways_to(topology.gpu_nodes[from], &topology.gpu_nodes);
            topology.ways.extend(row);
        }
        topology
    }

    /// Returns the hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Returns the GPUs: those of the first host first.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// Returns the network cards.
    pub fn nics(&self) -> &[Nic] {
        &self.nics
    }

    /// Returns the bandwidth between two GPUs, by place, in GB/s of one direction: infinite from a GPU
    /// to itself, 0 if there is no way.
    ///
    /// # Panics
    /// If a place is not below the number of GPUs.
    pub fn bandwidth(&self, a: usize, b: usize) -> f64 {
        self.way(a, b).gb_per_s
    }

    /// Returns what the narrowest link between two GPUs is; `None` if there is none.
    ///
    /// # Panics
    /// If a place is not below the number of GPUs.
    pub fn kind(&self, a: usize, b: usize) -> Option<LinkKind> {
        self.way(a, b).kind
    }

    pub(crate) fn way(&self, a: usize, b: usize) -> &Way {
        &self.ways[a * self.gpus.len() + b]
    }

    /// Returns the way between two GPUs: over NVLink where that joins them, else the widest, of several
    /// the shortest; `None` if there is none. It leads through no other GPU: those do not pass on what
    /// is not theirs.
    ///
    /// # Panics
    /// If a place is not below the number of GPUs.
    pub fn path(&self, a: usize, b: usize) -> Option<Path> {
        self.path_between(self.gpu_nodes[a], self.gpu_nodes[b])
    }

    fn path_between(&self, from: NodeIndex, to: NodeIndex) -> Option<Path> {
        let (over, width) = OVER.into_iter().find_map(|over| {
            let width = self.widths(from, over)[to.index()];
            (width > 0.0).then_some((over, width))
        })?;
        let reached = self.within(from, width, over);
        let Way { gb_per_s, latency_us, kind, .. } = reached[to.index()]?.way;
        let mut through = vec![self.label(to)];
        let mut at = to;
        while let Some(before) = reached[at.index()].and_then(|reached| reached.from) {
            through.push(self.label(before));
            at = before;
        }
        through.reverse();
        Some(Path { through, gb_per_s, latency_us, bottleneck: kind })
    }

    /// Returns the network card that a GPU reaches best: by bandwidth, then by hops, then by place.
    ///
    /// # Panics
    /// If `gpu` is not below the number of GPUs.
    pub fn nearest_nic(&self, gpu: usize) -> Option<usize> {
        let ways = self.ways_to(self.gpu_nodes[gpu], &self.nic_nodes);
        let own = |&nic: &usize| self.nics[nic].host == self.gpus[gpu].host;
        (0..self.nics.len()).filter(own).min_by(|&a, &b| {
            let wider = ways[b].gb_per_s.total_cmp(&ways[a].gb_per_s);
            wider.then(ways[a].hops.cmp(&ways[b].hops))
        })
    }

    /// Returns how far two groups of GPUs are from each other: as their nearest GPUs are.
    ///
    /// # Panics
    /// If a place is not below the number of GPUs.
    pub fn distance(&self, a: &[usize], b: &[usize]) -> Distance {
        let pairs = a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b)));
        pairs.map(|(a, b)| self.distance_of(a, b)).min().unwrap_or(Distance::Far)
    }

    fn distance_of(&self, a: usize, b: usize) -> Distance {
        let (host, other) = (self.gpus[a].host, self.gpus[b].host);
        let rack = |host: usize| self.hosts[host].rack.as_ref();
        if a == b {
            Distance::Same
        } else if self.way(a, b).kind == Some(LinkKind::Nvlink) {
            Distance::Linked
        } else if host == other {
            Distance::Machine
        } else if rack(host).is_some() && rack(host) == rack(other) {
            Distance::Rack
        } else {
            Distance::Far
        }
    }

    pub(crate) fn label(&self, node: NodeIndex) -> String {
        let on = |host: usize, name: &str| match self.hosts.len() {
            1 => name.to_owned(),
            _ => format!("{}/{name}", self.hosts[host].name),
        };
        match &self.graph[node] {
            Node::Gpu(place) => on(self.gpus[*place].host, &self.gpus[*place].name),
            Node::Nic(place) => on(self.nics[*place].host, &self.nics[*place].name),
            Node::NvSwitch { host: Some(host) } => on(*host, "NVSwitch"),
            Node::NvSwitch { host: None } => "NVSwitch".to_owned(),
            Node::Switch { host, name } | Node::Bridge { host, name } => on(*host, name),
            Node::Numa { host, numa: Some(numa) } => on(*host, &format!("NUMA {numa}")),
            Node::Numa { host, numa: None } => on(*host, "NUMA ?"),
            Node::Network => "network".to_owned(),
        }
    }

    /// Returns the ways from a node to others: over NVLink where that joins them, else the widest, of
    /// several the one with the fewest hops.
    fn ways_to(&self, from: NodeIndex, to: &[NodeIndex]) -> Vec<Way> {
        let mut ways = vec![Way::NONE; to.len()];
        for over in OVER {
            let widths = self.widths(from, over);
            let mut distinct: Vec<f64> = to.iter().map(|node| widths[node.index()]).collect();
            distinct.sort_unstable_by(f64::total_cmp);
            distinct.dedup();
            for width in distinct.into_iter().filter(|&width| width > 0.0) {
                let reached = self.within(from, width, over);
                for (way, node) in ways.iter_mut().zip(to) {
                    if widths[node.index()] == width && way.gb_per_s == 0.0 {
                        *way = reached[node.index()].map_or(Way::NONE, |reached| reached.way);
                    }
                }
            }
        }
        ways
    }

    /// Returns the bandwidth of the widest way to each node: Dijkstra's, with the narrowest link of a
    /// way instead of its length. GPUs pass nothing on.
    fn widths(&self, from: NodeIndex, over: Over) -> Vec<f64> {
        let mut widths = vec![0.0; self.graph.node_count()];
        let mut settled = vec![false; self.graph.node_count()];
        let mut heap = BinaryHeap::from([Step { width: f64::INFINITY, node: from }]);
        widths[from.index()] = f64::INFINITY;
        while let Some(Step { width, node }) = heap.pop() {
            if std::mem::replace(&mut settled[node.index()], true) || self.ends(node, from) {
                continue;
            }
            for edge in self.graph.edges(node).filter(|edge| over.takes(edge.weight())) {
                let (width, next) = (width.min(edge.weight().gb_per_s), edge.target());
                if width > widths[next.index()] {
                    widths[next.index()] = width;
                    heap.push(Step { width, node: next });
                }
            }
        }
        widths
    }

    /// Returns how each node is reached over links of at least this bandwidth, with the fewest hops.
    fn within(&self, from: NodeIndex, least: f64, over: Over) -> Vec<Option<Reached>> {
        let mut reached: Vec<Option<Reached>> = vec![None; self.graph.node_count()];
        reached[from.index()] = Some(Reached { way: Way::SELF, from: None });
        let mut turn = VecDeque::from([from]);
        while let Some(node) = turn.pop_front() {
            if self.ends(node, from) {
                continue;
            }
            let way = reached[node.index()].expect("it was reached to be here").way;
            // Neighbours in the order of their making, whatever the order of the links.
            let mut links: Vec<(NodeIndex, Link)> =
                self.graph.edges(node).map(|edge| (edge.target(), *edge.weight())).collect();
            links.sort_by(|a, b| b.1.gb_per_s.total_cmp(&a.1.gb_per_s).then(a.0.cmp(&b.0)));
            for (next, link) in links {
                if link.gb_per_s < least || !over.takes(&link) || reached[next.index()].is_some() {
                    continue;
                }
                let narrower = link.gb_per_s < way.gb_per_s;
                let way = Way {
                    gb_per_s: way.gb_per_s.min(link.gb_per_s),
                    latency_us: way.latency_us + link.latency_us,
                    hops: way.hops + 1,
                    kind: if narrower { Some(link.kind) } else { way.kind },
                };
                reached[next.index()] = Some(Reached { way, from: Some(node) });
                turn.push_back(next);
            }
        }
        reached
    }

    /// Returns whether a way ends at a node: a GPU does not pass on what is not its own.
    fn ends(&self, node: NodeIndex, from: NodeIndex) -> bool {
        node != from && matches!(self.graph[node], Node::Gpu(_))
    }
}

/// Which links a way may take.
#[derive(Clone, Copy)]
enum Over {
    Nvlink,
    All,
}

/// Where GPUs are joined by NVLink, that is what they use, however narrow.
const OVER: [Over; 2] = [Over::Nvlink, Over::All];

impl Over {
    fn takes(self, link: &Link) -> bool {
        matches!(self, Self::All) || link.kind == LinkKind::Nvlink
    }
}

#[derive(Clone, Copy)]
struct Reached {
    way: Way,
    from: Option<NodeIndex>,
}

struct Step {
    width: f64,
    node: NodeIndex,
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.width.total_cmp(&other.width).then(other.node.cmp(&self.node))
    }
}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Step {}
