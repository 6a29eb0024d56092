//! The HTTP face of sageLLM. It turns HTTP into requests for the control plane, and answers into
//! HTTP, byte for byte as the engine gave them; it decides nothing.
//!
#![doc = include_str!("../README.md")]

mod admin;
mod answer;
mod attempt;
mod config;
mod error;
mod inference;
mod intent;
mod pages;
mod relay;
mod router;
mod server;

pub use config::{AdminConfig, GatewayConfig, UsageMode};
pub use server::{Gateway, GatewayError};
