//! Properties of the engine: blocks are never over-committed, every sequence ends exactly once with
//! exactly its tokens, time never goes back, and leaping gives the log of stepping.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sagellm_engine_model::{
    Engine, EngineConfig, Event, EventKind, Leg, Pace, Policy, Sequence, Transfer,
};
use sagellm_perf::{LinearCost, Picos};
use sagellm_types::Timestamp;

/// Something that a client does.
#[derive(Clone, Debug)]
enum Act {
    Submit { prompt: u32, output: u32, family: u8, priority: i64, leg: Leg },
    Abort { which: usize },
    HandOver { which: usize },
}

fn leg() -> impl Strategy<Value = Leg> {
    let transfer = (0..3_000_000_u64, 0..2_000_000_u64).prop_map(|(latency, per_block)| {
        Leg::Decode(Transfer {
            latency: Picos(latency * 1_003),
            per_block: Picos(per_block * 1_009),
        })
    });
    prop_oneof![4 => Just(Leg::Whole), 1 => Just(Leg::Prefill), 2 => transfer]
}

/// Acts with the microseconds that pass before each.
fn acts() -> impl Strategy<Value = Vec<(u64, Act)>> {
    let submit = (1..400_u32, 0..120_u32, 0..4_u8, -2..3_i64, leg()).prop_map(
        |(prompt, output, family, priority, leg)| Act::Submit {
            prompt,
            output,
            family,
            priority,
            leg,
        },
    );
    let abort = any::<usize>().prop_map(|which| Act::Abort { which });
    let hand_over = any::<usize>().prop_map(|which| Act::HandOver { which });
    let act = prop_oneof![8 => submit, 1 => abort, 1 => hand_over];
    prop::collection::vec((prop_oneof![Just(0), 0..80_000_u64], act), 1..40)
}

fn config() -> impl Strategy<Value = EngineConfig> {
    (33..200_u32, 1..20_u32, 8..400_u32, any::<bool>(), any::<bool>(), 0..300_u64).prop_map(
        |(num_blocks, max_num_seqs, max_num_batched_tokens, caching, priority, kv_lease_ms)| {
            EngineConfig {
                kv_lease_ms,
                num_blocks,
                max_num_seqs,
                max_num_batched_tokens,
                enable_prefix_caching: caching,
                scheduling_policy: if priority { Policy::Priority } else { Policy::Fcfs },
                ..EngineConfig::default()
            }
        },
    )
}

/// Parts of which none is a multiple of another.
const COST: LinearCost = LinearCost {
    base: Picos(4_000_000_123),
    per_prefill_token: Picos(20_000_017),
    per_sequence: Picos(30_000_011),
    per_kv_token: Picos(10_007),
};

/// Blocks of prompts of one family are equal as far as both reach.
fn blocks(family: u8, prompt: u32) -> Vec<u64> {
    (0..u64::from(prompt) / 16).map(|i| u64::from(family) << 32 | i).collect()
}

/// What a run showed.
struct Log {
    events: Vec<Event>,
    /// Output tokens of each accepted sequence.
    accepted: BTreeMap<u64, u32>,
    aborted: Vec<u64>,
    engine: Engine,
}

/// Does `acts`, polling at every boundary if `poll` (else only when something is done).
fn play(config: EngineConfig, acts: &[(u64, Act)], poll: bool) -> Log {
    let mut engine = Engine::new(config, COST);
    let (mut events, mut accepted, mut aborted) = (Vec::new(), BTreeMap::new(), Vec::new());
    let mut now = 0;
    for (id, (wait, act)) in acts.iter().enumerate() {
        now += wait * 1_000;
        let at = Timestamp::from_nanos(now);
        while poll && engine.next_boundary().is_some_and(|boundary| boundary <= at) {
            let boundary = engine.next_boundary().expect("checked above");
            engine.advance(boundary, &mut events);
            let gauges = engine.gauges();
            assert!(gauges.used_blocks <= gauges.num_blocks);
            assert!(gauges.running <= config.max_num_seqs);
        }
        engine.advance(at, &mut events);
        assert_eq!(engine.check(), Ok(()));
        match act {
            Act::Submit { prompt, output, family, priority, leg } => {
                let sequence = Sequence {
                    id: id as u64,
                    prompt_tokens: *prompt,
                    output_tokens: *output,
                    prefix_blocks: blocks(*family, *prompt),
                    priority: *priority,
                    leg: *leg,
                };
                if engine.submit(sequence, at).is_ok() {
                    accepted.insert(id as u64, *output);
                }
            }
            Act::Abort { which } => {
                let victim = (which % acts.len()) as u64;
                if engine.abort(victim, at) {
                    aborted.push(victim);
                }
            }
            Act::HandOver { which } => {
                engine.handed_over((which % acts.len()) as u64, at);
            }
        }
    }
    engine.advance(Timestamp::MAX, &mut events);
    Log { events, accepted, aborted, engine }
}

