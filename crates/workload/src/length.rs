//! How long prompts and answers are.

use sagellm_types::{Rng, Tokens};
use serde::{Deserialize, Serialize};

use crate::draw::lognormal;
use crate::error::{ConfigError, check, positive};

/// A distribution of token counts; a draw is at least 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "distribution", rename_all = "snake_case", deny_unknown_fields)]
pub enum Length {
    /// Always the same.
    Constant {
        /// Tokens.
        tokens: u64,
    },
    /// Any count between two as likely as any other.
    Uniform {
        /// Least tokens.
        min: u64,
        /// Most tokens.
        max: u64,
    },
    /// Many short ones and a long tail, as in chat traffic.
    Lognormal {
        /// Mean tokens, before `max` cuts.
        mean: f64,
        /// Standard deviation / mean.
        cv: f64,
        /// Longer draws are cut to this.
        max: u64,
    },
    /// As counted elsewhere, for instance in a trace: each entry as likely as any other.
    Empirical {
        /// Tokens of each observation.
        tokens: Vec<u64>,
    },
}

impl Length {
    /// Draws a count.
    pub fn draw(&self, rng: &mut Rng) -> Tokens {
        let tokens = match self {
            Self::Constant { tokens } => *tokens,
            Self::Uniform { min, max } => {
                min + rng.below((max - min).saturating_add(1) as usize) as u64
            }
            Self::Lognormal { mean, cv, max } => {
                ((lognormal(*mean, *cv, rng) + 0.5) as u64).min(*max)
            }
            Self::Empirical { tokens } => tokens[rng.below(tokens.len())],
        };
        Tokens(tokens.max(1))
    }

    /// Returns the mean, before cuts.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant { tokens } => *tokens as f64,
            Self::Uniform { min, max } => (*min as f64 + *max as f64) / 2.0,
            Self::Lognormal { mean, .. } => *mean,
            Self::Empirical { tokens } => {
                tokens.iter().map(|&n| n as f64).sum::<f64>() / tokens.len() as f64
            }
        }
    }

    /// # Errors
    /// If a field is not what its documentation says.
    pub(crate) fn validate(&self, field: &str) -> Result<(), ConfigError> {
        match self {
            Self::Constant { tokens } => check(field, *tokens > 0, "at least one token", tokens),
            Self::Uniform { min, max } => {
                let found = format!("{min}..={max}");
                check(field, 0 < *min && min <= max, "0 < min ≤ max", found)
            }
            Self::Lognormal { mean, cv, max } => {
                positive(&format!("{field}.mean"), *mean)?;
                positive(&format!("{field}.cv"), *cv)?;
                check(&format!("{field}.max"), *max > 0, "at least one token", max)
            }
            Self::Empirical { tokens } => {
                check(field, !tokens.is_empty(), "at least one observation", "none")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::Seed;

    fn check_mean(length: &Length, tolerance: f64) {
        let mut rng = Seed(2).stream("lengths");
        let drawn: Vec<u64> = (0..50_000).map(|_| length.draw(&mut rng).0).collect();
        let mean = drawn.iter().sum::<u64>() as f64 / drawn.len() as f64;
        let asked = length.mean();
        assert!((mean - asked).abs() <= tolerance * asked, "{length:?}: {mean}");
        assert!(drawn.iter().all(|&tokens| tokens > 0));
    }

    #[test]
    fn means_are_as_asked() {
        check_mean(&Length::Constant { tokens: 7 }, 0.0);
        check_mean(&Length::Uniform { min: 50, max: 500 }, 0.01);
        check_mean(&Length::Lognormal { mean: 800.0, cv: 1.0, max: 100_000 }, 0.02);
        check_mean(&Length::Empirical { tokens: vec![1, 10, 100] }, 0.02);
    }

    #[test]
    fn bounds_are_reached_and_kept() {
        let mut rng = Seed(4).stream("bounds");
        let mut draw =
            |length: Length| -> Vec<u64> { (0..1000).map(|_| length.draw(&mut rng).0).collect() };
        let uniform = draw(Length::Uniform { min: 3, max: 5 });
        let long = draw(Length::Lognormal { mean: 1000.0, cv: 2.0, max: 1200 });
        assert_eq!((uniform.iter().min(), uniform.iter().max()), (Some(&3), Some(&5)));
        assert_eq!(long.iter().max(), Some(&1200));
    }
}
