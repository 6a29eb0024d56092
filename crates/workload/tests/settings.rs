//! Workloads from settings files, and the same numbers on every machine.

use proptest::prelude::*;
use sagellm_types::{Seed, Timestamp, Tokens};
use sagellm_workload::{Arrivals, Bursts, Gaps, Piece, Rate, Sessions, WorkloadConfig, peaks};

const SETTINGS: &str = r#"
duration_s = 30.0
max_requests = 500

[arrivals]
rate = { shape = "square", high_per_s = 40.0, low_per_s = 2.0, high_s = 2.0, low_s = 3.0 }
gaps = { law = "gamma", cv = 1.5 }
bursts = { size = 10, every_s = 7.5 }

[prompt]
distribution = "uniform"
min = 50
max = 500

[sessions]
mean_turns = 2.0
think_s = 3.0

[[classes]]
name = "chat"
priority = "high"
share = 3.0
users = 10
ttft_ms = 400.0
shared_prefix = 1024
output = { distribution = "constant", tokens = 64 }

[[classes]]
name = "batch"
priority = "low"
e2e_ms = 60000.0
"#;

#[test]
fn a_settings_file_makes_a_workload() {
    let config: WorkloadConfig = toml::from_str(SETTINGS).expect("the settings can be read");
    let workload = config.generate(Seed(5)).expect("the settings are sound");
    assert!(workload.arrivals.len() > 300, "{}", workload.arrivals.len());
    for arrival in &workload.arrivals {
        let class = workload.class(arrival);
        assert_eq!(class.name == "chat", arrival.user.is_some());
        assert_eq!(arrival.blocks.len() as u64, arrival.prompt.0.div_ceil(512));
        if class.name == "chat" {
            assert_eq!(arrival.output, Tokens(64));
            assert!(arrival.prompt.0 >= 1024 + 50);
        }
    }
}

#[test]
fn an_unknown_field_is_an_error_that_lists_the_known_ones() {
    for (was, wrong) in [("cv = 1.5", "cv = 1.5, mean = 2.0"), ("users = 10", "user = 10")] {
        let text = SETTINGS.replace(was, wrong);
        let error = toml::from_str::<WorkloadConfig>(&text).expect_err("an unknown field");
        let message = error.to_string();
        assert!(message.contains("unknown field"), "{message}");
    }
    let text = SETTINGS.replace("\"uniform\"", "\"zipf\"");
    let message = toml::from_str::<WorkloadConfig>(&text).expect_err("unknown").to_string();
    assert!(message.contains("zipf") && message.contains("lognormal"), "{message}");
}

#[test]
fn settings_are_written_as_they_are_read() {
    let config: WorkloadConfig = toml::from_str(SETTINGS).expect("the settings can be read");
    let text = toml::to_string(&config).expect("settings are plain data");
    assert_eq!(toml::from_str::<WorkloadConfig>(&text).expect("as it was"), config);
}

#[test]
fn the_numbers_are_the_same_on_every_machine() {
    let workload = peaks(10.0).generate(Seed(42)).expect("the preset is sound");
    let first = workload.arrivals.iter().take(4);
    let first: Vec<_> =
        first.map(|a| (a.at.as_nanos(), a.prompt.0, a.output.0, a.class, a.user)).collect();
    assert_eq!(first, FIXED);
}

const FIXED: [(u64, u64, u64, usize, Option<u32>); 4] = [
    (213_192_337, 192, 123, 0, Some(35)),
    (304_059_983, 149, 138, 1, Some(21)),
    (325_668_402, 324, 83, 1, Some(17)),
    (335_995_852, 603, 197, 1, Some(24)),
];

fn rates() -> impl Strategy<Value = Rate> {
    let piece = (0.1..5.0f64, 0.0..30.0f64, proptest::option::of(0.0..30.0f64));
    let piece = piece.prop_map(|(for_s, per_s, to_per_s)| Piece { for_s, per_s, to_per_s });
    let with_load = piece.clone().prop_map(|piece| Piece { per_s: piece.per_s + 1.0, ..piece });
    prop_oneof![
        (0.5..50.0f64).prop_map(|per_s| Rate::Constant { per_s }),
        (0.5..50.0f64, 0.0..5.0f64, 0.1..3.0f64, 0.1..3.0f64).prop_map(
            |(high_per_s, low_per_s, high_s, low_s)| Rate::Square {
                high_per_s,
                low_per_s,
                high_s,
                low_s
            }
        ),
        (with_load, proptest::collection::vec(piece, 0..5)).prop_map(|(first, rest)| {
            Rate::Profile { pieces: std::iter::once(first).chain(rest).collect() }
        }),
    ]
}

fn configs() -> impl Strategy<Value = WorkloadConfig> {
    let gaps = prop_oneof![
        Just(Gaps::Poisson),
        Just(Gaps::Even),
        (0.2..4.0f64).prop_map(|cv| Gaps::Gamma { cv })
    ];
    let bursts = (1..20u32, 0.3..5.0f64).prop_map(|(size, every_s)| Bursts { size, every_s });
    let sessions = (1.0..5.0f64, 0.5..10.0f64).prop_map(|(mean_turns, think_s)| Sessions {
        mean_turns,
        think_s,
        ..Sessions::default()
    });
    (rates(), gaps, proptest::option::of(bursts), proptest::option::of(sessions), 1.0..20.0f64)
        .prop_map(|(rate, gaps, bursts, sessions, duration_s)| WorkloadConfig {
            sessions,
            ..WorkloadConfig::new(Arrivals { rate, gaps, bursts }, duration_s)
        })
}

proptest! {
    #[test]
    fn arrivals_are_in_order_and_repeat(config in configs(), seed in any::<u64>()) {
        let workload = config.generate(Seed(seed)).expect("the settings are sound");
        prop_assert!(workload.arrivals.is_sorted_by_key(|arrival| arrival.at));
        prop_assert_eq!(&workload, &config.generate(Seed(seed)).expect("as before"));
        let end = Timestamp::from_nanos((config.duration_s * 1e9) as u64 + 1);
        for arrival in &workload.arrivals {
            prop_assert!(config.sessions.is_some() || arrival.at <= end);
            prop_assert!(arrival.prompt.0 > 0 && arrival.output.0 > 0);
        }
    }
}