/// The log of each sequence, with runs of tokens joined: (time of the last, kind, tokens so far).
fn normalised(events: &[Event]) -> BTreeMap<u64, Vec<(Timestamp, EventKind)>> {
    let mut logs: BTreeMap<u64, Vec<(Timestamp, EventKind)>> = BTreeMap::new();
    for event in events {
        let log = logs.entry(event.id).or_default();
        match (log.last_mut(), event.kind) {
            (Some((at, EventKind::Tokens(n))), EventKind::Tokens(more)) => {
                (*at, *n) = (event.at, *n + more);
            }
            _ => log.push((event.at, event.kind)),
        }
    }
    logs
}

proptest! {
    #[test]
    fn every_sequence_ends_once_with_its_tokens_and_all_blocks_come_back(
        config in config(), acts in acts(),
    ) {
        let log = play(config, &acts, true);
        let mut last = Timestamp::ZERO;
        let (mut tokens, mut ended) = (BTreeMap::new(), BTreeMap::new());
        for event in &log.events {
            prop_assert!(event.at >= last, "time never goes back");
            last = event.at;
            prop_assert!(!ended.contains_key(&event.id), "nothing follows the end");
            match event.kind {
                EventKind::FirstToken { .. } => {
                    prop_assert_eq!(tokens.insert(event.id, 1_u32), None, "one first token");
                }
                EventKind::Tokens(n) => {
                    *tokens.get_mut(&event.id).expect("the first token comes first") += n;
                }
                EventKind::Finished => { ended.insert(event.id, event.at); }
                EventKind::Preempted | EventKind::Received => {}
            }
        }
        for (id, output) in &log.accepted {
            let got = tokens.get(id).copied().unwrap_or(0);
            if ended.contains_key(id) {
                prop_assert_eq!(got, *output);
                prop_assert!(!log.aborted.contains(id));
            } else {
                prop_assert!(log.aborted.contains(id), "{} neither ended nor was aborted", id);
            }
        }
        let gauges = log.engine.gauges();
        prop_assert_eq!((gauges.running, gauges.waiting, gauges.used_blocks), (0, 0, 0));
        prop_assert_eq!(gauges.finished as usize, ended.len());
        prop_assert_eq!(gauges.generation_tokens, tokens.values().map(|n| u64::from(*n)).sum::<u64>());
        prop_assert_eq!(log.engine.next_boundary(), None);
    }

    #[test]
    fn leaping_gives_the_log_of_stepping(config in config(), acts in acts(), poll: bool) {
        let step = play(EngineConfig { pace: Pace::Step, ..config }, &acts, true);
        let leap = play(EngineConfig { pace: Pace::Leap, ..config }, &acts, poll);
        prop_assert_eq!(normalised(&step.events), normalised(&leap.events));
        prop_assert_eq!(step.engine.gauges(), leap.engine.gauges());
        prop_assert!(leap.events.len() <= step.events.len());
    }
}

fn sequence(id: u64, prompt_tokens: u32, output_tokens: u32) -> Sequence {
    Sequence { id, prompt_tokens, output_tokens, ..Sequence::default() }
}

#[test]
fn a_lone_sequence_takes_the_times_of_the_formula() {
    let mut engine = Engine::new(EngineConfig::default(), LinearCost::TINY);
    engine.submit(sequence(1, 100, 3), Timestamp::from_millis(5)).expect("fits");
    assert_eq!(engine.next_boundary(), Some(Timestamp::from_millis(5)));
    let mut events = Vec::new();
    engine.advance(Timestamp::MAX, &mut events);
    let micros: Vec<f64> = events.iter().map(|e| e.at.as_nanos() as f64 / 1e3).collect();
    // Prefill: 4 ms + 100 × 20 µs. Decodes: 4 ms + 30 µs + 101 (102) × 10 ns.
    assert_eq!(micros, [11_000.0, 15_031.01, 19_062.03, 19_062.03]);
}

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_decodes() {
    let mut engine = Engine::new(
        EngineConfig { max_num_batched_tokens: 100, ..EngineConfig::default() },
        LinearCost::TINY,
    );
    let mut events = Vec::new();
    engine.submit(sequence(1, 50, 40), Timestamp::ZERO).expect("fits");
    engine.advance(Timestamp::ZERO, &mut events);
    engine.submit(sequence(2, 250, 1), Timestamp::ZERO).expect("fits");
    engine.advance(Timestamp::MAX, &mut events);
    let first_of_2 = events.iter().position(|e| e.id == 2).expect("it got its token");
    let decodes = events[..first_of_2].iter().filter(|e| e.id == 1).count();
    // One step of its own, then three that share the budget of 100: 99 + 99 + 52 tokens.
    assert_eq!(decodes, 1 + 3);
}

