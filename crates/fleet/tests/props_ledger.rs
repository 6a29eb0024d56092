//! The ledger stays true whatever happens to instances and attempts.

use std::time::Duration;

use proptest::prelude::*;
use sagellm_fleet::{ChargeId, Fleet, FleetConfig, Need, ProbeAnswer, ProbeTicket, Transition};
use sagellm_types::{
    Attempt, EngineState, ExecutionInstance, FailureKind, InstanceId, Ratio, RequestId, Timestamp,
    Tokens, Usage,
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Register {
        window: u8,
        kv: u16,
    },
    Reserve {
        which: u8,
        prompt: u16,
        output: u16,
    },
    Begin(u8),
    Grow(u8, u16),
    Correct(u8, u16, u16),
    Release(u8),
    /// Something that was released is released again, or grows.
    Late(u8),
    Probe(u8),
    Answer {
        which: u8,
        healthy: bool,
        running: u8,
        waiting: u8,
        usage: u8,
    },
    Fail(u8, u8),
    Drain(u8),
    Remove(u8),
    Hold(u8),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let answer = (any::<u8>(), proptest::bool::weighted(0.8), 0..9u8, 0..4u8, any::<u8>());
    prop_oneof![
        1 => (any::<u8>(), 200..4000u16).prop_map(|(window, kv)| Step::Register { window, kv }),
        6 => (any::<u8>(), 0..2000u16, 0..900u16)
            .prop_map(|(which, prompt, output)| Step::Reserve { which, prompt, output }),
        3 => any::<u8>().prop_map(Step::Begin),
        2 => any::<(u8, u16)>().prop_map(|(which, output)| Step::Grow(which, output % 3000)),
        1 => any::<(u8, u16, u16)>().prop_map(|(w, p, o)| Step::Correct(w, p % 3000, o % 3000)),
        4 => any::<u8>().prop_map(Step::Release),
        1 => any::<u8>().prop_map(Step::Late),
        3 => any::<u8>().prop_map(Step::Probe),
        3 => answer.prop_map(|(which, healthy, running, waiting, usage)| {
            Step::Answer { which, healthy, running, waiting, usage }
        }),
        1 => any::<(u8, u8)>().prop_map(|(which, kind)| Step::Fail(which, kind)),
        1 => any::<u8>().prop_map(Step::Drain),
        1 => any::<u8>().prop_map(Step::Remove),
        1 => any::<u8>().prop_map(Step::Hold),
        1 => any::<u16>().prop_map(Step::Pass),
    ]
}

fn pick<T: Copy>(all: &[T], which: u8) -> Option<T> {
    (!all.is_empty()).then(|| all[usize::from(which) % all.len()])
}

