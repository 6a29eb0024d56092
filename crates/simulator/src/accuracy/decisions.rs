//! Whether predictions choose well: the layout and the number of clients that give the most output
//! tokens per second and GPU within limits on TTFT and TPOT, against the best that was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sagellm_perf::{Calibration, Interval, Layout, OperatorCost, Steady, SteadyLimits, SteadyLoad};
use serde::Serialize;

use super::closed_loop::Replay;
use super::rows::Measured;

/// Limits on the time per output token, in milliseconds, for each of which a choice is made.
const TPOT_LIMITS_MS: [f64; 11] =
    [8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0];
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
    /// Mean absolute relative errors of the closed form that chooses, on runs that are not saturated.
    pub ttft_mape: f64,
    /// The same of the time per output token.
    pub tpot_mape: f64,
    /// All choices: those in which at least two sizes qualify.
    pub decisions: Vec<Decision>,
}

/// A measured point with its prediction.
struct Point {
    tensor: f64,
    clients: f64,
    gpus: f64,
    measured: (f64, f64),
    predicted: (f64, f64),
    interval: Interval,
}

impl Point {
    /// Returns output tokens per second and GPU of a closed loop with these times in milliseconds.
    fn value(&self, (ttft, tpot): (f64, f64), output: f64) -> f64 {
        1e3 * self.clients * output / (ttft + (output - 1.0) * tpot) / self.gpus
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
    // Lengths were drawn evenly from 0.8 to 1 times the nominal ones.
    let load = SteadyLoad {
        requests: row.batch_size,
        prompt: 0.9 * row.isl,
        cached: 0.0,
        output: 0.9 * row.osl,
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
    let mut joined: Vec<(Point, f64)> = Vec::new();
    for point in points {
        let same = |(other, _): &&mut (Point, f64)| {
            (other.tensor, other.gpus, other.clients) == (point.tensor, point.gpus, point.clients)
                && other.predicted == point.predicted
        };
        match joined.iter_mut().find(same) {
            Some((other, count)) => {
                let mean = |sum: f64, more: f64| (sum * *count + more) / (*count + 1.0);
                other.measured.0 = mean(other.measured.0, point.measured.0);
                other.measured.1 = mean(other.measured.1, point.measured.1);
                *count += 1.0;
            }
            None => joined.push((point, 1.0)),
        }
    }
    joined.into_iter().map(|(point, _)| point).collect()
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
            predicted: predicted(&replay, row),
            interval: Interval::of(replay.model(), replay.gpu(), layout).at(
                replay.model(),
                replay.gpu(),
                row.batch_size as u32,
            ),
        });
    }
    for points in groups.values_mut() {
        *points = without_repeats(std::mem::take(points));
    }
    let mut decisions = Vec::new();
    let (mut largest, mut smallest) = (0.0, 0.0);
    for ((name, isl, osl), points) in &groups {
        let output = *osl as f64;
        for limit in TPOT_LIMITS_MS {
            let keeps = |(ttft, tpot): (f64, f64)| ttft <= TTFT_LIMIT_MS && tpot <= limit;
            let good: Vec<&Point> = points.iter().filter(|point| keeps(point.measured)).collect();
            let mut sizes: Vec<f64> = good.iter().map(|point| point.tensor).collect();
            sizes.sort_by(f64::total_cmp);
            sizes.dedup();
            let [least, .., most] = sizes.as_slice() else { continue };
            let worth = |point: &Point| point.value(point.measured, output);
            let best_of = |among: &mut dyn Iterator<Item = &&Point>| {
                among.map(|point| worth(point)).fold(0.0, f64::max)
            };
            let best =
                good.iter().max_by(|a, b| worth(a).total_cmp(&worth(b))).expect("some qualify");
            let regret = |value: f64| 1.0 - value / worth(best);
            largest += regret(best_of(&mut good.iter().filter(|p| p.tensor == *most)));
            smallest += regret(best_of(&mut good.iter().filter(|p| p.tensor == *least)));
            // What it gives times how likely it keeps the limits.
            let hoped = |point: &Point| {
                let (ttft, tpot) = point.predicted;
                let first = Interval::chance(point.interval.ttft, ttft, TTFT_LIMIT_MS);
                let each = Interval::chance(point.interval.tpot, tpot, limit);
                point.value(point.predicted, output) * first * each
            };
            let chosen =
                points.iter().max_by(|a, b| hoped(a).total_cmp(&hoped(b))).expect("some qualify");
            decisions.push(Decision {
                name: name.clone(),
                shape: (*isl as f64, output),
                tpot_ms: limit,
                chosen: (chosen.tensor, chosen.clients),
                best: (best.tensor, best.clients),
                regret: if keeps(chosen.measured) { regret(worth(chosen)) } else { 1.0 },
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
        decisions,
    }
}

impl Decisions {
    /// Returns the choices as a table, and what they cost in the mean.
    pub fn to_markdown(&self) -> String {
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
            "\n{} choices among at least two sizes of tensor parallelism: mean regret {:.1} %, {:.0} % keep \
             their limits.\nAlways the largest size that qualifies, with its best number of clients: {:.1} %. \
             Always the smallest: {:.1} %.\nThe closed form that chooses is off by {:.1} % in TTFT and {:.1} % in TPOT.\n",
            self.decisions.len(),
            self.regret * 100.0,
            self.kept * 100.0,
            self.largest_tp * 100.0,
            self.smallest_tp * 100.0,
            self.ttft_mape * 100.0,
            self.tpot_mape * 100.0
        );
        text
    }
}
