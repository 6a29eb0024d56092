//! What the terminal shows of an answer.

use sagellm_parallelism::{Answer, Objective, Plan};

use super::PlanArgs;

pub(super) fn shown(args: &PlanArgs, answer: &Answer) -> String {
    let mut text = crate::simulate::aligned(&plan_rows(args, answer));
    text += &format!(
        "by {}; {} layouts at {} operating points\n",
        args.objective.name(),
        answer.layouts,
        answer.points
    );
    if args.explain {
        text += &explained(args, answer);
    }
    text
}

/// Returns the heads of the table, and a row for each plan.
pub(super) fn plan_rows(args: &PlanArgs, answer: &Answer) -> Vec<Vec<String>> {
    let heads = [
        "",
        "GPUs",
        "instances",
        "requests",
        "tok/step",
        "TTFT ms",
        "TPOT ms",
        "req/s",
        "tok/s/GPU",
        "tok/s/user",
        "$/h",
        "$/Mtok",
        "keeps limits",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for (place, plan) in answer.plans.iter().take(usize::from(args.top)).enumerate() {
        rows.push(vec![
            (place + 1).to_string(),
            gpus(plan),
            instances(plan),
            format!("{} each", joined(plan, |part| part.requests.to_string())),
            joined(plan, |part| part.max_num_batched_tokens.to_string()),
            format!("{:.0}", plan.ttft * 1e3),
            format!("{:.1}", plan.tpot * 1e3),
            format!("{:.2}", plan.requests_per_s),
            format!("{:.0}", plan.tokens_per_s_per_gpu),
            format!("{:.1}", plan.tokens_per_s_per_user),
            format!("{:.2}", plan.usd_per_hour),
            format!("{:.3}", plan.usd_per_million),
            match args.slo {
                Some(_) => format!("{:.0} %", plan.chance * 100.0),
                None => "–".to_owned(),
            },
        ]);
    }
    rows
}

/// Returns the GPUs of a plan: `8 × H200`, `2 × H100 + 4 × A100`.
pub(super) fn gpus(plan: &Plan) -> String {
    let mut kinds: Vec<(&str, u32)> = Vec::new();
    let mut add = |gpu, count| match kinds.iter_mut().find(|(known, _)| *known == gpu) {
        Some((_, known)) => *known += count,
        None => kinds.push((gpu, count)),
    };
    for part in plan.each_type() {
        if let Some(prefill) = &part.prefill {
            add(&prefill.gpu, prefill.gpus_per_instance * prefill.instances);
        }
        add(&part.gpu, part.gpus_per_instance * part.instances);
    }
    let each = kinds.iter().map(|(gpu, count)| format!("{count} × {gpu}"));
    each.collect::<Vec<_>>().join(" + ")
}

/// Returns the instances of a plan: `4 × tp2`; `3 × tp1 → 1 × tp4` where the first prefill; `2 × tp4 +
/// 4 × tp2` where GPUs of several types share the traffic.
pub(super) fn instances(plan: &Plan) -> String {
    joined(plan, of_type)
}

/// Returns the instances of one type of GPU.
pub(super) fn of_type(part: &Plan) -> String {
    let decode = format!("{} × {}", part.instances, part.layout);
    match &part.prefill {
        Some(prefill) => format!("{} × {} → {decode}", prefill.instances, prefill.layout),
        None => decode,
    }
}

/// Returns what is said of each type of GPU of a plan.
fn joined(plan: &Plan, of: impl Fn(&Plan) -> String) -> String {
    plan.each_type().iter().map(of).collect::<Vec<_>>().join(" + ")
}

fn explained(args: &PlanArgs, answer: &Answer) -> String {
    let best = &answer.plans[0];
    let mut text = String::new();
    for (place, plan) in answer.plans.iter().take(usize::from(args.top)).enumerate() {
        text += &plan.each_type().iter().map(made_of).collect::<String>();
        if place > 0 {
            text += &format!("  behind the first: {}\n", behind(args, best, plan));
        }
    }
    if !answer.front.is_empty() {
        text += "\nPareto front, in steps of 3 %: what no other point beats in all four figures\n";
        text += &crate::simulate::aligned(&front_rows(answer));
    }
    if !answer.rejected.is_empty() {
        text += "\nNot taken\n";
    }
    for rejected in &answer.rejected {
        text += &format!("  {} on {}: {}\n", rejected.layout, rejected.gpu, rejected.why);
    }
    text
}

/// Says of what the times of one type of GPU are made, and how sure they are.
fn made_of(part: &Plan) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let shares = &part.decode;
    let mut text = format!(
        "\n{} on {}: decode steps are {} arithmetic, {} memory, {} between GPUs, {} overhead{}; prompts take {} of the time\n  {} KV tokens per instance, {} of them free; 80 % of runs like it took {:.2} to {:.2} times this TTFT and {:.2} to {:.2} times this TPOT\n",
        of_type(part),
        gpus(part),
        percent(shares.compute),
        percent(shares.memory),
        percent(shares.communication),
        percent(shares.overhead),
        match part.layout.contains("pp") {
            true => format!(", {} of the stages' time bubbles", percent(shares.bubbles)),
            false => String::new(),
        },
        percent(part.prompts),
        part.kv_tokens,
        percent(part.kv_free),
        part.interval.ttft.0,
        part.interval.ttft.1,
        part.interval.tpot.0,
        part.interval.tpot.1,
    );
    if let Some(prefill) = &part.prefill {
        text += &format!(
            "  prompts keep their instances busy for {} of the time; keys and values of one take {:.1} ms to where it is decoded\n",
            percent(prefill.busy),
            prefill.transfer * 1e3,
        );
    }
    text
}

