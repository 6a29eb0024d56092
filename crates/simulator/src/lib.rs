//! Engines in virtual time.
//!
//! [`Simulation`] runs a workload on a fleet of modelled engines under the very control plane that
//! serves, from event to event. [`accuracy`] replays measured runs of real engines, request by request, on the engine model, says
//! how far its predictions are off, and fits the few numbers per GPU that they rest on. Everything
//! here is deterministic: one seed, no clock, no order of threads in any figure.
//!
//! ```
//! use sagellm_perf::Calibration;
//! use sagellm_simulator::accuracy::{Replay, parse};
//!
//! let rows = parse(
//!     "model_path,precision,system,backend,mode,isl,osl,batch_size,tp_size,pp_size,attention_dp_size,\
//!      moe_tp_size,moe_ep_size,silicon_ttft_ms,silicon_tpot_ms,id\n\
//!      Qwen/Qwen3-32B,,h100_sxm,vllm,agg,1024,128,8,2,1,1,1,1,154,18.04,example\n",
//! )?;
//! let replay = Replay::of(&rows[0]).expect("it can be replayed");
//! let predicted = replay.run(&Calibration::default());
//! assert!((100.0..250.0).contains(&predicted.ttft_ms) && (10.0..25.0).contains(&predicted.tpot_ms));
//! # Ok::<(), sagellm_simulator::accuracy::RowError>(())
//! ```

pub mod accuracy;
mod faults;
mod outcome;
mod pools;
pub mod props;
mod scenario;
pub mod study;
mod world;

pub use faults::{FaultError, FaultKind, FaultRule, Strike, strikes};
pub use outcome::{Moment, Outcome};
pub use pools::{Pool, Pools, Served};
pub use scenario::{EngineSettings, Scenario, ScenarioError, TraceSettings, model};
pub use world::{Coverage, Machine, Simulation, SimulationError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
