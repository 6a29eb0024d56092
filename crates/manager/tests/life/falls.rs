//! Instances that fall, drain, and come back.

use super::*;
use sagellm_manager::{Event, Offer};

#[test]
fn an_engine_that_comes_back_with_another_model_serves_that_one() {
    let mut plane = Plane::fifo();
    let (a, _) = (plane.add("a", 5), plane.add("b", 5));
    let offer = |name: &str, len| Offer {
        name: name.to_owned(),
        max_model_len: Some(len),
        ..Offer::default()
    };
    let say = |plane: &mut Plane, offers: Vec<Offer>| {
        plane.pass(Duration::from_secs(5), |_| ProbeAnswer::healthy());
        plane.now += Duration::from_secs(5);
        let now = plane.now;
        let commands = plane.watched.act(now, |core| core.handle_timeout(now));
        plane.took(commands);
        for (instance, ticket) in std::mem::take(&mut plane.probes) {
            let models = (instance == a).then(|| offers.clone());
            let answer = ProbeAnswer::healthy();
            let event = Event::Probed { instance, ticket, answer, models };
            let commands = plane.watched.act(now, |core| {
                core.handle(event, now);
            });
            plane.took(commands);
        }
    };
    say(&mut plane, vec![offer("llama-7b", 4_096), offer("adapter", 4_096)]);
    let view = |plane: &Plane, name: &str| {
        plane.watched.core.model_views().into_iter().find(|view| view.name == name)
    };
    assert_eq!(view(&plane, "llama-7b").expect("served").max_model_len, Some(4_096));
    assert!(view(&plane, "adapter").is_some());
    say(&mut plane, vec![offer("llama-7b", 32_768)]);
    assert_eq!(view(&plane, "llama-7b").expect("served").max_model_len, Some(32_768));
    assert!(view(&plane, "adapter").is_none());
    say(&mut plane, vec![offer("other", 8_192)]);
    assert_eq!(view(&plane, "llama-7b").expect("by b").ready, 1);
    for _ in 0..4 {
        let request = plane.submit(small());
        assert_ne!(plane.at(request), Some(a), "it no longer serves that");
    }
    assert_eq!(view(&plane, "other").expect("by a").ready, 1);
}

#[test]
fn attempts_without_a_first_byte_leave_a_dead_instance_and_streams_go_on() {
    let mut plane = Plane::fifo();
    let a = plane.add("a", 5);
    let (quiet, streaming) = (plane.submit(small()), plane.submit(small()));
    plane.begin(streaming);
    let b = plane.add("b", 5);
    plane.pass(Duration::from_secs(4), down(a));
    assert_eq!(plane.state(a), EngineState::Error);
    assert_eq!((plane.at(quiet), plane.at(streaming)), (Some(b), Some(a)));
    let aborted = Attempt { request: quiet, n: 0 };
    assert_eq!(plane.aborted, [aborted]);
    // The dead attempt speaks after all: nobody listens.
    plane.watched.finished(aborted, USAGE, plane.now);
    plane.finish(quiet);
    plane.finish(streaming);
    assert_eq!(plane.watched.core.counts().finished, 2);
    assert_eq!(plane.watched.charges(), 0);
}

#[test]
fn an_instance_comes_back_by_itself_and_slowly() {
    let mut plane = Plane::fifo();
    let a = plane.add("a", 30);
    plane.pass(Duration::from_secs(4), down(a));
    assert_eq!(plane.state(a), EngineState::Error);
    let lives = plane.watched.core.instances()[0].incarnation;
    let requests: Vec<_> = (0..30).map(|_| plane.submit(small())).collect();
    assert_eq!(plane.waiting(), 30);
    let mut seen = Vec::new();
    for _ in 0..60 {
        plane.pass(Duration::from_millis(100), |_| ProbeAnswer::healthy());
        if plane.state(a) == EngineState::Ready && seen.last() != Some(&plane.waiting()) {
            seen.push(plane.waiting());
        }
    }
    assert_eq!(seen, [26, 22, 14, 0], "windows of 4, 8, 16 and 30");
    assert!(plane.watched.core.instances()[0].incarnation > lives);
    requests.into_iter().for_each(|request| plane.finish(request));
}

