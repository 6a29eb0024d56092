//! Instances and attempts through the core, event by event: roles, retries, falls and returns, the
//! dispatch window, deadlines.

use std::time::Duration;

use sagellm_fleet::{ProbeAnswer, ProbeTicket};
use sagellm_manager::{Command, Config, ControlPlane, NewRequest, RegisterError, RetryConfig};
use sagellm_perf::PromptSize;
use sagellm_strategies::StrategyConfig;
use sagellm_types::{
    Attempt, Ending, EngineState, ExecutionInstance, ExecutionInstanceType, ExpireReason,
    FailureKind, InstanceId, Objectives, PdRoutingPolicy, PdSeparationConfig, RefuseReason,
    RequestId, RequestPriority, RequestStatus, RequestType, Timestamp, Tokens, Usage,
};
use support::{Watched, ms};

#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod support;

/// The core with the probes that it waits for.
struct Plane {
    watched: Watched,
    probes: Vec<(InstanceId, ProbeTicket)>,
    aborted: Vec<Attempt>,
    now: Timestamp,
}

const USAGE: Usage = Usage { prompt: Tokens(100), output: Tokens(20), cached: Tokens(0) };

impl Plane {
    fn new(config: Config) -> Self {
        let watched = Watched::new(ControlPlane::new(&config, Timestamp::ZERO));
        Self { watched, probes: Vec::new(), aborted: Vec::new(), now: Timestamp::ZERO }
    }

    fn fifo() -> Self {
        Self::new(Config { strategy: StrategyConfig::Fifo, ..Config::default() })
    }

    fn took(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Probe { instance, ticket, .. } => self.probes.push((instance, ticket)),
                Command::Abort(attempt) => self.aborted.push(attempt),
                _ => {}
            }
        }
    }

    /// Registers an instance that is ready at once and takes `slots` requests.
    fn add(&mut self, name: &str, slots: u32) -> InstanceId {
        let mut spec = ExecutionInstance::new(name, "localhost", 8000, "llama-7b");
        spec.max_concurrent_requests = slots;
        self.add_spec(spec)
    }

    /// Registers instances that are ready at once and take five requests each.
    fn add_all(&mut self, names: &[&str]) {
        for name in names {
            self.add(name, 5);
        }
    }

    fn add_spec(&mut self, spec: ExecutionInstance) -> InstanceId {
        let (mut id, now) = (None, self.now);
        let commands = self.watched.act(now, |core| {
            id = Some(core.register(spec, now).expect("a good instance"));
        });
        self.took(commands);
        self.probed(ProbeAnswer::healthy());
        id.expect("registered")
    }

    /// Answers all probes under way.
    fn probed(&mut self, answer: ProbeAnswer) {
        for (instance, ticket) in std::mem::take(&mut self.probes) {
            let commands = self.watched.probed(instance, ticket, answer, self.now);
            self.took(commands);
        }
    }

    fn submit(&mut self, new: NewRequest) -> RequestId {
        let model = self.watched.core.models().resolve("llama-7b").map(|found| found.id);
        let (id, commands) = self.watched.submit(NewRequest { model, ..new }, self.now);
        self.took(commands);
        id
    }

    fn finish(&mut self, request: RequestId) {
        let attempt = self.watched.book[&request].running.expect("it runs");
        let commands = self.watched.finished(attempt, USAGE, self.now);
        self.took(commands);
    }

    fn begin(&mut self, request: RequestId) {
        let attempt = self.watched.book[&request].running.expect("it runs");
        let commands = self.watched.first_token(attempt, self.now);
        self.took(commands);
    }

    fn fail(&mut self, request: RequestId, kind: FailureKind) {
        let attempt = self.watched.book[&request].running.expect("it runs");
        let commands = self.watched.failed(attempt, kind, false, self.now);
        self.took(commands);
    }

    /// Lets time pass, answering probes as they come.
    fn pass(&mut self, time: Duration, answer: impl Fn(InstanceId) -> ProbeAnswer) -> usize {
        let (end, mut sent) = (self.now + time, 0);
        while let Some(at) = self.watched.core.poll_timeout().filter(|&at| at <= end) {
            let now = at.max(self.now);
            self.now = now;
            let commands = self.watched.act(now, |core| core.handle_timeout(now));
            self.took(commands);
            for (instance, ticket) in std::mem::take(&mut self.probes) {
                sent += 1;
                let commands = self.watched.probed(instance, ticket, answer(instance), now);
                self.took(commands);
            }
        }
        self.now = end;
        sent
    }

    /// Returns where a request runs.
    fn at(&self, request: RequestId) -> Option<InstanceId> {
        let record = &self.watched.book[&request];
        record.running.and_then(|_| record.placed.last()).map(|placed| placed.instance)
    }

    fn ending(&self, request: RequestId) -> Option<Ending> {
        self.watched.book[&request].ending()
    }

    fn waiting(&self) -> usize {
        self.watched.core.snapshot(self.now).waiting
    }

    fn state(&self, instance: InstanceId) -> EngineState {
        self.watched.core.fleet().get(instance).expect("registered").state
    }

    fn window(&self, instance: InstanceId) -> u32 {
        self.watched.core.fleet().get(instance).expect("registered").window()
    }
}

