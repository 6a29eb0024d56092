//! A mean over seeds and how sure it is.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean with its 95 % confidence interval (Student's t over the seeds).
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half of the interval's width; zero for a single seed, which says nothing.
    pub half: f64,
}

impl Mean {
    /// Returns the mean of `values`; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        if values.len() == 1 {
            return Some(Self { mean, half: 0.0 });
        }
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
        let t = StudentsT::new(0.0, 1.0, n - 1.0).map_or(0.0, |t| t.inverse_cdf(0.975));
        Some(Self { mean, half: t * (variance / n).sqrt() })
    }

    /// Returns whether this is less than `other` beyond what chance explains, given the differences
    /// of pairs of runs with equal seeds.
    pub fn significantly_below(values: &[f64], others: &[f64]) -> bool {
        let differences: Vec<f64> = values.iter().zip(others).map(|(a, b)| a - b).collect();
        Self::of(&differences).is_some_and(|d| differences.len() > 1 && d.mean + d.half < 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_students() {
        let mean = Mean::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).expect("five values");
        // t(0.975, 4) = 2.776, standard error = √(2.5 / 5).
        assert!(
            (mean.mean - 3.0).abs() < 1e-12 && (mean.half - 2.776 * 0.5_f64.sqrt()).abs() < 1e-3
        );
        assert_eq!(Mean::of(&[]), None);
        assert_eq!(Mean::of(&[7.0]), Some(Mean { mean: 7.0, half: 0.0 }));
    }

    #[test]
    fn pairs_are_compared_seed_by_seed() {
        assert!(Mean::significantly_below(&[1.0, 2.0, 3.0], &[1.5, 2.6, 3.4]));
        assert!(!Mean::significantly_below(&[1.0, 2.0, 3.0], &[1.5, 1.6, 3.4]));
    }
}
