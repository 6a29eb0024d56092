//! An answer as one page.

use std::fmt::Write as _;

use sagellm_parallelism::{Answer, Plan};

use super::PlanArgs;
use super::tables::{gpus, instances, of_type, plan_rows};
use super::verify::{Verified, rows as verified_rows};
use crate::html::charts::{Dots, dots, parts};
use crate::html::{escaped, figure, page};

/// Plans of which the page says of what their steps are made.
const DRAWN: usize = 8;

/// Returns the page of an answer.
pub(super) fn of(args: &PlanArgs, answer: &Answer, verified: &[Verified]) -> String {
    let best = &answer.plans[0];
    let title = format!("{} on {}", args.model, machines(args));
    let asked = format!(
        "by {}{}; {} layouts at {} operating points",
        args.objective.name(),
        args.slo.as_ref().map_or_else(String::new, |slo| format!(", {slo}")),
        answer.layouts,
        answer.points
    );
    let mut body = format!(
        "<h1>{}</h1><p class=\"sub\">{}</p><div class=\"cards\">",
        escaped(&title),
        escaped(&asked)
    );
    let cards = [
        (instances(best), "instances"),
        (figure(Some(best.requests_per_s), "/s"), "requests"),
        (figure(Some(best.ttft * 1e3), " ms"), "TTFT"),
        (figure(Some(best.tpot * 1e3), " ms"), "TPOT"),
        (figure(Some(best.tokens_per_s_per_gpu), "/s"), "output tokens per GPU"),
        (figure(Some(best.usd_per_hour), " $/h"), "rent"),
        (figure(Some(best.usd_per_million), " $"), "per Mtok"),
    ];
    for (value, label) in cards {
        let _ = write!(body, "<div><b>{}</b><span>{label}</span></div>", escaped(&value));
    }
    body.push_str("</div>\n");
    body.push_str(&pareto(answer));
    body.push_str("<h2>Plans</h2>\n");
    body.push_str(&table(&plan_rows(args, answer)));
    if !verified.is_empty() {
        body.push_str("<h2>Simulated, with arrivals and a queue</h2>\n");
        body.push_str(&table(&verified_rows(verified)));
    }
    let names =
        [("arithmetic", "--a"), ("memory", "--c"), ("between GPUs", "--b"), ("overhead", "--d")];
    let bars: Vec<(String, Vec<f64>)> = answer
        .plans
        .iter()
        .take(DRAWN)
        .flat_map(Plan::each_type)
        .map(|part| {
            let shares = &part.decode;
            let made = vec![shares.compute, shares.memory, shares.communication, shares.overhead];
            (format!("{} on {}", of_type(part), gpus(part)), made)
        })
        .collect();
    body.push_str(&parts("Of what a decode step is made", &names, &bars));
    if !answer.rejected.is_empty() {
        body.push_str("<h2>Not taken</h2>\n<table>");
        for rejected in &answer.rejected {
            let _ = write!(
                body,
                "<tr><td>{} on {}</td><td>{}</td></tr>",
                escaped(&rejected.layout),
                escaped(&rejected.gpu),
                escaped(&rejected.why)
            );
        }
        body.push_str("</table>\n");
    }
    page(&title, &body)
}

fn machines(args: &PlanArgs) -> String {
    match &args.topology {
        Some(path) => path.display().to_string(),
        None if args.here => "this machine".to_owned(),
        None => args.gpus.join(" + "),
    }
}

/// What one request gets against what a GPU gives.
fn pareto(answer: &Answer) -> String {
    let point = |plan: &Plan| {
        let says = format!(
            "{} on {}, {} requests each: {:.1} tok/s/user, {:.0} tok/s/GPU, TTFT {:.0} ms, {:.3} $/Mtok",
            instances(plan),
            gpus(plan),
            plan.requests,
            plan.tokens_per_s_per_user,
            plan.tokens_per_s_per_gpu,
            plan.ttft * 1e3,
            plan.usd_per_million
        );
        ((plan.tokens_per_s_per_user, plan.tokens_per_s_per_gpu), says)
    };
    let series = |name, colour, joined, radius, plans: &mut dyn Iterator<Item = &Plan>| Dots {
        name,
        colour,
        joined,
        radius,
        points: plans.map(point).collect(),
    };
    // The line is of the two figures that are drawn; others are there for their TTFT or price.
    let mut most = 0.0;
    let (line, beside): (Vec<&Plan>, Vec<&Plan>) = answer.front.iter().partition(|plan| {
        let more = plan.tokens_per_s_per_gpu > most;
        most = plan.tokens_per_s_per_gpu.max(most);
        more
    });
    let rest = answer.plans.get(1..).unwrap_or_default();
    dots(
        "Output tokens per second and GPU, by tokens per second and request",
        "tok/s/user",
        &[
            series("Pareto front", "--a", true, 2.5, &mut line.into_iter()),
            series("better in TTFT or price", "--d", false, 2.0, &mut beside.into_iter()),
            series("the best of each layout", "--b", false, 4.0, &mut rest.iter()),
            series("the best", "--c", false, 6.0, &mut answer.plans[..1].iter()),
        ],
    )
}

/// Returns rows, the first of which are heads, as a table.
fn table(rows: &[Vec<String>]) -> String {
    let mut out = "<div class=\"wide\"><table>".to_owned();
    for (place, row) in rows.iter().enumerate() {
        let tag = if place == 0 { "th" } else { "td" };
        out.push_str(if place == 0 { "<thead><tr>" } else { "<tr>" });
        for cell in row {
            let _ = write!(out, "<{tag}>{}</{tag}>", escaped(cell));
        }
        out.push_str(if place == 0 { "</tr></thead>" } else { "</tr>" });
    }
    out + "</table></div>\n"
}
