//! Calls engines: the only crate of sageLLM that does.
//!
//! Decides nothing about which engine or when, and retries nothing. Hands on bytes as they come, ends a
//! call that takes too long, says what kind of failure it was, and asks an engine how it is. Dropping a
//! [`Reply`], or the future of a call, closes the connection: that is the cancellation.
//!
//! ```
//! use bytes::Bytes;
//! use http::{HeaderMap, StatusCode};
//! use sagellm_executor::{BoxFuture, Call, Engine, EngineError, Probe, ProbeConfig, Reply};
//!
//! /// An engine without a network: what a test or a simulation needs.
//! struct Healthy;
//!
//! impl Engine for Healthy {
//!     fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, EngineError>> {
//!         let status = if call.path == "/health" { StatusCode::OK } else { StatusCode::NOT_FOUND };
//!         let (headers, body) = (HeaderMap::new(), Bytes::new().into());
//!         Box::pin(async move { Ok(Reply { status, headers, body }) })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), EngineError> {
//! let report = Probe::new(&ProbeConfig::default()).run(&Healthy).await?;
//! assert!(report.healthy && report.gauges.is_none());
//! # Ok(())
//! # }
//! ```

mod body;
mod call;
mod error;
mod gpu;
pub mod headers;
mod http_engine;
mod probe;
mod timeouts;
mod watch;

pub use body::{ByteStream, ReplyBody};
pub use call::{BoxFuture, Call, CallKind, Engine, Reply};
pub use error::{EngineError, SettingsError, TimeoutKind, classify_status};
pub use gpu::{DcgmExporter, GpuError, GpuReader};
pub use http_engine::{Clients, HttpConfig, HttpEngine};
pub use probe::{Probe, ProbeConfig, ProbeReport};
pub use timeouts::{Timeouts, TimeoutsConfig};

/// The examples of the README are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
