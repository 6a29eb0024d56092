//! Whether predictions choose well: the layout and the number of clients that give the most output
//! tokens per second and GPU within limits on TTFT and TPOT, against the best that was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sagellm_perf::{Calibration, Interval, Layout, OperatorCost, Steady, SteadyLimits, SteadyLoad};
use sagellm_types::Seed;
use serde::Serialize;

use super::closed_loop::Replay;
use super::rows::Measured;

/// Limits on the time per output token, in milliseconds, for each of which a choice is made.
const TPOT_LIMITS_MS: [f64; 11] =
    [8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0];
/// Errors of predictions whose price is told.
const ERRORS: [f64; 5] = [0.01, 0.03, 0.05, 0.07, 0.1];
/// Lengths were drawn evenly from 0.8 to 1 times the nominal ones.
const MEAN_LENGTH: f64 = 0.9;
/// The limit on the time to first token.
const TTFT_LIMIT_MS: f64 = 2_000.0;

/// A choice among the measured points of one model, precision, GPU and shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Model, precision and GPU.
    pub name: String,
    /// Prompt and output tokens.
    pub shape: (f64, f64),
    /// The limit on the time per output token.
    pub tpot_ms: f64,
    /// What was chosen: the size of tensor parallelism and the clients.
    pub chosen: (f64, f64),
    /// The best that was measured.
    pub best: (f64, f64),
    /// 1 − measured value of the choice / the best measured; 1 if the choice breaks a limit.
    pub regret: f64,
}

/// Choices among points that were measured more than once, mostly under several versions of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Repeats {
    /// How many.
    pub choices: usize,
    /// Mean regret of choosing by one repeat, where another is what counts.
    pub by_repeat: f64,
    /// The same of choosing by predictions.
    pub by_prediction: f64,
}

/// Choices by predictions and by constant rules.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decisions {
    /// Mean regret of predictions.
    pub regret: f64,
    /// Mean regret of always taking the largest size of tensor parallelism that qualifies.
    pub largest_tp: f64,
    /// The same of the smallest.
    pub smallest_tp: f64,
    /// The share of choices that keep the limits.
    pub kept: f64,
    /// What predictions would cost that were off by chance alone: the standard deviation of their error
    /// in TPOT (twice as much in TTFT), and the mean regret of choices by them.
    pub by_chance: Vec<(f64, f64)>,
    /// What a measurement would cost.
    pub by_repeats: Repeats,
    /// Mean absolute relative errors of the closed form that chooses, on runs that are not saturated.
    pub ttft_mape: f64,
    /// The same of the time per output token.
    pub tpot_mape: f64,
    /// All choices: those in which at least two sizes qualify.
    pub decisions: Vec<Decision>,
}

/// A measured point with its prediction.
#[derive(Clone, Debug)]
struct Point {
    tensor: f64,
    clients: f64,
    gpus: f64,
    /// Times in milliseconds, the mean of all repeats.
    measured: (f64, f64),
    repeats: Vec<(f64, f64)>,
    predicted: (f64, f64),
    interval: Interval,
    /// How likely all requests find room.
    room: f64,
}

impl Point {
    /// Returns output tokens per second and GPU of a closed loop with these times in milliseconds.
    fn value(&self, (ttft, tpot): (f64, f64), output: f64) -> f64 {
        1e3 * self.clients * output / (ttft + (output - 1.0) * tpot) / self.gpus
    }

    /// Returns what is predicted, and how far off each time may be.
    fn guess(&self) -> Guess {
        (self.predicted, self.interval.ttft, self.interval.tpot)
    }
}

/// Returns the closed form of a measured loop: mean TTFT and TPOT in milliseconds.
fn predicted(replay: &Replay, row: &Measured) -> (f64, f64) {
    let cost = OperatorCost::new(
        replay.model(),
        replay.gpu(),
        replay.layout(),
        Calibration::of(replay.gpu()),
    );
    let limits = SteadyLimits {
        kv_tokens: replay.kv_tokens() as f64,
        sequences: row.batch_size,
        step_tokens: f64::from(Replay::BUDGET),
    };
    let load = SteadyLoad {
        requests: row.batch_size,
        prompt: MEAN_LENGTH * row.isl,
        cached: 0.0,
        output: MEAN_LENGTH * row.osl,
        rounds: f64::from(Replay::ROUNDS),
    };
    let steady = Steady::of(&cost, &limits, &load);
    (steady.ttft * 1e3, steady.tpot * 1e3)
}

