//! What an operator says of an engine: the registration record, its roles and its state.

use serde::{Deserialize, Serialize};

use crate::{RequestType, Usd};

/// Where an engine stands in its life.
///
/// `Starting → Ready → Draining → Stopped`; `Error` ("Down") is left again by itself when the engine
/// answers its probes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum EngineState {
    /// Registered, not yet healthy: takes nothing.
    #[default]
    Starting,
    /// Healthy: takes requests.
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Gone for good.
    Stopped,
    /// Does not answer; comes back by itself.
    Error,
}

impl EngineState {
    /// Returns the state's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

/// What an instance is specialised in.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionInstanceType {
    /// Prefill and decode of any length.
    #[default]
    General,
    /// Long prompts: high throughput.
    Prefilling,
    /// Generation: low latency.
    Decoding,
    /// Both roles, weighed by load.
    Hybrid,
    /// Embeddings only.
    Embedding,
    /// Generation and embeddings.
    LlmEmbedding,
}

impl ExecutionInstanceType {
    /// Returns whether requests in `phase` may run on an instance of this type.
    pub const fn takes_phase(self, phase: crate::Phase) -> bool {
        match phase {
            crate::Phase::Prefilling => !matches!(self, Self::Decoding | Self::Embedding),
            crate::Phase::Decoding => !matches!(self, Self::Prefilling | Self::Embedding),
            crate::Phase::Hybrid => !matches!(self, Self::Embedding),
        }
    }
}

/// How a model is laid over GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ParallelismType {
    /// Weights of each layer split over GPUs.
    #[serde(rename = "tp")]
    TensorParallel,
    /// Layers split over GPUs.
    #[serde(rename = "pp")]
    PipelineParallel,
    /// The model copied.
    #[serde(rename = "dp")]
    DataParallel,
    /// Experts of a mixture split over GPUs.
    #[serde(rename = "ep")]
    ExpertParallel,
    /// Several at once.
    #[serde(rename = "hybrid")]
    Hybrid,
}

/// Settings of an instance that is specialised in prefill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefillingConfig {
    /// Prompts batched together.
    pub target_batch_size: u32,
    /// Wanted throughput, in prompt tokens per second.
    pub target_throughput_tokens_per_sec: u32,
    /// Tensor-parallel GPUs.
    pub tensor_parallel_size: u32,
    /// Pipeline stages.
    pub pipeline_parallel_size: u32,
    /// Keep the KV cache.
    pub enable_kv_cache: bool,
    /// Split long prompts into chunks.
    pub enable_chunked_prefill: bool,
    /// Largest chunk, in tokens.
    pub max_chunk_size_tokens: u32,
}

impl Default for PrefillingConfig {
    fn default() -> Self {
        Self {
            target_batch_size: 64,
            target_throughput_tokens_per_sec: 1000,
            tensor_parallel_size: 4,
            pipeline_parallel_size: 1,
            enable_kv_cache: true,
            enable_chunked_prefill: true,
            max_chunk_size_tokens: 4096,
        }
    }
}

/// Settings of an instance that is specialised in decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodingConfig {
    /// Wanted latency, in milliseconds.
    pub target_latency_ms: u32,
    /// Wanted throughput of one GPU, in output tokens per second.
    pub target_tokens_per_sec_per_gpu: u32,
    /// Tensor-parallel GPUs.
    pub tensor_parallel_size: u32,
    /// Pipeline stages.
    pub pipeline_parallel_size: u32,
    /// Reuse the KV of shared prefixes.
    pub enable_prefix_caching: bool,
    /// Requests at once.
    pub max_parallel_requests: u32,
    /// Share of GPU memory for KV, 0 to 1.
    pub kv_cache_memory_fraction: f64,
}

impl Default for DecodingConfig {
    fn default() -> Self {
        Self {
            target_latency_ms: 50,
            target_tokens_per_sec_per_gpu: 100,
            tensor_parallel_size: 1,
            pipeline_parallel_size: 1,
            enable_prefix_caching: true,
            max_parallel_requests: 200,
            kv_cache_memory_fraction: 0.85,
        }
    }
}