/// Returns the heads of a table, and a row for each layout of the front, with the range of its points.
fn front_rows(answer: &Answer) -> Vec<Vec<String>> {
    let mut layouts: Vec<(String, Vec<&Plan>)> = Vec::new();
    for plan in &answer.front {
        let prefill = plan.prefill.as_ref().map(|prefill| {
            let elsewhere = prefill.gpu != plan.gpu;
            let on = if elsewhere { format!(" on {}", prefill.gpu) } else { String::new() };
            format!("{}{on} → ", prefill.layout)
        });
        let name = format!("{}{} on {}", prefill.unwrap_or_default(), plan.layout, plan.gpu);
        match layouts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(plan),
            None => layouts.push((name, vec![plan])),
        }
    }
    let heads = ["", "points", "requests each", "tok/s/user", "tok/s/GPU", "TTFT ms", "$/Mtok"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for (name, points) in layouts {
        let range = |of: fn(&Plan) -> f64, digits: usize| {
            let all = || points.iter().map(|point| of(point));
            let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
            match points.len() {
                1 => format!("{least:.digits$}"),
                _ => format!("{least:.digits$} … {most:.digits$}"),
            }
        };
        rows.push(vec![
            name,
            points.len().to_string(),
            range(|plan| f64::from(plan.requests), 0),
            range(|plan| plan.tokens_per_s_per_user, 1),
            range(|plan| plan.tokens_per_s_per_gpu, 0),
            range(|plan| plan.ttft * 1e3, 0),
            range(|plan| plan.usd_per_million, 2),
        ]);
    }
    rows
}

/// Says what a plan lacks against the best: first in what was to be best.
fn behind(args: &PlanArgs, best: &Plan, plan: &Plan) -> String {
    let of = |part: &Plan| f64::from(part.requests) * f64::from(part.instances);
    let per_gpu = |plan: &Plan| plan.each_type().iter().map(of).sum::<f64>() / f64::from(plan.gpus);
    let share = |of: fn(&Plan) -> f64| 100.0 * of(plan) / of(best);
    let chances = format!(
        "{:.0} % likely to keep the limits against {:.0} %",
        100.0 * plan.chance,
        100.0 * best.chance
    );
    let mut why = match args.objective {
        Objective::Throughput => {
            vec![format!("{:.0} % of its tokens per GPU", share(|plan| plan.tokens_per_s_per_gpu))]
        }
        Objective::Latency => {
            vec![format!("{:.0} % of its time to the end", share(|plan| plan.e2e))]
        }
        Objective::Cost => {
            vec![format!("{:.0} % of its dollars per token", share(|plan| plan.usd_per_million))]
        }
        Objective::Goodput => {
            vec![
                format!("{:.0} % of its requests per second", share(|plan| plan.requests_per_s)),
                chances,
            ]
        }
    };
    if (plan.usd_per_hour / best.usd_per_hour - 1.0).abs() > 0.005 {
        let rent = format!("{:.0} % of its rent", share(|plan| plan.usd_per_hour));
        // Where so much is to be served, the rent decides.
        why.insert(if args.rate.is_some() { 0 } else { why.len() }, rent);
    }
    why.push(format!(
        "{:.1} requests at a time per GPU against {:.1}",
        per_gpu(plan),
        per_gpu(best)
    ));
    let more = |name: &str, own: f64, other: f64| {
        (own > other + 0.03)
            .then(|| format!("{:.0} % more of a step is {name}", 100.0 * (own - other)))
    };
    let (own, other) = (&plan.decode, &best.decode);
    why.extend(more("between GPUs", own.communication, other.communication));
    why.extend(more("overhead", own.overhead, other.overhead));
    why.extend(more("memory", own.memory, other.memory));
    if own.bubbles > other.bubbles + 0.03 {
        why.push(format!("{:.0} % more bubbles", 100.0 * (own.bubbles - other.bubbles)));
    }
    if plan.gpus < best.gpus {
        why.push(format!("{} GPUs stay idle", best.gpus - plan.gpus));
    }
    why.join(", ")
}
