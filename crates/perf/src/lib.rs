//! How long a request takes and what it costs.
//!
//! Three questions, each answered from a prior and then from what happened:
//! how long one engine step takes ([`OperatorCost`], or the plainer [`LinearCost`]), what a request will need ([`Forecaster`]), and
//! what it would see on a given instance ([`Predictor`]). This crate never chooses, never measures
//! and never reads a clock; floats are touched by + − × ÷ and square roots only, so that results
//! are the same on every machine.
//!
//! ```
//! use sagellm_perf::{Batch, Flavour, Forecaster, Layout, LinearCost, Predictor, PromptSize};
//! use sagellm_types::{Estimator, InstanceId, Load, ModelId, Request, Timestamp};
//!
//! let cost = LinearCost::preset("Llama-3.1-8B-Instruct", Some("H100"), Layout::tensor(1));
//! let decode = Batch { decode_sequences: 8, kv_tokens: 8000, ..Batch::EMPTY };
//! let mixed = Batch { prefill_tokens: 2048, ..decode };
//! assert!(cost.step_time(&decode) < cost.step_time(&mixed));
//!
//! let forecaster = Forecaster::new(cost);
//! let forecast = forecaster.forecast(ModelId(0), None, PromptSize::Bytes(4000), Some(100));
//! assert_eq!((forecast.prompt.0, forecast.output.0), (1000, 100));
//!
//! let mut predictor = Predictor::new();
//! let instance = InstanceId::new(0, 0);
//! predictor.insert(instance, Flavour { cost, ..Flavour::default() });
//! let request = Request { forecast, ..Request::example(0) };
//! let idle = predictor.estimate(&request, instance, &Load::default(), Timestamp::ZERO);
//! let busy = Load { sequences: 64, ..Load::default() };
//! assert!(predictor.estimate(&request, instance, &busy, Timestamp::ZERO).tpot > idle.tpot);
//! ```

mod calibration;
mod catalogue;
mod confidence;
mod estimate;
mod forecast;
mod gpu;
mod guess;
mod hugging_face;
mod layout;
mod learnt;
mod line;
mod memory;
mod operators;
mod pass;
mod picos;
mod preset;
mod price;
mod prompts;
mod shares;
mod spec;
mod steady;
mod step;
mod users;

pub use calibration::{Calibration, Factor};
pub use catalogue::{UnknownName, gpus, models};
pub use confidence::{Confidence, Interval, Novelty, Seen};
pub use estimate::{Flavour, Observed, Predictor};
pub use forecast::{Forecaster, Lesson, PredictionError, PromptSize};
pub use gpu::Gpu;
pub use layout::{Fabric, IllegalLayout, Layout, LayoutError, Link};
pub use learnt::Learnt;
pub use line::Line;
pub use memory::{DoesNotFit, Memory};
pub use operators::{OperatorCost, Work};
pub use picos::Picos;
pub use preset::{DEFAULT_KV_TOKENS, kv_tokens_that_fit};
pub use price::Rent;
pub use prompts::Prompts;
pub use shares::WorkShares;
pub use spec::{Dtype, Mla, ModelSpec, Moe, SpecError, Window};
pub use steady::{Steady, SteadyLimits, SteadyLoad};
pub use step::{Batch, CostError, LinearCost, LinearCostConfig, RunTime, StepCost};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
