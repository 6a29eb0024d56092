//! The core of sageLLM: wires the rooms together and holds no algorithm.
//!
//! [`ControlPlane`] is a synchronous function of (state, event, now, seed): the gateway drives it
//! with the wall clock and real engines, a simulator drives the same code with a virtual clock and
//! modelled ones.
//!
//! ```
//! use sagellm_fleet::ProbeAnswer;
//! use sagellm_manager::{Command, Config, ControlPlane, Event, NewRequest};
//! use sagellm_types::{ExecutionInstance, Timestamp, Usage};
//!
//! let mut core = ControlPlane::new(&Config::default(), Timestamp::ZERO);
//! let spec = ExecutionInstance::new("vllm-1", "localhost", 8000, "llama-7b");
//! core.register(spec, Timestamp::ZERO).expect("a new id");
//! let Some(Command::Probe { instance, ticket, .. }) = core.poll_command() else { panic!() };
//! let answer = ProbeAnswer::healthy();
//! core.handle(Event::Probed { instance, ticket, answer, models: None }, Timestamp::ZERO);
//! while core.poll_command().is_some() {} // notices
//!
//! let model = core.models().resolve("llama-7b").map(|found| found.id);
//! let request = core.submit(NewRequest { model, ..NewRequest::default() }, Timestamp::ZERO);
//! let Some(Command::Dispatch(dispatch)) = core.poll_command() else { panic!() };
//! assert_eq!((dispatch.attempt.request, dispatch.instance), (request, instance));
//!
//! let usage = Usage::default();
//! let finished = Event::Finished { attempt: dispatch.attempt, usage, gaps: None };
//! core.handle(finished, Timestamp::from_secs(1));
//! assert_eq!(core.counts().finished, 1);
//! ```

mod config;
mod core;
#[cfg(feature = "runtime")]
mod runtime;

pub use config::{Config, ConfigError, ExplainConfig, ModelsConfig, QueueConfig, RetryConfig};
pub use core::{
    Command, Considered, ControlPlane, Counts, Dispatch, Event, Excluded, Explained, Explanation,
    InstanceView, ModelView, Models, NewRequest, Notice, Offer, PoolView, RegisterError, Resolved,
    Snapshot,
};
// What callers of the core need of the rooms beneath, so that they need not depend on them.
pub use sagellm_perf::{PredictionError, PromptSize};
pub use sagellm_routing::{RouterConfig, RouterError};
pub use sagellm_strategies::{NotOffered, Pressure, SchedulingStrategy, StrategyConfig};

#[cfg(feature = "runtime")]
pub use runtime::{
    ControlPlaneManager, EngineFactory, HttpEngines, Line, ManagerError, Output, Permit, Shell,
    ShellError, Ticket,
};
