//! A snapshot in Prometheus' text format 0.0.4.
//!
//! Each family is written once, with its help, whether or not it has samples yet. Figures that
//! nobody measured have no sample: absent is not 0.

use std::fmt::{Display, Write as _};

use sagellm_types::{EngineState, FailureKind, RequestPriority, Usage};

use crate::Sketch;
use crate::declared::{self as metric, Metric, MetricKind};
use crate::fleetwide::{EXPIRE_REASONS, REFUSE_REASONS};
use crate::instance::InstanceFigures;
use crate::series::{EndingKind, Series};
use crate::snapshot::Snapshot;
use crate::window::Span;

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The quantiles of summaries.
const QUANTILES: [(&str, f64); 4] = [("0.5", 0.5), ("0.9", 0.9), ("0.95", 0.95), ("0.99", 0.99)];
const STATES: [EngineState; 5] = [
    EngineState::Starting,
    EngineState::Ready,
    EngineState::Draining,
    EngineState::Stopped,
    EngineState::Error,
];

/// Returns the metrics of a snapshot as text.
pub fn exposition(snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    fleet(snapshot, &mut text);
    priorities(snapshot, &mut text);
    shared(snapshot, &mut text);
    models(snapshot, &mut text);
    instances(snapshot, &mut text);
    text.finish()
}

/// Writes metrics as text; also for those of a shell, beside the snapshot's.
///
/// ```
/// use sagellm_monitoring::{Metric, MetricKind, Text};
///
/// const OPEN: Metric = Metric {
///     name: "sagellm_connections_open",
///     kind: MetricKind::Gauge,
///     unit: "connections",
///     labels: &["listener"],
///     help: "Client connections that are open.",
/// };
/// let mut text = Text::default();
/// text.family(&OPEN);
/// text.sample(&OPEN, &["public"], 3);
/// assert!(text.finish().ends_with("sagellm_connections_open{listener=\"public\"} 3\n"));
/// ```
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family: its help and its kind. Its samples must follow.
    pub fn family(&mut self, metric: &Metric) {
        let _ = writeln!(self.0, "# HELP {} {}", metric.name, metric.help);
        let _ = writeln!(self.0, "# TYPE {} {}", metric.name, metric.kind.name());
    }

    /// Writes one sample; `values` are those of the metric's labels, in their order.
    pub fn sample(&mut self, metric: &Metric, values: &[&str], value: impl Display) {
        debug_assert_ne!(metric.kind, MetricKind::Summary, "a summary is written whole");
        self.line(metric, "", values, None, value);
    }

    /// Writes a summary: quantiles of `recent`, sum and count of `all`, in seconds.
    pub fn summary(&mut self, metric: &Metric, values: &[&str], recent: &Sketch, all: &Sketch) {
        for (name, q) in QUANTILES {
            if let Some(value) = recent.quantile(q) {
                self.line(metric, "", values, Some(name), value.as_secs_f64());
            }
        }
        self.line(metric, "_sum", values, None, all.sum_secs());
        self.line(metric, "_count", values, None, all.count());
    }

    /// Returns the text.
    pub fn finish(self) -> String {
        self.0
    }

    fn line(
        &mut self,
        metric: &Metric,
        suffix: &str,
        values: &[&str],
        quantile: Option<&str>,
        value: impl Display,
    ) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        self.0.push_str(metric.name);
        self.0.push_str(suffix);
        let labels = metric.labels.iter().zip(values).map(|(name, value)| (*name, *value));
        let labels = labels.chain(quantile.map(|quantile| ("quantile", quantile)));
        let mut separator = '{';
        for (name, value) in labels {
            self.0.push(separator);
            self.0.push_str(name);
            self.0.push_str("=\"");
            escape(value, &mut self.0);
            self.0.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, metric: &Metric, value: impl Display) {
        self.family(metric);
        self.sample(metric, &[], value);
    }
}

fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn fleet(snapshot: &Snapshot, text: &mut Text) {
    text.one(&metric::UPTIME, snapshot.length(Span::Start).as_secs_f64());
    text.family(&metric::STRATEGY_INFO);
    text.sample(&metric::STRATEGY_INFO, &[snapshot.strategy(), &snapshot.router], 1);
    text.one(&metric::WAITING, snapshot.waiting.value());
    text.one(&metric::WAITING_MEAN, snapshot.waiting.mean(Span::Window, snapshot.at));
    text.one(&metric::WAITING_PEAK, snapshot.waiting.peak(Span::Window, snapshot.at));
    text.one(&metric::ENGINE_WAITING, snapshot.engine_waiting.value());
    text.family(&metric::WAITING_HERE);
    if let Some(share) = snapshot.waiting_here(Span::Window) {
        text.sample(&metric::WAITING_HERE, &[], share);
    }
    text.one(&metric::RUNNING, snapshot.running());
}

