//! The search against looking at everything, and against what is known of plans.

use proptest::prelude::*;
use sagellm_parallelism::{
    Demand, Limits, Objective, Plan, PlanError, Question, Split, Workload, auto_optimize,
    compare_strategies, plan, plan_exhaustively,
};
use sagellm_perf::{Gpu, Layout, ModelSpec};
use sagellm_types::ParallelismType;

fn question<'a>(model: &'a ModelSpec, gpu: &str, count: u32) -> Question<'a> {
    let gpus = [(Gpu::named(gpu).expect("known"), count)];
    Question {
        limits: Limits { ttft: Some(1.0), tpot: Some(0.030), e2e: None },
        ..Question::new(model, &gpus, Workload::new(4_000.0, 500.0))
    }
}

fn model(name: &str) -> ModelSpec {
    ModelSpec::named(name).expect("known")
}

/// Returns whether machines of the usual size hold all instances of a plan on one type of GPU.
fn is_seated(plan: &Plan, gpu: &Gpu, count: u32) -> bool {
    fn seat(sizes: &[u32], free: &mut [u32]) -> bool {
        let Some((size, rest)) = sizes.split_first() else { return true };
        (0..free.len()).any(|host| {
            let fits = free[host] >= *size;
            if fits {
                free[host] -= size;
            }
            let all = fits && seat(rest, free);
            if fits && !all {
                free[host] += size;
            }
            all
        })
    }
    let each = gpu.per_host();
    let mut free = vec![each; (count / each) as usize];
    free.push(count % each);
    let mut sizes = Vec::new();
    for part in plan.each_type() {
        let prefill = part.prefill.as_ref();
        let roles = [
            Some((&part.gpu, part.gpus_per_instance, part.instances)),
            prefill.map(|prefill| (&prefill.gpu, prefill.gpus_per_instance, prefill.instances)),
        ];
        for (name, size, instances) in roles.into_iter().flatten() {
            // An instance over several machines has all of each.
            let (parts, part) = if size > each { (size / each, each) } else { (1, size) };
            sizes.extend(vec![
                part;
                if *name == gpu.name { (parts * instances) as usize } else { 0 }
            ]);
        }
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    seat(&sizes, &mut free)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn pruning_changes_no_answer(
        name in prop::sample::select(&["llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b", "gpt-oss-120b"][..]),
        gpu in prop::sample::select(&["L40S", "A100", "H100", "B200"][..]),
        count in prop::sample::select(&[1_u32, 2, 3, 4, 6, 8, 12, 16][..]),
        other in prop::option::of((prop::sample::select(&["L40S", "H200"][..]), 1..=6_u32)),
        prompt in 50.0..20_000.0_f64,
        cached in prop::sample::select(&[0.0, 1_000.0][..]),
        output in 2.0..2_000.0_f64,
        ttft in prop::option::of(0.1..5.0_f64),
        tpot in prop::option::of(0.005..0.2_f64),
        objective in prop::sample::select(Objective::NAMES.map(|(_, objective)| objective).to_vec()),
        split in prop::sample::select(Split::NAMES.map(|(_, split)| split).to_vec()),
        demand in prop::option::of(0.1..20.0_f64),
        e2e in prop::option::of(1.0..60.0_f64),
        budget in prop::option::of(5.0..60.0_f64),
    ) {
        let model = model(name);
        let mut gpus = vec![(Gpu::named(gpu).expect("known"), count)];
        if let Some((other, count)) = other.filter(|(other, _)| *other != gpu) {
            gpus.push((Gpu::named(other).expect("known"), count));
        }
        let there: u32 = gpus.iter().map(|(_, count)| count).sum();
        let question = Question {
            gpus,
            workload: Workload { prompt, cached, output },
            limits: Limits { ttft, tpot, e2e },
            objective,
            split,
            demand: Demand { requests_per_s: demand, usd_per_hour: budget },
            ..question(&model, gpu, count)
        };
        let (found, all) = (plan(&question), plan_exhaustively(&question));
        match (found, all) {
            (Ok(found), Ok(all)) => {
                prop_assert_eq!(&found.plans, &all.plans);
                prop_assert_eq!(&found.front, &all.front);
                prop_assert_eq!(&found.rejected, &all.rejected);
                for plan in &found.plans {
                    prop_assert!(ttft.is_none_or(|limit| plan.ttft <= limit));
                    prop_assert!(tpot.is_none_or(|limit| plan.tpot <= limit));
                    prop_assert!(demand.is_none_or(|wanted| plan.requests_per_s >= 0.999 * wanted));
                    prop_assert!(budget.is_none_or(|budget| plan.usd_per_hour <= 1.001 * budget));
                    prop_assert!(e2e.is_none_or(|limit| plan.e2e <= limit));
                    let context = prompt + cached + 0.5 * output;
                    prop_assert!(f64::from(plan.requests) * context <= 1.001 * plan.kv_tokens as f64);
                    let of_type = |plan: &Plan| {
                        let prefill = plan.prefill.as_ref();
                        let prefilling = prefill.map_or(0, |p| p.gpus_per_instance * p.instances);
                        plan.gpus_per_instance * plan.instances + prefilling
                    };
                    prop_assert_eq!(plan.each_type().iter().map(of_type).sum::<u32>(), plan.gpus);
                    prop_assert!(plan.gpus <= there);
                    for &(gpu, count) in &question.gpus {
                        prop_assert!(is_seated(plan, gpu, count), "{:?}", plan);
                    }
                    prop_assert!(plan.prefill.as_ref().is_none_or(|p| p.busy < 1.0 && split != Split::Never));
                    prop_assert!(plan.prefill.is_some() || split != Split::Only);
                    let shares = plan.decode;
                    let sum = shares.compute + shares.memory + shares.communication + shares.overhead;
                    prop_assert!((sum - 1.0).abs() < 1e-6, "{:?}", shares);
                }
                let figures = |plan: &Plan| {
                    let Plan { tokens_per_s_per_gpu, tokens_per_s_per_user, .. } = plan;
                    [*tokens_per_s_per_gpu, *tokens_per_s_per_user, 1.0 / plan.usd_per_million, 1.0 / plan.ttft]
                };
                // As good in everything, and better by more than what counts as equal in something.
                let beats = |a: &Plan, b: &Plan| {
                    let (a, b) = (figures(a), figures(b));
                    (0..4).all(|axis| a[axis] >= b[axis]) && (0..4).any(|axis| a[axis] > 1.031 * b[axis])
                };
                for on_front in &found.front {
                    prop_assert!(!found.front.iter().any(|other| beats(other, on_front)));
                }
                // What is best in one figure is on the front, but for what counts as equal.
                let axes = [(Objective::Throughput, 0), (Objective::Cost, 2)];
                // (With a demand the cheapest fleet is first, whatever the objective.)
                let ranked = split != Split::Only && demand.is_none();
                for (objective, axis) in axes.into_iter().filter(|_| ranked) {
                    let asked = Question { objective, split: Split::Never, ..question.clone() };
                    if let Ok(answer) = plan(&asked) {
                        let most = found.front.iter().map(|p| figures(p)[axis]).fold(0.0, f64::max);
                        prop_assert!(most > 0.97 * figures(&answer.plans[0])[axis]);
                    }
                }
            }
            (found, all) => prop_assert_eq!(found, all),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn types_side_by_side_are_the_best_of_all_numbers_of_instances(
        gpus in prop::sample::subsequence(vec![("H100", 4_u32), ("A100", 8), ("L40S", 4), ("H200", 2)], 2..=3),
        output in 50.0..600.0_f64,
        tpot in 0.03..0.2_f64,
        demand in prop::option::of(1.0..60.0_f64),
        budget in prop::option::of(5.0..40.0_f64),
    ) {
        let model = model("qwen3-14b");
        let gpus: Vec<(&Gpu, u32)> =
            gpus.iter().map(|&(name, count)| (Gpu::named(name).expect("known"), count)).collect();
        let asked = |gpus: &[(&'static Gpu, u32)], demand| Question {
            limits: Limits { tpot: Some(tpot), ..Limits::default() },
            demand,
            ..Question::new(&model, gpus, Workload::new(1_000.0, output))
        };
        let wanted = Demand { requests_per_s: demand, usd_per_hour: budget };
        let found = plan(&asked(&gpus, wanted));
        // By hand: what one instance of each layout of each type gives, in all numbers of instances.
        let mut fleets = vec![(0.0, 0.0)];
        for &(gpu, count) in &gpus {
            let mut more = fleets.clone();
            for layout in [1, 2, 4, 8].map(Layout::tensor) {
                if layout.gpus() > count {
                    continue;
                }
                // The layout with stages and the like are not looked at here.
                let one = Question { layout: Some(layout), ..asked(&[(gpu, layout.gpus())], Demand::default()) };
                let objective = if demand.is_some() { Objective::Throughput } else { Objective::Goodput };
                let Ok(one) = auto_optimize(&Question { objective, ..one }) else { continue };
                let worth = one.requests_per_s * if demand.is_some() { 1.0 } else { one.chance };
                for number in 1..=count / layout.gpus() {
                    let n = f64::from(number);
                    more.extend(fleets.iter().map(|(usd, all)| {
                        (usd + n * one.usd_per_hour, all + n * worth)
                    }));
                }
            }
            fleets = more;
        }
        let paid = fleets.iter().filter(|(usd, _)| budget.is_none_or(|budget| *usd <= budget));
        let enough = paid.filter(|(_, worth)| demand.is_none_or(|wanted| *worth >= wanted));
        match found {
            Ok(found) => {
                let best = &found.plans[0];
                let worth = best.requests_per_s * best.chance;
                for (usd, other) in enough {
                    match demand {
                        Some(_) => prop_assert!(best.usd_per_hour <= 1.0101 * usd, "{best:?} {usd}"),
                        None => prop_assert!(1.0101 * worth >= *other, "{best:?} {other}"),
                    }
                }
                let parts: Vec<&Plan> = best.each_type().iter().collect();
                prop_assert_eq!(parts.iter().map(|p| p.gpus_per_instance * p.instances).sum::<u32>(), best.gpus);
                for part in &parts {
                    let there = gpus.iter().find(|(gpu, _)| gpu.name == part.gpu).expect("asked").1;
                    prop_assert!(part.gpus_per_instance * part.instances <= there && part.tpot <= tpot);
                    prop_assert_eq!(parts.iter().filter(|other| other.gpu == part.gpu).count(), 1);
                }
                prop_assert!(demand.is_none_or(|wanted| best.requests_per_s >= 0.999 * wanted));
                prop_assert!(budget.is_none_or(|budget| best.usd_per_hour <= 1.001 * budget));
            }
            Err(_) => prop_assert_eq!(enough.filter(|(usd, _)| *usd > 0.0).count(), 0),
        }
    }
}

#[test]
fn what_all_types_give_at_most_is_told_as_it_is() {
    let llama = model("llama-3.1-8b");
    let asked = |rate: f64| Question {
        limits: Limits { e2e: Some(20.0), ..Limits::default() },
        demand: Demand { requests_per_s: Some(rate), usd_per_hour: None },
        ..Question::new(
            &llama,
            &[("A10G", 5), ("L40S", 7)]
                .map(|(name, count)| (Gpu::named(name).expect("known"), count)),
            Workload::new(2_000.0, 300.0),
        )
    };
    let Err(PlanError::TooFew { most, .. }) = plan(&asked(1e3)) else { panic!("twelve GPUs") };
    let found = plan(&asked(0.999 * most)).expect("they give so much");
    assert_eq!(found.plans[0].types.len(), 2);
    assert!(plan(&asked(1.001 * most)).is_err());
}

#[test]
fn a_layout_that_is_asked_is_the_only_one_or_says_why_not() {
    let qwen = model("qwen3-32b");
    let asked = |layout: &str, count| {
        let layout = Some(layout.parse().expect("a layout"));
        plan(&Question { layout, ..question(&qwen, "H200", count) })
    };
    let found = asked("tp2pp2", 8).expect("it fits");
    assert!(found.layouts == 1 && found.plans.iter().all(|plan| plan.layout == "tp2pp2"));
    let error = |layout, count| asked(layout, count).expect_err(layout).to_string();
    assert!(error("tp3", 8).contains("3 GPUs do not divide its 64 heads: expected 1, 2, 4"));
    assert_eq!(error("tp16", 8), "tp16 takes 16 GPUs of one type: there are 8");
    assert!(
        error("tp4pp3", 12).contains("takes as many GPUs on each of its machines, which have 8")
    );
    let apart = asked("tp1pp5dp8", 40).expect_err("no experts").to_string();
    assert!(apart.contains("no experts to share"), "{apart}");
    let deepseek = model("deepseek-v3");
    let across = Question {
        layout: Some("tp8dp2".parse().expect("a layout")),
        ..question(&deepseek, "GB200", 16)
    };
    let told = plan(&across).expect_err("four in a machine").to_string();
    assert!(told.contains("a rank of 8 GPUs would lie over several machines"), "{told}");
}

#[test]
fn the_reference_question_is_answered_as_the_peer_ranks_it() {
    let qwen = model("qwen3-32b");
    let answer = plan(&question(&qwen, "H200", 8)).expect("it fits");
    let of = |layout: &str| {
        answer.plans.iter().position(|plan| plan.layout == layout).expect("it keeps the limits")
    };
    // AIConfigurator: TP4, TP2, TP8, TP1; it does not propose stages here.
    assert_eq!((of("tp4"), of("tp2")), (0, 1));
    assert!(of("tp8") < of("tp1"));
}

#[test]
fn questions_without_an_answer_say_what_would_do() {
    let big = model("llama-3.1-405b");
    let Err(PlanError::TooLarge { enough, .. }) = plan(&question(&big, "H100", 4)) else {
        panic!("405e9 parameters in 16 bits do not fit on four GPUs")
    };
    assert_eq!(enough, "16 × H100 would do");
    let six = plan(&question(&big, "H200", 6)).expect_err("810 GB in 846").to_string();
    assert!(six.contains("7 × H200 would do"), "{six}");
    let seventy = model("llama-3.1-70b");
    let poor = Question {
        demand: Demand { usd_per_hour: Some(3.0), ..Demand::default() },
        ..question(&seventy, "H100", 8)
    };
    assert!(matches!(plan(&poor), Err(PlanError::TooDear { least, .. }) if least > 3.0));
    let only =
        |hint, model, gpu, count| Question { hint: Some(hint), ..question(model, gpu, count) };
    let dense = model("qwen3-32b");
    let experts = only(ParallelismType::ExpertParallel, &dense, "H200", 8);
    assert!(matches!(plan(&experts), Err(PlanError::NoneOfKind { .. })));
    let cut =
        plan(&only(ParallelismType::TensorParallel, &big, "H100", 16)).expect_err("8 in a node");
    assert!(cut.to_string().contains("not even 512"), "{cut}");
    let small = model("llama-3.1-8b");
    let tight = Question {
        limits: Limits { tpot: Some(1e-4), ..Limits::default() },
        ..question(&small, "H100", 8)
    };
    let error = plan(&tight).expect_err("a tenth of a millisecond").to_string();
    assert!(error.contains("ms per token at best"), "{error}");
    assert_eq!(plan(&question(&small, "H100", 0)), Err(PlanError::NoGpu));
    let odd = Question { workload: Workload { prompt: 0.0, cached: 0.0, output: 1.0 }, ..tight };
    assert!(matches!(plan(&odd), Err(PlanError::Figure { field: "prompt", .. })));
}

#[test]
fn a_demand_is_met_by_the_fewest_dollars_and_a_budget_is_kept() {
    let qwen = model("qwen3-32b");
    let demand = |requests_per_s, usd_per_hour| Question {
        demand: Demand { requests_per_s, usd_per_hour },
        ..question(&qwen, "H200", 64)
    };
    let all = plan(&demand(None, None)).expect("it fits");
    let some = plan(&demand(Some(20.0), None)).expect("sixty-four are enough");
    for found in &some.plans {
        assert!(found.requests_per_s >= 20.0, "{found:?}");
        let fewer = f64::from(found.instances - 1) / f64::from(found.instances);
        assert!(found.requests_per_s * fewer < 20.0, "one instance less is too few: {found:?}");
    }
    let cheapest = some.plans.iter().map(|plan| plan.usd_per_hour).fold(f64::INFINITY, f64::min);
    assert_eq!(some.plans[0].usd_per_hour, cheapest);
    let Err(PlanError::TooFew { most, .. }) = plan(&demand(Some(1e5), None)) else {
        panic!("a hundred thousand requests per second are too many")
    };
    assert!(most >= all.plans[0].requests_per_s);
    let poor = plan(&demand(None, Some(30.0))).expect("eight GPUs cost 28 dollars");
    assert!(poor.plans.iter().all(|plan| plan.usd_per_hour <= 30.0 && plan.gpus <= 8));
    assert!(poor.rejected.iter().any(|rejected| rejected.why.contains("US dollars per hour")));
}

#[test]
fn strategies_are_compared_and_a_hint_is_honoured() {
    let moe = model("qwen3-30b-a3b");
    let asked = question(&moe, "H200", 8);
    let compared = compare_strategies(&asked).expect("it fits");
    let kinds: std::collections::BTreeSet<String> =
        compared.iter().map(|plan| format!("{:?}", plan.strategy)).collect();
    assert_eq!((compared.len(), kinds.len()), (5, 5), "{kinds:?}");
    assert_eq!(auto_optimize(&asked).expect("it fits"), compared[0]);
    for found in &compared {
        let hinted = Question { hint: Some(found.strategy), ..asked.clone() };
        assert_eq!(auto_optimize(&hinted).expect("it fits"), *found);
    }
}

#[test]
fn objectives_choose_differently() {
    let llama = model("llama-3.1-70b-fp8");
    let best = |objective| {
        let limits = Limits { tpot: Some(0.050), ..Limits::default() };
        let asked = Question { objective, limits, ..question(&llama, "H100", 8) };
        plan(&asked).expect("it fits").plans[0].clone()
    };
    let (most, fastest, cheapest) =
        (best(Objective::Throughput), best(Objective::Latency), best(Objective::Cost));
    assert!(fastest.e2e < most.e2e && fastest.gpus_per_instance == 8, "{fastest:?}");
    assert!(most.tokens_per_s_per_gpu > fastest.tokens_per_s_per_gpu);
    assert!((cheapest.usd_per_million / most.usd_per_million - 1.0).abs() < 1e-9, "one price");
}

/// The seed's table by the size of a model, on GPUs of 80 GB: what it says, and what the planner finds
/// for the most requests per second and for the shortest answers. docs/PLANNING.md says why they differ.
#[test]
fn the_table_of_the_seed_is_met_or_the_difference_is_known() {
    let check = |name: &str, gpus: u32, tpot: f64, goodput: &str, latency: &str| {
        let model = model(name);
        let best = |objective| {
            let gpus = [(Gpu::named("A100").expect("known"), gpus)];
            let limits = Limits { tpot: Some(tpot), ..Limits::default() };
            let asked = Question {
                limits,
                objective,
                ..Question::new(&model, &gpus, Workload::new(1_000.0, 200.0))
            };
            let best = auto_optimize(&asked).expect("it fits");
            format!("{} × {}", best.instances, best.layout)
        };
        assert_eq!(best(Objective::Goodput), goodput, "{name}");
        assert_eq!(best(Objective::Latency), latency, "{name}");
    };
    // Below 10B, TP1 or TP2; to 30B, TP4; to 70B, TP4 or TP8; to 175B, TP4 PP2; beyond, TP8 PP4.
    check("llama-3.1-8b", 2, 0.05, "2 × tp1", "1 × tp2");
    check("qwen3-14b", 4, 0.05, "2 × tp2", "1 × tp4");
    check("qwen3-32b", 8, 0.05, "2 × tp4", "1 × tp8");
    check("qwen2.5-72b", 16, 0.05, "2 × tp8", "2 × tp8");
    check("llama-3.1-405b", 32, 0.1, "1 × tp8pp4", "2 × tp8pp2");
}

#[test]
fn a_split_follows_its_prompts_where_they_take_longest() {
    let qwen = model("qwen3-32b");
    for (prompt, output) in [(4_000.0, 1.0), (30_000.0, 2.0), (8_000.0, 20.0)] {
        let asked = Question {
            workload: Workload::new(prompt, output),
            limits: Limits::default(),
            split: Split::Only,
            ..question(&qwen, "H200", 8)
        };
        let best = auto_optimize(&asked).expect("there is room for two");
        let prefill = best.prefill.expect("it is split");
        assert!(prefill.busy > 0.6 && prefill.busy <= 0.9, "{prompt}/{output}: {prefill:?}");
    }
}

#[test]
fn seats_are_used_to_the_last() {
    let small = model("llama-3.1-8b");
    let asked = Question {
        workload: Workload::new(100.0, 100.0),
        limits: Limits::default(),
        objective: Objective::Throughput,
        ..question(&small, "H200", 1)
    };
    assert_eq!(auto_optimize(&asked).expect("it fits").requests, 256);
}
