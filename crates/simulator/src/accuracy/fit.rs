//! Fits the calibrated numbers to measured runs.
//!
//! Levenberg–Marquardt on the logarithms of the numbers, with relative errors, robust against runs
//! that nothing explains, and drawn towards what was believed before where the runs say nothing.
//! A run's time is linear in the numbers as long as its schedule stays, so one replay gives its
//! value and its gradient. First one set is fitted to all GPUs together, then one per GPU that
//! departs from it as far as its own runs demand.

use sagellm_perf::{Calibration, Factor, Gpu};

use super::closed_loop::{Predicted, Replay};

/// A measured run with what was measured.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) replay: Replay,
    pub(super) ttft_ms: f64,
    pub(super) tpot_ms: f64,
}

/// Calibrated numbers fitted to some runs.
#[derive(Clone, Debug)]
pub struct Fit {
    pooled: Calibration,
    by_gpu: Vec<(&'static str, Calibration)>,
}

/// How much a relative error of the time to first token counts beside one of the time per token.
const TTFT_WEIGHT: f64 = 0.4;
/// Errors beyond this count linearly.
const ROBUST: f64 = 0.05;
/// How strongly numbers are drawn to what was believed, in units of one run's error.
const TO_PRIOR: f64 = 0.02;
const TO_POOLED: f64 = 0.2;
const ROUNDS: usize = 8;
/// A number may be so many times smaller or larger than its prior.
const RANGE: f64 = 12.0;

impl Fit {
    /// Returns the numbers for a GPU; of one without measured runs, those of all together.
    pub fn of(&self, gpu: &Gpu) -> &Calibration {
        let own = self.by_gpu.iter().find(|(name, _)| *name == gpu.name);
        own.map_or(&self.pooled, |(_, calibration)| calibration)
    }

    /// Returns whether runs of this GPU were among those fitted.
    pub fn knows(&self, gpu: &Gpu) -> bool {
        self.by_gpu.iter().any(|(name, _)| *name == gpu.name)
    }

    /// Fits to `targets`, beginning at `start`.
    pub(super) fn new(targets: &[&Target], start: Option<&Self>) -> Self {
        let begin = start.map_or_else(Calibration::default, |fit| fit.pooled);
        let pooled = settle(targets, &Calibration::default(), begin, TO_PRIOR);
        let mut names: Vec<&'static str> =
            targets.iter().map(|target| target.replay.gpu().name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let own = |name: &'static str| {
            let own: Vec<&Target> =
                targets.iter().copied().filter(|t| t.replay.gpu().name == name).collect();
            let known = start.and_then(|fit| fit.by_gpu.iter().find(|(known, _)| *known == name));
            let begin = known.map_or(pooled, |(_, numbers)| *numbers);
            (name, settle(&own, &pooled, begin, TO_POOLED))
        };
        let by_gpu = names.into_iter().map(own).collect();
        Self { pooled, by_gpu }
    }
}

/// Returns the numbers of each GPU of a fit, as the file that holds them.
pub fn calibrations(fit: &Fit) -> String {
    fit.by_gpu.iter().map(|(name, numbers)| numbers.to_toml(name) + "\n").collect()
}

/// Replays runs on all cores; the results are in the order of the runs.
pub(super) fn replay_all(
    targets: &[&Target],
    numbers: impl Fn(&Target) -> Calibration + Sync,
) -> Vec<Predicted> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(target) = targets.get(index) else { return done };
            done.push((index, target.replay.run(&numbers(target))));
        }
    };
    let mut all: Vec<(usize, Predicted)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no replay panics")).collect()
    });
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, predicted)| predicted).collect()
}

type Row = [f64; Factor::COUNT];

/// The errors of some runs, squared and robust, and what to change.
struct Normal {
    cost: f64,
    matrix: Vec<Row>,
    vector: Row,
}

