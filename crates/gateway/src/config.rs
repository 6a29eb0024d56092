//! Settings of the gateway.

use std::net::{Ipv4Addr, SocketAddr};

use sagellm_executor::{HttpConfig, ProbeConfig};
use serde::{Deserialize, Serialize};

/// Settings of the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The admin API.
    pub admin: AdminConfig,
    /// Longest request body, in bytes; longer is answered with 413.
    pub body_limit_bytes: usize,
    /// How the tokens of a stream are learnt whose client did not ask for usage.
    pub usage: UsageMode,
    /// How engines are called.
    pub http: HttpConfig,
    /// How engines are probed.
    pub probe: ProbeConfig,
    /// How long running answers may take to end after the gateway was asked to stop, in milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            admin: AdminConfig::default(),
            body_limit_bytes: 32 << 20,
            usage: UsageMode::Inject,
            http: HttpConfig::default(),
            probe: ProbeConfig::default(),
            drain_timeout_ms: 30_000,
        }
    }
}

/// Who may change things.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// An address of its own for the admin API; by default it is on the main one.
    pub listen: Option<SocketAddr>,
    /// Asked for as `Authorization: Bearer …` or `X-Admin-Token`. Without it the admin API answers
    /// only where it listens on loopback.
    #[serde(skip_serializing)]
    pub token: Option<String>,
}

/// How the tokens of a stream are learnt whose client did not ask for usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageMode {
    /// Ask the engine for it and keep its chunk back.
    #[default]
    Inject,
    /// Change nothing and count chunks.
    CountChunks,
}
