//! The sketch's promises, over random data.

use proptest::prelude::*;
use sagellm_monitoring::Sketch;

/// Nanoseconds of every magnitude, zero included.
fn durations() -> impl Strategy<Value = Vec<u64>> {
    let value = (0u32..50, any::<u64>()).prop_map(|(bits, v)| v & ((1u64 << bits) - 1));
    proptest::collection::vec(value, 1..600)
}

fn sketch(values: &[u64]) -> Sketch {
    let mut sketch = Sketch::default();
    values.iter().for_each(|&value| sketch.record_ns(value));
    sketch
}

proptest! {
    #[test]
    fn quantiles_are_within_one_percent_of_the_exact_ones(values in durations(), q in 0.0..=1.0f64) {
        let sketch = sketch(&values);
        let mut sorted = values;
        sorted.sort_unstable();
        for q in [q, 0.0, 0.5, 0.9, 0.95, 0.99, 1.0] {
            let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let exact = sorted[rank - 1] as f64;
            let shown = sketch.quantile(q).expect("there are values").as_nanos() as f64;
            prop_assert!((shown - exact).abs() <= exact * 0.01, "q {q}: {shown} for {exact}");
        }
    }

    #[test]
    fn count_sum_and_extremes_are_exact(values in durations()) {
        let sketch = sketch(&values);
        let sum: u128 = values.iter().map(|&value| u128::from(value)).sum();
        prop_assert_eq!(sketch.count(), values.len() as u64);
        let mean = sketch.mean().expect("there are values").as_nanos();
        prop_assert_eq!(mean, sum / values.len() as u128);
        let extremes = (sketch.min(), sketch.max());
        let exact = |v: Option<&u64>| v.map(|&v| std::time::Duration::from_nanos(v));
        prop_assert_eq!(extremes, (exact(values.iter().min()), exact(values.iter().max())));
    }

    #[test]
    fn a_merge_is_the_sketch_of_both(left in durations(), right in durations()) {
        let mut merged = sketch(&left);
        merged.merge(&sketch(&right));
        let both: Vec<u64> = left.iter().chain(&right).copied().collect();
        prop_assert_eq!(&merged, &sketch(&both));
        let mut turned = sketch(&right);
        turned.merge(&sketch(&left));
        prop_assert_eq!(&merged, &turned);
        prop_assert_eq!(merged.quantile(0.95), turned.quantile(0.95));
    }

    #[test]
    fn the_order_of_records_does_not_matter(mut values in durations()) {
        let forward = sketch(&values);
        values.reverse();
        prop_assert_eq!(forward, sketch(&values));
    }

    #[test]
    fn a_cleared_sketch_is_as_good_as_new(first in durations(), second in durations()) {
        let mut reused = sketch(&first);
        reused.clear();
        second.iter().for_each(|&value| reused.record_ns(value));
        prop_assert_eq!(reused, sketch(&second));
    }
}
