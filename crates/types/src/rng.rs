//! Seeded randomness: one seed, a named stream per component.
//!
//! The generator is PCG64-MCG (O'Neill, 2014), whose output is fixed by its authors, so a seed
//! gives the same run on every machine.

use rand_core::{Rng as _, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

use crate::stable_hash;

/// The one number from which all randomness of a run is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub u64);

impl Seed {
    /// Returns the stream called `name`; streams of different names are independent, so adding a
    /// component does not change what the others draw.
    pub fn stream(self, name: &str) -> Rng {
        Rng(Pcg64Mcg::seed_from_u64(stable_hash(name.as_bytes(), self.0)))
    }
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(Pcg64Mcg);

impl Rng {
    /// Returns 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Returns an integer in `0..bound`, without bias that 64 bits could show (Lemire, 2019).
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "a draw needs something to draw from");
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Returns a float in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Returns a float in `(0, 1]`, safe to take the logarithm of.
    pub fn unit_positive(&mut self) -> f64 {
        1.0 - self.unit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_by_name_and_repeat() {
        let draw = |name: &str| Seed(1).stream(name).next_u64();
        assert_eq!(draw("a"), draw("a"));
        assert_ne!(draw("a"), draw("b"));
    }

    #[test]
    fn the_numbers_are_the_same_on_every_machine() {
        let mut rng = Seed(42).stream("fixed");
        let drawn: Vec<usize> = (0..8).map(|_| rng.below(100)).collect();
        assert_eq!(drawn, FIXED);
    }

    const FIXED: [usize; 8] = [61, 64, 18, 47, 81, 89, 69, 75];
}
