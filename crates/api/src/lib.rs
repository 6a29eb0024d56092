//! Wire types of the OpenAI HTTP surface, as vLLM speaks it.
//!
//! Decides nothing; says what a body, a stream or a page contains. Bytes that a client or an engine
//! sent are never parsed into a tree and written again: a [`Peek`] is one pass over a request body, a
//! [`Patch`] changes named bytes and no others, a [`Scanner`] looks at a stream while it passes.
//! No IO, no clock, no other crate of sageLLM.
//!
//! ```
//! use bytes::Bytes;
//! use sagellm_api::{Patch, Peek, PromptSize, Scanner, UsageChunk};
//!
//! let body = br#"{"model": "chat", "prompt": [1, 2, 3], "stream": true}"#;
//! let peek = Peek::parse(body)?;
//! assert_eq!(peek.model.as_deref(), Some("chat"));
//! assert_eq!(peek.prompt, Some(PromptSize::Tokens(3)));
//! let patched = Patch::of(&peek).model("llama-7b").include_usage().apply().expect("two changes");
//! assert_eq!(
//!     &patched[..],
//!     br#"{"stream_options":{"include_usage":true},"model": "llama-7b", "prompt": [1, 2, 3], "stream": true}"#
//! );
//!
//! let mut scanner = Scanner::new(UsageChunk::Withhold);
//! let fed = scanner.feed(Bytes::from_static(b"data: {\"choices\":[{\"text\":\"hi\"}]}\n\n"));
//! assert_eq!(fed.marks.content, 1);
//! let fed = scanner.feed(Bytes::from_static(
//!     b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n",
//! ));
//! assert!(fed.forward.is_empty());
//! assert_eq!(fed.marks.usage.map(|usage| usage.completion), Some(1));
//! # Ok::<(), sagellm_api::PeekError>(())
//! ```

mod dcgm;
mod error;
mod json;
mod metrics;
mod models;
mod patch;
mod peek;
mod prompt;
mod sse;
mod usage;

pub use dcgm::{DcgmGpu, DcgmPage};
pub use error::{ApiError, ErrorCode, says_engine_died};
pub use metrics::{EngineGauges, MetricsPage};
pub use models::{ModelCard, ModelList};
pub use patch::Patch;
pub use peek::{Peek, PeekError};
pub use prompt::PromptSize;
pub use sse::{Fed, Marks, Scanner, UsageChunk};
pub use usage::Usage;

/// The examples of the README are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