fn sized(prompt: u64, output: u32) -> NewRequest {
    let prompt = PromptSize::Tokens(prompt);
    NewRequest { prompt, max_tokens: Some(output), ..NewRequest::default() }
}

fn small() -> NewRequest {
    sized(100, 20)
}

fn due(new: NewRequest, e2e_ms: u64) -> NewRequest {
    let e2e = Some(Duration::from_millis(e2e_ms));
    NewRequest { objectives: Objectives { e2e, ..Objectives::NONE }, ..new }
}

fn down(dead: InstanceId) -> impl Fn(InstanceId) -> ProbeAnswer {
    move |instance| ProbeAnswer { healthy: instance != dead, ..ProbeAnswer::default() }
}

mod roles {
    use super::*;
    use ExecutionInstanceType::{Decoding, General, Prefilling};

    fn plane(pd: PdSeparationConfig) -> Plane {
        let pd = PdSeparationConfig { enable_kv_cache_transfer: false, ..pd };
        Plane::new(Config { pd, strategy: StrategyConfig::Fifo, ..Config::default() })
    }

    fn spec(name: &str, kind: ExecutionInstanceType) -> ExecutionInstance {
        let mut spec = ExecutionInstance::new(name, "localhost", 8000, "llama-7b");
        (spec.instance_type, spec.max_concurrent_requests) = (kind, 1);
        spec.tensor_parallel_size = if kind == Prefilling { 4 } else { 1 };
        spec
    }

    /// Checks which of a prefilling and a decoding instance a request goes to.
    fn check(routing_policy: PdRoutingPolicy, new: NewRequest, expected: ExecutionInstanceType) {
        let mut plane = plane(PdSeparationConfig { routing_policy, ..Default::default() });
        let prefilling = plane.add_spec(spec("p", Prefilling));
        let decoding = plane.add_spec(spec("d", Decoding));
        let request = plane.submit(new.clone());
        let wanted = if expected == Prefilling { prefilling } else { decoding };
        assert_eq!(plane.at(request), Some(wanted), "{new:?}");
        // The other one does not take it, whatever room it has.
        let second = plane.submit(new);
        assert_eq!((plane.at(second), plane.waiting()), (None, 1));
    }

    #[test]
    fn each_phase_goes_to_its_role() {
        use PdRoutingPolicy::{Adaptive, Threshold};
        for policy in [Threshold, Adaptive] {
            check(policy, sized(4_000, 100), Prefilling);
            check(policy, sized(801, 600), Prefilling);
            check(policy, sized(500, 100), Prefilling);
            check(policy, sized(100, 100), Decoding);
            check(policy, sized(800, 256), Decoding);
        }
        let critical = NewRequest { priority: RequestPriority::Critical, ..sized(4_000, 100) };
        check(Adaptive, critical.clone(), Decoding);
        check(Threshold, critical, Prefilling);
        check(Adaptive, due(sized(4_000, 100), 50), Decoding);
    }

