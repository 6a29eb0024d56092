//! The GPUs of machines and the ways between them.
//!
//! A [`Topology`] is a graph of GPUs, NVLink, PCIe switches, NUMA nodes, network cards and hosts, with
//! bandwidth and latency on every link. It comes from the text of `nvidia-smi topo -m`, from a file,
//! from a preset, or from the machine itself (sysfs, and the driver behind the feature `nvml`), and answers: which GPUs belong together for tensor parallelism, what lies
//! between two of them, which card and which CPUs are near one, how far two instances are apart, and
//! what a placement leaves.
//!
//! ```
//! use sagellm_topology::{Distance, Topology};
//!
//! let two = Topology::preset("hgx-h100", 2)?;
//! let all: Vec<usize> = (0..16).collect();
//! let groups = two.disjoint_groups(4, 4, &all).expect("sixteen are four times four");
//! assert!(groups.iter().all(|group| group.gb_per_s == 450.0 && group.numa_nodes == 1));
//! assert_eq!(two.distance(&groups[0].gpus, &groups[1].gpus), Distance::Linked);
//! assert_eq!(two.path(0, 8).expect("over the network").gb_per_s, 50.0);
//! # Ok::<(), sagellm_topology::UnknownPreset>(())
//! ```

mod cpus;
mod discover;
mod file;
mod group;
mod matrix;
#[cfg(feature = "nvml")]
mod nvml;
mod preset;
#[cfg(feature = "nvml")]
mod sampler;
mod show;
mod smi;
mod sysfs;
mod topology;

pub use cpus::{CpuSet, CpuSetError};
pub use discover::{Discover, DiscoverError};
pub use file::FileError;
pub use group::{EXACT, Group};
pub use matrix::{Contradiction, Relation, Speeds};
#[cfg(feature = "nvml")]
pub use nvml::Driver;
pub use preset::UnknownPreset;
pub use sagellm_types::Distance;
#[cfg(feature = "nvml")]
pub use sampler::Sampler;
pub use smi::SmiError;
pub use sysfs::Sysfs;
pub use topology::{Gpu, Host, Link, LinkKind, Nic, Path, Topology};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