fn priorities(snapshot: &Snapshot, text: &mut Text) {
    let read = |span| RequestPriority::ALL.map(|p| (p.name(), snapshot.priority(p, span)));
    let (all, recent) = (read(Span::Start), read(Span::Window));
    let mut counts = |metric: &Metric, value: fn(&Series) -> u64| {
        text.family(metric);
        for (priority, series) in &all {
            text.sample(metric, &[priority], value(series));
        }
    };
    counts(&metric::SUBMITTED, |series| series.submitted);
    counts(&metric::GOOD, |series| series.good);
    text.family(&metric::ENDED);
    for (priority, series) in &all {
        for kind in EndingKind::ALL {
            text.sample(&metric::ENDED, &[priority, kind.name()], series.ending(kind));
        }
    }
    text.family(&metric::SLO);
    for (priority, series) in &all {
        text.sample(&metric::SLO, &[priority, "true"], series.met);
        text.sample(&metric::SLO, &[priority, "false"], series.missed);
    }
    let mut summaries = |metric: &Metric, sketch: fn(&Series) -> &Sketch| {
        text.family(metric);
        for ((priority, all), (_, recent)) in all.iter().zip(&recent) {
            text.summary(metric, &[priority], sketch(recent), sketch(all));
        }
    };
    summaries(&metric::TTFT, |series| &series.ttft);
    summaries(&metric::TPOT, |series| &series.tpot);
    summaries(&metric::E2E, |series| &series.e2e);
    summaries(&metric::QUEUE_WAIT, |series| &series.wait);
    text.family(&metric::TOKENS);
    let usage = snapshot.requests(Span::Start).usage;
    for (kind, tokens) in kinds_of_tokens(usage) {
        text.sample(&metric::TOKENS, &[kind], tokens);
    }
    text.one(&metric::COST, all.iter().map(|(_, series)| series.cost.0).sum::<f64>());
}

fn shared(snapshot: &Snapshot, text: &mut Text) {
    let (all, recent) = (snapshot.fleetwide(Span::Start), snapshot.fleetwide(Span::Window));
    let mut reasons = |metric: &Metric, counts: &[u64], names: &[&str]| {
        text.family(metric);
        for (name, count) in names.iter().zip(counts) {
            text.sample(metric, &[name], count);
        }
    };
    reasons(&metric::FAILURES, &all.failures, &FailureKind::ALL.map(FailureKind::name));
    reasons(&metric::REFUSALS, &all.refusals, &REFUSE_REASONS.map(|reason| reason.name()));
    reasons(&metric::EXPIRIES, &all.expiries, &EXPIRE_REASONS.map(|reason| reason.name()));
    reasons(&metric::PROBES, &all.probes, &["answered", "failed"]);
    text.one(&metric::STRATEGY_SWITCHES, all.switches);
    text.one(&metric::DISPATCHES, all.dispatches);
    text.one(&metric::RETRIES, all.retries);
    text.one(&metric::STALE, all.stale);
    text.family(&metric::ITL);
    text.summary(&metric::ITL, &[], &recent.itl, &all.itl);
    text.family(&metric::DECISION);
    text.summary(&metric::DECISION, &[], &recent.decision, &all.decision);
    text.family(&metric::PREDICTION_ERROR);
    let (recent, all) = (&recent.predictions, &all.predictions);
    text.summary(&metric::PREDICTION_ERROR, &["ttft"], &recent.ttft, &all.ttft);
    text.summary(&metric::PREDICTION_ERROR, &["tpot"], &recent.tpot, &all.tpot);
    text.summary(&metric::PREDICTION_ERROR, &["service"], &recent.service, &all.service);
    text.family(&metric::PREDICTION_ACCURACY);
    if let Some(share) = recent.accuracy() {
        text.sample(&metric::PREDICTION_ACCURACY, &[], share);
    }
    text.one(&metric::PREDICTED_COST, all.cost_predicted.0);
}

fn models(snapshot: &Snapshot, text: &mut Text) {
    let read = snapshot.models.iter().map(|model| {
        let (all, recent) =
            (snapshot.model(model, Span::Start), snapshot.model(model, Span::Window));
        (&*model.name, all, recent)
    });
    // A place in the table that no request has used says nothing.
    let used: Vec<_> = read.filter(|(_, all, _)| all.submitted > 0).collect();
    text.family(&metric::MODEL_ENDED);
    for (model, all, _) in &used {
        for kind in EndingKind::ALL {
            text.sample(&metric::MODEL_ENDED, &[model, kind.name()], all.ending(kind));
        }
    }
    text.family(&metric::MODEL_TOKENS);
    for (model, all, _) in &used {
        for (kind, tokens) in kinds_of_tokens(all.usage) {
            text.sample(&metric::MODEL_TOKENS, &[model, kind], tokens);
        }
    }
    text.family(&metric::MODEL_COST);
    for (model, all, _) in &used {
        text.sample(&metric::MODEL_COST, &[model], all.cost.0);
    }
    text.family(&metric::MODEL_TTFT);
    for (model, all, recent) in &used {
        text.summary(&metric::MODEL_TTFT, &[model], &recent.ttft, &all.ttft);
    }
    text.family(&metric::MODEL_E2E);
    for (model, all, recent) in &used {
        text.summary(&metric::MODEL_E2E, &[model], &recent.e2e, &all.e2e);
    }
}

