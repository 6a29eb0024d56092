//! The metrics records that users read, under the names that they know.
//!
//! A figure that nobody has measured is `None`, never 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What happened to requests, in total.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct PerformanceMetrics {
    /// When the figures were taken.
    pub timestamp: Timestamp,
    /// Requests submitted.
    pub total_requests: u64,
    /// Requests answered in full.
    pub completed_requests: u64,
    /// Requests that failed, expired or were refused.
    pub failed_requests: u64,
    /// Requests running.
    pub active_requests: u64,
    /// Requests waiting.
    pub queued_requests: u64,
    /// Mean end-to-end latency, in milliseconds.
    pub avg_latency_ms: Option<f64>,
    /// Median end-to-end latency, in milliseconds.
    pub p50_latency_ms: Option<f64>,
    /// 95th percentile of end-to-end latency, in milliseconds.
    pub p95_latency_ms: Option<f64>,
    /// 99th percentile of end-to-end latency, in milliseconds.
    pub p99_latency_ms: Option<f64>,
    /// Output tokens per second over the window.
    pub tokens_per_second: f64,
    /// Requests ended per second over the window.
    pub requests_per_second: f64,
    /// Mean GPU utilisation, 0 to 1; `None` while it is unknown.
    pub avg_gpu_utilization: Option<f64>,
    /// GPU memory of all instances, in GiB; `None` if unknown.
    pub total_gpu_memory_gb: Option<f64>,
    /// GPU memory in use, in GiB; `None` while it is unknown.
    pub used_gpu_memory_gb: Option<f64>,
    /// Attributed cost, in US dollars.
    pub total_cost: f64,
    /// Attributed cost per output token, in US dollars.
    pub cost_per_token: Option<f64>,
    /// Requests with an objective that missed it.
    pub slo_violations: u64,
    /// Share of requests with an objective that met it; `None` without such requests.
    pub slo_compliance_rate: Option<f64>,
}

/// A sample of the GPUs of an instance; a part that is not known is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct GpuSample {
    /// Mean utilisation, 0 to 1.
    pub utilization: Option<f64>,
    /// Memory in use on all of them, in GiB.
    pub memory_used_gb: Option<f64>,
}

impl GpuSample {
    /// Returns the sample of an instance with the GPUs of these samples. What one of them does not
    /// tell is not known.
    pub fn of_all(gpus: &[Self]) -> Self {
        let sum = |part: fn(&Self) -> Option<f64>| gpus.iter().map(part).sum::<Option<f64>>();
        let told = !gpus.is_empty();
        Self {
            utilization: sum(|gpu| gpu.utilization).filter(|_| told).map(|u| u / gpus.len() as f64),
            memory_used_gb: sum(|gpu| gpu.memory_used_gb).filter(|_| told),
        }
    }
}

/// How well the scheduler decides.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct SchedulingMetrics {
    /// When the figures were taken.
    pub timestamp: Timestamp,
    /// The strategy in use.
    pub policy_name: String,
    /// Median time from submission to dispatch with room in the fleet, in microseconds.
    pub scheduling_latency_us: Option<f64>,
    /// Decisions per second over the window.
    pub scheduling_throughput: f64,
    /// Mean error of predicted end-to-end latency, in milliseconds.
    pub latency_prediction_error_avg: Option<f64>,
    /// 95th percentile of that error, in milliseconds.
    pub latency_prediction_error_p95: Option<f64>,
    /// Share of predictions within 10 % of what happened.
    pub prediction_accuracy_rate: Option<f64>,
    /// Population variance of load over ready instances.
    pub load_balance_variance: Option<f64>,
    /// 1 − (standard deviation / mean) of load, not below 0: 1 is even.
    pub load_balance_coefficient: Option<f64>,
    /// Share of requests with an objective that met it, per priority.
    pub slo_compliance_by_priority: BTreeMap<String, f64>,
    /// Median wait for dispatch, in milliseconds.
    pub queue_wait_time_p50: Option<f64>,
    /// 95th percentile of the wait, in milliseconds.
    pub queue_wait_time_p95: Option<f64>,
    /// 99th percentile of the wait, in milliseconds.
    pub queue_wait_time_p99: Option<f64>,
    /// Mean queue length over the window, weighted by time.
    pub queue_length_avg: f64,
    /// Longest queue over the window.
    pub queue_length_max: u64,
}

/// What one instance did.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct InstanceMetrics {
    /// The instance's name.
    pub instance_id: String,
    /// When the figures were taken.
    pub timestamp: Timestamp,
    /// Attempts that ended well.
    pub total_requests_processed: u64,
    /// Attempts running.
    pub active_requests: u64,
    /// Attempts that failed.
    pub failed_requests: u64,
    /// Mean time from dispatch to end, in milliseconds.
    pub avg_latency_ms: Option<f64>,
    /// Median of that time, in milliseconds.
    pub p50_latency_ms: Option<f64>,
    /// Its 95th percentile, in milliseconds.
    pub p95_latency_ms: Option<f64>,
    /// Its 99th percentile, in milliseconds.
    pub p99_latency_ms: Option<f64>,
    /// Output tokens per second over the window.
    pub throughput_tokens_per_sec: f64,
    /// GPU utilisation, 0 to 1; `None` while it is unknown.
    pub gpu_utilization: Option<f64>,
    /// GPU memory in use, in GiB; `None` while it is unknown.
    pub gpu_memory_used_gb: Option<f64>,
    /// GPU memory, in GiB; `None` if unknown.
    pub gpu_memory_total_gb: Option<f64>,
    /// Reserved share of the dispatch window, 0 to 1.
    pub current_load: f64,
    /// Whether it answers its probes.
    pub is_healthy: bool,
    /// When it was last probed.
    pub last_health_check: Option<Timestamp>,
    /// Probes failed in a row.
    pub consecutive_failures: u32,
}

/// What prefill/decode separation did.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct PdMetrics {
    /// Prompt tokens per second on prefill instances.
    pub prefilling_throughput_tokens_per_sec: Option<f64>,
    /// Mean latency on prefill instances, in milliseconds.
    pub prefilling_latency_avg_ms: Option<f64>,
    /// Its 99th percentile, in milliseconds.
    pub prefilling_latency_p99_ms: Option<f64>,
    /// Requests running on prefill instances.
    pub prefilling_active_requests: u64,
    /// Mean latency on decode instances, in milliseconds.
    pub decoding_latency_avg_ms: Option<f64>,
    /// Its 99th percentile, in milliseconds.
    pub decoding_latency_p99_ms: Option<f64>,
    /// Requests running on decode instances.
    pub decoding_active_requests: u64,
    /// Share of prompt tokens found in a prefix cache.
    pub kv_cache_hit_rate: Option<f64>,
    /// Requests decided as prefill work.
    pub requests_routed_to_prefilling: u64,
    /// Requests decided as decode work.
    pub requests_routed_to_decoding: u64,
    /// Requests decided as neither.
    pub requests_routed_to_hybrid: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_gpu_does_not_tell_is_not_known_of_all() {
        let gpu = |utilization, memory_used_gb| GpuSample { utilization, memory_used_gb };
        let both = [gpu(Some(1.0), Some(30.0)), gpu(Some(0.5), Some(10.0))];
        assert_eq!(GpuSample::of_all(&both), gpu(Some(0.75), Some(40.0)));
        let half = [gpu(Some(1.0), Some(30.0)), gpu(None, Some(10.0))];
        assert_eq!(GpuSample::of_all(&half), gpu(None, Some(40.0)));
        assert_eq!(GpuSample::of_all(&[]), GpuSample::default());
    }
}
