//! Who goes before whom, through the whole core: priority with ageing, fairness between users, and
//! big requests among small ones.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use sagellm_manager::{Config, QueueConfig};
use sagellm_strategies::queue::FairnessConfig;
use sagellm_strategies::{PriorityConfig, SloAwareConfig, StrategyConfig};
use sagellm_types::{RequestId, RequestPriority, Timestamp, UserId};
use support::{Ask, Machine, World, ask, ms, quantile};

#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod support;

fn config(strategy: &str) -> Config {
    Config {
        strategy: StrategyConfig::parse(strategy).expect("offered"),
        queue: QueueConfig { max_wait_ms: 1 << 40, ..QueueConfig::default() },
        ..Config::default()
    }
}

const HORIZON: Duration = Duration::from_millis(300);

/// Returns a sentence about the first request that was overtaken by one that had no right to.
fn overtaken(world: &World) -> Option<String> {
    let mut order: Vec<_> = world.watched.book.iter().collect();
    order.sort_by_key(|(_, record)| record.submitted);
    for (at, (id, record)) in order.iter().enumerate() {
        let went = record.dispatched().expect("everybody is served");
        for (later, other) in &order[at + 1..] {
            let after = other.submitted.since(record.submitted);
            let levels = record.asked.priority.level().saturating_sub(other.asked.priority.level());
            let right = levels > 0 && after <= HORIZON * levels as u32;
            if !right && !after.is_zero() && other.dispatched().is_some_and(|at| at < went) {
                return Some(format!("{id:?} was overtaken by {later:?}, {after:?} younger"));
            }
        }
    }
    None
}

proptest! {
    #[test]
    fn nobody_is_overtaken_by_one_who_came_more_than_levels_times_horizon_later(
        arrivals in proptest::collection::vec((0..3000u64, 0..5usize, 1..1500u64), 20..60),
    ) {
        let priority = PriorityConfig { horizon_ms: HORIZON.as_millis() as u64 };
        let mut config = config("priority");
        config.strategy = StrategyConfig::Priority(priority);
        // Who fits nowhere may be passed for `patience`; here nobody may.
        config.queue.backfill = 0;
        let mut world = World::new(&config);
        world.watched.check_every = 16;
        world.add(Machine::new("a", 2, 4096));
        world.add(Machine::new("b", 1, 4096));
        for (at, level, prompt) in arrivals {
            // Some 150 ms each on three slots: two to three times what can be served.
            let mut ask = ask(prompt, 30);
            ask.new.priority = RequestPriority::ALL[level];
            world.arrive(ms(100 + at), ask);
        }
        world.run_out(Timestamp::from_secs(100));
        prop_assert_eq!(overtaken(&world), None);
    }

    #[test]
    fn backlogged_users_get_the_same_service(
        sizes in proptest::collection::vec((10..1500u64, 1..120u32), 2..5),
        late in 0..6000u64,
        known in any::<bool>(),
    ) {
        let mut config = config("fifo");
        config.fairness = Some(FairnessConfig::default());
        let mut world = World::new(&config);
        world.watched.check_every = 16;
        world.add(Machine::new("a", 4, 8192));
        world.add(Machine::new("b", 2, 8192));
        for (user, (prompt, output)) in sizes.iter().copied().enumerate() {
            // The last one was idle until `late`, while the others were served.
            let first = if user + 1 == sizes.len() { 100 + late } else { 100 };
            for number in 0..30 {
                let size = prompt + number * 7 % 50;
                let mut ask = ask(size, output);
                ask.new.user = Some(UserId(user as u64));
                if !known {
                    ask.new.max_tokens = None;
                }
                world.arrive(ms(first), ask);
            }
        }
        world.run_out(Timestamp::from_secs(600));
        let (gap, bound) = widest_gap(&world, sizes.len());
        prop_assert!(gap <= bound, "{gap} > {bound}");
    }
}

