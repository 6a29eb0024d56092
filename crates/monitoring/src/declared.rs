//! Every metric of the control plane, declared once: name, kind, unit, labels and help.
//!
//! The exposition refers to these, and the reference page of the documents is made from them.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; starts at zero with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Quantiles over the last minute, with `_sum` and `_count` since the start.
    Summary,
}

impl MetricKind {
    /// Returns the name in the exposition format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
        }
    }
}

/// The declaration of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// What one of it is.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// Returns the declarations of all metrics of the control plane, in the order of exposition.
pub fn metrics_reference() -> Vec<Metric> {
    ALL.to_vec()
}

macro_rules! declare {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $unit:literal: $help:literal;)*) => {
        $(pub(crate) const $constant: Metric = Metric {
            name: concat!("sagellm_", $name),
            kind: MetricKind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
        };)*
        const ALL: &[Metric] = &[$($constant),*];
    };
}

declare! {
    UPTIME = Gauge "uptime_seconds" [] "seconds": "Time since the control plane began.";
    STRATEGY_INFO = Gauge "strategy_info" ["strategy", "router"] "info": "1 for the strategy and the router in use.";
    STRATEGY_SWITCHES = Counter "strategy_switches_total" [] "switches": "Changes of the strategy at run time.";
    SUBMITTED = Counter "requests_submitted_total" ["priority"] "requests": "Requests that came in, those that were refused too.";
    ENDED = Counter "requests_total" ["priority", "ending"] "requests": "Requests that ended, by how they ended: finished, failed, cancelled, expired or refused.";
    FAILURES = Counter "request_failures_total" ["kind"] "requests": "Requests that failed, by why their last attempt failed.";
    REFUSALS = Counter "request_refusals_total" ["reason"] "requests": "Requests that were not taken, by reason.";
    EXPIRIES = Counter "request_expiries_total" ["reason"] "requests": "Requests that were not done in time, by reason.";
    WAITING = Gauge "requests_waiting" [] "requests": "Requests that wait in the control plane.";
    WAITING_MEAN = Gauge "requests_waiting_mean" [] "requests": "Mean number of waiting requests over the last minute, weighted by time.";
    WAITING_PEAK = Gauge "requests_waiting_peak" [] "requests": "Most waiting requests over the last minute.";
    ENGINE_WAITING = Gauge "engine_requests_waiting" [] "requests": "Requests that wait in the queues of all engines, as they said at their last probes.";
    WAITING_HERE = Gauge "waiting_here_ratio" [] "ratio": "Share of all waiting over the last minute that happened in the control plane, where its order can still change.";
    RUNNING = Gauge "requests_running" [] "requests": "Requests that were dispatched and have not ended.";
    TTFT = Summary "ttft_seconds" ["priority"] "seconds": "Time from arrival to the first token.";
    TPOT = Summary "tpot_seconds" ["priority"] "seconds": "Mean time per output token after the first, of finished requests.";
    E2E = Summary "e2e_seconds" ["priority"] "seconds": "Time from arrival to the last token, of finished requests.";
    QUEUE_WAIT = Summary "queue_wait_seconds" ["priority"] "seconds": "Time from arrival to the first dispatch.";
    ITL = Summary "itl_seconds" [] "seconds": "Gaps between the tokens of a stream.";
    DECISION = Summary "decision_seconds" [] "seconds": "Time from submission to dispatch inside the gateway, with room in the fleet.";
    DISPATCHES = Counter "dispatches_total" [] "attempts": "Attempts dispatched to instances.";
    RETRIES = Counter "retries_total" [] "attempts": "Attempts made after a failed one.";
    STALE = Counter "stale_events_total" [] "events": "Events of unknown attempts or earlier lives of an instance, dropped.";
    PROBES = Counter "probes_total" ["result"] "probes": "Probes of engines, answered or failed.";
    TOKENS = Counter "tokens_total" ["kind"] "tokens": "Tokens of requests that ended: prompt, output, and prompt tokens found in a prefix cache (cached).";
    COST = Counter "cost_usd_total" [] "US dollars": "Attributed cost of requests that ended.";
    SLO = Counter "slo_requests_total" ["priority", "met"] "requests": "Requests with an objective that ended, by whether they met it; failures, refusals and expiries miss.";
    GOOD = Counter "good_requests_total" ["priority"] "requests": "Requests that finished and missed no objective: the goodput.";
    PREDICTION_ERROR = Summary "prediction_error_seconds" ["figure"] "seconds": "Absolute error of what was predicted at dispatch, of finished requests: ttft, tpot, or service, the time from dispatch to end.";
    PREDICTION_ACCURACY = Gauge "prediction_accuracy_ratio" [] "ratio": "Share of finished requests over the last minute whose time from dispatch to end was predicted within 10 %.";
    PREDICTED_COST = Counter "predicted_cost_usd_total" [] "US dollars": "Cost that was predicted for finished requests.";
    MODEL_ENDED = Counter "model_requests_total" ["model", "ending"] "requests": "Requests that ended, by model and by how they ended.";
    MODEL_TOKENS = Counter "model_tokens_total" ["model", "kind"] "tokens": "Tokens of requests that ended, by model.";
    MODEL_COST = Counter "model_cost_usd_total" ["model"] "US dollars": "Attributed cost of requests that ended, by model.";
    MODEL_TTFT = Summary "model_ttft_seconds" ["model"] "seconds": "Time from arrival to the first token, by model.";
    MODEL_E2E = Summary "model_e2e_seconds" ["model"] "seconds": "Time from arrival to the last token of finished requests, by model.";
    INSTANCE_UP = Gauge "instance_up" ["instance", "model"] "bool": "1 while the instance is taken for healthy.";
    INSTANCE_STATE = Gauge "instance_state" ["instance", "state"] "bool": "1 for the state in which the instance is: starting, ready, draining, stopped or error.";
    INSTANCE_LOAD = Gauge "instance_load_ratio" ["instance"] "ratio": "Reserved share of the instance: the larger of sequences and KV tokens.";
    INSTANCE_WINDOW = Gauge "instance_window" ["instance"] "requests": "Requests that the instance takes at once: its dispatch window.";
    INSTANCE_RESERVED = Gauge "instance_reserved_requests" ["instance"] "requests": "Requests reserved at the instance, foreign ones included.";
    INSTANCE_RESERVED_TOKENS = Gauge "instance_reserved_kv_tokens" ["instance"] "tokens": "KV tokens reserved at the instance.";
    INSTANCE_CAPACITY_TOKENS = Gauge "instance_capacity_kv_tokens" ["instance"] "tokens": "KV tokens that may be reserved at the instance.";
    INSTANCE_RUNNING = Gauge "instance_running" ["instance"] "attempts": "Attempts of ours that run at the instance.";
    INSTANCE_ENGINE_RUNNING = Gauge "instance_engine_running" ["instance"] "requests": "Requests that the engine says it runs, whoever sent them.";
    INSTANCE_ENGINE_WAITING = Gauge "instance_engine_waiting" ["instance"] "requests": "Requests that wait in the engine's own queue, as it says.";
    INSTANCE_FOREIGN = Gauge "instance_foreign_requests" ["instance"] "requests": "Requests at the engine that somebody else sent.";
    INSTANCE_KV_USAGE = Gauge "instance_kv_usage_ratio" ["instance"] "ratio": "Share of the KV cache in use, as the engine says.";
    INSTANCE_GPU = Gauge "instance_gpu_utilization_ratio" ["instance"] "ratio": "Mean utilisation of its GPUs, as `gpu_metrics` says where to read; absent while unknown.";
    INSTANCE_GPU_MEMORY = Gauge "instance_gpu_memory_used_gib" ["instance"] "GiB": "Memory in use on its GPUs; absent while unknown.";
    INSTANCE_ENDED = Counter "instance_attempts_total" ["instance", "ending"] "attempts": "Attempts that are over at the instance: finished, failed or abandoned.";
    INSTANCE_FAILURES = Counter "instance_failures_total" ["instance", "kind"] "attempts": "Attempts that failed at the instance, by why.";
    INSTANCE_TOKENS = Counter "instance_output_tokens_total" ["instance"] "tokens": "Output tokens of attempts that are over.";
    INSTANCE_COST = Counter "instance_cost_usd_total" ["instance"] "US dollars": "Attributed cost of requests that ended at the instance.";
    INSTANCE_LATENCY = Summary "instance_attempt_seconds" ["instance"] "seconds": "Time from dispatch to end, of attempts answered in full.";
    INSTANCE_BUSY = Counter "instance_busy_seconds_total" ["instance"] "seconds": "Time in which at least one attempt of ours ran.";
    INSTANCE_PROBE_FAILURES = Gauge "instance_consecutive_probe_failures" ["instance"] "probes": "Probes failed in a row.";
    INSTANCE_PROBE_AGE = Gauge "instance_probe_age_seconds" ["instance"] "seconds": "Time since the last probe.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b"_2".contains(&b)), "{name}");
            assert_eq!(metric.kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
            if metric.kind == MetricKind::Summary {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert!(metric.help.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn every_metric_is_declared_once() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
