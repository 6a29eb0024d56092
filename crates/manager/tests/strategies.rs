//! One workload under each strategy, through the whole core on modelled engines: who goes when and
//! where. What a strategy's `urgency` or `narrow` does is shown by taking it away.

use std::time::Duration;

use sagellm_manager::Config;
use sagellm_perf::{Layout, LinearCost};
use sagellm_strategies::{
    AdaptiveConfig, Admission, Fifo, Narrowing, Observation, Pressure, Rank, SchedulingStrategy,
    StrategyConfig, Switch, Urgency,
};
use sagellm_types::{CandidateSet, Objectives, Request, RequestPriority as P, Timestamp, Usd};
use support::{Ask, Machine, World, ask, ms};

#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod support;

/// A strategy without one of its answers.
struct Without {
    inner: Box<dyn SchedulingStrategy>,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Urgency is as in `fifo`; that of `fifo` itself is nothing at all.
    Urgency,
    Narrow,
    /// Nothing is missing.
    None,
}

impl SchedulingStrategy for Without {
    fn urgency(&self, request: &Request, now: Timestamp) -> Urgency {
        match self.answer {
            Answer::Urgency if self.inner.name() == "fifo" => Urgency::fixed(Rank::FIRST),
            Answer::Urgency => Fifo.urgency(request, now),
            _ => self.inner.urgency(request, now),
        }
    }

    fn admit(&mut self, request: &Request, pressure: &Pressure, now: Timestamp) -> Admission {
        self.inner.admit(request, pressure, now)
    }

    fn narrow(
        &mut self,
        request: &Request,
        set: &mut CandidateSet<'_>,
        now: Timestamp,
    ) -> Narrowing {
        match self.answer {
            Answer::Narrow => Narrowing::Offer,
            _ => self.inner.narrow(request, set, now),
        }
    }

    fn observe(&mut self, observation: Observation<'_>, now: Timestamp) {
        self.inner.observe(observation, now);
    }

    fn revision(&self) -> u64 {
        self.inner.revision()
    }

