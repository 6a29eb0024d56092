//! The machines of a topology, as the planner asks for them.

use anyhow::{Context, Result};
use sagellm_parallelism::Links;
use sagellm_perf::{Gpu, Link};
use sagellm_topology::Topology;

/// The GPUs of a topology by type, with the ways inside of their best groups.
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
    /// The way inside of the best group of each size that is a power of two.
    ways: Vec<(u32, Link)>,
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
            let count = places.len() as u32;
            let sizes = std::iter::successors(Some(2_u32), |size| size.checked_mul(2));
            let way = |size: u32| {
                let group = topology.best_group(size as usize, &places)?;
                // What an exchange between nodes takes more is known of the network alone.
                let usual = Link::among(gpu, size);
                let narrow = group.gb_per_s * 1e9 < gpu.peer_bandwidth();
                let latency = if narrow { usual.latency } else { std::time::Duration::ZERO };
                Some((size, Link { bytes_per_second: group.gb_per_s * 1e9, latency }))
            };
            let ways = sizes.take_while(|size| *size <= count).filter_map(way).collect();
            Kind { gpu, places, ways }
        };
        let kinds = kinds.into_iter().map(kind).collect();
        Ok(Self { topology, kinds })
    }

    pub(super) fn counts(&self) -> Vec<(&'static Gpu, u32)> {
        self.kinds.iter().map(|kind| (kind.gpu, kind.places.len() as u32)).collect()
    }

    /// Returns the topology, and the places of all GPUs of a type in it.
    pub(super) fn of_kind(&self, gpu: &Gpu) -> (&Topology, &[usize]) {
        let kind = self.kinds.iter().find(|kind| kind.gpu.name == gpu.name);
        (&self.topology, kind.map_or(&[], |kind| kind.places.as_slice()))
    }
}

impl Links for Machines {
    fn among(&self, gpu: &Gpu, gpus: u32) -> Option<Link> {
        let kind = self.kinds.iter().find(|kind| kind.gpu.name == gpu.name)?;
        kind.ways.iter().find(|(size, _)| *size == gpus).map(|(_, link)| *link)
    }
}