#[test]
fn a_stored_prefix_is_found_but_for_its_last_token() {
    let mut engine = Engine::new(EngineConfig::default(), LinearCost::TINY);
    let shared = |id| Sequence { prefix_blocks: blocks(0, 64), ..sequence(id, 64, 4) };
    let mut events = Vec::new();
    engine.submit(shared(1), Timestamp::ZERO).expect("fits");
    engine.advance(Timestamp::from_secs(1), &mut events);
    engine.submit(shared(2), Timestamp::from_secs(2)).expect("fits");
    engine.advance(Timestamp::MAX, &mut events);
    let cached = |id| {
        events.iter().find_map(|e| match e.kind {
            EventKind::FirstToken { cached } if e.id == id => Some(cached),
            _ => None,
        })
    };
    assert_eq!((cached(1), cached(2)), (Some(0), Some(48)));
    assert_eq!((engine.gauges().prefix_queries, engine.gauges().prefix_hits), (128, 48));
}

#[test]
fn the_newest_is_preempted_and_ends_all_the_same() {
    // 8 blocks of 16: two sequences of 60 + 40 tokens do not fit together.
    let config = EngineConfig { num_blocks: 8, max_model_len: 128, ..EngineConfig::default() };
    let mut engine = Engine::new(config, LinearCost::TINY);
    let mut events = Vec::new();
    engine.submit(sequence(1, 60, 40), Timestamp::ZERO).expect("fits");
    engine.submit(sequence(2, 60, 40), Timestamp::ZERO).expect("fits");
    engine.advance(Timestamp::MAX, &mut events);
    let preempted: Vec<u64> =
        events.iter().filter(|e| e.kind == EventKind::Preempted).map(|e| e.id).collect();
    assert_eq!(preempted, [2]);
    assert_eq!(engine.gauges().generation_tokens, 80);
}

#[test]
fn urgent_sequences_pass_waiting_ones_under_priority_only() {
    let order = |scheduling_policy| {
        let config = EngineConfig { max_num_seqs: 1, scheduling_policy, ..EngineConfig::default() };
        let mut engine = Engine::new(config, LinearCost::TINY);
        for (id, priority) in [(1, 5), (2, 10), (3, 10), (4, -10)] {
            let urgent = Sequence { priority, ..sequence(id, 10, 5) };
            let at = Timestamp::from_millis(id);
            engine.advance(at, &mut Vec::new());
            engine.submit(urgent, at).expect("fits");
        }
        let mut events = Vec::new();
        engine.advance(Timestamp::MAX, &mut events);
        events.retain(|e| e.kind == EventKind::Finished);
        events.iter().map(|e| e.id).collect::<Vec<_>>()
    };
    assert_eq!(order(Policy::Priority), [1, 4, 2, 3]);
    assert_eq!(order(Policy::Fcfs), [1, 2, 3, 4]);
}

