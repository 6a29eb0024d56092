//! Which role takes what.

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
