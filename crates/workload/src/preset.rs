//! Ready-made workloads.

use sagellm_types::RequestPriority;

use crate::arrivals::{Arrivals, Gaps, Piece, Rate};
use crate::class::SloClass;
use crate::config::WorkloadConfig;
use crate::length::Length;

/// Returns three classes with different wishes: people who watch the answer appear, ordinary
/// traffic, and work that may wait.
pub fn three_classes() -> Vec<SloClass> {
    let lengths = |prompt: f64, output: f64| {
        let length = |mean| Some(Length::Lognormal { mean, cv: 0.8, max: (mean * 6.0) as u64 });
        (length(prompt), length(output))
    };
    let class = |name: &str, priority, share, users, (prompt, output)| SloClass {
        name: name.to_owned(),
        priority,
        share,
        users,
        prompt,
        output,
        ..SloClass::default()
    };
    vec![
        SloClass {
            ttft_ms: Some(500.0),
            tpot_ms: Some(100.0),
            ..class("interactive", RequestPriority::High, 0.35, 40, lengths(300.0, 80.0))
        },
        SloClass {
            ttft_ms: Some(3_000.0),
            e2e_ms: Some(15_000.0),
            ..class("standard", RequestPriority::Normal, 0.40, 25, lengths(600.0, 120.0))
        },
        SloClass {
            e2e_ms: Some(60_000.0),
            ..class("batch", RequestPriority::Low, 0.25, 5, lengths(1_200.0, 200.0))
        },
    ]
}

/// Returns a load of 50 seconds on a fleet that can answer `capacity` requests of
/// [`three_classes`] per second: easy at first, 1.7 times too much at its two peaks, so that
/// requests queue and their order matters, with room to recover in between. On average it is 0.85
/// of the capacity.
pub fn peaks(capacity: f64) -> WorkloadConfig {
    let pieces = [(8.0, 0.6), (7.0, 1.7), (15.0, 0.5), (8.0, 1.7), (12.0, 0.4)];
    let pieces = pieces.map(|(for_s, load)| Piece::flat(for_s, load * capacity)).to_vec();
    let arrivals = Arrivals { rate: Rate::Profile { pieces }, gaps: Gaps::Poisson, bursts: None };
    WorkloadConfig { classes: three_classes(), ..WorkloadConfig::new(arrivals, 50.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::{Seed, Timestamp};

    #[test]
    fn the_peaks_overload_and_the_rest_does_not() {
        let workload = peaks(10.0).generate(Seed(7)).expect("the preset is sound");
        let per_second = |from: u64, to: u64| {
            let (start, end) = (Timestamp::from_secs(from), Timestamp::from_secs(to));
            let slice = workload.clone().trim(start, end);
            slice.arrivals.len() as f64 / (to - from) as f64
        };
        assert!(per_second(8, 15) > 12.0 && per_second(30, 38) > 12.0);
        assert!(per_second(0, 8) < 9.0 && per_second(15, 30) < 8.0 && per_second(38, 50) < 8.0);
        assert!((per_second(0, 50) - 8.52).abs() < 1.5, "{}", per_second(0, 50));
    }

    #[test]
    fn every_class_of_the_preset_asks_for_something() {
        for class in three_classes() {
            assert!(class.objectives().any(), "{}", class.name);
        }
    }
}
