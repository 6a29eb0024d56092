//! A vLLM engine as a pure state machine.
//!
//! It decides what each step computes (continuous batching under a token budget, KV blocks, a
//! prefix cache, preemption by recomputation) and when the step ends, by the step times of
//! `sagellm-perf`. It never computes a token's value, reads a clock or does IO; time inside is whole
//! picoseconds, so the same sequences give the same log on every machine, whether the engine is
//! stepped or leapt ([`Pace`]).
//!
//! Behind the feature `server` stands a fake vLLM over HTTP around the same engine, which answers
//! as the real one does: endpoints, error bodies, streams and metrics.
//!
//! ```
//! use sagellm_engine_model::{Engine, EngineConfig, EventKind, Sequence};
//! use sagellm_perf::LinearCost;
//! use sagellm_types::Timestamp;
//!
//! let mut engine = Engine::new(EngineConfig::default(), LinearCost::TINY);
//! for id in 0..4 {
//!     let sequence = Sequence { id, prompt_tokens: 500, output_tokens: 20, ..Default::default() };
//!     engine.submit(sequence, Timestamp::ZERO).expect("it fits");
//! }
//! let mut events = Vec::new();
//! engine.advance(Timestamp::MAX, &mut events);
//! let ended = events.iter().filter(|event| event.kind == EventKind::Finished).count();
//! assert_eq!((ended, engine.gauges().generation_tokens), (4, 80));
//! ```

mod blocks;
mod check;
mod config;
mod engine;
mod leg;
mod run;
mod schedule;
mod sequence;
#[cfg(feature = "server")]
pub mod server;

pub use config::{EngineConfig, Pace, Policy};
pub use engine::Engine;
pub use leg::{Leg, Transfer};
pub use sequence::{Event, EventKind, Gauges, Rejection, Sequence};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
