//! When requests arrive: a rate over time, and how regular the gaps are.
//!
//! Gaps of mean 1 are drawn in *operational time* and mapped through the inverse of the cumulative
//! rate (Çinlar, 1975): with exponential gaps that is a Poisson process whose rate changes, with
//! gamma gaps a burstier or smoother renewal process, with even gaps a metronome. The rate is made
//! of straight pieces, so the inverse needs a square root and nothing else.

use std::time::Duration;

use sagellm_types::{Rng, Timestamp};
use serde::{Deserialize, Serialize};

use crate::draw;
use crate::error::{ConfigError, check, positive};

/// When requests arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrivals {
    /// How many per second, over time.
    pub rate: Rate,
    /// How regular the gaps are.
    #[serde(default)]
    pub gaps: Gaps,
    /// Requests that come together, besides.
    #[serde(default)]
    pub bursts: Option<Bursts>,
}

/// Requests per second, over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rate {
    /// The same for ever.
    Constant {
        /// Requests per second.
        per_s: f64,
    },
    /// High and low by turns, for ever; low may be 0 (on–off).
    Square {
        /// Requests per second while it is high.
        high_per_s: f64,
        /// Requests per second while it is low.
        low_per_s: f64,
        /// How long it is high, in seconds.
        high_s: f64,
        /// How long it is low, in seconds.
        low_s: f64,
    },
    /// One piece after the other; nothing arrives after the last.
    Profile {
        /// The pieces.
        pieces: Vec<Piece>,
    },
}

/// A stretch of time in which the rate is constant or changes evenly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// How long it lasts, in seconds.
    pub for_s: f64,
    /// Requests per second at its beginning.
    pub per_s: f64,
    /// Requests per second at its end; as at its beginning when absent.
    #[serde(default)]
    pub to_per_s: Option<f64>,
}

/// How regular the gaps between requests are.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "law", rename_all = "snake_case", deny_unknown_fields)]
pub enum Gaps {
    /// As of many clients that know nothing of each other.
    #[default]
    Poisson,
    /// Burstier (`cv` > 1) or smoother (`cv` < 1) than Poisson.
    Gamma {
        /// Coefficient of variation of the gaps.
        cv: f64,
    },
    /// As of a metronome.
    Even,
}

/// Requests that come together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bursts {
    /// How many.
    pub size: u32,
    /// How often, in seconds; the first comes after so long.
    pub every_s: f64,
}

impl Arrivals {
    /// Returns a Poisson process of so many requests per second.
    pub fn poisson(per_s: f64) -> Self {
        Self { rate: Rate::Constant { per_s }, gaps: Gaps::Poisson, bursts: None }
    }

    /// Returns the same with `factor` times the requests, at the same times.
    pub fn scaled(&self, factor: f64) -> Self {
        let rate = match &self.rate {
            Rate::Constant { per_s } => Rate::Constant { per_s: per_s * factor },
            Rate::Square { high_per_s, low_per_s, high_s, low_s } => Rate::Square {
                high_per_s: high_per_s * factor,
                low_per_s: low_per_s * factor,
                high_s: *high_s,
                low_s: *low_s,
            },
            Rate::Profile { pieces } => Rate::Profile {
                pieces: pieces
                    .iter()
                    .map(|piece| Piece {
                        for_s: piece.for_s,
                        per_s: piece.per_s * factor,
                        to_per_s: piece.to_per_s.map(|rate| rate * factor),
                    })
                    .collect(),
            },
        };
        let bursts = self.bursts.map(|bursts| Bursts {
            size: ((f64::from(bursts.size) * factor + 0.5) as u32).max(1),
            ..bursts
        });
        Self { rate, gaps: self.gaps, bursts }
    }

