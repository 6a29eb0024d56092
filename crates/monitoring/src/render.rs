//! A report as people read it.

use std::fmt::Write as _;

use crate::report::{Distribution, Report};
use crate::text::{Table, count, figure, percent, usd};

/// Returns a report as text: aligned tables, milliseconds, no colours; lines end with a newline.
pub fn render_text(report: &Report) -> String {
    let mut out = String::new();
    head(report, &mut out);
    out.push('\n');
    latencies(report, &mut out);
    if !report.classes.is_empty() {
        out.push('\n');
        classes(report, &mut out);
    }
    if !report.instances.is_empty() {
        out.push('\n');
        instances(report, &mut out);
    }
    if !report.strategy_intervals.is_empty() {
        out.push('\n');
        intervals(report, &mut out);
    }
    out
}

fn head(report: &Report, out: &mut String) {
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "–".to_owned());
    let mut line = |label: &str, text: String| {
        let _ = writeln!(out, "{label:<12}{text}");
    };
    let seed = report.seed.map_or_else(String::new, |seed| format!(", seed {seed}"));
    line("strategy", format!("{}, router {}{seed}", name(&report.strategy), name(&report.router)));
    let wall = report
        .wall_s
        .map_or_else(String::new, |wall| format!(", {wall:.1} s on the machine's clock"));
    line("time", format!("{:.1} s of model time{wall}", report.model_s));
    let requests = &report.requests;
    let endings = [
        (requests.submitted, "submitted"),
        (requests.finished, "finished"),
        (requests.failed, "failed"),
        (requests.cancelled, "cancelled"),
        (requests.rejected, "rejected"),
        (requests.expired, "expired"),
    ];
    let endings = endings.map(|(number, ending)| format!("{} {ending}", count(number)));
    line("requests", endings.join(", "));
    let throughput = &report.throughput;
    line(
        "throughput",
        format!(
            "{} requests/s, {} output tokens/s, {} input tokens/s",
            figure(throughput.requests_per_s),
            figure(throughput.output_tokens_per_s),
            figure(throughput.input_tokens_per_s),
        ),
    );
    let slo = &report.slo;
    line(
        "slo",
        format!(
            "{} on time, {} missed, goodput {} requests/s",
            percent(slo.attainment),
            count(slo.violations),
            figure(slo.goodput_rps),
        ),
    );
    let cost = &report.cost;
    line(
        "cost",
        format!("{}, {} per million tokens", usd(cost.usd), usd(cost.usd_per_million_tokens)),
    );
}

fn latencies(report: &Report, out: &mut String) {
    let mut table = Table::default();
    table.row(["ms", "mean", "p50", "p90", "p95", "p99", "max"]);
    let mut row = |name: &str, d: &Distribution| {
        let figures = [d.mean, d.p50, d.p90, d.p95, d.p99, d.max].map(figure);
        table.row(std::iter::once(name.to_owned()).chain(figures));
    };
    row("ttft", &report.ttft_ms);
    row("tpot", &report.tpot_ms);
    row("itl", &report.itl_ms);
    row("e2e", &report.e2e_ms);
    row("queue wait", &report.queue_wait_ms);
    table.write(out);
}

fn classes(report: &Report, out: &mut String) {
    let mut table = Table::default();
    table.row([
        "class", "requests", "finished", "on time", "missed", "good/s", "ttft p50", "p95",
        "tpot p50", "p95", "e2e p50", "p95",
    ]);
    for (name, class) in &report.classes {
        table.row([
            name.clone(),
            count(class.requests.submitted),
            count(class.requests.finished),
            percent(class.slo.attainment),
            count(class.slo.violations),
            figure(class.slo.goodput_rps),
            figure(class.ttft_ms.p50),
            figure(class.ttft_ms.p95),
            figure(class.tpot_ms.p50),
            figure(class.tpot_ms.p95),
            figure(class.e2e_ms.p50),
            figure(class.e2e_ms.p95),
        ]);
    }
    table.write(out);
}

fn instances(report: &Report, out: &mut String) {
    let mut table = Table::default();
    table.row([
        "instance",
        "state",
        "requests",
        "failed",
        "output tokens",
        "busy",
        "p95 ms",
        "usd",
    ]);
    for instance in &report.instances {
        table.row([
            instance.id.clone(),
            instance.state.clone(),
            count(instance.requests),
            count(instance.failed),
            count(instance.output_tokens),
            percent(instance.busy),
            figure(instance.latency_p95_ms),
            usd(Some(instance.usd)),
        ]);
    }
    table.write(out);
}

fn intervals(report: &Report, out: &mut String) {
    for interval in &report.strategy_intervals {
        let (from, to) = (interval.from_s, interval.to_s);
        let _ = write!(out, "{from:>7.1} – {to:>5.1} s  {}", interval.strategy);
        if !interval.reason.is_empty() {
            let _ = write!(out, ": {}", interval.reason);
        }
        out.push('\n');
    }
}