/// Returns by how much the service of two users differed at most over an interval in which all
/// were backlogged, and the bound: twice the larger of the largest request and what was in flight,
/// as charged: by its forecast, or by its use if that was more.
fn widest_gap(world: &World, users: usize) -> (i64, i64) {
    let fairness = FairnessConfig::default();
    let user = |ask: &support::Record| ask.asked.user.expect("every request has a user").0 as usize;
    let records: Vec<_> = world.watched.book.values().collect();
    let forecasts: BTreeMap<RequestId, i64> = {
        let decisions = world.watched.core.last_decisions(records.len());
        decisions
            .iter()
            .map(|kept| &kept.decision)
            .map(|d| (d.request, fairness.forecast(&d.forecast) as i64))
            .collect()
    };
    // All are backlogged from when the last has come until the first has nothing waiting.
    let from = (0..users)
        .filter_map(|u| records.iter().filter(|r| user(r) == u).map(|r| r.submitted).min())
        .max();
    let until = (0..users)
        .filter_map(|u| {
            records.iter().filter(|r| user(r) == u).filter_map(|r| r.dispatched()).max()
        })
        .min();
    let (from, until) = (from.expect("users"), until.expect("users"));
    // Dispatches and ends in their order, each with what was used and what was charged.
    let mut events: Vec<(Timestamp, i64, usize, i64, i64)> = Vec::new();
    for (id, record) in &world.watched.book {
        let used = fairness.used(&record.usage) as i64;
        let charged = used.max(forecasts[id]);
        events.push((record.dispatched().expect("served"), 1, user(record), used, charged));
        events.push((record.ended.expect("ended").0, -1, user(record), used, charged));
    }
    events.sort();
    let largest = events.iter().map(|event| event.4).max().unwrap_or(0);
    let (mut flying, mut most) = (0, largest);
    let mut service = vec![0; users];
    let mut range = vec![(0, 0); users * users];
    for (at, change, user, used, charged) in events {
        flying += change * charged;
        most = most.max(flying);
        if change < 0 && at >= from && at <= until {
            service[user] += used;
            for a in 0..users {
                for b in 0..users {
                    let (least, largest) = &mut range[a * users + b];
                    let difference: i64 = service[a] - service[b];
                    *least = difference.min(*least);
                    *largest = difference.max(*largest);
                }
            }
        }
    }
    let gap = range.iter().map(|(least, largest)| largest - least).max().unwrap_or(0);
    (gap, 2 * most)
}

/// Runs four backlogged users and a quiet one for a minute and returns the quiet one's P99 wait, in
/// seconds; `flood` more requests of a sixth user come at once.
fn quiet_wait(flood: u32, fair: bool) -> f64 {
    let mut config = config("fifo");
    config.fairness = fair.then(FairnessConfig::default);
    let mut world = World::new(&config);
    world.watched.check_every = 1000;
    world.add(Machine::new("a", 8, 65_536));
    world.add(Machine::new("b", 8, 65_536));
    let of = |user: u64| -> Ask {
        let mut ask = ask(200, 50);
        ask.new.user = Some(UserId(user));
        ask
    };
    let backlog = if fair { 700 } else { 20 };
    for user in 1..=4 {
        (0..backlog).for_each(|number| world.arrive(ms(10 + number % 7), of(user)));
    }
    for _ in 0..flood {
        world.arrive(ms(5_000), of(5));
    }
    for number in 0..200 {
        world.arrive(ms(1_000 + number * 211), of(6));
    }
    world.run_until(Timestamp::from_secs(60));
    let quiet = world.watched.book.values().filter(|record| record.asked.user == Some(UserId(6)));
    let mut waits: Vec<f64> = quiet
        .map(|record| {
            record.dispatched().unwrap_or(world.now).since(record.submitted).as_secs_f64()
        })
        .collect();
    assert_eq!(waits.len(), 200);
    quantile(&mut waits, 0.99)
}