/// Where utilisation of an instance's GPUs is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GpuSource {
    /// The driver of the machine on which the gateway runs, through NVML.
    Nvml,
    /// The metrics page of a DCGM exporter: an absolute URL of http.
    Dcgm(String),
}

impl TryFrom<String> for GpuSource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "nvml" => Ok(Self::Nvml),
            url if url.starts_with("http://") => Ok(Self::Dcgm(text)),
            _ => Err(format!(
                "gpu_metrics = {text:?}: expected \"nvml\" or the page of a DCGM exporter, such as \"http://host:9400/metrics\""
            )),
        }
    }
}

impl From<GpuSource> for String {
    fn from(source: GpuSource) -> Self {
        match source {
            GpuSource::Nvml => "nvml".to_owned(),
            GpuSource::Dcgm(url) => url,
        }
    }
}

/// An engine as an operator registers it.
///
/// What is *observed* of it (load, health, latency) is not here: it is in the fleet's tables and
/// in [`crate::InstanceMetrics`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutionInstance {
    /// Unique name.
    pub instance_id: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The model that it serves; further names come from its `/v1/models`.
    pub model_name: String,
    /// `http` or `https`.
    #[serde(default = "defaults::scheme")]
    pub scheme: String,
    /// Path before `/v1`, without a slash at its end.
    #[serde(default)]
    pub base_path: String,
    /// Sent as `Authorization: Bearer …` to the engine instead of the client's.
    #[serde(default, skip_serializing)]
    pub api_key: Option<String>,
    /// Tensor-parallel GPUs.
    #[serde(default = "defaults::one")]
    pub tensor_parallel_size: u32,
    /// Pipeline stages.
    #[serde(default = "defaults::one")]
    pub pipeline_parallel_size: u32,
    /// Data-parallel ranks behind the endpoint.
    #[serde(default = "defaults::one")]
    pub data_parallel_size: u32,
    /// What it is specialised in.
    #[serde(default)]
    pub instance_type: ExecutionInstanceType,
    /// Settings if it is specialised in prefill.
    #[serde(default)]
    pub prefilling_config: Option<PrefillingConfig>,
    /// Settings if it is specialised in decode.
    #[serde(default)]
    pub decoding_config: Option<DecodingConfig>,
    /// GPUs that it occupies.
    #[serde(default = "defaults::one")]
    pub gpu_count: u32,
    /// Memory of each GPU, in GiB; 0 if unknown.
    #[serde(default)]
    pub gpu_memory_gb: f64,
    /// GPU model, for the price and cost tables.
    #[serde(default)]
    pub gpu_type: Option<String>,
    /// Rent of one GPU, in US dollars per hour.
    #[serde(default = "defaults::price_per_gpu_hour")]
    pub price_per_gpu_hour: f64,
    /// Most requests at once.
    #[serde(default = "defaults::max_concurrent_requests")]
    pub max_concurrent_requests: u32,
    /// KV cache, in tokens; asked from the engine when absent.
    #[serde(default)]
    pub kv_cache_tokens: Option<u64>,
    /// Share of traffic under the weighted rule, relative to the others.
    #[serde(default = "defaults::weight")]
    pub weight: f64,
    /// Request types that it takes; by its type when absent.
    #[serde(default)]
    pub supported_request_types: Option<Vec<RequestType>>,
    /// The embedding model loaded beside `model_name`.
    #[serde(default)]
    pub embedding_model_loaded: Option<String>,
    /// Most texts in an embedding batch.
    #[serde(default = "defaults::embedding_max_batch_size")]
    pub embedding_max_batch_size: u32,
    /// Machine on which it runs.
    #[serde(default)]
    pub machine_id: Option<String>,
    /// Rack in which the machine stands.
    #[serde(default)]
    pub rack_id: Option<String>,
    /// PCI bus id of its GPU.
    #[serde(default)]
    pub gpu_bus_id: Option<String>,
    /// Device index of its GPU.
    #[serde(default)]
    pub gpu_device_id: Option<u32>,
    /// Its GPUs where there are several: device indices, PCI bus ids or UUIDs, as many as `gpu_count`.
    #[serde(default)]
    pub gpu_ids: Vec<String>,
    /// Where utilisation of its GPUs is read: "nvml" asks the driver of the gateway's machine,
    /// "http://host:9400/metrics" a DCGM exporter. Unknown when absent. Without `gpu_ids`,
    /// `gpu_bus_id` and `gpu_device_id` all GPUs there are taken for its own.
    #[serde(default)]
    pub gpu_metrics: Option<GpuSource>,
    /// Instances reached over NVLink.
    #[serde(default)]
    pub nvlink_peers: Vec<String>,
    /// NUMA node of its GPU.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// Network bandwidth, in Gbit/s.
    #[serde(default = "defaults::network_bandwidth_gbps")]
    pub network_bandwidth_gbps: f64,
    /// Network latency, in milliseconds.
    #[serde(default = "defaults::network_latency_ms")]
    pub network_latency_ms: f64,
    /// Shares host memory with the instances of its machine.
    #[serde(default)]
    pub shared_memory_pool: bool,
    /// Storage shared with other instances.
    #[serde(default)]
    pub shared_storage_path: Option<String>,
}