/// Returns how far the closed form is off: mean absolute relative errors of TTFT and TPOT.
fn closed_form_errors(rows: &[Measured]) -> (f64, f64) {
    let saturated = super::splits::saturated(rows, |place| rows[place].silicon_ttft_ms);
    let usable = rows.iter().zip(saturated).filter(|(_, saturated)| !saturated);
    let errors: Vec<(f64, f64)> = usable
        .filter_map(|(row, _)| {
            let (ttft, tpot) = predicted(&Replay::of(row).ok()?, row);
            Some((
                (ttft / row.silicon_ttft_ms - 1.0).abs(),
                (tpot / row.silicon_tpot_ms - 1.0).abs(),
            ))
        })
        .collect();
    let count = errors.len().max(1) as f64;
    let sum = errors.iter().fold((0.0, 0.0), |sum, error| (sum.0 + error.0, sum.1 + error.1));
    (sum.0 / count, sum.1 / count)
}

/// Joins repeats of one point, under other versions of the engine: their mean is what it gives.
fn without_repeats(points: Vec<Point>) -> Vec<Point> {
    let mut joined: Vec<Point> = Vec::new();
    for point in points {
        let same = |other: &&mut Point| {
            (other.tensor, other.gpus, other.clients) == (point.tensor, point.gpus, point.clients)
                && other.predicted == point.predicted
        };
        match joined.iter_mut().find(same) {
            Some(other) => other.repeats.extend(point.repeats),
            None => joined.push(point),
        }
    }
    for point in &mut joined {
        let mean = |of: fn(&(f64, f64)) -> f64| {
            point.repeats.iter().map(of).sum::<f64>() / point.repeats.len() as f64
        };
        point.measured = (mean(|repeat| repeat.0), mean(|repeat| repeat.1));
    }
    joined
}

/// Chooses among points that were measured more than once, where one repeat, drawn by chance, is what
/// counts: by another repeat, and by the predictions.
fn by_repeats(groups: &BTreeMap<(String, u64, u64), Vec<Point>>) -> Repeats {
    /// How far repeats are apart, as a standard deviation: of the time to first token, per token.
    const APART: (f64, f64) = (0.1, 0.05);
    /// How often repeats are drawn.
    const DRAWS: usize = 50;
    let within = |error: f64| (1.0 - 1.28 * error, 1.0 + 1.28 * error);
    let mut rng = Seed(1).stream("repeats");
    let (mut by_repeat, mut by_prediction, mut count) = (0.0, 0.0, 0_usize);
    for _ in 0..DRAWS {
        for ((_, _, osl), points) in groups {
            let several = points.iter().filter(|point| point.repeats.len() > 1);
            let drawn: Vec<Point> = several
                .map(|point| {
                    let truth = rng.below(point.repeats.len());
                    let other = 1 + rng.below(point.repeats.len() - 1);
                    let guess = point.repeats[(truth + other) % point.repeats.len()];
                    Point { measured: point.repeats[truth], repeats: vec![guess], ..point.clone() }
                })
                .collect();
            for limit in TPOT_LIMITS_MS {
                let Some(case) = Case::of(&drawn, *osl as f64, limit) else { continue };
                let near = (within(APART.0), within(APART.1));
                by_repeat += case.regret(case.choice(|p| (p.repeats[0], near.0, near.1)));
                by_prediction += case.regret(case.choice(Point::guess));
                count += 1;
            }
        }
    }
    let mean = |sum: f64| sum / count.max(1) as f64;
    Repeats {
        choices: count.div_ceil(DRAWS),
        by_repeat: mean(by_repeat),
        by_prediction: mean(by_prediction),
    }
}

/// A choice to be made.
struct Case<'p> {
    points: &'p [Point],
    output: f64,
    limit: f64,
    /// The best that was measured.
    best: &'p Point,
}

