//! Deadlines, order, cancellation, refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sagellm_manager::RouterConfig;
use sagellm_strategies::{Narrowing, Rank, SchedulingStrategy, Urgency};
use sagellm_types::{CandidateSet, Request};

use super::*;

#[test]
fn the_preferred_instance_wins_when_it_may_take_the_request() {
    let mut plane = Plane::fifo();
    // More instances than a decision looks at.
    let all: Vec<_> = (0..200).map(|number| plane.add(&format!("vllm-{number}"), 1)).collect();
    for &wanted in [all[3], all[137], all[199]].iter() {
        let request = plane.submit(NewRequest { preferred: Some(wanted), ..small() });
        assert_eq!(plane.at(request), Some(wanted));
        let second = plane.submit(NewRequest { preferred: Some(wanted), ..small() });
        assert!(plane.at(second).is_some_and(|at| at != wanted), "it is full: another one");
    }
}

#[test]
fn near_the_preferred_instance_is_found_among_more_than_a_decision_looks_at() {
    let router = RouterConfig::parse("topology_aware").expect("offered");
    let mut plane =
        Plane::new(Config { strategy: StrategyConfig::Fifo, router, ..Config::default() });
    let all: Vec<_> = (0..400)
        .map(|number: u32| {
            plane.add_spec(ExecutionInstance {
                machine_id: Some(format!("m{}", number / 4)),
                nvlink_peers: vec![format!("vllm-{}", number ^ 1)],
                max_concurrent_requests: 1,
                ..ExecutionInstance::new(format!("vllm-{number}"), "localhost", 8000, "llama-7b")
            })
        })
        .collect();
    let mut near = |wanted: usize| {
        let request = plane.submit(NewRequest { preferred: Some(all[wanted]), ..small() });
        plane.at(request).expect("there is room").index()
    };
    assert_eq!([near(390), near(390)], [390, 391], "it, then its NVLink peer");
    assert!([near(390), near(390)].iter().all(|at| [388, 389].contains(at)), "its machine");
    assert_eq!(near(17), 17);
}

#[test]
fn expired_requests_are_never_dispatched_even_if_the_timeout_is_late() {
    let mut plane = Plane::fifo();
    plane.add("a", 1);
    let first = plane.submit(small());
    let (soon, later) = (plane.submit(due(small(), 300)), plane.submit(due(small(), 400)));
    let patient = plane.submit(small());
    plane.now = ms(450);
    plane.finish(first);
    for expired in [soon, later] {
        assert_eq!(plane.ending(expired), Some(Ending::Expired(ExpireReason::Deadline)));
    }
    assert!(plane.at(patient).is_some());
}

#[test]
fn submitted_requests_wait_in_order_and_tell_where_they_stand() {
    let mut plane = Plane::fifo();
    let a = plane.add("a", 1);
    assert_eq!(plane.watched.core.instances()[0].spec.instance_id, "a");
    let requests: Vec<_> = (0..4).map(|_| plane.submit(small())).collect();
    let status = |plane: &Plane, place: usize| plane.watched.core.status(requests[place]);
    assert_eq!(status(&plane, 0), Some(RequestStatus::Scheduled));
    assert_eq!(status(&plane, 3), Some(RequestStatus::Queued));
    plane.begin(requests[0]);
    assert_eq!(status(&plane, 0), Some(RequestStatus::Running));
    for (served, &request) in requests.iter().enumerate() {
        assert_eq!((plane.at(request), plane.waiting()), (Some(a), 3 - served));
        plane.finish(request);
        assert_eq!(status(&plane, served), None);
    }
}

#[test]
fn levels_are_served_in_their_order_whatever_order_they_came_in() {
    let mut plane = Plane::new(Config {
        strategy: StrategyConfig::parse("priority").expect("offered"),
        ..Config::default()
    });
    plane.add("a", 1);
    let running = plane.submit(small());
    let levels = [3, 1, 4, 0, 2];
    let requests = levels
        .map(|level| plane.submit(NewRequest { priority: RequestPriority::ALL[level], ..small() }));
    plane.finish(running);
    for expected in 0..5 {
        let served = requests.iter().position(|&request| plane.at(request).is_some());
        let served = served.expect("one runs");
        assert_eq!(levels[served], expected);
        plane.finish(requests[served]);
    }
}

