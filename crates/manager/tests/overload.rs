//! More than can be served: who is refused is told the truth, and `adaptive` keeps its head.

use std::collections::BTreeSet;
use std::time::Duration;

use sagellm_manager::Config;
use sagellm_strategies::{AdaptiveConfig, SloAwareConfig, StrategyConfig};
use sagellm_types::{Ending, Objectives, RequestPriority, Rng, Seed, Timestamp, UserId};
use support::{Ask, Machine, Record, World, ask, ms};

#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod support;

/// A request of 200 + 50 tokens that is to have ended within `e2e` ms.
fn due(e2e: u64) -> Ask {
    let mut ask = ask(200, 50);
    ask.new.objectives = Objectives { e2e: Some(Duration::from_millis(e2e)), ..Objectives::NONE };
    ask
}

/// Returns the time to the next of arrivals at `rate` per second that know nothing of each other.
fn gap(rng: &mut Rng, rate: f64) -> Duration {
    Duration::from_secs_f64(-rng.unit_positive().ln() / rate)
}

/// Requests per second that the two engines of [`overloaded`] can serve, measured under a backlog.
fn capacity() -> f64 {
    let mut world = World::new(&Config { strategy: StrategyConfig::Fifo, ..Config::default() });
    engines(&mut world);
    (0..2_000).for_each(|_| world.arrive(ms(10), due(1_000_000)));
    world.watched.check_every = 100;
    world.run_until(Timestamp::from_secs(20));
    world.watched.core.counts().finished as f64 / 20.0
}

fn engines(world: &mut World) {
    world.add(Machine::new("a", 8, 65_536));
    // Cheaper by a little: there is something to save.
    let mut b = Machine::new("b", 8, 65_536);
    b.spec.price_per_gpu_hour *= 0.9;
    b.spec.gpu_type = Some("A100-40GB".to_owned());
    world.add(b);
}

/// Returns whether a request was answered within what it asked for.
fn on_time(record: &Record) -> bool {
    let limit = record.asked.objectives.e2e.expect("all ask for it");
    let (at, ending) = record.ended.expect("ended");
    ending == Ending::Finished && at.since(record.submitted) <= limit
}

struct Outcome {
    /// Refused clients that came back, and how many of them were then served on time.
    came_back: usize,
    kept: usize,
    /// Requests finished while the overload lasted, as a share of what the engines can serve.
    used: f64,
}

/// Runs `SECS` of twice what the engines can serve; this share of the refused clients comes back
/// when they were told to.
fn overloaded(seed: u64, e2e: u64, returning: f64, capacity: f64) -> Outcome {
    let slo = SloAwareConfig { refuse_hopeless: true, ..SloAwareConfig::default() };
    let mut world =
        World::new(&Config { strategy: StrategyConfig::SloAware(slo), ..Config::default() });
    engines(&mut world);
    world.clients_return = returning;
    world.watched.check_every = 100;
    let (mut rng, mut at, end) =
        (Seed(seed).stream("arrivals"), ms(10), Timestamp::from_secs(SECS));
    for user in 0.. {
        at += gap(&mut rng, 2.0 * capacity);
        if at > end {
            break;
        }
        let mut ask = due(e2e);
        ask.new.user = Some(UserId(user));
        world.arrive(at, ask);
    }
    world.run_until(end);
    let used = world.watched.core.counts().finished as f64 / (capacity * SECS as f64);
    world.run_out(Timestamp::from_secs(20 * SECS));
    // Those that came back a second time were not kept at the first.
    let again: BTreeSet<_> = world.returned.values().copied().collect();
    let firsts = world.returned.iter().filter(|(first, _)| !again.contains(first));
    let kept = firsts.clone().filter(|(_, later)| on_time(&world.watched.book[later])).count();
    Outcome { came_back: firsts.count(), kept, used }
}

const SECS: u64 = 40;

#[test]
fn a_refused_client_that_comes_back_when_told_is_served_on_time() {
    let capacity = capacity();
    for (seed, e2e, returning) in [(1, 1_500, 1.0), (2, 8_000, 1.0), (3, 3_000, 0.5)] {
        let Outcome { came_back, kept, used } = overloaded(seed, e2e, returning, capacity);
        assert!(came_back > 500, "{came_back} came back at twice the load");
        let share = kept as f64 / came_back as f64;
        assert!(share >= 0.8, "seed {seed}, {e2e} ms: {kept} of {came_back}");
        assert!(used > 0.95, "Retry-After leaves capacity unused: {used}");
    }
}

#[test]
fn capacity_is_not_kept_for_clients_that_never_come_back() {
    let Outcome { came_back, used, .. } = overloaded(4, 3_000, 0.0, capacity());
    assert_eq!(came_back, 0);
    assert!(used > 0.95, "{used}");
}

/// Runs a minute of one second at four times what the engines can serve and one second of nothing,
/// and returns the times of the switches.
fn square_wave(config: AdaptiveConfig) -> Vec<Timestamp> {
    let config = Config { strategy: StrategyConfig::Adaptive(config), ..Config::default() };
    let mut world = World::new(&config);
    engines(&mut world);
    world.watched.check_every = 100;
    let mut rng = Seed(5).stream("arrivals");
    for period in 0..30 {
        let mut at = ms(period * 2_000);
        while at < ms(period * 2_000 + 1_000) {
            at += gap(&mut rng, 250.0);
            let mut ask = due(400);
            if rng.unit() < 0.5 {
                ask.new.priority = RequestPriority::High;
            }
            world.arrive(at, ask);
        }
    }
    world.run_until(Timestamp::from_secs(60));
    for (_, switch) in &world.watched.switches {
        assert!(switch.reason.contains("window fill") && switch.reason.contains("late"));
        assert_ne!(switch.from, switch.to);
    }
    world.watched.switches.iter().map(|(at, _)| *at).collect()
}

#[test]
fn adaptive_switches_at_most_once_per_dwell_on_a_square_wave() {
    let nervous = AdaptiveConfig { smoothing_ms: 100, ..AdaptiveConfig::default() };
    for config in [AdaptiveConfig::default(), nervous.clone()] {
        for pair in square_wave(config).windows(2) {
            assert!(pair[1] - pair[0] >= Duration::from_secs(5), "{pair:?}");
        }
    }
    assert!(square_wave(nervous.clone()).len() > 3, "the wave is strong enough to be followed");
    let switches = square_wave(AdaptiveConfig { dwell_ms: 0, ..nervous });
    assert!(switches.len() > 20, "without a dwell every edge is followed: {}", switches.len());
}

#[test]
fn one_urgent_request_does_not_throw_adaptive_over() {
    let switches = |urgent: bool| {
        let mut world = World::new(&Config::default());
        engines(&mut world);
        let mut rng = Seed(6).stream("arrivals");
        let mut at = ms(0);
        while at < Timestamp::from_secs(30) {
            at += gap(&mut rng, 10.0);
            world.arrive(at, due(10_000));
        }
        if urgent {
            let mut ask = due(1);
            ask.new.priority = RequestPriority::Critical;
            world.arrive(Timestamp::from_secs(15), ask);
        }
        world.run_until(Timestamp::from_secs(30));
        world.watched.switches.into_iter().map(|(at, switch)| (at, switch.to)).collect::<Vec<_>>()
    };
    let calm = switches(false);
    assert_eq!(calm.iter().map(|switch| switch.1).collect::<Vec<_>>(), ["cost_optimized"]);
    assert_eq!(switches(true), calm);
}