    #[test]
    fn a_general_instance_takes_both_phases() {
        let mut plane = plane(PdSeparationConfig::default());
        plane.add_spec(spec("p", Prefilling));
        plane.add_spec(spec("d", Decoding));
        let (long, short) = (plane.submit(sized(4_000, 100)), plane.submit(sized(50, 50)));
        let (long_2, short_2) = (plane.submit(sized(4_000, 100)), plane.submit(sized(50, 50)));
        assert_eq!((plane.at(long_2), plane.at(short_2)), (None, None));
        let whole = plane.add_spec(spec("g", General));
        assert_eq!((plane.at(long_2), plane.at(short_2)), (Some(whole), None));
        plane.finish(long_2);
        assert_eq!(plane.at(short_2), Some(whole));
        [long, short, short_2].into_iter().for_each(|request| plane.finish(request));
    }

    #[test]
    fn switched_off_means_anywhere() {
        let mut plane = plane(PdSeparationConfig { enabled: false, ..Default::default() });
        plane.add_spec(spec("p", Prefilling));
        plane.add_spec(spec("d", Decoding));
        let (one, two) = (plane.submit(sized(4_000, 100)), plane.submit(sized(4_000, 100)));
        assert!(plane.at(one).is_some() && plane.at(two).is_some());
    }

    #[test]
    fn a_fleet_that_would_need_the_hand_over_is_refused_and_goes_on() {
        let mut plane = Plane::fifo();
        let prefilling = plane.add_spec(spec("p", Prefilling));
        let refused = plane.watched.core.register(spec("d", Decoding), plane.now);
        let error = refused.expect_err("both roles and KV transfer on");
        assert!(matches!(error, RegisterError::HandOver(_)), "{error:?}");
        assert!(error.to_string().contains("pd.enable_kv_cache_transfer = false"), "{error}");
        let request = plane.submit(sized(4_000, 100));
        assert_eq!(plane.at(request), Some(prefilling), "what was registered serves");
    }

    #[test]
    fn a_role_that_nobody_has_any_more_keeps_nobody_waiting() {
        let mut plane = plane(PdSeparationConfig::default());
        let prefilling = plane.add_spec(spec("p", Prefilling));
        let decoding = plane.add_spec(spec("d", Decoding));
        let now = plane.now;
        plane.watched.act(now, |core| {
            core.remove(prefilling, now);
        });
        let long = plane.submit(sized(4_000, 100));
        assert_eq!(plane.at(long), Some(decoding));
    }

    #[test]
    fn a_type_that_no_instance_takes_is_refused_by_its_reason() {
        let mut plane = plane(PdSeparationConfig::default());
        plane.add("a", 1);
        let request = plane.submit(NewRequest { kind: RequestType::Embedding, ..small() });
        let reason = RefuseReason::UnsupportedType;
        assert_eq!(plane.ending(request), Some(Ending::Refused { reason, retry_after: None }));
    }
}

mod retries {
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
}

mod falls {
    use super::*;

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
    fn a_name_is_registered_once() {
        let mut plane = Plane::fifo();
        plane.add("a", 4);
        let again = ExecutionInstance::new("a", "localhost", 8001, "llama-7b");
        let error = plane.watched.core.register(again, plane.now).expect_err("taken").to_string();
        assert!(error.contains("`a` is already registered"), "{error}");
    }
}

mod window {
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
        assert_eq!(
            (plane.window(a), plane.waiting()),
            (12, 0),
            "one more for each while it is full"
        );
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
}

mod requests {
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
        let requests = levels.map(|level| {
            plane.submit(NewRequest { priority: RequestPriority::ALL[level], ..small() })
        });
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
        let requests =
            deadlines.map(|e2e| plane.submit(e2e.map_or(small(), |e2e| due(small(), e2e))));
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
}