/// A prediction: times in milliseconds, and how far off each may be.
type Guess = ((f64, f64), (f64, f64), (f64, f64));

impl<'p> Case<'p> {
    /// Returns the choice under a limit, if at least two sizes of tensor parallelism qualify.
    fn of(points: &'p [Point], output: f64, limit: f64) -> Option<Self> {
        let keeps = |point: &&Point| Self::keeps(point.measured, limit);
        let worth = |point: &Point| point.value(point.measured, output);
        let good = || points.iter().filter(keeps);
        let best = good().max_by(|a, b| worth(a).total_cmp(&worth(b)))?;
        let several = good().any(|point| point.tensor != best.tensor);
        several.then_some(Self { points, output, limit, best })
    }

    fn keeps((ttft, tpot): (f64, f64), limit: f64) -> bool {
        ttft <= TTFT_LIMIT_MS && tpot <= limit
    }

    fn worth(&self, point: &Point) -> f64 {
        point.value(point.measured, self.output)
    }

    /// Returns what a point lacks of the best: everything if it breaks a limit.
    fn regret(&self, point: &Point) -> f64 {
        match Self::keeps(point.measured, self.limit) {
            true => 1.0 - self.worth(point) / self.worth(self.best),
            false => 1.0,
        }
    }

    /// Returns the regret of always taking one size of those that qualify, with its best number of
    /// clients.
    fn constant(&self, rather: impl Fn(f64, f64) -> bool) -> f64 {
        let good = || self.points.iter().filter(|point| Self::keeps(point.measured, self.limit));
        let size = good().map(|point| point.tensor).reduce(|a, b| if rather(b, a) { b } else { a });
        let own = good().filter(|point| Some(point.tensor) == size);
        own.map(|point| self.regret(point)).fold(1.0, f64::min)
    }

    /// Returns the point whose value times its chance to keep the limits and to find room is largest.
    fn choice(&self, guess: impl Fn(&Point) -> Guess) -> &'p Point {
        let hoped = |point: &Point| {
            let (predicted, ttft, tpot) = guess(point);
            let first = Interval::chance(ttft, predicted.0, TTFT_LIMIT_MS);
            let each = Interval::chance(tpot, predicted.1, self.limit);
            point.value(predicted, self.output) * first * each * point.room
        };
        let most = self.points.iter().max_by(|a, b| hoped(a).total_cmp(&hoped(b)));
        most.expect("at least two points qualify")
    }
}

/// Returns the mean regret of choices by what was measured, disturbed by errors of this standard
/// deviation.
fn by_chance(groups: &BTreeMap<(String, u64, u64), Vec<Point>>, error: f64) -> f64 {
    /// How often the errors are drawn.
    const DRAWS: u32 = 20;
    let mut rng = Seed(1).stream("errors");
    let (mut sum, mut count) = (0.0, 0_u32);
    // Twelve evenly drawn numbers are nearly normal together.
    let mut normal = || (0..12).map(|_| rng.unit()).sum::<f64>() - 6.0;
    let within = |error: f64| (1.0 - 1.28 * error, 1.0 + 1.28 * error);
    for _ in 0..DRAWS {
        for ((_, _, osl), points) in groups {
            let guesses: Vec<(f64, f64)> = points
                .iter()
                .map(|point| {
                    let off = |time: f64, error: f64, by: f64| time / (1.0 + error * by).max(0.1);
                    let (first, each) = (normal(), normal());
                    (off(point.measured.0, 2.0 * error, first), off(point.measured.1, error, each))
                })
                .collect();
            for limit in TPOT_LIMITS_MS {
                let Some(case) = Case::of(points, *osl as f64, limit) else { continue };
                let chosen = case.choice(|point| {
                    let place = points.iter().position(|other| std::ptr::eq(other, point));
                    let guess = guesses[place.expect("it is one of them")];
                    (guess, within(2.0 * error), within(error))
                });
                sum += case.regret(chosen);
                count += 1;
            }
        }
    }
    sum / f64::from(count.max(1))
}

