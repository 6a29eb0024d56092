//! Which of the allowed instances takes a request.
//!
//! A [`Router`] is shown candidates that are ready, serve the model and have room, never none of
//! them, and picks one. It never decides when a request runs and never excludes an instance.
//!
#![doc = include_str!("../README.md")]

mod affinity;
mod balanced;
mod config;
mod favourites;
mod locality;
mod random;
mod rotation;
mod router;
mod ties;
mod topology_aware;

pub use affinity::{Affinity, AffinityConfig};
pub use balanced::{LeastConnections, LeastResponseTime, LoadBalanced, PowerOfTwo};
pub use config::{RouterConfig, RouterError};
pub use locality::{Locality, LocalityConfig};
pub use random::Random;
pub use rotation::{RoundRobin, WeightedRoundRobin};
pub use router::Router;
pub use topology_aware::{TopologyAware, TopologyAwareConfig};
