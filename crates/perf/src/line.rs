//! A straight line through noisy points, learnt as they come.
//!
//! Exponentially weighted least squares on centred moments (West, 1979), with the slope drawn
//! towards the line through the origin when the points have (almost) the same x: points of one size
//! say nothing about a slope, and then "proportional" is the better guess.

/// An exponentially weighted regression line in constant memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    samples: u32,
    mean_x: f64,
    mean_y: f64,
    variance: f64,
    covariance: f64,
    slope: f64,
}

/// Old points count half after some 44 new ones.
const MEMORY: u32 = 64;
/// How far x must vary, as a share of its mean, before half of the learnt slope is believed.
const VARIATION: f64 = 0.2;

/// Returns the weight of the newest of `samples` points: a plain mean at first, then an
/// exponentially weighted one.
pub(crate) fn rate(samples: u32) -> f64 {
    if samples < MEMORY { 1.0 / f64::from(samples) } else { const { 1.0 / MEMORY as f64 } }
}

impl Line {
    /// Takes in the point (`x`, `y`); points that are not finite are ignored.
    pub fn learn(&mut self, x: f64, y: f64) {
        if !(x.is_finite() && y.is_finite()) {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let rate = rate(self.samples);
        let (dx, dy) = (x - self.mean_x, y - self.mean_y);
        self.mean_x += rate * dx;
        self.mean_y += rate * dy;
        self.variance = (1.0 - rate) * (self.variance + rate * dx * dx);
        self.covariance = (1.0 - rate) * (self.covariance + rate * dx * dy);
        let doubt = VARIATION * VARIATION;
        let weight = self.variance + doubt * self.mean_x * self.mean_x;
        self.slope = if weight > 0.0 {
            // The proportional slope is mean_y / mean_x. Neither a prompt nor a wait gets smaller
            // as its cause grows.
            ((self.covariance + doubt * self.mean_x * self.mean_y) / weight).max(0.0)
        } else {
            0.0
        };
    }

    /// Returns the line's value at `x`, not below zero; `None` before the first point.
    pub fn at(&self, x: f64) -> Option<f64> {
        (self.samples > 0).then(|| (self.mean_y + self.slope * (x - self.mean_x)).max(0.0))
    }

    /// Returns how many points were taken in.
    pub fn samples(&self) -> u32 {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_on_a_line_give_the_line() {
        let mut line = Line::default();
        assert_eq!(line.at(1.0), None);
        for x in [10.0, 400.0, 90.0, 1000.0, 250.0, 30.0, 700.0, 500.0] {
            line.learn(x, 5.0 + 2.0 * x);
        }
        let at = line.at(2000.0).expect("has points");
        assert!((at - 4005.0).abs() < 50.0, "{at}");
    }

    #[test]
    fn points_of_one_size_are_taken_as_proportional() {
        let mut line = Line::default();
        for _ in 0..50 {
            line.learn(100.0, 300.0);
        }
        assert_eq!(line.at(200.0), Some(600.0));
    }
}