/// Chooses for every model, precision, GPU and shape of a table, under every limit.
pub fn decide(rows: &[Measured]) -> Decisions {
    let mut groups: BTreeMap<(String, u64, u64), Vec<Point>> = BTreeMap::new();
    for row in rows {
        let Ok(replay) = Replay::of(row) else { continue };
        let layout: Layout = replay.layout();
        let precision = if row.precision.is_empty() { "bf16" } else { &row.precision };
        let name = format!("{} {precision} {}", row.model_path, row.system);
        groups.entry((name, row.isl as u64, row.osl as u64)).or_default().push(Point {
            tensor: row.tp_size,
            clients: row.batch_size,
            gpus: f64::from(layout.gpus()),
            measured: (row.silicon_ttft_ms, row.silicon_tpot_ms),
            repeats: vec![(row.silicon_ttft_ms, row.silicon_tpot_ms)],
            predicted: predicted(&replay, row),
            interval: Interval::of(replay.model(), replay.gpu(), layout).at(
                replay.model(),
                replay.gpu(),
                row.batch_size as u32,
            ),
            room: Interval::room(
                row.batch_size * MEAN_LENGTH * (row.isl + 0.5 * row.osl)
                    / replay.kv_tokens() as f64,
            ),
        });
    }
    for points in groups.values_mut() {
        *points = without_repeats(std::mem::take(points));
    }
    let (mut decisions, mut largest, mut smallest) = (Vec::new(), 0.0, 0.0);
    for ((name, isl, osl), points) in &groups {
        let output = *osl as f64;
        for limit in TPOT_LIMITS_MS {
            let Some(case) = Case::of(points, output, limit) else { continue };
            largest += case.constant(|size, other| size > other);
            smallest += case.constant(|size, other| size < other);
            let chosen = case.choice(Point::guess);
            decisions.push(Decision {
                name: name.clone(),
                shape: (*isl as f64, output),
                tpot_ms: limit,
                chosen: (chosen.tensor, chosen.clients),
                best: (case.best.tensor, case.best.clients),
                regret: case.regret(chosen),
            });
        }
    }
    let count = decisions.len().max(1) as f64;
    let sum: f64 = decisions.iter().map(|decision| decision.regret).sum();
    let kept = decisions.iter().filter(|decision| decision.regret < 1.0).count() as f64;
    let (ttft_mape, tpot_mape) = closed_form_errors(rows);
    Decisions {
        ttft_mape,
        tpot_mape,
        regret: sum / count,
        largest_tp: largest / count,
        smallest_tp: smallest / count,
        kept: kept / count,
        by_chance: ERRORS.map(|error| (error, by_chance(&groups, error))).to_vec(),
        by_repeats: by_repeats(&groups),
        decisions,
    }
}

