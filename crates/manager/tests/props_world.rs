//! Whatever clients, engines and operators do, every request ends once; and who is admitted and not
//! cancelled is served, whatever arrives after it.

use std::time::Duration;

use proptest::prelude::*;
use sagellm_manager::{Config, QueueConfig};
use sagellm_strategies::StrategyConfig;
use sagellm_types::{Ending, Objectives, RequestPriority, Timestamp, UserId};
use support::{Ask, Machine, World, ask, ms};

#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod support;

#[derive(Clone, Debug)]
struct Arrival {
    at: u64,
    ask: Ask,
    /// Its client leaves after this.
    cancel: Option<u64>,
}

/// What goes wrong on one instance, from when to when.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    Hang,
    /// Probes take so long that later ones overtake them.
    SlowProbes,
    Drain,
    Remove,
    /// An operator sets another strategy.
    Strategy(usize),
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let sizes = prop_oneof![4 => (1..200u64, 1..60u32), 1 => (500..3500u64, 1..400u32)];
    let objectives =
        (proptest::option::weighted(0.2, 20..4000u64), proptest::option::of(50..2000u64));
    (0..4000u64, sizes, 0..3u64, 0..5usize, objectives, proptest::option::weighted(0.1, 0..3000u64))
        .prop_map(|(at, (prompt, output), user, level, (e2e, ttft), cancel)| {
            let mut ask = ask(prompt, output);
            ask.new.user = Some(UserId(user));
            ask.new.priority = RequestPriority::ALL[level];
            ask.new.objectives = Objectives {
                e2e: e2e.map(Duration::from_millis),
                ttft: ttft.map(Duration::from_millis),
                tpot: None,
            };
            Arrival { at, ask, cancel }
        })
}

fn fault() -> impl Strategy<Value = (Fault, u64, u64, usize)> {
    let kind = prop_oneof![
        Just(Fault::Crash),
        Just(Fault::Hang),
        Just(Fault::SlowProbes),
        Just(Fault::Drain),
        Just(Fault::Remove),
        (0..5usize).prop_map(Fault::Strategy),
    ];
    (kind, 0..4000u64, 1..3000u64, 0..2usize)
}

fn config(strategy: usize, fair: bool) -> Config {
    Config {
        strategy: StrategyConfig::parse(StrategyConfig::NAMES[strategy]).expect("offered"),
        fairness: fair.then(Default::default),
        queue: QueueConfig { max_wait_ms: 1 << 40, ..QueueConfig::default() },
        ..Config::default()
    }
}

/// Two engines that faults may reach and one that they do not.
fn world(
    strategy: usize,
    fair: bool,
    arrivals: &[Arrival],
) -> (World, [sagellm_types::InstanceId; 2]) {
    let mut world = World::new(&config(strategy, fair));
    let faulty = ["a", "b"].map(|name| world.add(Machine::new(name, 3, 4096)));
    world.add(Machine::new("c", 2, 4096));
    for Arrival { at, ask, cancel } in arrivals.iter().cloned() {
        world.at(ms(at), move |world| {
            let request = world.submit(ask);
            if let Some(after) = cancel {
                world.at(world.now + Duration::from_millis(after), move |world| {
                    world.cancel(request);
                });
            }
        });
    }
    (world, faulty)
}

proptest! {
    #[test]
    fn every_request_ends_once_whatever_fails(
        strategy in 0..5usize,
        fair in any::<bool>(),
        arrivals in proptest::collection::vec(arrival(), 1..25),
        faults in proptest::collection::vec(fault(), 0..5),
    ) {
        let (mut world, faulty) = world(strategy, fair, &arrivals);
        for (fault, at, lasts, which) in faults {
            let (instance, until) = (faulty[which], ms(at + lasts));
            match fault {
                Fault::Crash => world.at(ms(at), move |world| world.crash(instance)),
                Fault::Hang => world.at(ms(at), move |world| world.hang(instance)),
                Fault::SlowProbes => {
                    world.at(ms(at), |world| world.probe_delay = Duration::from_millis(1700));
                    world.at(until, |world| world.probe_delay = Duration::from_millis(2));
                }
                Fault::Drain => world.at(ms(at), move |world| world.drain(instance)),
                Fault::Remove => world.at(ms(at), move |world| world.remove(instance)),
                Fault::Strategy(number) => world.at(ms(at), move |world| {
                    let (now, config) = (world.now, config(number, false));
                    world.watched.act(now, |core| core.set_strategy(&config.strategy, now));
                }),
            }
            world.at(until, move |world| world.restart(instance));
        }
        world.run_out(Timestamp::from_secs(600));
    }

    #[test]
    fn without_faults_everybody_is_served_who_can_be(
        strategy in 0..5usize,
        fair in any::<bool>(),
        arrivals in proptest::collection::vec(arrival(), 1..40),
    ) {
        let (mut world, _) = world(strategy, fair, &arrivals);
        world.run_out(Timestamp::from_secs(600));
        for record in world.watched.book.values() {
            let expirable = record.asked.objectives.e2e.is_some();
            match record.ending() {
                Some(Ending::Finished) => {}
                Some(Ending::Cancelled) => {
                    prop_assert!(arrivals.iter().any(|arrival| arrival.cancel.is_some()));
                }
                Some(Ending::Expired(_)) => prop_assert!(expirable),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
