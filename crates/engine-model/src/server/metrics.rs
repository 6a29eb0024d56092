//! `/metrics`: the names, labels and buckets of vLLM 0.32, of what gateways and benchmarks read.

use std::fmt::Write as _;
use std::time::Duration;

use crate::{EngineConfig, Gauges};

/// What is counted beside the engine's own gauges.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) ttft: Histogram,
    pub(super) inter_token: Histogram,
    pub(super) per_token: Histogram,
    pub(super) e2e: Histogram,
    pub(super) rejections: u64,
    stopped: u64,
    full_length: u64,
}

/// A cumulative histogram of seconds.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const PER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const E2E: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub(super) fn observe(&mut self, value: Duration) {
        let seconds = value.as_secs_f64();
        self.counts[self.bounds.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += seconds;
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            ttft: Histogram::new(TTFT),
            inter_token: Histogram::new(PER_TOKEN),
            per_token: Histogram::new(PER_TOKEN),
            e2e: Histogram::new(E2E),
            rejections: 0,
            stopped: 0,
            full_length: 0,
        }
    }
}

impl Stats {
    /// Returns the count of sequences that ended for the reason `finish`.
    pub(super) fn success(&mut self, finish: &str) -> &mut u64 {
        if finish == "length" { &mut self.full_length } else { &mut self.stopped }
    }
}

/// An exposition under construction.
struct Page {
    text: String,
    model: String,
}