impl Decisions {
    /// Returns the choices as a table, and what they cost in the mean.
    pub fn to_markdown(&self) -> String {
        if self.decisions.is_empty() {
            return "No model, precision, GPU and shape was measured with two sizes of tensor parallelism that \
                    keep a limit: there is nothing to choose.\n"
                .to_owned();
        }
        let mut text = String::from(
            "| model, GPU | tokens | TPOT ≤ ms | chosen | best measured | regret |\n|---|--:|--:|--:|--:|--:|\n",
        );
        let show = |(tensor, clients): (f64, f64)| format!("TP{tensor} × {clients}");
        for decision in &self.decisions {
            let Decision { name, shape, tpot_ms, chosen, best, regret } = decision;
            let chosen = show(*chosen);
            let _ = writeln!(
                text,
                "| {name} | {}/{} | {tpot_ms} | {chosen} | {} | {:.1} % |",
                shape.0,
                shape.1,
                show(*best),
                regret * 100.0
            );
        }
        let _ = write!(
            text,
            "\n{} choices among at least two sizes of tensor parallelism: mean regret {:.1} %, of which {:.1} are \
             choices that break a limit; {:.0} % keep theirs.\nAlways the largest size that qualifies, with its best number of clients: {:.1} %. \
             Always the smallest, likewise: {:.1} %.\nThe closed form that chooses is off by {:.1} % in TTFT and {:.1} % in TPOT.\n",
            self.decisions.len(),
            self.regret * 100.0,
            (1.0 - self.kept) * 100.0,
            self.kept * 100.0,
            self.largest_tp * 100.0,
            self.smallest_tp * 100.0,
            self.ttft_mape * 100.0,
            self.tpot_mape * 100.0
        );
        let priced = |(error, regret): &(f64, f64)| {
            format!("{:.0} % cost {:.1} %", error * 100.0, regret * 100.0)
        };
        let prices: Vec<String> = self.by_chance.iter().map(priced).collect();
        let _ = writeln!(
            text,
            "Predictions that were off by chance alone: errors in TPOT (standard deviation) of {}.",
            prices.join(", ")
        );
        let Repeats { choices, by_repeat, by_prediction } = self.by_repeats;
        if choices > 0 {
            let _ = writeln!(
                text,
                "Of {choices} choices among points that were measured more than once, where one repeat is what \
                 counts: by another repeat {:.1} %, by predictions {:.1} %.",
                100.0 * by_repeat,
                100.0 * by_prediction
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_perf::{Gpu, ModelSpec};

    fn point(tensor: f64, clients: f64, measured: (f64, f64)) -> Point {
        let (model, gpu) = (ModelSpec::named("qwen3-32b"), Gpu::named("H100"));
        let interval = Interval::of(
            &model.expect("known"),
            gpu.expect("known"),
            Layout::tensor(tensor as u32),
        );
        Point {
            tensor,
            clients,
            gpus: tensor,
            measured,
            repeats: vec![measured],
            predicted: measured,
            interval,
            room: 1.0,
        }
    }

    /// TP2 gives the most in the long run, TP4 where tokens must come fast; 64 clients wait too long.
    fn points() -> Vec<Point> {
        vec![
            point(2.0, 8.0, (100.0, 20.0)),
            point(2.0, 16.0, (150.0, 24.0)),
            point(2.0, 64.0, (2_500.0, 28.0)),
            point(4.0, 8.0, (80.0, 12.0)),
            point(4.0, 16.0, (100.0, 14.0)),
        ]
    }

    #[test]
    fn what_is_known_exactly_is_chosen_best() {
        let points = points();
        let sure = |point: &Point| (point.measured, (0.999, 1.001), (0.999, 1.001));
        for limit in [20.5, 25.0, 30.0] {
            let case = Case::of(&points, 500.0, limit).expect("both sizes qualify");
            assert_eq!(case.regret(case.choice(sure)), 0.0, "{limit}");
        }
        assert!(Case::of(&points, 500.0, 15.0).is_none(), "one size is no choice");
    }

    #[test]
    fn a_choice_that_breaks_a_limit_loses_everything_and_rules_have_a_price() {
        let points = points();
        let case = Case::of(&points, 500.0, 25.0).expect("both sizes qualify");
        assert_eq!((case.best.tensor, case.best.clients), (2.0, 16.0));
        assert_eq!(case.regret(&points[2]), 1.0);
        assert_eq!(case.constant(|size, other| size < other), 0.0);
        let largest = case.constant(|size, other| size > other);
        assert!((largest - case.regret(&points[4])).abs() < 1e-12 && largest > 0.0, "{largest}");
    }

    #[test]
    fn repeats_that_differ_cost_more_than_those_that_agree() {
        let repeated = |by: f64| {
            let again = |point: Point| {
                let (ttft, tpot) = point.measured;
                Point { repeats: vec![point.measured, (ttft * by, tpot * by)], ..point }
            };
            BTreeMap::from([(
                (String::new(), 1_000, 500),
                points().into_iter().map(again).collect(),
            )])
        };
        let [agreed, apart] = [1.0, 1.2].map(|by| by_repeats(&repeated(by)));
        assert!(agreed.choices > 0 && agreed.by_repeat < apart.by_repeat, "{agreed:?} {apart:?}");
        let alone = BTreeMap::from([((String::new(), 1_000, 500), points())]);
        assert_eq!(by_repeats(&alone).choices, 0, "nothing was measured twice");
    }

    #[test]
    fn larger_errors_cost_more() {
        let groups = BTreeMap::from([((String::new(), 1_000, 500), points())]);
        let prices = [1e-6, 0.05, 0.2].map(|error| by_chance(&groups, error));
        assert!(prices[0] < 1e-9 && prices[0] < prices[1] && prices[1] < prices[2], "{prices:?}");
    }
}