fn normal(targets: &[&Target], prior: &Calibration, now: &Calibration, strength: f64) -> Normal {
    let mut sum = Normal {
        cost: 0.0,
        matrix: vec![[0.0; Factor::COUNT]; Factor::COUNT],
        vector: [0.0; Factor::COUNT],
    };
    let predicted = replay_all(targets, |_| *now);
    for (target, predicted) in targets.iter().zip(&predicted) {
        let parts = [
            (predicted.ttft_ms, target.ttft_ms, &predicted.ttft_work, TTFT_WEIGHT),
            (predicted.tpot_ms, target.tpot_ms, &predicted.tpot_work, 1.0),
        ];
        for (predicted, measured, work, weight) in parts {
            let error = libm::log(predicted / measured);
            // Huber: quadratic near zero, linear beyond.
            let robust = weight * (ROBUST / error.abs().max(ROBUST));
            let far = (error.abs() - ROBUST).max(0.0);
            let near = error.abs().min(ROBUST);
            sum.cost += weight * (near * near + 2.0 * ROBUST * far);
            let gradient: Row =
                std::array::from_fn(|i| work[i] * now.0[i] * 1e3 / predicted.max(1e-9));
            for i in 0..Factor::COUNT {
                sum.vector[i] -= robust * gradient[i] * error;
                for j in 0..Factor::COUNT {
                    sum.matrix[i][j] += robust * gradient[i] * gradient[j];
                }
            }
        }
    }
    for i in 0..Factor::COUNT {
        let away = libm::log(now.0[i] / prior.0[i]);
        sum.cost += strength * away * away;
        sum.vector[i] -= strength * away;
        sum.matrix[i][i] += strength;
    }
    sum
}

fn settle(
    targets: &[&Target],
    prior: &Calibration,
    begin: Calibration,
    strength: f64,
) -> Calibration {
    let (mut now, mut damping) = (begin, 0.05);
    let mut at = normal(targets, prior, &now, strength);
    for _ in 0..ROUNDS {
        let mut matrix = at.matrix.clone();
        for (i, row) in matrix.iter_mut().enumerate() {
            row[i] *= 1.0 + damping;
        }
        let step = solve(matrix, at.vector);
        let tried = Calibration(std::array::from_fn(|i| {
            let (least, most) = (Factor::ALL[i].prior() / RANGE, Factor::ALL[i].prior() * RANGE);
            (now.0[i] * libm::exp(step[i].clamp(-1.0, 1.0))).clamp(least, most)
        }));
        let there = normal(targets, prior, &tried, strength);
        if there.cost < at.cost {
            let gain = 1.0 - there.cost / at.cost;
            (now, at, damping) = (tried, there, damping * 0.3);
            if gain < 1e-3 {
                break;
            }
        } else {
            damping = (damping * 6.0).min(1e3);
        }
    }
    now
}

/// Solves a symmetric positive definite system by Cholesky's decomposition.
fn solve(mut a: Vec<Row>, mut b: Row) -> Row {
    let n = Factor::COUNT;
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            a[i][j] =
                if i == j { (a[i][i] - dot).max(1e-12).sqrt() } else { (a[i][j] - dot) / a[j][j] };
        }
    }
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| a[i][k] * b[k]).sum();
        b[i] = (b[i] - dot) / a[i][i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| a[k][i] * b[k]).sum();
        b[i] = (b[i] - dot) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_solved() {
        let n = Factor::COUNT;
        let a: Vec<Row> = (0..n)
            .map(|i| std::array::from_fn(|j| if i == j { 3.0 + i as f64 } else { 0.1 }))
            .collect();
        let x: Row = std::array::from_fn(|i| i as f64 - 4.0);
        let b: Row = std::array::from_fn(|i| (0..n).map(|j| a[i][j] * x[j]).sum());
        for (got, wanted) in solve(a, b).iter().zip(x) {
            assert!((got - wanted).abs() < 1e-9);
        }
    }
}
