//! The vocabulary of sageLLM: values, units, ids, time and seeded randomness.
//!
//! Every other crate speaks in these types, so that a router, a queue or a planner can be
//! used without the rest. This crate decides nothing and does no IO.
//!
//! ```
//! use sagellm_types::{ExecutionInstance, RequestPriority, Seed, Timestamp, Tokens};
//! use std::time::Duration;
//!
//! let instance = ExecutionInstance::new("vllm-1", "localhost", 8000, "llama-7b");
//! assert_eq!(instance.max_concurrent_requests, 100);
//! assert!(RequestPriority::Critical < RequestPriority::Background);
//! assert_eq!(Timestamp::ZERO + Duration::from_millis(2), Timestamp::from_millis(2));
//! assert_eq!(Tokens(3) + Tokens(4), Tokens(7));
//! // One seed, a named stream per component: the same numbers on every machine.
//! assert_eq!(Seed(7).stream("router").next_u64(), Seed(7).stream("router").next_u64());
//! ```

mod candidate;
#[cfg(feature = "clock")]
pub mod clock;
mod hash;
mod id;
mod instance;
mod metrics;
mod outcome;
mod pd;
mod place;
pub mod planted;
mod request;
mod rng;
mod time;
mod units;

pub use candidate::{
    Candidate, CandidateSet, Candidates, Choice, Estimate, EstimateCache, Estimator, Load,
    MAX_CANDIDATES, NoEstimates, Recent,
};
pub use hash::{PrefixHash, SessionId, UserId, stable_hash};
pub use id::{Attempt, Incarnation, InstanceId, ModelId, RequestId};
pub use instance::{
    DecodingConfig, EngineState, ExecutionInstance, ExecutionInstanceType, GpuSource,
    ParallelismType, PrefillingConfig,
};
pub use metrics::{GpuSample, InstanceMetrics, PdMetrics, PerformanceMetrics, SchedulingMetrics};
pub use outcome::{Completion, Ending, ExpireReason, FailureKind, RefuseReason, Usage};
pub use pd::{KvCacheEvictionPolicy, KvCacheStorage, PdRoutingPolicy, PdSeparationConfig, Phase};
pub use place::{Distance, Places};
pub use request::{
    Forecast, Objectives, Request, RequestMetadata, RequestPriority, RequestStatus, RequestType,
};
pub use rng::{Rng, Seed};
pub use time::Timestamp;
pub use units::{Bytes, BytesPerSec, Ratio, Tokens, Usd};