mod defaults {
    pub(super) fn scheme() -> String {
        "http".to_owned()
    }
    pub(super) fn one() -> u32 {
        1
    }
    pub(super) fn price_per_gpu_hour() -> f64 {
        1.0
    }
    pub(super) fn max_concurrent_requests() -> u32 {
        100
    }
    pub(super) fn weight() -> f64 {
        1.0
    }
    pub(super) fn embedding_max_batch_size() -> u32 {
        32
    }
    pub(super) fn network_bandwidth_gbps() -> f64 {
        10.0
    }
    pub(super) fn network_latency_ms() -> f64 {
        0.1
    }
}

impl ExecutionInstance {
    /// Returns an instance with the four required facts and defaults for the rest.
    pub fn new(
        instance_id: impl Into<String>,
        host: impl Into<String>,
        port: u16,
        model_name: impl Into<String>,
    ) -> Self {
        Self {
            instance_id: instance_id.into(),
            host: host.into(),
            port,
            model_name: model_name.into(),
            scheme: defaults::scheme(),
            base_path: String::new(),
            api_key: None,
            tensor_parallel_size: 1,
            pipeline_parallel_size: 1,
            data_parallel_size: 1,
            instance_type: ExecutionInstanceType::General,
            prefilling_config: None,
            decoding_config: None,
            gpu_count: 1,
            gpu_memory_gb: 0.0,
            gpu_type: None,
            price_per_gpu_hour: defaults::price_per_gpu_hour(),
            max_concurrent_requests: defaults::max_concurrent_requests(),
            kv_cache_tokens: None,
            weight: defaults::weight(),
            supported_request_types: None,
            embedding_model_loaded: None,
            embedding_max_batch_size: defaults::embedding_max_batch_size(),
            machine_id: None,
            rack_id: None,
            gpu_bus_id: None,
            gpu_device_id: None,
            gpu_ids: Vec::new(),
            gpu_metrics: None,
            nvlink_peers: Vec::new(),
            numa_node: None,
            network_bandwidth_gbps: defaults::network_bandwidth_gbps(),
            network_latency_ms: defaults::network_latency_ms(),
            shared_memory_pool: false,
            shared_storage_path: None,
        }
    }

    /// Returns the rent of all its GPUs for one hour.
    pub fn rent_per_hour(&self) -> Usd {
        Usd(self.price_per_gpu_hour * f64::from(self.gpu_count))
    }

    /// Returns the same for one second.
    pub fn rent_per_second(&self) -> Usd {
        Usd(self.rent_per_hour().0 / 3600.0)
    }

    /// Returns its GPUs as its operator names them: by index, PCI bus id or UUID. Empty: all that are
    /// where `gpu_metrics` says.
    pub fn gpus(&self) -> Vec<String> {
        if !self.gpu_ids.is_empty() {
            return self.gpu_ids.clone();
        }
        let index = self.gpu_device_id.map(|index| index.to_string());
        self.gpu_bus_id.clone().or(index).into_iter().collect()
    }