proptest! {
    #[test]
    fn charges_add_up_after_every_event_and_return_to_zero(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut fleet = Fleet::new(FleetConfig::default());
        let roster = fleet.add_roster();
        let mut now = Timestamp::ZERO;
        let (mut open, mut over): (Vec<ChargeId>, Vec<ChargeId>) = Default::default();
        let mut probes: Vec<(InstanceId, ProbeTicket)> = Vec::new();
        for (index, step) in steps.into_iter().enumerate() {
            let all: Vec<InstanceId> = fleet.iter().map(|found| found.id).collect();
            match step {
                Step::Register { window, kv } => {
                    let mut spec = ExecutionInstance::new(format!("i{index}"), "h", 1, "m");
                    spec.max_concurrent_requests = 1 + u32::from(window % 6);
                    spec.kv_cache_tokens = Some(kv.into());
                    let id = fleet.register(spec, now).expect("a new name");
                    fleet.enlist(roster, id);
                    let ticket = fleet.probe_sent(id, now).expect("registered");
                    let news = fleet.probe_answered(id, ticket, &ProbeAnswer::healthy(), now);
                    prop_assert_eq!(news, Some(Transition::Ready));
                }
                Step::Reserve { which, prompt, output } => {
                    let tpot = (output % 4 > 0).then(|| Duration::from_millis(u64::from(output % 4)));
                    let need = Need { prompt: Tokens(prompt.into()), output: Tokens(output.into()), tpot };
                    let fits: Vec<_> = fleet.open(roster).iter().filter(|c| c.load.fits(need.total())).collect();
                    let Some(candidate) = pick(&fits, which) else { continue };
                    let (id, load) = (candidate.id, candidate.load);
                    let found = fleet.get(id).expect("on the roster");
                    prop_assert_eq!((found.state, found.hold), (EngineState::Ready, None));
                    prop_assert!(load.sequences < load.window);
                    let attempt = Attempt { request: RequestId::new(index as u32, 0), n: 0 };
                    open.push(fleet.reserve(attempt, id, need, now));
                }
                Step::Begin(which) => {
                    let Some(charge) = pick(&open, which) else { continue };
                    fleet.begun(charge);
                }
                Step::Grow(which, output) => {
                    let Some(charge) = pick(&open, which) else { continue };
                    let before = fleet.charge(charge).expect("open").output;
                    fleet.grow(charge, Tokens(output.into()));
                    let after = fleet.charge(charge).expect("open").output;
                    prop_assert!(after >= before && after.0 >= u64::from(output));
                    prop_assert!(after == before || after.0 < u64::from(output) + 128, "in steps");
                }
                Step::Correct(which, prompt, output) => {
                    let Some(charge) = pick(&open, which) else { continue };
                    let usage = Usage {
                        prompt: Tokens(prompt.into()),
                        output: Tokens(output.into()),
                        cached: Tokens::ZERO,
                    };
                    fleet.correct(charge, &usage);
                }
                Step::Release(which) => {
                    let Some(charge) = pick(&open, which) else { continue };
                    let (_, cost) = fleet.release(charge, now).expect("open");
                    prop_assert!(cost.0 >= 0.0);
                    open.retain(|&other| other != charge);
                    over.push(charge);
                }
                Step::Late(which) => {
                    let Some(charge) = pick(&over, which) else { continue };
                    prop_assert_eq!(fleet.release(charge, now), None, "released once");
                    fleet.grow(charge, Tokens(9_999));
                }
                Step::Probe(which) => {
                    let Some(id) = pick(&all, which) else { continue };
                    probes.extend(fleet.probe_sent(id, now).map(|ticket| (id, ticket)));
                }
                Step::Answer { which, healthy, running, waiting, usage } => {
                    let Some(probe) = pick(&probes, which) else { continue };
                    let answer = ProbeAnswer {
                        healthy,
                        requests: Some((running.into(), waiting.into())),
                        kv_usage: Some(Ratio(f64::from(usage) / 255.0)),
                        kv_tokens: None,
                    };
                    // It may be answered twice, out of order, or after its instance has gone.
                    fleet.probe_answered(probe.0, probe.1, &answer, now);
                }
                Step::Fail(which, kind) => {
                    let Some(id) = pick(&all, which) else { continue };
                    fleet.failed(id, FailureKind::ALL[usize::from(kind) % FailureKind::ALL.len()], now);
                }
                Step::Drain(which) => {
                    let Some(id) = pick(&all, which) else { continue };
                    fleet.drain(id);
                }
                Step::Remove(which) => {
                    let Some(id) = pick(&all, which) else { continue };
                    fleet.remove(id);
                    prop_assert!(fleet.get(id).is_none() && !fleet.members(roster).contains(&id));
                }
                Step::Hold(which) => {
                    let Some(id) = pick(&all, which) else { continue };
                    match fleet.get(id).and_then(|found| found.hold) {
                        Some(_) => fleet.unhold(id),
                        None => fleet.hold(id, RequestId::new(0, 0)),
                    }
                }
                Step::Pass(ms) => now = Timestamp::from_nanos(now.as_nanos() + u64::from(ms) * 1_000_000),
            }
            prop_assert_eq!(fleet.check(), Ok(()));
            prop_assert_eq!(fleet.charges().count(), open.len());
        }
        for charge in open {
            fleet.release(charge, now);
        }
        for found in fleet.iter() {
            prop_assert_eq!((found.sequences, found.tokens), (0, Tokens::ZERO));
        }
        prop_assert_eq!(fleet.charges().count(), 0);
    }
}