fn instances(snapshot: &Snapshot, text: &mut Text) {
    instance_gauges(snapshot, text);
    let works: Vec<_> =
        snapshot.instances.iter().map(|i| (&*i.name, snapshot.work(i, Span::Start), i)).collect();
    text.family(&metric::INSTANCE_ENDED);
    for (name, work, _) in &works {
        let endings =
            [("finished", work.finished), ("failed", work.failed()), ("abandoned", work.abandoned)];
        for (ending, count) in endings {
            text.sample(&metric::INSTANCE_ENDED, &[name, ending], count);
        }
    }
    text.family(&metric::INSTANCE_FAILURES);
    for (name, work, _) in &works {
        for (kind, count) in FailureKind::ALL.iter().zip(work.failures) {
            text.sample(&metric::INSTANCE_FAILURES, &[name, kind.name()], count);
        }
    }
    text.family(&metric::INSTANCE_TOKENS);
    for (name, work, _) in &works {
        text.sample(&metric::INSTANCE_TOKENS, &[name], work.output.0);
    }
    text.family(&metric::INSTANCE_COST);
    for (name, work, _) in &works {
        text.sample(&metric::INSTANCE_COST, &[name], work.cost.0);
    }
    text.family(&metric::INSTANCE_LATENCY);
    for (name, work, instance) in &works {
        let recent = snapshot.work(instance, Span::Window);
        text.summary(&metric::INSTANCE_LATENCY, &[name], &recent.latency, &work.latency);
    }
    text.family(&metric::INSTANCE_BUSY);
    for (name, _, instance) in &works {
        let until = instance.gone.unwrap_or(snapshot.at);
        text.sample(&metric::INSTANCE_BUSY, &[name], instance.busy(until).as_secs_f64());
    }
}

fn instance_gauges(snapshot: &Snapshot, text: &mut Text) {
    text.family(&metric::INSTANCE_UP);
    for instance in &snapshot.instances {
        let up = u8::from(instance.is_healthy());
        text.sample(&metric::INSTANCE_UP, &[&instance.name, &instance.model], up);
    }
    text.family(&metric::INSTANCE_STATE);
    for instance in &snapshot.instances {
        for state in STATES {
            let is = u8::from(instance.state == state);
            text.sample(&metric::INSTANCE_STATE, &[&instance.name, state.name()], is);
        }
    }
    let mut gauges = |metric: &Metric, value: &dyn Fn(&InstanceFigures) -> Option<f64>| {
        text.family(metric);
        for instance in &snapshot.instances {
            if let Some(value) = value(instance) {
                text.sample(metric, &[&instance.name], value);
            }
        }
    };
    let whole = |count: u64| Some(count as f64);
    gauges(&metric::INSTANCE_LOAD, &|i| Some(i.load.fraction()));
    gauges(&metric::INSTANCE_WINDOW, &|i| Some(f64::from(i.load.window)));
    gauges(&metric::INSTANCE_RESERVED, &|i| Some(f64::from(i.load.sequences)));
    gauges(&metric::INSTANCE_RESERVED_TOKENS, &|i| whole(i.load.tokens.0));
    gauges(&metric::INSTANCE_CAPACITY_TOKENS, &|i| whole(i.load.capacity.0));
    gauges(&metric::INSTANCE_RUNNING, &|i| whole(i.running));
    gauges(&metric::INSTANCE_ENGINE_RUNNING, &|i| i.engine.running.and_then(whole));
    gauges(&metric::INSTANCE_ENGINE_WAITING, &|i| i.engine.waiting.and_then(whole));
    gauges(&metric::INSTANCE_FOREIGN, &|i| whole(i.engine.foreign));
    gauges(&metric::INSTANCE_KV_USAGE, &|i| i.engine.kv_usage);
    gauges(&metric::INSTANCE_GPU, &|i| i.gpu.utilization);
    gauges(&metric::INSTANCE_GPU_MEMORY, &|i| i.gpu.memory_used_gb);
    gauges(&metric::INSTANCE_PROBE_FAILURES, &|i| Some(f64::from(i.consecutive_failures)));
    gauges(&metric::INSTANCE_PROBE_AGE, &|i| {
        i.last_probe.map(|probe| snapshot.at.since(probe).as_secs_f64())
    });
}

fn kinds_of_tokens(usage: Usage) -> [(&'static str, u64); 3] {
    [("prompt", usage.prompt.0), ("output", usage.output.0), ("cached", usage.cached.0)]
}
