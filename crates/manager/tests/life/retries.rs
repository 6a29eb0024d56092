//! Second tries of failed attempts.

use super::*;

#[test]
fn a_failed_attempt_is_made_again_elsewhere() {
    for kind in
        [FailureKind::Connect, FailureKind::Reset, FailureKind::Unavailable, FailureKind::Busy]
    {
        let mut plane = Plane::fifo();
        let (a, b) = (plane.add("a", 5), plane.add("b", 5));
        let request = plane.submit(small());
        let first = plane.at(request).expect("there is room");
        plane.fail(request, kind);
        assert_eq!(plane.at(request), Some(if first == a { b } else { a }), "{kind:?}");
        plane.finish(request);
        assert_eq!(plane.ending(request), Some(Ending::Finished));
    }
}

#[test]
fn it_waits_for_room_elsewhere_rather_than_going_back() {
    let mut plane = Plane::fifo();
    let (a, b) = (plane.add("a", 1), plane.add("b", 1));
    let (one, two) = (plane.submit(small()), plane.submit(small()));
    let other = plane.at(two).expect("there is room");
    plane.fail(one, FailureKind::Reset);
    assert_eq!(plane.at(one), None, "{a:?} is free but has failed it, {b:?} is full");
    plane.finish(two);
    assert_eq!(plane.at(one), Some(other));
}

#[test]
fn the_second_failure_ends_it() {
    let mut plane = Plane::fifo();
    plane.add_all(&["a", "b", "c"]);
    let request = plane.submit(small());
    plane.fail(request, FailureKind::Reset);
    plane.fail(request, FailureKind::Unavailable);
    assert_eq!(plane.ending(request), Some(Ending::Failed(FailureKind::Unavailable)));
}

#[test]
fn what_another_engine_would_repeat_is_not_tried_again() {
    let mut plane = Plane::fifo();
    plane.add_all(&["a", "b"]);
    let request = plane.submit(small());
    plane.fail(request, FailureKind::Rejected);
    assert_eq!(plane.ending(request), Some(Ending::Failed(FailureKind::Rejected)));
}

#[test]
fn a_refused_connection_is_not_the_second_try() {
    let mut plane = Plane::fifo();
    plane.add_all(&["a", "b", "c"]);
    let request = plane.submit(small());
    plane.fail(request, FailureKind::Connect);
    plane.fail(request, FailureKind::Reset);
    assert!(plane.at(request).is_some(), "one engine has failed it");
    plane.fail(request, FailureKind::Reset);
    assert_eq!(plane.ending(request), Some(Ending::Failed(FailureKind::Reset)));
}

#[test]
fn what_has_begun_is_not_tried_again() {
    let mut plane = Plane::fifo();
    plane.add_all(&["a", "b"]);
    let streamed = plane.submit(small());
    plane.begin(streamed);
    plane.fail(streamed, FailureKind::Reset);
    assert_eq!(plane.ending(streamed), Some(Ending::Failed(FailureKind::Reset)));
    let whole = plane.submit(small());
    let attempt = plane.watched.book[&whole].running.expect("it runs");
    plane.watched.failed(attempt, FailureKind::Reset, true, plane.now);
    assert_eq!(plane.ending(whole), Some(Ending::Failed(FailureKind::Reset)));
}

#[test]
fn nothing_is_tried_again_after_its_deadline() {
    let mut plane = Plane::fifo();
    plane.add_all(&["a", "b"]);
    let request = plane.submit(due(small(), 500));
    plane.now = ms(501);
    plane.fail(request, FailureKind::Reset);
    assert_eq!(plane.ending(request), Some(Ending::Failed(FailureKind::Reset)));
}

#[test]
fn one_request_in_ten_may_be_tried_again() {
    let retry = RetryConfig { burst: 3, ..RetryConfig::default() };
    let mut plane =
        Plane::new(Config { retry, strategy: StrategyConfig::Fifo, ..Config::default() });
    plane.add_all(&["a", "b"]);
    for _ in 0..200 {
        let request = plane.submit(small());
        plane.fail(request, FailureKind::Garbage);
        if plane.ending(request).is_none() {
            plane.finish(request);
        }
        // The instances are not to blame, or they would be down by now.
        plane.pass(Duration::from_secs(3), |_| ProbeAnswer::healthy());
    }
    let retries = plane.watched.core.counts().retries;
    assert!((20..=23).contains(&retries), "{retries} of 200 and the first three");
}

#[test]
fn an_attempt_that_never_reached_an_engine_costs_no_budget() {
    let retry = RetryConfig { burst: 0, budget: 0.0, ..RetryConfig::default() };
    let mut plane =
        Plane::new(Config { retry, strategy: StrategyConfig::Fifo, ..Config::default() });
    plane.add_all(&["a", "b"]);
    let request = plane.submit(small());
    plane.fail(request, FailureKind::Connect);
    assert!(plane.at(request).is_some());
    plane.fail(request, FailureKind::Reset);
    assert_eq!(plane.ending(request), Some(Ending::Failed(FailureKind::Reset)));
}