/// Returns the page.
pub(super) fn page(model: &str, config: &EngineConfig, gauges: &Gauges, stats: &Stats) -> String {
    let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut page = Page { text: String::with_capacity(16 * 1024), model };
    let (running, waiting) = (f64::from(gauges.running), f64::from(gauges.waiting));
    page.gauge("num_requests_running", "Number of requests in model execution batches.", running);
    page.gauge("num_requests_waiting", "Number of requests waiting to be processed.", waiting);
    page.head("num_requests_waiting_by_reason", "Number of waiting requests by reason.", "gauge");
    page.sample("num_requests_waiting_by_reason", r#",reason="capacity""#, waiting);
    page.sample("num_requests_waiting_by_reason", r#",reason="deferred""#, 0.0);
    page.head("engine_sleep_state", "Engine sleep state.", "gauge");
    for (state, value) in [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)] {
        page.sample("engine_sleep_state", &format!(r#",sleep_state="{state}""#), value);
    }
    let usage = gauges.kv_usage();
    page.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", usage);
    page.counters(gauges);
    page.head("prompt_tokens_by_source_total", "Number of prompt tokens by source.", "counter");
    let hits = gauges.prefix_hits;
    let local = gauges.prompt_tokens.saturating_sub(hits);
    let sources =
        [("local_compute", local), ("local_cache_hit", hits), ("external_kv_transfer", 0)];
    for (source, value) in sources {
        let labels = format!(r#",source="{source}""#);
        page.sample("prompt_tokens_by_source_total", &labels, value as f64);
    }
    page.head("request_success_total", "Count of successfully processed requests.", "counter");
    let reasons = [
        ("stop", stats.stopped),
        ("length", stats.full_length),
        ("abort", 0),
        ("error", 0),
        ("repetition", 0),
    ];
    for (reason, value) in reasons {
        let model = &page.model;
        let _ = writeln!(
            page.text,
            "vllm:request_success_total{{engine=\"0\",finished_reason=\"{reason}\",model_name=\"{model}\"}} {:?}",
            value as f64
        );
    }
    page.rejections(stats.rejections);
    page.histogram("time_to_first_token_seconds", "time to first token in seconds", &stats.ttft);
    page.histogram(
        "inter_token_latency_seconds",
        "inter-token latency in seconds",
        &stats.inter_token,
    );
    page.histogram(
        "request_time_per_output_token_seconds",
        "time_per_output_token_seconds per request",
        &stats.per_token,
    );
    page.histogram("e2e_request_latency_seconds", "e2e request latency in seconds", &stats.e2e);
    page.cache_config(config);
    page.text
}

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let model = &self.model;
        let _ = writeln!(
            self.text,
            "vllm:{name}{{engine=\"0\",model_name=\"{model}\"{labels}}} {value:?}"
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        self.sample(name, "", value);
    }

    fn counters(&mut self, gauges: &Gauges) {
        let queried = "in terms of number of queried tokens.";
        let cached = "in terms of number of cached tokens.";
        let rows = [
            ("prefix_cache_queries", "Prefix cache queries, ", queried, gauges.prefix_queries),
            ("prefix_cache_hits", "Prefix cache hits, ", cached, gauges.prefix_hits),
            ("external_prefix_cache_queries", "External prefix cache queries, ", queried, 0),
            ("external_prefix_cache_hits", "External prefix cache hits, ", cached, 0),
            (
                "num_preemptions",
                "Cumulative number of preemption from the engine.",
                "",
                gauges.preemptions,
            ),
            ("prompt_tokens", "Number of prefill tokens processed.", "", gauges.prompt_tokens),
            (
                "prompt_tokens_cached",
                "Number of cached prompt tokens (local + external).",
                "",
                gauges.prefix_hits,
            ),
            (
                "generation_tokens",
                "Number of generation tokens processed.",
                "",
                gauges.generation_tokens,
            ),
        ];
        for (name, start, end, value) in rows {
            let name = format!("{name}_total");
            self.head(&name, &format!("{start}{end}"), "counter");
            self.sample(&name, "", value as f64);
        }
    }

    fn rejections(&mut self, rejections: u64) {
        let help = "Number of admission attempts rejected by a queue limit, by reason.";
        self.head("admission_rejections_total", help, "counter");
        for (reason, value) in [("max_num_queued_reqs", rejections), ("max_num_queued_tokens", 0)] {
            let model = &self.model;
            let _ = writeln!(
                self.text,
                "vllm:admission_rejections_total{{model_name=\"{model}\",reason=\"{reason}\"}} {:?}",
                value as f64
            );
        }
    }

    fn histogram(&mut self, name: &str, what: &str, histogram: &Histogram) {
        self.head(name, &format!("Histogram of {what}."), "histogram");
        let mut total = 0;
        for (place, count) in histogram.counts.iter().enumerate() {
            total += count;
            let bound = match histogram.bounds.get(place) {
                Some(bound) => format!("{bound:?}"),
                None => "+Inf".to_owned(),
            };
            let model = &self.model;
            let _ = writeln!(
                self.text,
                "vllm:{name}_bucket{{engine=\"0\",le=\"{bound}\",model_name=\"{model}\"}} {:?}",
                total as f64
            );
        }
        self.sample(&format!("{name}_count"), "", total as f64);
        self.sample(&format!("{name}_sum"), "", histogram.sum);
    }

    fn cache_config(&mut self, config: &EngineConfig) {
        self.head("cache_config_info", "Information of the LLMEngine CacheConfig", "gauge");
        let _ = writeln!(
            self.text,
            "vllm:cache_config_info{{block_size=\"{}\",cache_dtype=\"auto\",\
             enable_prefix_caching=\"{}\",engine=\"0\",gpu_memory_utilization=\"0.9\",\
             kv_cache_size_tokens=\"{}\",num_cpu_blocks=\"None\",num_gpu_blocks=\"{}\",\
             num_gpu_blocks_override=\"None\",prefix_caching_hash_algo=\"sha256\"}} 1.0",
            config.block_size,
            if config.enable_prefix_caching { "True" } else { "False" },
            config.kv_tokens(),
            config.num_blocks,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_bounds_belong_below() {
        let mut stats = Stats::default();
        for micros in [1_000, 1_001, 3_000_000_000] {
            stats.ttft.observe(Duration::from_micros(micros));
        }
        let text = page("m", &EngineConfig::default(), &Gauges::default(), &stats);
        let has = |line: &str| assert!(text.contains(line), "{line} is not in\n{text}");
        has(r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 1.0"#);
        has(r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="0.005",model_name="m"} 2.0"#);
        has(
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="2560.0",model_name="m"} 2.0"#,
        );
        has(r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 3.0"#);
        has(r#"vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 3.0"#);
        has(r#"vllm:num_requests_running{engine="0",model_name="m"} 0.0"#);
        has(r#"num_gpu_blocks="25000""#);
    }
}