    /// Returns the address before `/v1`, without a slash at its end.
    pub fn base_url(&self) -> String {
        format!("{}://{}:{}{}", self.scheme, self.host, self.port, self.base_path)
    }

    /// Returns whether the instance runs requests of this type: as listed, else by its own type.
    pub fn supports(&self, kind: RequestType) -> bool {
        if let Some(listed) = &self.supported_request_types {
            return listed.contains(&kind);
        }
        match self.instance_type {
            ExecutionInstanceType::Embedding => kind == RequestType::Embedding,
            ExecutionInstanceType::LlmEmbedding => true,
            _ => kind != RequestType::Embedding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(kind: ExecutionInstanceType) -> ExecutionInstance {
        ExecutionInstance { instance_type: kind, ..ExecutionInstance::new("a", "h", 1, "m") }
    }

    #[test]
    fn request_types_follow_the_instance_type_unless_listed() {
        use ExecutionInstanceType as T;
        use RequestType as R;
        assert!(instance(T::Embedding).supports(R::Embedding));
        assert!(!instance(T::Embedding).supports(R::LlmChat));
        assert!(instance(T::LlmEmbedding).supports(R::Embedding));
        assert!(instance(T::LlmEmbedding).supports(R::LlmGenerate));
        assert!(!instance(T::General).supports(R::Embedding));
        let listed = ExecutionInstance {
            supported_request_types: Some(vec![R::LlmGenerate]),
            ..instance(T::General)
        };
        assert!(listed.supports(R::LlmGenerate) && !listed.supports(R::LlmChat));
    }

    #[test]
    fn gpus_are_named_once_and_read_from_one_place() {
        let with = |more: &str| {
            let json = format!(
                r#"{{"instance_id":"a","host":"h","port":1,"model_name":"m","gpu_metrics":{more}}}"#
            );
            serde_json::from_str::<ExecutionInstance>(&json).map_err(|error| error.to_string())
        };
        let gpus = |more: &str| with(more).map(|instance| (instance.gpus(), instance.gpu_metrics));
        assert_eq!(gpus(r#""nvml""#), Ok((vec![], Some(GpuSource::Nvml))));
        let page = "http://h:9400/metrics";
        let named = format!(r#""{page}","gpu_device_id":3"#);
        let expected = (vec!["3".to_owned()], Some(GpuSource::Dcgm(page.to_owned())));
        assert_eq!(gpus(&named), Ok(expected));
        let several = with(r#""nvml","gpu_device_id":3,"gpu_ids":["4","GPU-5"]"#).expect("sound");
        assert_eq!(several.gpus(), ["4", "GPU-5"]);
        let text = serde_json::to_string(&several).expect("plain values");
        assert_eq!(serde_json::from_str::<ExecutionInstance>(&text).expect("the same"), several);
        let refused = with(r#""dcgm""#).expect_err("neither");
        assert!(refused.contains("expected \"nvml\" or the page"), "{refused}");
    }

    #[test]
    fn a_registration_needs_only_four_facts() {
        let json = r#"{"instance_id":"a","host":"h","port":8000,"model_name":"m"}"#;
        let parsed: ExecutionInstance = serde_json::from_str(json).expect("four facts are enough");
        assert_eq!(parsed, ExecutionInstance::new("a", "h", 8000, "m"));
        assert_eq!(parsed.base_url(), "http://h:8000");
    }

    #[test]
    fn configs_have_the_defaults_that_users_know() {
        let (p, d) = (PrefillingConfig::default(), DecodingConfig::default());
        assert_eq!(
            (p.target_batch_size, p.tensor_parallel_size, p.max_chunk_size_tokens),
            (64, 4, 4096)
        );
        assert_eq!(
            (d.target_latency_ms, d.tensor_parallel_size, d.max_parallel_requests),
            (50, 1, 200)
        );
    }
}
