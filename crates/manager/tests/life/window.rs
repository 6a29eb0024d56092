//! The dispatch window.

use super::*;

fn gauges(running: u32, waiting: u32) -> impl Fn(InstanceId) -> ProbeAnswer {
    move |_| ProbeAnswer { requests: Some((running, waiting)), ..ProbeAnswer::healthy() }
}

#[test]
fn it_falls_to_what_the_engine_starts_and_rises_again() {
    let mut plane = Plane::fifo();
    let a = plane.add("a", 20);
    let requests: Vec<_> = (0..20).map(|_| plane.submit(small())).collect();
    // The engine runs six of the twenty.
    plane.pass(Duration::from_millis(2_500), gauges(6, 14));
    assert_eq!(plane.window(a), 7);
    let more: Vec<_> = (0..10).map(|_| plane.submit(small())).collect();
    for &request in &requests[..13] {
        plane.finish(request);
    }
    assert_eq!(plane.waiting(), 10, "while it has more than it starts, it gets nothing");
    plane.finish(requests[13]);
    assert_eq!((plane.waiting(), plane.window(a)), (9, 7), "the rest waits here");
    plane.pass(Duration::from_millis(1_000), gauges(7, 0));
    for &request in &requests[14..] {
        plane.finish(request);
    }
    assert_eq!((plane.window(a), plane.waiting()), (12, 0), "one more for each while it is full");
    more.into_iter().for_each(|request| plane.finish(request));
}

#[test]
fn a_request_waits_while_foreign_load_fills_the_instance() {
    let mut plane = Plane::fifo();
    plane.add("a", 4);
    plane.pass(Duration::from_millis(1_100), gauges(4, 0));
    let request = plane.submit(small());
    assert_eq!(plane.at(request), None);
    plane.pass(Duration::from_millis(1_000), gauges(3, 0));
    assert!(plane.at(request).is_some());
}