    /// # Errors
    /// If a field is not what its documentation says.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        match &self.rate {
            Rate::Constant { per_s } => positive("arrivals.rate.per_s", *per_s)?,
            Rate::Square { high_per_s, low_per_s, high_s, low_s } => {
                positive("arrivals.rate.high_per_s", *high_per_s)?;
                positive("arrivals.rate.high_s", *high_s)?;
                positive("arrivals.rate.low_s", *low_s)?;
                let low = low_per_s.is_finite() && *low_per_s >= 0.0;
                check("arrivals.rate.low_per_s", low, "a number that is not negative", low_per_s)?;
            }
            Rate::Profile { pieces } => {
                for (i, piece) in pieces.iter().enumerate() {
                    let field = |name: &str| format!("arrivals.rate.pieces[{i}].{name}");
                    positive(&field("for_s"), piece.for_s)?;
                    for (name, rate) in [("per_s", piece.per_s), ("to_per_s", piece.end())] {
                        let fits = rate.is_finite() && rate >= 0.0;
                        check(&field(name), fits, "a number that is not negative", rate)?;
                    }
                }
                let any = pieces.iter().any(|piece| piece.area() > 0.0);
                let expected = "at least one piece with a rate above 0";
                check("arrivals.rate.pieces", any, expected, "none")?;
            }
        }
        if let Gaps::Gamma { cv } = self.gaps {
            positive("arrivals.gaps.cv", cv)?;
        }
        if let Some(bursts) = self.bursts {
            positive("arrivals.bursts.every_s", bursts.every_s)?;
            check("arrivals.bursts.size", bursts.size > 0, "at least one request", bursts.size)?;
        }
        Ok(())
    }

    /// Returns the times of arrival, in order, drawn from `rng`; endless unless the rate is a
    /// profile.
    ///
    /// # Errors
    /// If a field is not what its documentation says.
    pub fn times(&self, rng: Rng) -> Result<Times, ConfigError> {
        self.validate()?;
        let (pieces, repeat) = match &self.rate {
            Rate::Constant { per_s } => (vec![Piece::flat(1.0, *per_s)], true),
            Rate::Square { high_per_s, low_per_s, high_s, low_s } => {
                (vec![Piece::flat(*high_s, *high_per_s), Piece::flat(*low_s, *low_per_s)], true)
            }
            Rate::Profile { pieces } => (pieces.clone(), false),
        };
        let end = (!repeat).then(|| pieces.iter().map(|piece| piece.for_s).sum());
        let walk = Walk { pieces, repeat, gaps: self.gaps, rng, piece: 0, passed: 0.0, begun: 0.0 };
        let bursts = self.bursts.map(|bursts| BurstWalk { bursts, number: 0, end });
        let mut times = Times { walk, bursts, next: None, next_burst: None };
        times.next = times.walk.next();
        times.next_burst = times.bursts.as_mut().and_then(BurstWalk::next);
        Ok(times)
    }
}

impl Piece {
    /// Returns a piece of constant rate.
    pub const fn flat(for_s: f64, per_s: f64) -> Self {
        Self { for_s, per_s, to_per_s: None }
    }

    fn end(&self) -> f64 {
        self.to_per_s.unwrap_or(self.per_s)
    }

    /// Returns the requests expected in it.
    fn area(&self) -> f64 {
        self.for_s * (self.per_s + self.end()) * 0.5
    }

    /// Returns after how many seconds `count` requests are expected, for `count` ≤ `area()`.
    fn inverse(&self, count: f64) -> f64 {
        // per_s t + slope t² / 2 = count, in the form that loses no digits when slope is near 0.
        let slope = (self.end() - self.per_s) / self.for_s;
        let root = (self.per_s * self.per_s + 2.0 * slope * count).max(0.0).sqrt();
        (2.0 * count / (self.per_s + root)).min(self.for_s)
    }
}

/// The times of arrival, in order.
#[derive(Clone, Debug)]
pub struct Times {
    walk: Walk,
    bursts: Option<BurstWalk>,
    next: Option<f64>,
    next_burst: Option<f64>,
}

impl Iterator for Times {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let burst_first = match (self.next, self.next_burst) {
            (Some(single), Some(burst)) => burst <= single,
            (single, _) => single.is_none(),
        };
        let seconds = if burst_first {
            let next = self.bursts.as_mut().and_then(BurstWalk::next);
            std::mem::replace(&mut self.next_burst, next)
        } else {
            std::mem::replace(&mut self.next, self.walk.next())
        };
        seconds.map(|seconds| {
            Timestamp::ZERO + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        })
    }
}

/// Draws gaps and walks them along the pieces of the rate.
#[derive(Clone, Debug)]
struct Walk {
    pieces: Vec<Piece>,
    repeat: bool,
    gaps: Gaps,
    rng: Rng,
    /// The piece in which the last arrival fell.
    piece: usize,
    /// Requests expected in that piece until then.
    passed: f64,
    /// When that piece began, in seconds.
    begun: f64,
}

