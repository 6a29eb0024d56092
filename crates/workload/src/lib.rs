//! What clients send an LLM fleet: when, how long, of which class, sharing what.
//!
//! Real traces and synthetic workloads are both a [`Workload`]: arrivals in order of time, and the
//! classes to which they belong. A seed gives the same workload on every machine. This crate sends
//! nothing and measures nothing; drivers replay its arrivals against a gateway or a simulation.
//!
//! ```
//! use sagellm_types::Seed;
//! use sagellm_workload::peaks;
//!
//! // 50 seconds of three classes on a fleet that can answer 20 requests per second.
//! let workload = peaks(20.0).generate(Seed(7)).expect("the preset is sound");
//! for arrival in &workload.arrivals[..3] {
//!     let class = workload.class(arrival);
//!     println!("{:?} {} {:?} {:?}", arrival.at, class.name, arrival.prompt, class.objectives());
//! }
//! assert!(workload.arrivals.is_sorted_by_key(|arrival| arrival.at));
//! ```

mod arrivals;
mod class;
mod config;
mod draw;
mod error;
mod length;
mod preset;
mod session;
mod source;
mod trace;
mod workload;

pub use arrivals::{Arrivals, Bursts, Gaps, Piece, Rate, Times};
pub use class::SloClass;
pub use config::WorkloadConfig;
pub use error::{ConfigError, TraceError};
pub use length::Length;
pub use preset::{peaks, three_classes};
pub use session::Sessions;
pub use source::{Origin, Source};
pub use trace::{TraceFormat, jitter, read_trace, read_trace_file};
pub use workload::{Arrival, BLOCK, Shape, Workload};
