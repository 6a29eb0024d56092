//! The three metrics records that users know, from a snapshot.
//!
//! Counts are since the start; rates, latencies and shares are over the span that the reader names.
//! A figure that nobody measured is `None`, never 0.

use sagellm_types::{
    EngineState, GpuSample, InstanceMetrics, PerformanceMetrics, RequestPriority, SchedulingMetrics,
};

use crate::Sketch;
use crate::instance::InstanceFigures;
use crate::series::{EndingKind, millis, per_second};
use crate::snapshot::Snapshot;
use crate::window::Span;

impl Snapshot {
    /// Returns what happened to requests.
    pub fn performance(&self, span: Span) -> PerformanceMetrics {
        let all = self.requests(Span::Start);
        let recent = if span == Span::Start { all.clone() } else { self.requests(span) };
        let length = self.length(span);
        let present = || self.instances.iter().filter(|instance| instance.gone.is_none());
        let sampled = |part: fn(&GpuSample) -> Option<f64>| {
            present().filter_map(move |instance| part(&instance.gpu))
        };
        let memory: Vec<_> = present().filter_map(|instance| instance.gpu_memory_gb).collect();
        let output = all.usage.output.as_f64();
        PerformanceMetrics {
            timestamp: self.at,
            total_requests: all.submitted,
            completed_requests: all.ending(EndingKind::Finished),
            failed_requests: all.ending(EndingKind::Failed)
                + all.ending(EndingKind::Expired)
                + all.ending(EndingKind::Refused),
            active_requests: self.running(),
            queued_requests: self.waiting.value(),
            avg_latency_ms: recent.e2e.mean().map(millis),
            p50_latency_ms: quantile_ms(&recent.e2e, 0.50),
            p95_latency_ms: quantile_ms(&recent.e2e, 0.95),
            p99_latency_ms: quantile_ms(&recent.e2e, 0.99),
            tokens_per_second: per_second(recent.usage.output.as_f64(), length),
            requests_per_second: per_second(recent.ended() as f64, length),
            avg_gpu_utilization: mean(sampled(|gpu| gpu.utilization)),
            total_gpu_memory_gb: sum(memory.iter().copied()),
            used_gpu_memory_gb: sum(sampled(|gpu| gpu.memory_used_gb)),
            total_cost: all.cost.0,
            cost_per_token: (output > 0.0).then(|| all.cost.0 / output),
            slo_violations: all.missed,
            slo_compliance_rate: recent.attainment(),
        }
    }

    /// Returns how well the scheduler decides.
    pub fn scheduling(&self, span: Span) -> SchedulingMetrics {
        let recent = self.requests(span);
        let fleetwide = self.fleetwide(span);
        let ready = self.instances.iter().filter(|i| i.state == EngineState::Ready);
        let loads: Vec<f64> = ready.map(|instance| instance.load.fraction()).collect();
        let balance = Balance::of(&loads);
        let by_priority = RequestPriority::ALL.into_iter().filter_map(|priority| {
            Some((priority.name().to_owned(), self.priority(priority, span).attainment()?))
        });
        SchedulingMetrics {
            timestamp: self.at,
            policy_name: self.strategy().to_owned(),
            scheduling_latency_us: quantile_ms(&fleetwide.decision, 0.50).map(|ms| ms * 1e3),
            scheduling_throughput: per_second(fleetwide.dispatches as f64, self.length(span)),
            latency_prediction_error_avg: fleetwide.predictions.mean_error().map(millis),
            latency_prediction_error_p95: quantile_ms(&fleetwide.predictions.service, 0.95),
            prediction_accuracy_rate: fleetwide.predictions.accuracy(),
            load_balance_variance: balance.map(|balance| balance.variance),
            load_balance_coefficient: balance.map(|balance| balance.coefficient),
            slo_compliance_by_priority: by_priority.collect(),
            queue_wait_time_p50: quantile_ms(&recent.wait, 0.50),
            queue_wait_time_p95: quantile_ms(&recent.wait, 0.95),
            queue_wait_time_p99: quantile_ms(&recent.wait, 0.99),
            queue_length_avg: self.waiting.mean(span, self.at),
            queue_length_max: self.waiting.peak(span, self.at),
        }
    }

    /// Returns what one instance did.
    pub fn instance(&self, instance: &InstanceFigures, span: Span) -> InstanceMetrics {
        let all = self.work(instance, Span::Start);
        let recent = self.work(instance, span);
        let length = span.length(instance.since, self.at);
        InstanceMetrics {
            instance_id: instance.name.to_string(),
            timestamp: self.at,
            total_requests_processed: all.finished,
            active_requests: instance.running,
            failed_requests: all.failed(),
            avg_latency_ms: recent.latency.mean().map(millis),
            p50_latency_ms: quantile_ms(&recent.latency, 0.50),
            p95_latency_ms: quantile_ms(&recent.latency, 0.95),
            p99_latency_ms: quantile_ms(&recent.latency, 0.99),
            throughput_tokens_per_sec: per_second(recent.output.as_f64(), length),
            gpu_utilization: instance.gpu.utilization,
            gpu_memory_used_gb: instance.gpu.memory_used_gb,
            gpu_memory_total_gb: instance.gpu_memory_gb,
            current_load: instance.load.fraction(),
            is_healthy: instance.is_healthy(),
            last_health_check: instance.last_probe,
            consecutive_failures: instance.consecutive_failures,
        }
    }

    /// Returns what every instance did, those included that have gone of late.
    pub fn instance_metrics(&self, span: Span) -> Vec<InstanceMetrics> {
        self.instances.iter().map(|instance| self.instance(instance, span)).collect()
    }
}

/// How evenly load is spread.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Balance {
    /// Population variance.
    variance: f64,
    /// 1 − standard deviation / mean, not below 0.
    coefficient: f64,
}

impl Balance {
    fn of(loads: &[f64]) -> Option<Self> {
        let average = mean(loads.iter().copied())?;
        let variance = mean(loads.iter().map(|load| (load - average) * (load - average)))?;
        // An idle fleet is even.
        let spread = if average > 0.0 { variance.sqrt() / average } else { 0.0 };
        Some(Self { variance, coefficient: (1.0 - spread).max(0.0) })
    }
}

/// Returns a quantile in milliseconds, or `None` of nothing.
pub(crate) fn quantile_ms(sketch: &Sketch, q: f64) -> Option<f64> {
    sketch.quantile(q).map(millis)
}

fn sum(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(loads: &[f64], variance: f64, coefficient: f64) {
        let balance = Balance::of(loads).expect("there are loads");
        assert!((balance.variance - variance).abs() < 1e-12, "{balance:?}");
        assert!((balance.coefficient - coefficient).abs() < 1e-12, "{balance:?}");
    }

    #[test]
    fn the_coefficient_tells_even_from_uneven() {
        check(&[0.5, 0.5], 0.0, 1.0);
        check(&[0.2, 0.6], 0.04, 0.5);
        check(&[1.0, 0.0, 0.0, 0.0], 0.1875, 0.0);
        check(&[0.0, 0.0], 0.0, 1.0);
        assert_eq!(Balance::of(&[]), None);
    }
}