#[test]
fn a_late_answer_of_an_earlier_life_changes_nothing() {
    let mut plane = Plane::fifo();
    let a = plane.add("a", 4);
    // A probe goes out and its answer is delayed.
    let mut late = None;
    while late.is_none() {
        let at = plane.watched.core.poll_timeout().expect("a probe is due");
        plane.now = at;
        let commands = plane.watched.act(at, |core| core.handle_timeout(at));
        late = commands.into_iter().find_map(|command| match command {
            Command::Probe { instance, ticket, .. } => Some((instance, ticket)),
            _ => None,
        });
    }
    let (instance, ticket) = late.expect("found");
    let request = plane.submit(small());
    plane.fail(request, FailureKind::Connect);
    assert_eq!(plane.state(a), EngineState::Error);
    plane.pass(Duration::from_secs(3), |_| ProbeAnswer::healthy());
    assert_eq!(plane.state(a), EngineState::Ready);
    let stale = plane.watched.core.counts().stale;
    let dead = ProbeAnswer { requests: Some((4, 9)), ..ProbeAnswer::default() };
    plane.watched.probed(instance, ticket, dead, plane.now);
    assert_eq!(plane.watched.core.counts().stale, stale + 1);
    assert_eq!(plane.state(a), EngineState::Ready);
}

#[test]
fn an_instance_that_falls_again_and_again_has_one_probe_ahead_of_it() {
    let mut plane = Plane::fifo();
    plane.add("a", 4);
    for _ in 0..20 {
        let request = plane.submit(due(small(), 2_000));
        if plane.at(request).is_some() {
            plane.fail(request, FailureKind::Connect);
        }
        plane.pass(Duration::from_secs(3), |_| ProbeAnswer::healthy());
    }
    let sent = plane.pass(Duration::from_secs(60), |_| ProbeAnswer::healthy());
    assert!((55..=61).contains(&sent), "{sent} probes a minute at one per second");
}

#[test]
fn a_draining_instance_finishes_what_it_has_and_takes_nothing_new() {
    let mut plane = Plane::fifo();
    let a = plane.add("a", 4);
    let running = plane.submit(small());
    let now = plane.now;
    plane.watched.act(now, |core| core.drain(a, now));
    let waits = plane.submit(small());
    assert_eq!((plane.state(a), plane.at(waits)), (EngineState::Draining, None));
    plane.finish(running);
    assert_eq!(plane.state(a), EngineState::Stopped);
    let b = plane.add("b", 4);
    assert_eq!(plane.at(waits), Some(b));
}

#[test]
fn what_has_not_begun_leaves_a_draining_instance_that_dies() {
    let mut plane = Plane::fifo();
    let a = plane.add("a", 4);
    let (quiet, streaming) = (plane.submit(small()), plane.submit(small()));
    plane.begin(streaming);
    let b = plane.add("b", 4);
    let now = plane.now;
    plane.watched.act(now, |core| core.drain(a, now));
    plane.pass(Duration::from_secs(4), down(a));
    assert_eq!((plane.at(quiet), plane.at(streaming)), (Some(b), Some(a)));
    assert_eq!(plane.state(a), EngineState::Draining);
    plane.finish(streaming);
    assert_eq!(plane.state(a), EngineState::Stopped);
}

#[test]
fn a_removed_instance_leaves_the_list_and_its_name_to_the_next() {
    let mut plane = Plane::fifo();
    let all = ["a", "b", "c"].map(|name| plane.add(name, 2));
    let running = plane.submit(NewRequest { preferred: Some(all[1]), ..small() });
    plane.begin(running);
    let now = plane.now;
    plane.watched.act(now, |core| {
        core.remove(all[1], now);
    });
    let names = |plane: &Plane| {
        let views = plane.watched.core.instances();
        views.into_iter().map(|view| view.spec.instance_id).collect::<Vec<_>>()
    };
    assert_eq!(names(&plane), ["a", "c"]);
    let again = plane.add("b", 2);
    assert_ne!(again, all[1], "an event of the old one never meets the new one");
    assert_eq!(names(&plane).len(), 3);
    // What it streamed goes on to its end.
    plane.finish(running);
    assert_eq!(plane.ending(running), Some(Ending::Finished));
    assert_eq!(plane.watched.charges(), 0);
}

#[test]
fn a_name_is_registered_once() {
    let mut plane = Plane::fifo();
    plane.add("a", 4);
    let again = ExecutionInstance::new("a", "localhost", 8001, "llama-7b");
    let error = plane.watched.core.register(again, plane.now).expect_err("taken").to_string();
    assert!(error.contains("`a` is already registered"), "{error}");
}
