//! A factor between what was expected and what happens, learnt from pairs of both.
//!
//! An exponentially weighted mean of the ratio, made robust: a residual counts up to three of its
//! own standard deviations (Huber), so one outlier moves little, while a real change widens the
//! deviation and is then followed within a few observations.

/// A learnt factor with the spread of its residuals.
#[derive(Clone, Copy, Debug)]
pub struct Correction {
    samples: u32,
    factor: f64,
    variance: f64,
}

/// Relative error before anything was learnt.
const PRIOR_SPREAD: f64 = 0.25;
/// The prior counts as much as so many observations.
const PRIOR_SAMPLES: u32 = 1;
const RATE: f64 = 1.0 / 16.0;
/// Residuals within this share are never clipped: clocks and steps are that coarse.
const NOISE: f64 = 0.05;
const LEAST: f64 = 0.01;
const MOST: f64 = 100.0;

impl Default for Correction {
    fn default() -> Self {
        Self { samples: PRIOR_SAMPLES, factor: 1.0, variance: PRIOR_SPREAD * PRIOR_SPREAD }
    }
}

impl Correction {
    /// Takes in that `actual` happened where the prior alone would have said `expected`.
    pub fn learn(&mut self, expected: f64, actual: f64) {
        let ratio = actual / expected;
        if !ratio.is_finite() {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let rate = (1.0 / f64::from(self.samples)).max(RATE);
        let residual = ratio.clamp(LEAST, MOST) / self.factor - 1.0;
        let limit = 3.0 * self.variance.sqrt() + NOISE;
        let step = residual.clamp(-limit, limit);
        self.factor = (self.factor * (1.0 + rate * step)).clamp(LEAST, MOST);
        self.variance += rate * (step * step - self.variance);
    }

    /// Returns the factor by which the prior is to be multiplied.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Returns the standard deviation of the relative residuals.
    pub fn spread(&self) -> f64 {
        self.variance.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ratios: impl IntoIterator<Item = f64>) -> Correction {
        let mut correction = Correction::default();
        ratios.into_iter().for_each(|ratio| correction.learn(1.0, ratio));
        correction
    }

    #[test]
    fn a_constant_ratio_is_learnt_and_trusted() {
        for ratio in [0.2, 0.5, 1.0, 3.0, 10.0] {
            let learnt = after([ratio; 30]);
            assert!((learnt.factor() / ratio - 1.0).abs() < 0.15, "{ratio}: {learnt:?}");
        }
        assert!(after([1.1; 60]).spread() < 0.1);
        assert!(after([1.1; 60]).spread() < after([1.1; 10]).spread());
    }

    #[test]
    fn one_outlier_does_not_throw_it() {
        let mut learnt = after([1.0; 50]);
        learnt.learn(1.0, 50.0);
        assert!((learnt.factor() - 1.0).abs() < 0.05, "{learnt:?}");
    }

    #[test]
    fn a_lasting_change_is_followed() {
        let mut learnt = after([1.0; 100]);
        for _ in 0..40 {
            learnt.learn(1.0, 3.0);
        }
        assert!((learnt.factor() / 3.0 - 1.0).abs() < 0.15, "{learnt:?}");
    }

    #[test]
    fn nonsense_teaches_nothing() {
        let mut learnt = Correction::default();
        learnt.learn(0.0, 1.0);
        learnt.learn(0.0, 0.0);
        assert_eq!(learnt.factor(), 1.0);
    }
}
