//! Reports side by side: what changed against the first one, and which class gained.

use std::fmt::Write as _;

use crate::report::{ClassReport, Report};
use crate::text::{Table, count, figure, percent};

/// A change of attainment below half a percentage point is none.
const POINTS: f64 = 0.005;
/// A change of a latency below 5 % is none.
const LATENCY: f64 = 0.05;

/// What became of a class, against the first report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More of it was on time, or as much and sooner.
    Gained,
    /// Less of it was on time, or as much and later.
    Lost,
    /// Neither.
    Unchanged,
}

impl Verdict {
    /// Compares a class with what it was: by the share on time, and where that did not change, by
    /// the 95th percentile of its end-to-end latency.
    pub fn of(before: &ClassReport, after: &ClassReport) -> Self {
        let judge = |gain: f64, least: f64| {
            if gain >= least {
                Self::Gained
            } else if gain <= -least {
                Self::Lost
            } else {
                Self::Unchanged
            }
        };
        if let (Some(was), Some(is)) = (before.slo.attainment, after.slo.attainment) {
            let verdict = judge(is - was, POINTS);
            if verdict != Self::Unchanged {
                return verdict;
            }
        }
        match (before.e2e_ms.p95, after.e2e_ms.p95) {
            (Some(was), Some(is)) if was > 0.0 => judge((was - is) / was, LATENCY),
            _ => Self::Unchanged,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gained => "gained",
            Self::Lost => "lost",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Returns two or more named reports side by side. The first is what the others are compared with.
pub fn compare_text(reports: &[(&str, &Report)]) -> String {
    let mut out = String::new();
    let Some(((_, first), others)) = reports.split_first() else { return out };
    totals(reports, &mut out);
    out.push('\n');
    class_table(reports, first, &mut out);
    out.push('\n');
    for (name, other) in others {
        verdicts(name, reports[0].0, first, other, &mut out);
    }
    out
}

fn totals(reports: &[(&str, &Report)], out: &mut String) {
    let mut table = Table::default();
    table.row(std::iter::once("").chain(reports.iter().map(|(name, _)| *name)));
    let mut row = |label: &str, show: &dyn Fn(&Report) -> String| {
        let cells = reports.iter().map(|(_, report)| show(report));
        table.row(std::iter::once(label.to_owned()).chain(cells));
    };
    row("finished", &|r| count(r.requests.finished));
    row("not finished", &|r| count(r.requests.submitted.saturating_sub(r.requests.finished)));
    row("on time", &|r| percent(r.slo.attainment));
    row("goodput, requests/s", &|r| figure(r.slo.goodput_rps));
    row("output tokens/s", &|r| figure(r.throughput.output_tokens_per_s));
    row("ttft p50, ms", &|r| figure(r.ttft_ms.p50));
    row("ttft p95, ms", &|r| figure(r.ttft_ms.p95));
    row("tpot p95, ms", &|r| figure(r.tpot_ms.p95));
    row("e2e p95, ms", &|r| figure(r.e2e_ms.p95));
    row("queue wait p95, ms", &|r| figure(r.queue_wait_ms.p95));
    row("$ per million tokens", &|r| figure(r.cost.usd_per_million_tokens));
    table.write(out);
}

fn class_table(reports: &[(&str, &Report)], first: &Report, out: &mut String) {
    let mut table = Table::default();
    table.row(["class", "", "requests", "on time", "ttft p95", "tpot p95", "e2e p95", ""]);
    let names = reports.iter().flat_map(|(_, report)| report.classes.keys());
    let mut seen: Vec<&String> = Vec::new();
    for name in names {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let mut shown = Some(name.clone());
        for (i, (label, report)) in reports.iter().enumerate() {
            let Some(class) = report.classes.get(name) else { continue };
            let verdict = first.classes.get(name).filter(|_| i > 0);
            table.row([
                shown.take().unwrap_or_default(),
                (*label).to_owned(),
                count(class.requests.submitted),
                percent(class.slo.attainment),
                figure(class.ttft_ms.p95),
                figure(class.tpot_ms.p95),
                figure(class.e2e_ms.p95),
                verdict.map_or("", |before| Verdict::of(before, class).name()).to_owned(),
            ]);
        }
    }
    table.write(out);
}

fn verdicts(name: &str, against: &str, first: &Report, other: &Report, out: &mut String) {
    let judged = |verdict: Verdict| {
        let classes = other.classes.iter().filter_map(|(class, after)| {
            let before = first.classes.get(class)?;
            (Verdict::of(before, after) == verdict).then_some(class.as_str())
        });
        let classes: Vec<&str> = classes.collect();
        if classes.is_empty() { "none".to_owned() } else { classes.join(", ") }
    };
    let _ = writeln!(
        out,
        "{name} against {against}: gained {}; lost {}; unchanged {}",
        judged(Verdict::Gained),
        judged(Verdict::Lost),
        judged(Verdict::Unchanged),
    );
}