#[test]
fn deadlines_decide_the_order_and_no_deadline_goes_last() {
    let mut plane = Plane::new(Config {
        strategy: StrategyConfig::parse("slo_aware").expect("offered"),
        ..Config::default()
    });
    plane.add("a", 1);
    let running = plane.submit(small());
    let deadlines = [Some(20_000), None, Some(5_000), Some(9_000)];
    let requests = deadlines.map(|e2e| plane.submit(e2e.map_or(small(), |e2e| due(small(), e2e))));
    plane.finish(running);
    for expected in [2, 3, 0, 1] {
        assert!(plane.at(requests[expected]).is_some(), "{expected}");
        plane.finish(requests[expected]);
    }
}

#[test]
fn a_cancelled_attempt_holds_its_charge_until_the_engine_knows() {
    let mut plane = Plane::fifo();
    let a = plane.add("a", 1);
    let (request, next) = (plane.submit(small()), plane.submit(small()));
    plane.watched.cancelled(request, plane.now);
    assert_eq!((plane.ending(request), plane.at(next)), (Some(Ending::Cancelled), None));
    plane.pass(Duration::from_millis(100), |_| ProbeAnswer::healthy());
    assert_eq!(plane.at(next), Some(a));
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let mut config = Config { strategy: StrategyConfig::Fifo, ..Config::default() };
    config.queue.max_waiting = 2;
    let mut plane = Plane::new(config);
    plane.add("a", 1);
    let requests: Vec<_> = (0..4).map(|_| plane.submit(small())).collect();
    let Some(Ending::Refused { reason, retry_after }) = plane.ending(requests[3]) else {
        panic!("two wait already")
    };
    assert_eq!((reason, retry_after.is_some()), (RefuseReason::QueueFull, true));
}

/// Puts every request off by 100 ms until the third second, and counts how often it is asked.
#[derive(Debug, Default)]
struct Patient(Arc<AtomicUsize>);

impl SchedulingStrategy for Patient {
    fn urgency(&self, request: &Request, _: Timestamp) -> Urgency {
        Urgency::fixed(Rank::at(request.arrival))
    }

    fn narrow(&mut self, _: &Request, _: &mut CandidateSet<'_>, now: Timestamp) -> Narrowing {
        self.0.fetch_add(1, Ordering::Relaxed);
        let later = now + Duration::from_millis(100);
        if now < ms(3_000) { Narrowing::WaitUntil(later) } else { Narrowing::Offer }
    }

    fn name(&self) -> &'static str {
        "patient"
    }
}

#[test]
fn a_strategy_that_waits_is_asked_again_when_it_said_and_not_once_per_event() {
    let asked = Arc::new(AtomicUsize::new(0));
    let strategy = Box::new(Patient(Arc::clone(&asked)));
    let core = ControlPlane::with_strategy(&Config::default(), strategy, Timestamp::ZERO);
    let mut plane = Plane { watched: Watched::new(core), ..Plane::fifo() };
    let a = plane.add("a", 10);
    let requests: Vec<_> = (0..20).map(|_| plane.submit(small())).collect();
    plane.pass(Duration::from_millis(1_950), |_| ProbeAnswer::healthy());
    let before = asked.load(Ordering::Relaxed);
    plane.pass(Duration::from_millis(1_000), |_| ProbeAnswer::healthy());
    // Ten times by the timer and once after a probe: the head and the eight behind it.
    let again = asked.load(Ordering::Relaxed) - before;
    assert!((9..=12 * 9).contains(&again), "asked {again} times");
    assert_eq!(plane.waiting(), 20);
    plane.pass(Duration::from_millis(200), |_| ProbeAnswer::healthy());
    assert_eq!((plane.waiting(), plane.at(requests[0])), (10, Some(a)));
}