impl Iterator for Walk {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        self.passed += match self.gaps {
            Gaps::Poisson => draw::exponential(&mut self.rng),
            Gaps::Gamma { cv } => draw::gamma(cv, &mut self.rng),
            Gaps::Even => 1.0,
        };
        loop {
            let piece = self.pieces.get(self.piece)?;
            let area = piece.area();
            if self.passed < area {
                return Some(self.begun + piece.inverse(self.passed));
            }
            self.passed -= area;
            self.begun += piece.for_s;
            self.piece += 1;
            if self.repeat && self.piece == self.pieces.len() {
                self.piece = 0;
            }
        }
    }
}

#[derive(Clone, Debug)]
struct BurstWalk {
    bursts: Bursts,
    number: u64,
    /// When the rate's profile ends, in seconds, and bursts with it.
    end: Option<f64>,
}

impl Iterator for BurstWalk {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        let burst = self.number / u64::from(self.bursts.size) + 1;
        self.number += 1;
        let at = burst as f64 * self.bursts.every_s;
        self.end.is_none_or(|end| at < end).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::variation;
    use sagellm_types::Seed;

    fn times(arrivals: &Arrivals, count: usize) -> Vec<f64> {
        let rng = Seed(9).stream("arrivals");
        let times = arrivals.times(rng).expect("the settings are sound");
        times.take(count).map(Timestamp::as_secs_f64).collect()
    }

    fn check(gaps: Gaps, cv: f64) {
        let arrivals = Arrivals { gaps, ..Arrivals::poisson(20.0) };
        let times = times(&arrivals, 50_000);
        let between: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let rate = times.len() as f64 / times.last().expect("there are some");
        assert!((rate - 20.0).abs() < 0.5, "{gaps:?}: {rate} per second");
        assert!((variation(&between) - cv).abs() < 0.03 * cv.max(0.01), "{gaps:?}");
    }

    #[test]
    fn rate_and_variation_are_as_asked() {
        check(Gaps::Poisson, 1.0);
        check(Gaps::Gamma { cv: 2.5 }, 2.5);
        check(Gaps::Gamma { cv: 0.4 }, 0.4);
        check(Gaps::Even, 0.0);
    }

    #[test]
    fn a_square_wave_keeps_to_its_halves() {
        let rate = Rate::Square { high_per_s: 50.0, low_per_s: 0.0, high_s: 1.0, low_s: 3.0 };
        let times = times(&Arrivals { rate, ..Arrivals::poisson(1.0) }, 5000);
        assert!(times.iter().all(|at| at % 4.0 < 1.0 + 1e-9));
        let span = times.last().expect("there are some");
        assert!((5000.0 / span - 12.5).abs() < 0.5, "{span}");
    }

    #[test]
    fn a_profile_has_the_requests_of_its_area_where_they_belong_and_ends() {
        // 100 in ten seconds, 300 on a ramp of ten seconds, none in five.
        let ramp = Piece { for_s: 10.0, per_s: 10.0, to_per_s: Some(50.0) };
        let pieces = vec![Piece::flat(10.0, 10.0), ramp, Piece::flat(5.0, 0.0)];
        let rate = Rate::Profile { pieces };
        let times = times(&Arrivals { rate, gaps: Gaps::Even, bursts: None }, 10_000);
        assert!((399..=400).contains(&times.len()), "{}", times.len());
        // Half-way up the ramp 100 + 100 of the 300 have come: 10 t + 2 t² at t = 5.
        let before = |limit: f64| times.iter().filter(|at| **at < limit).count();
        assert!((99..=100).contains(&before(10.0)), "{}", before(10.0));
        assert!((199..=200).contains(&before(15.0)), "{}", before(15.0));
        assert!(times.is_sorted() && times.last().is_some_and(|last| *last <= 20.0));
    }

    #[test]
    fn bursts_come_together_and_in_order() {
        let rate = Rate::Profile { pieces: vec![Piece::flat(10.0, 1.0)] };
        let bursts = Some(Bursts { size: 5, every_s: 4.0 });
        let times = times(&Arrivals { rate, gaps: Gaps::Even, bursts }, 1000);
        assert!(times.is_sorted());
        let together = |at: f64| times.iter().filter(|time| **time == at).count();
        // At 4 and 8 s the metronome adds one each.
        assert_eq!((together(4.0), together(8.0), together(3.0)), (6, 6, 1));
        assert!(times.len() >= 19, "{times:?}");
    }
}
