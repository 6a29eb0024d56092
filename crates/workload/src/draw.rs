//! Draws from distributions, with the same bits on every machine: + − × ÷ sqrt and `libm` alone.

use sagellm_types::Rng;

/// Draws from the exponential distribution of mean 1.
pub(crate) fn exponential(rng: &mut Rng) -> f64 {
    -libm::log(rng.unit_positive())
}

/// Draws from the normal distribution of mean 0 and variance 1 (Marsaglia's polar method, 1964).
pub(crate) fn normal(rng: &mut Rng) -> f64 {
    loop {
        let (x, y) = (2.0 * rng.unit() - 1.0, 2.0 * rng.unit() - 1.0);
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            return x * (-2.0 * libm::log(square) / square).sqrt();
        }
    }
}

/// Draws from the gamma distribution of mean 1 with coefficient of variation `cv` (Marsaglia and
/// Tsang, 2000; for shapes below 1 with their boost U^(1/shape)).
pub(crate) fn gamma(cv: f64, rng: &mut Rng) -> f64 {
    let shape = 1.0 / (cv * cv);
    let boost = if shape < 1.0 { libm::pow(rng.unit_positive(), 1.0 / shape) } else { 1.0 };
    let d = if shape < 1.0 { shape + 1.0 } else { shape } - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let root = 1.0 + c * x;
        if root <= 0.0 {
            continue;
        }
        let v = root * root * root;
        if libm::log(rng.unit_positive()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return boost * d * v / shape;
        }
    }
}

/// Draws from the lognormal distribution of this mean and coefficient of variation.
pub(crate) fn lognormal(mean: f64, cv: f64, rng: &mut Rng) -> f64 {
    let variance = libm::log(1.0 + cv * cv);
    mean * libm::exp(variance.sqrt() * normal(rng) - 0.5 * variance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::variation;
    use sagellm_types::Seed;

    fn check(name: &str, mean: f64, cv: f64, mut draw: impl FnMut(&mut Rng) -> f64) {
        let mut rng = Seed(11).stream(name);
        let drawn: Vec<f64> = (0..100_000).map(|_| draw(&mut rng)).collect();
        let got = drawn.iter().sum::<f64>() / drawn.len() as f64;
        assert!((got - mean).abs() < 0.03 * mean.max(1.0), "{name}: mean {got}, not {mean}");
        let spread = variation(&drawn);
        assert!((spread - cv).abs() < 0.03 * cv, "{name}: cv {spread}, not {cv}");
    }

    #[test]
    fn means_and_variations_are_as_asked() {
        check("exponential", 1.0, 1.0, exponential);
        check("smooth gamma", 1.0, 0.5, |rng| gamma(0.5, rng));
        check("rough gamma", 1.0, 3.0, |rng| gamma(3.0, rng));
        check("lognormal", 400.0, 0.8, |rng| lognormal(400.0, 0.8, rng));
    }

    #[test]
    fn the_normal_distribution_is_centred_and_of_unit_variance() {
        let mut rng = Seed(5).stream("normal");
        let drawn: Vec<f64> = (0..100_000).map(|_| normal(&mut rng)).collect();
        let n = drawn.len() as f64;
        let mean = drawn.iter().sum::<f64>() / n;
        let square = drawn.iter().map(|x| x * x).sum::<f64>() / n;
        assert!(mean.abs() < 0.01 && (square - 1.0).abs() < 0.02, "{mean} {square}");
    }
}