#[test]
fn what_cannot_run_is_refused() {
    let config = EngineConfig {
        max_num_queued_reqs: Some(2),
        max_model_len: 100,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(config, LinearCost::TINY);
    let mut submit = |s| engine.submit(s, Timestamp::ZERO).map_err(|e| e.to_string());
    assert_eq!(submit(sequence(1, 0, 5)), Err("the prompt is empty".into()));
    assert_eq!(
        submit(sequence(1, 99, 2)),
        Err("101 tokens are more than the 100 of the model's context".into())
    );
    assert_eq!(submit(sequence(1, 9, 2)), Ok(()));
    assert_eq!(submit(sequence(1, 9, 2)), Err("sequence 1 has not ended".into()));
    assert_eq!(submit(sequence(2, 9, 2)), Ok(()));
    assert_eq!(submit(sequence(3, 9, 2)), Err("2 sequences are waiting already".into()));
}

#[test]
fn a_million_tokens_are_leapt_over_in_few_events() {
    let config = EngineConfig {
        pace: Pace::Leap,
        num_blocks: 100_000,
        max_model_len: 1_000_000,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(config, LinearCost::TINY);
    for id in 0..4 {
        engine.submit(sequence(id, 100, 250_000), Timestamp::ZERO).expect("fits");
    }
    let mut events = Vec::new();
    engine.advance(Timestamp::MAX, &mut events);
    assert_eq!(engine.gauges().generation_tokens, 1_000_000);
    assert!(events.len() < 20, "{}", events.len());
}

/// One block of 16 tokens a millisecond, after two.
const LINK: Transfer =
    Transfer { latency: Picos::from_millis(2), per_block: Picos::from_millis(1) };

fn micros(events: &[Event]) -> Vec<(u64, f64, EventKind)> {
    events.iter().map(|e| (e.id, e.at.as_nanos() as f64 / 1e3, e.kind)).collect()
}

#[test]
fn a_prompt_computed_here_is_decoded_there() {
    let config = EngineConfig::default();
    let mut prefill = Engine::new(config, LinearCost::TINY);
    let mut decode = Engine::new(config, LinearCost::TINY);
    let leg = |output, leg| Sequence { leg, ..sequence(1, 100, output) };
    prefill.submit(leg(1, Leg::Prefill), Timestamp::ZERO).expect("fits");
    let mut events = Vec::new();
    prefill.advance(Timestamp::from_millis(6), &mut events);
    let first = (1, 6_000.0, EventKind::FirstToken { cached: 0 });
    assert_eq!(micros(&events), [first, (1, 6_000.0, EventKind::Finished)]);
    assert_eq!(prefill.gauges().used_blocks, 7, "they wait to be read");

    decode.submit(leg(2, Leg::Decode(LINK)), Timestamp::from_millis(6)).expect("fits");
    events.clear();
    decode.advance(Timestamp::from_millis(6), &mut events);
    assert_eq!((decode.gauges().waiting, decode.gauges().used_blocks), (1, 7));
    decode.advance(Timestamp::MAX, &mut events);
    // 2 ms and 7 blocks; then a step of one prompt token, then one of 101 KV tokens.
    let expected = [
        (1, 15_000.0, EventKind::Received),
        (1, 19_020.0, EventKind::FirstToken { cached: 99 }),
        (1, 23_051.01, EventKind::Tokens(1)),
        (1, 23_051.01, EventKind::Finished),
    ];
    assert_eq!(micros(&events), expected);
    assert_eq!((decode.gauges().received_tokens, decode.gauges().steps), (100, 2));

    assert!(prefill.handed_over(1, Timestamp::from_millis(15)));
    assert!(!prefill.handed_over(1, Timestamp::from_millis(15)), "only once");
    assert_eq!((prefill.gauges().used_blocks, prefill.gauges().leases_expired), (0, 0));
}

#[test]
fn a_lease_that_nobody_uses_runs_out() {
    let config = EngineConfig { num_blocks: 8, kv_lease_ms: 500, ..EngineConfig::default() };
    let mut engine = Engine::new(config, LinearCost::TINY);
    let mut events = Vec::new();
    engine
        .submit(Sequence { leg: Leg::Prefill, ..sequence(1, 100, 1) }, Timestamp::ZERO)
        .expect("fits");
    engine.submit(sequence(2, 100, 1), Timestamp::ZERO).expect("fits");
    engine.advance(Timestamp::MAX, &mut events);
    let first = events.iter().find(|e| e.id == 2).expect("it gets its blocks at last");
    assert_eq!(first.at, Timestamp::from_millis(6 + 500 + 6));
    assert_eq!(engine.gauges().leases_expired, 1);
}

#[test]
fn reads_share_the_link_and_what_is_stored_here_is_not_read() {
    let mut engine = Engine::new(EngineConfig::default(), LinearCost::TINY);
    let leg = Leg::Decode(LINK);
    let mut events = Vec::new();
    for (id, family) in [(1, 0), (2, 1), (3, 0)] {
        let read = Sequence { leg, prefix_blocks: blocks(family, 64), ..sequence(id, 64, 1) };
        let at = Timestamp::from_millis(if id == 3 { 100 } else { 0 });
        engine.advance(at, &mut events);
        engine.submit(read, at).expect("fits");
    }
    engine.advance(Timestamp::MAX, &mut events);
    let received = events.iter().filter(|e| e.kind == EventKind::Received);
    // Four blocks each; the second after the first, noticed after the step under way (6 to 10.02
    // ms). The third finds three of its four.
    let at: Vec<_> = received.map(|e| e.at.as_nanos() / 1_000).collect();
    assert_eq!(at, [6_000, 10_020, 103_000]);
    assert_eq!(engine.gauges().received_tokens, 64 + 64 + 16);
}
