//! What the examples share: fake engines, so that each runs on any machine.
//!
//! | example | idea |
//! |---|---|
//! | `route_only` | the router alone, without anything else of sageLLM |
//! | `schedule_only` | the waiting queue under two strategies |
//! | `custom_strategy` | a strategy of one's own, driving the whole core |
//! | `http_client` | one machine, several, and mixed, over HTTP |
//! | `full_stack` | the control plane inside an application |
//!
//! `recipes/` holds settings files for four common uses; `sagellm demo --config` runs them.

use std::io;

use sagellm_engine_model::server::{ServerConfig, ServerHandle, serve};
use sagellm_types::ExecutionInstance;
use sagellm_types::clock::Clock;
use tokio::net::TcpListener;

/// Starts a fake vLLM that serves `model` and returns it with the record under which it is
/// registered: `name`, and fields to change.
///
/// # Errors
/// If the system has no port left.
pub async fn fake_engine(name: &str, model: &str) -> io::Result<(ServerHandle, ExecutionInstance)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let config = ServerConfig { model: model.to_owned(), ..ServerConfig::default() };
    let server = serve(listener, config, Clock::real())?;
    let port = server.local_addr().port();
    Ok((server, ExecutionInstance::new(name, "127.0.0.1", port, model)))
}
