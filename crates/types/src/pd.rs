//! Settings of prefill/decode separation.

use serde::{Deserialize, Serialize};

/// Which work dominates a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its long prompt.
    Prefilling,
    /// Its output.
    Decoding,
    /// Neither, or separation is off.
    Hybrid,
}

/// How a request's phase is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PdRoutingPolicy {
    /// Urgent or tight requests decode; the rest by threshold.
    #[default]
    Adaptive,
    /// By prompt length and its ratio to the output.
    Threshold,
}

/// Where KV is kept between the two legs of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheStorage {
    /// GPU memory.
    #[default]
    Gpu,
    /// Host memory.
    Cpu,
    /// Storage shared by instances.
    Shared,
}

/// What leaves a full KV cache first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheEvictionPolicy {
    /// The least recently used block.
    #[default]
    Lru,
    /// The least often used block.
    Lfu,
    /// The oldest block.
    Fifo,
}

/// Settings of prefill/decode separation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PdSeparationConfig {
    /// Whether phases are told apart. Without instances of both roles nothing changes.
    pub enabled: bool,
    /// Whether roles may move with the load.
    pub enable_dynamic_scaling: bool,
    /// Fewest prefill instances.
    pub prefilling_min_instances: u32,
    /// Most prefill instances.
    pub prefilling_max_instances: u32,
    /// Fewest decode instances.
    pub decoding_min_instances: u32,
    /// Most decode instances.
    pub decoding_max_instances: u32,
    /// How a request's phase is decided.
    pub routing_policy: PdRoutingPolicy,
    /// Longer prompts than this are prefill work, in tokens.
    pub prefilling_threshold_input_tokens: u64,
    /// A larger ratio of prompt to output than this is prefill work.
    pub prefilling_threshold_ratio: f64,
    /// Where KV is kept between the legs.
    pub kv_cache_storage: KvCacheStorage,
    /// What leaves a full KV cache first.
    pub kv_cache_eviction_policy: KvCacheEvictionPolicy,
    /// Share of GPU memory for KV, 0 to 1.
    pub kv_cache_memory_fraction: f64,
    /// Whether KV is handed from a prefill to a decode instance. When off, whole requests go to the
    /// role that their phase asks for.
    pub enable_kv_cache_transfer: bool,
    /// Transfer buffer, in MiB.
    pub kv_cache_transfer_buffer_mb: u32,
    /// Longest acceptable transfer, in milliseconds.
    pub max_transfer_latency_ms: u32,
    /// Whether phase metrics are collected.
    pub collect_pd_metrics: bool,
    /// Interval of phase metrics, in seconds.
    pub pd_metrics_interval_sec: u32,
    /// Whether each phase decision is traced.
    pub enable_pd_tracing: bool,
}

impl Default for PdSeparationConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            enable_dynamic_scaling: true,
            prefilling_min_instances: 1,
            prefilling_max_instances: 5,
            decoding_min_instances: 2,
            decoding_max_instances: 8,
            routing_policy: PdRoutingPolicy::Adaptive,
            prefilling_threshold_input_tokens: 800,
            prefilling_threshold_ratio: 4.0,
            kv_cache_storage: KvCacheStorage::Gpu,
            kv_cache_eviction_policy: KvCacheEvictionPolicy::Lru,
            kv_cache_memory_fraction: 0.85,
            enable_kv_cache_transfer: true,
            kv_cache_transfer_buffer_mb: 2048,
            max_transfer_latency_ms: 100,
            collect_pd_metrics: true,
            pd_metrics_interval_sec: 10,
            enable_pd_tracing: false,
        }
    }
}
