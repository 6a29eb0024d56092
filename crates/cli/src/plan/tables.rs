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
            format!("{} each", plan.requests),
            plan.max_num_batched_tokens.to_string(),
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
    let decode = plan.gpus_per_instance * plan.instances;
    match &plan.prefill {
        Some(prefill) if prefill.gpu != plan.gpu => {
            let prefilling = prefill.gpus_per_instance * prefill.instances;
            format!("{prefilling} × {} + {decode} × {}", prefill.gpu, plan.gpu)
        }
        _ => format!("{} × {}", plan.gpus, plan.gpu),
    }
}

/// Returns the instances of a plan: `4 × tp2`; `3 × tp1 → 1 × tp4` where the first prefill.
pub(super) fn instances(plan: &Plan) -> String {
    let decode = format!("{} × {}", plan.instances, plan.layout);
    match &plan.prefill {
        Some(prefill) => format!("{} × {} → {decode}", prefill.instances, prefill.layout),
        None => decode,
    }
}

fn explained(args: &PlanArgs, answer: &Answer) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let best = &answer.plans[0];
    let mut text = String::new();
    for plan in answer.plans.iter().take(usize::from(args.top)) {
        let shares = &plan.decode;
        text += &format!(
            "\n{}: decode steps are {} arithmetic, {} memory, {} between GPUs, {} overhead{}; prompts take {} of the time\n  {} KV tokens per instance, {} of them free; 80 % of runs like it took {:.2} to {:.2} times this TTFT and {:.2} to {:.2} times this TPOT\n",
            instances(plan),
            percent(shares.compute),
            percent(shares.memory),
            percent(shares.communication),
            percent(shares.overhead),
            match plan.layout.contains("pp") {
                true => format!(", {} of the stages' time bubbles", percent(shares.bubbles)),
                false => String::new(),
            },
            percent(plan.prompts),
            plan.kv_tokens,
            percent(plan.kv_free),
            plan.interval.ttft.0,
            plan.interval.ttft.1,
            plan.interval.tpot.0,
            plan.interval.tpot.1,
        );
        if let Some(prefill) = &plan.prefill {
            text += &format!(
                "  prompts keep their instances busy for {} of the time; keys and values of one take {:.1} ms to where it is decoded\n",
                percent(prefill.busy),
                prefill.transfer * 1e3,
            );
        }
        if (&plan.layout, &plan.gpu, &plan.prefill) != (&best.layout, &best.gpu, &best.prefill) {
            text += &format!("  behind the first: {}\n", behind(args.objective, best, plan));
        }
    }
    text += "\nPareto front, from the fastest for a request to the most per GPU\n";
    for (place, plan) in answer.front.iter().enumerate() {
        // Of points of one layout in a row, the first and the last say enough.
        let same = |other: Option<&Plan>| {
            other.is_some_and(|other| {
                let layout =
                    |plan: &Plan| (plan.gpu.clone(), plan.layout.clone(), prefilling(plan));
                layout(other) == layout(plan)
            })
        };
        let before = place.checked_sub(1).and_then(|before| answer.front.get(before));
        if same(before) && same(answer.front.get(place + 1)) {
            continue;
        }
        text += &format!(
            "  {:>6.1} tok/s/user  {:>7.0} tok/s/GPU  {} on {}, {} requests each\n",
            plan.tokens_per_s_per_user,
            plan.tokens_per_s_per_gpu,
            instances(plan),
            gpus(plan),
            plan.requests
        );
    }
    if !answer.rejected.is_empty() {
        text += "\nNot taken\n";
    }
    for rejected in &answer.rejected {
        text += &format!("  {} on {}: {}\n", rejected.layout, rejected.gpu, rejected.why);
    }
    text
}

fn prefilling(plan: &Plan) -> Option<String> {
    plan.prefill.as_ref().map(|prefill| prefill.layout.clone())
}

/// Says what a plan lacks against the best: first in what was to be best.
fn behind(objective: Objective, best: &Plan, plan: &Plan) -> String {
    let all = |plan: &Plan| f64::from(plan.requests) * f64::from(plan.instances);
    let per_gpu = |plan: &Plan| all(plan) / f64::from(plan.gpus);
    let share = |of: fn(&Plan) -> f64| 100.0 * of(plan) / of(best);
    let chances = format!(
        "{:.0} % likely to keep the limits against {:.0} %",
        100.0 * plan.chance,
        100.0 * best.chance
    );
    let mut why = match objective {
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
        why.push(format!("{:.0} % of its rent", share(|plan| plan.usd_per_hour)));
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
