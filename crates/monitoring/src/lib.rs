//! What happened in an LLM fleet, summarised.
//!
//! One registry takes the control plane's events; every reader (the metrics records, the report,
//! `/metrics`) is computed from its snapshot. The caller owns the [`Collector`], feeds it under its
//! own lock and gives the time with each event.
//!
//! This crate never reads a clock, never does IO, keeps no request and decides nothing.
//!
//! ```
//! use sagellm_monitoring::{Collector, Report, Span, exposition, render_text};
//! use sagellm_types::{
//!     Completion, Ending, ExecutionInstance, InstanceId, ModelId, Request, Timestamp, Tokens, Usage,
//!     Usd,
//! };
//!
//! let at = Timestamp::from_millis;
//! let mut collector = Collector::new(at(0));
//! let instance = InstanceId::new(0, 0);
//! collector.name_model(ModelId(0), "llama-7b");
//! collector.name_instance(instance, &ExecutionInstance::new("vllm-1", "localhost", 8000, "llama-7b"), at(0));
//! collector.strategy("fifo", "configured", at(0));
//!
//! let request = Request::example(0);
//! collector.submitted(&request, at(0));
//! collector.dispatched(&request, 0, instance, at(10));
//! collector.first_token(&request, at(110));
//! collector.ended(
//!     &Completion {
//!         request,
//!         ending: Ending::Finished,
//!         dispatched: Some(at(10)),
//!         first_token: Some(at(110)),
//!         ended: at(1110),
//!         usage: Usage { prompt: Tokens(100), output: Tokens(11), cached: Tokens(0) },
//!         cost: Usd(0.002),
//!     },
//!     None,
//!     Some(instance),
//! );
//!
//! let snapshot = collector.snapshot(at(1110));
//! assert_eq!(snapshot.performance(Span::Window).p95_latency_ms, Some(1110.0));
//! let report = Report::from(&snapshot);
//! assert_eq!(report.ttft_ms.p50, Some(110.0));
//! assert!(render_text(&report).contains("1 submitted, 1 finished"));
//! assert!(exposition(&snapshot).contains("sagellm_tokens_total{kind=\"output\"} 11"));
//! ```

mod collector;
mod compare;
mod declared;
mod exposition;
mod fleetwide;
mod instance;
mod level;
mod records;
mod render;
mod report;
mod series;
mod sketch;
mod snapshot;
mod tally;
mod text;
mod window;

pub use collector::{Collector, INTERVALS, MODELS, Probe, RETENTION};
pub use compare::{Verdict, compare_text};
pub use declared::{Metric, MetricKind, metrics_reference};
pub use exposition::{CONTENT_TYPE, Text, exposition};
pub use fleetwide::{EXPIRE_REASONS, Fleetwide, Predictions, REFUSE_REASONS};
pub use instance::{AttemptEnding, EngineGauges, InstanceFigures, Work};
pub use level::Level;
pub use render::render_text;
pub use report::{
    ClassReport, Cost, Distribution, InstanceReport, PredictionInterval, Report, Requests,
    Simulated, Slo, StrategyInterval, Throughput,
};
pub use series::{EndingKind, Series};
pub use sketch::Sketch;
pub use snapshot::{Interval, Model, Snapshot};
pub use tally::{Sample, Tally};
pub use window::{Rolling, SLOT, SLOTS, Span, Summary};