    fn take_switch(&mut self) -> Option<Switch> {
        self.inner.take_switch()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}

/// An engine on one GPU of this kind that runs two requests at once.
fn machine(gpu: &str, price: f64) -> Machine {
    let mut machine = Machine::new(gpu, 2, 65_536);
    machine.cost = LinearCost::preset("llama-7b", Some(gpu), Layout::tensor(1));
    machine.spec.gpu_type = Some(gpu.to_owned());
    machine.spec.price_per_gpu_hour = price;
    machine
}

/// What a client asks for: total, first token and per token, in milliseconds.
#[derive(Clone, Copy, Default)]
struct Wants {
    e2e: Option<u64>,
    ttft: Option<u64>,
    tpot: Option<u64>,
    budget: Option<f64>,
}

const NOTHING: Wants = Wants { e2e: None, ttft: None, tpot: None, budget: None };

/// The workload: 24 requests in two waves on four slots. Names are in the order of arrival.
fn workload() -> Vec<(u64, Ask)> {
    let wave = [
        (P::Normal, 60, NOTHING),
        (P::Normal, 40, Wants { tpot: Some(20), ..NOTHING }),
        (P::Low, 60, Wants { e2e: Some(10_000), ..NOTHING }),
        (P::High, 40, Wants { ttft: Some(3_000), ..NOTHING }),
        (P::Background, 60, NOTHING),
        (P::Critical, 30, NOTHING),
        (P::Normal, 50, Wants { e2e: Some(2_500), ..NOTHING }),
        (P::Low, 30, Wants { ttft: Some(1_500), ..NOTHING }),
        (P::High, 60, Wants { e2e: Some(30_000), budget: Some(0.0001), ..NOTHING }),
        (P::Normal, 40, Wants { ttft: Some(1_000), tpot: Some(20), ..NOTHING }),
        (P::Critical, 30, Wants { e2e: Some(6_000), ..NOTHING }),
        (P::Background, 60, Wants { e2e: Some(4_000), ..NOTHING }),
    ];
    let mut workload = Vec::new();
    for start in [50, 4_000] {
        for (number, (priority, output, wants)) in wave.into_iter().enumerate() {
            let mut ask = ask(200, output);
            let time = |ms: Option<u64>| ms.map(Duration::from_millis);
            ask.new.priority = priority;
            ask.new.cost_budget = wants.budget.map(Usd);
            ask.new.objectives =
                Objectives { e2e: time(wants.e2e), ttft: time(wants.ttft), tpot: time(wants.tpot) };
            let name = char::from(b'a' + workload.len() as u8);
            ask.new.label = Some(name.to_string().into());
            workload.push((start + 20 * number as u64, ask));
        }
    }
    workload
}

/// Runs the workload and returns who went where in the order of dispatch, `name:gpu`, with `!` for
/// those that were late and switches in brackets.
fn run(strategy: &StrategyConfig, missing: Answer) -> String {
    let inner = strategy.build();
    let strategy = Without { inner, answer: missing };
    let mut world = World::with_strategy(&Config::default(), Box::new(strategy));
    let fast = world.add(machine("H100", 4.0));
    world.add(machine("L4", 0.7));
    for (at, ask) in workload() {
        world.arrive(ms(at), ask);
    }
    // The attempts that had not begun are made again elsewhere, before those that came later.
    world.at(ms(200), move |world| world.crash(fast));
    world.at(ms(3_000), move |world| world.restart(fast));
    world.run_out(Timestamp::from_secs(120));
    let mut events: Vec<(Timestamp, String)> = Vec::new();
    for placed in &world.watched.placed {
        let record = &world.watched.book[&placed.attempt.request];
        let name = record.asked.label.as_deref().expect("all have names");
        let gpu = if placed.instance == fast { "H100" } else { "L4" };
        events.push((placed.at, format!("{name}:{gpu}")));
    }
    let last = world.watched.placed.last().expect("somebody is served").at;
    for (at, switch) in world.watched.switches.iter().filter(|(at, _)| *at < last) {
        events.push((*at, format!("[{}]", switch.to)));
    }
    events.sort_by_key(|event| event.0);
    events.into_iter().map(|event| event.1).collect::<Vec<_>>().join(" ")
}

/// Checks the snapshot, that it differs from that of `fifo`, and that it needs each answer that the
/// strategy gives.
fn check(strategy: &StrategyConfig, answers: &[Answer], expected: &str) {
    let whole = run(strategy, Answer::None);
    assert_eq!(whole, expected.split_whitespace().collect::<Vec<_>>().join(" "));
    for &answer in answers {
        assert_ne!(run(strategy, answer), whole, "{} without {answer:?}", strategy.name());
    }
    if *strategy != StrategyConfig::Fifo {
        assert_ne!(run(&StrategyConfig::Fifo, Answer::None), whole, "{}", strategy.name());
    }
}

fn named(name: &str) -> StrategyConfig {
    StrategyConfig::parse(name).expect("offered")
}

#[test]
fn fifo_serves_in_the_order_of_arrival_even_after_a_failure() {
    check(
        &named("fifo"),
        &[Answer::Urgency],
        "a:H100 b:L4 c:L4 d:H100 e:H100 f:H100 e:L4 h:H100 i:H100 j:H100 k:H100 f:L4
         l:H100 m:H100 n:H100 o:H100 p:H100 q:H100 r:H100 s:H100 t:H100 u:H100 v:H100
         w:L4 x:H100",
    );
}

#[test]
fn priority_serves_urgent_levels_first() {
    check(
        &named("priority"),
        &[Answer::Urgency],
        "a:H100 b:L4 c:L4 d:H100 f:H100 g:H100 f:L4 k:H100 i:H100 j:H100 h:H100 e:L4
         l:H100 m:H100 r:H100 w:L4 p:H100 u:H100 n:H100 s:H100 v:H100 o:H100 t:H100
         q:H100 x:H100",
    );
}

#[test]
fn slo_aware_serves_the_least_slack_first_where_it_can_be_met() {
    check(
        &named("slo_aware"),
        &[Answer::Urgency, Answer::Narrow],
        "a:H100 b:H100 c:L4 d:L4 h:H100 e:H100 k:L4 i:H100 f:H100 j:H100 e:L4 l:H100
         m:H100 n:H100 v:H100 s:L4 t:H100 p:H100 x:H100 w:H100 o:H100 u:H100 q:H100
         r:H100 h:L4",
    );
}

#[test]
fn cost_optimized_prefers_cheap_instances_that_keep_the_promise() {
    check(
        &named("cost_optimized"),
        &[Answer::Urgency, Answer::Narrow],
        "a:H100 b:H100 c:L4 d:L4 h:H100 e:H100 k:L4 i:H100 f:H100 j:H100 e:L4 l:H100
         m:H100 n:H100 v:H100 s:L4 t:H100 p:H100 x:H100 w:H100 o:H100 u:H100 q:H100
         r:H100 h:L4",
    );
}

#[test]
fn adaptive_does_what_the_pressure_asks_for() {
    let quick = AdaptiveConfig { dwell_ms: 1_000, smoothing_ms: 300, ..AdaptiveConfig::default() };
    check(
        &StrategyConfig::Adaptive(quick),
        &[Answer::Urgency, Answer::Narrow],
        "a:H100 b:H100 c:L4 d:L4 h:H100 e:H100 [priority] f:L4 k:H100 i:H100 j:H100 h:L4
         l:H100 [slo_aware] m:H100 n:H100 v:H100 s:L4 t:H100 p:H100 x:H100 w:H100 o:H100
         u:H100 q:H100 e:L4 r:H100",
    );
}