#[test]
fn a_flood_of_one_user_does_not_make_another_wait() {
    let (without, with) = (quiet_wait(0, true), quiet_wait(10_000, true));
    assert!(without > 0.01, "the quiet user waits for a slot: {without}");
    assert!(with <= without * 1.1, "{with} s instead of {without} s");
    // The same flood without fairness: what the test would see if it did nothing.
    assert!(quiet_wait(10_000, false) > 10.0 * without);
}

/// Runs a flood of small requests on one instance and returns how long a big one waits, in seconds.
fn big_one_waits(patience_ms: u64) -> Option<f64> {
    let mut config = config("fifo");
    config.queue.patience_ms = patience_ms;
    let mut world = World::new(&config);
    world.add(Machine::new("a", 16, 4096));
    for number in 0..1200 {
        world.arrive(ms(10 + number * 25), ask(100, 100));
    }
    let mut big = None;
    world.run_until(ms(3_000));
    big.replace(world.submit(ask(3_000, 200)));
    world.run_until(ms(33_000));
    let record = &world.watched.book[&big.expect("submitted")];
    Some(record.dispatched()?.since(record.submitted).as_secs_f64())
}

#[test]
fn a_big_request_is_not_passed_for_ever_by_small_ones() {
    let waited = big_one_waits(2_000).expect("it is served while small ones go on coming");
    // Its patience, and the end of those that ran when it was up.
    assert!((2.0..5.0).contains(&waited), "{waited} s");
    assert_eq!(big_one_waits(1 << 40), None, "without a hold it would still wait");
}

/// Runs a flood of requests of one kind at twice what can be served, with one `other` after a
/// second, and returns how long that one waits, in seconds.
fn other_waits(config: &Config, flood: &Ask, other: Ask) -> Option<f64> {
    let mut world = World::new(config);
    world.watched.check_every = 20;
    world.add(Machine::new("a", 4, 16_384));
    for number in 0..2_000 {
        world.arrive(ms(10 + number * 15), flood.clone());
    }
    world.run_until(ms(1_000));
    let other = world.submit(other);
    world.run_until(ms(30_000));
    let record = &world.watched.book[&other];
    Some(record.dispatched()?.since(record.submitted).as_secs_f64())
}

#[test]
fn who_is_late_and_has_no_deadline_is_served_before_those_who_came_much_later() {
    let waits = |late_horizon_ms| {
        let mut config = config("fifo");
        let slo = SloAwareConfig { late_horizon_ms, ..SloAwareConfig::default() };
        config.strategy = StrategyConfig::SloAware(slo);
        let mut flood = ask(100, 20);
        flood.new.objectives.e2e = Some(Duration::from_secs(3));
        let mut other = ask(100, 20);
        // No instance is that fast: it is late from the beginning.
        other.new.objectives.ttft = Some(Duration::from_millis(1));
        other_waits(&config, &flood, other)
    };
    let waited = waits(8_000).expect("it is served while others go on coming");
    assert!((1.0..12.0).contains(&waited), "{waited} s");
    assert_eq!(waits(300_000), None, "until then those go first who can be on time");
}

#[test]
fn a_user_with_urgent_requests_does_not_starve_another() {
    let waits = |level_weight| {
        let mut config = config("priority");
        config.fairness = Some(FairnessConfig { level_weight, ..FairnessConfig::default() });
        let urgent = |user, priority| {
            let mut ask = ask(100, 20);
            (ask.new.user, ask.new.priority) = (Some(UserId(user)), priority);
            ask
        };
        let flood = urgent(1, RequestPriority::Critical);
        other_waits(&config, &flood, urgent(2, RequestPriority::Background))
    };
    let waited = waits(5_000).expect("it is served while urgent ones go on coming");
    // Four levels are worth 20,000 tokens, which is some 140 requests.
    assert!((1.0..10.0).contains(&waited), "{waited} s");
    assert_eq!(waits(1 << 40), None, "a level can be made worth more than anybody is served");
}
