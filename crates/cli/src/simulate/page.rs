//! A run or a comparison as one page: no script, no network.

use super::tables;
use std::fmt::Write as _;

use sagellm_monitoring::Distribution;
use sagellm_simulator::study::{Compared, Mean};
use sagellm_simulator::{Moment, Outcome, Scenario};

use crate::html::charts::{Bar, Line, bars, lines};
use crate::html::{escaped, figure, page, percent};

/// Returns the page of one run.
pub(super) fn of_run(scenario: &Scenario, outcome: &Outcome) -> String {
    let report = &outcome.report;
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let mut body = format!(
        "<h1>{} on {}</h1><p class=\"sub\">strategy {}, router {}, seed {}, {:.0} s of model time</p><div class=\"cards\">",
        escaped(&scenario.model),
        escaped(&scenario.fleet),
        name(&report.strategy),
        name(&report.router),
        report.seed.unwrap_or_default(),
        report.model_s,
    );
    let cost = &report.cost;
    let cards = [
        (percent(report.slo.attainment), "on time"),
        (figure(report.slo.goodput_rps, "/s"), "goodput"),
        (format!("{} / {}", report.requests.finished, report.requests.submitted), "finished"),
        (figure(report.ttft_ms.p99, " ms"), "TTFT p99"),
        (figure(report.tpot_ms.p99, " ms"), "TPOT p99"),
        (figure(report.throughput.output_tokens_per_s, "/s"), "output tokens"),
        (percent(outcome.simulated.utilization), "of the GPUs' time used"),
        (percent(outcome.simulated.prefix_hit_rate), "prompt tokens cached"),
        (figure(cost.usd_attributed_per_million_tokens, " $"), "attributed per Mtok"),
        (figure(cost.usd_rented, " $"), "rented"),
        (figure(cost.usd_idle, " $"), "rent of idle instances"),
    ];
    for (value, label) in cards {
        let _ = write!(body, "<div><b>{value}</b><span>{label}</span></div>");
    }
    body.push_str("</div>\n<h2>Over time</h2>\n");
    body.push_str(&over_time(&outcome.timeline));
    if !report.strategy_intervals.is_empty() {
        body.push_str("<h2>Strategies</h2><table><thead><tr><th>strategy</th><th>from s</th><th>to s</th><th>why</th></tr></thead>");
        for interval in &report.strategy_intervals {
            let _ = write!(
                body,
                "<tr><td>{}</td><td>{:.1}</td><td>{:.1}</td><td>{}</td></tr>",
                escaped(&interval.strategy),
                interval.from_s,
                interval.to_s,
                escaped(&interval.reason)
            );
        }
        body.push_str("</table>\n");
    }
    for line in tables::intervals(&outcome.simulated.intervals).lines() {
        let _ = writeln!(body, "<p class=\"sub\">{}</p>", escaped(line));
    }
    body.push_str("<h2>Classes</h2>\n");
    body.push_str(&classes(outcome));
    body.push_str("<h2>Instances</h2>\n");
    let instances: Vec<Bar> = report
        .instances
        .iter()
        .take(128)
        .map(|instance| Bar {
            name: instance.id.clone(),
            share: instance.utilization.unwrap_or(0.0),
            label: format!(
                "{}, {} requests, {} rented",
                percent(instance.utilization),
                instance.requests,
                figure(instance.usd_rented, " $")
            ),
            colour: if instance.requests == 0 { "--b" } else { "--a" },
        })
        .collect();
    body.push_str(&bars("Share of time in which steps ran", &instances));
    page("sagellm simulate", &body)
}

fn over_time(moments: &[Moment]) -> String {
    let level = |of: fn(&Moment) -> u64| -> Vec<(f64, f64)> {
        moments.iter().map(|moment| (moment.at_s, of(moment) as f64)).collect()
    };
    // Rates over six points: smoother than the noise, finer than the bursts.
    let rate = |of: fn(&Moment) -> u64| -> Vec<(f64, f64)> {
        let each = moments.windows(6).map(|window| {
            let (first, last) = (&window[0], &window[5]);
            let time = (last.at_s - first.at_s).max(1e-9);
            (last.at_s, of(last).saturating_sub(of(first)) as f64 / time)
        });
        each.collect()
    };
    let line = |name, colour, points| Line { name, colour, points };
    let mut out = lines(
        "Requests per second",
        "s",
        &[
            line("arriving", "--a", rate(|moment| moment.arrived)),
            line("finished", "--c", rate(|moment| moment.finished)),
            line("finished on time", "--d", rate(|moment| moment.on_time)),
        ],
    );
    out.push_str(&lines(
        "Requests in the system",
        "s",
        &[
            line("waiting", "--b", level(|moment| moment.waiting)),
            line("running", "--a", level(|moment| moment.running)),
        ],
    ));
    out
}

fn classes(outcome: &Outcome) -> String {
    let report = &outcome.report;
    let mut out = String::new();
    let met: Vec<Bar> = report
        .classes
        .iter()
        .map(|(name, class)| Bar {
            name: name.clone(),
            share: class.slo.attainment.unwrap_or(0.0),
            label: format!("{} of {}", percent(class.slo.attainment), class.requests.submitted),
            colour: "--c",
        })
        .collect();
    out.push_str(&bars("On time", &met));
    out.push_str("<div class=\"wide\"><table><thead><tr><th>class</th><th>finished</th><th>refused</th><th>expired</th>");
    for name in ["TTFT", "TPOT", "E2E"] {
        let _ = write!(out, "<th>{name} p50</th><th>p90</th><th>p99 ms</th>");
    }
    out.push_str("</tr></thead>");
    for (name, class) in &report.classes {
        let requests = &class.requests;
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
            escaped(name),
            requests.finished,
            requests.rejected,
            requests.expired
        );
        let cells = |d: &Distribution| [d.p50, d.p90, d.p99];
        for value in [&class.ttft_ms, &class.tpot_ms, &class.e2e_ms].into_iter().flat_map(cells) {
            let _ = write!(out, "<td>{}</td>", figure(value, ""));
        }
        out.push_str("</tr>");
    }
    out.push_str("</table></div>\n");
    out
}

/// Returns the page of a comparison.
pub(super) fn of_comparison(compared: &[Compared], seeds: usize) -> String {
    let mut body = format!(
        "<h1>Policies compared</h1><p class=\"sub\">the same traffic, {}; the best first</p>",
        tables::over(seeds)
    );
    let name = |of: &Compared| format!("{} · {}", of.strategy, of.router);
    let with = |title: &str, value: &dyn Fn(&Compared) -> Option<Mean>, scale: f64, unit: &str| {
        let most = compared.iter().filter_map(value).map(|mean| mean.mean).fold(1e-9, f64::max);
        let each = compared.iter().map(|of| Bar {
            name: name(of),
            share: value(of).map_or(0.0, |mean| mean.mean / most),
            label: value(of).map_or_else(
                || "–".to_owned(),
                |mean| format!("{} {unit}", tables::figure(Some(mean), scale, 1)),
            ),
            colour: "--a",
        });
        bars(title, &each.collect::<Vec<_>>())
    };
    body.push_str(&with("Worst class on time", &|of| Some(of.figures.worst_class), 100.0, "%"));
    body.push_str(&with("Requests on time per second", &|of| of.figures.goodput_rps, 1.0, "/s"));
    body.push_str(&with("TTFT p99", &|of| of.figures.ttft_p99_ms, 1.0, "ms"));
    body.push_str(&with("Attributed cost", &|of| of.figures.usd_per_million, 1.0, "$/Mtok"));
    page("sagellm simulate --compare", &body)
}
