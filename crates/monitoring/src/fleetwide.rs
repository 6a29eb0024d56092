//! Sums that belong to no single request: decisions, gaps between tokens, predictions, faults.

use std::time::Duration;

use sagellm_types::{Completion, Ending, Estimate, ExpireReason, FailureKind, RefuseReason, Usd};

use crate::{Sketch, window::Summary};

/// The reasons for which requests are refused, in the order of [`Fleetwide::refusals`].
pub const REFUSE_REASONS: [RefuseReason; 5] = [
    RefuseReason::QueueFull,
    RefuseReason::Hopeless,
    RefuseReason::UnknownModel,
    RefuseReason::UnsupportedType,
    RefuseReason::Stopping,
];
/// The reasons for which requests expire, in the order of [`Fleetwide::expiries`].
pub const EXPIRE_REASONS: [ExpireReason; 2] = [ExpireReason::Deadline, ExpireReason::QueueTimeout];

/// A prediction is accurate if it is within this share of what happened.
const ACCURATE: f64 = 0.10;

/// Sums over the whole control plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleetwide {
    /// Attempts dispatched: decisions.
    pub dispatches: u64,
    /// Attempts made after a failed one.
    pub retries: u64,
    /// Events of unknown attempts or earlier lives of an instance, dropped.
    pub stale: u64,
    /// Changes of the strategy.
    pub switches: u64,
    /// Probes answered and failed.
    pub probes: [u64; 2],
    /// Requests that failed, in the order of [`FailureKind::ALL`].
    pub failures: [u64; FailureKind::ALL.len()],
    /// Requests refused, in the order of [`REFUSE_REASONS`].
    pub refusals: [u64; REFUSE_REASONS.len()],
    /// Requests expired, in the order of [`EXPIRE_REASONS`].
    pub expiries: [u64; EXPIRE_REASONS.len()],
    /// Time from submission to dispatch with room in the fleet.
    pub decision: Sketch,
    /// Gaps between the tokens of a stream.
    pub itl: Sketch,
    /// What became of predictions.
    pub predictions: Predictions,
}

/// How far predictions were from what happened, over requests answered in full.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// Requests predicted.
    pub count: u64,
    /// Predictions of the time from dispatch to end within 10 % of it.
    pub accurate: u64,
    /// Absolute error of the time from dispatch to first token.
    pub ttft: Sketch,
    /// Absolute error of the time per output token.
    pub tpot: Sketch,
    /// Absolute error of the time from dispatch to end, which is that of the end-to-end latency:
    /// when a request is dispatched, its wait is known.
    pub service: Sketch,
    /// Cost predicted.
    pub cost_predicted: Usd,
    /// Cost of the same requests as it turned out.
    pub cost: Usd,
}

impl Fleetwide {
    /// Adds the reason of a request's end, and what its prediction was worth.
    pub(crate) fn end(&mut self, completion: &Completion, predicted: Option<&Estimate>) {
        match completion.ending {
            Ending::Failed(kind) => self.failures[place(&FailureKind::ALL, kind)] += 1,
            Ending::Refused { reason, .. } => self.refusals[refusal(reason)] += 1,
            Ending::Expired(reason) => self.expiries[expiry(reason)] += 1,
            Ending::Finished => {
                if let Some(predicted) = predicted {
                    self.predictions.end(completion, predicted);
                }
            }
            Ending::Cancelled => {}
        }
    }
}

impl Predictions {
    fn end(&mut self, completion: &Completion, predicted: &Estimate) {
        let Some(dispatched) = completion.dispatched else { return };
        let took = completion.ended.since(dispatched);
        let error = predicted.service(completion.request.forecast.output).abs_diff(took);
        self.count += 1;
        self.accurate += u64::from(error <= took.mul_f64(ACCURATE));
        self.service.record(error);
        if let Some(first) = completion.first_token {
            self.ttft.record(predicted.ttft.abs_diff(first.since(dispatched)));
        }
        if let Some(tpot) = completion.tpot() {
            self.tpot.record(predicted.tpot.abs_diff(tpot));
        }
        self.cost_predicted += predicted.cost;
        self.cost += completion.cost;
    }

    /// Returns the share of predictions within 10 % of what happened; `None` without predictions.
    pub fn accuracy(&self) -> Option<f64> {
        (self.count > 0).then(|| self.accurate as f64 / self.count as f64)
    }

    /// Returns the mean error of the time from dispatch to end; `None` without predictions.
    pub fn mean_error(&self) -> Option<Duration> {
        self.service.mean()
    }
}

impl Summary for Fleetwide {
    fn merge(&mut self, other: &Self) {
        self.dispatches += other.dispatches;
        self.retries += other.retries;
        self.stale += other.stale;
        self.switches += other.switches;
        merge_counts(&mut self.probes, &other.probes);
        merge_counts(&mut self.failures, &other.failures);
        merge_counts(&mut self.refusals, &other.refusals);
        merge_counts(&mut self.expiries, &other.expiries);
        self.decision.merge(&other.decision);
        self.itl.merge(&other.itl);
        self.predictions.merge(&other.predictions);
    }

    fn clear(&mut self) {
        let Self { mut decision, mut itl, mut predictions, .. } = std::mem::take(self);
        decision.clear();
        itl.clear();
        predictions.clear();
        *self = Self { decision, itl, predictions, ..Self::default() };
    }
}

impl Summary for Predictions {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.accurate += other.accurate;
        self.ttft.merge(&other.ttft);
        self.tpot.merge(&other.tpot);
        self.service.merge(&other.service);
        self.cost_predicted += other.cost_predicted;
        self.cost += other.cost;
    }

    fn clear(&mut self) {
        let Self { mut ttft, mut tpot, mut service, .. } = std::mem::take(self);
        for sketch in [&mut ttft, &mut tpot, &mut service] {
            sketch.clear();
        }
        *self = Self { ttft, tpot, service, ..Self::default() };
    }
}

/// Returns the place of a reason in [`REFUSE_REASONS`]; a new reason does not compile without one.
const fn refusal(reason: RefuseReason) -> usize {
    match reason {
        RefuseReason::QueueFull => 0,
        RefuseReason::Hopeless => 1,
        RefuseReason::UnknownModel => 2,
        RefuseReason::UnsupportedType => 3,
        RefuseReason::Stopping => 4,
    }
}

/// Returns the place of a reason in [`EXPIRE_REASONS`]; a new reason does not compile without one.
const fn expiry(reason: ExpireReason) -> usize {
    match reason {
        ExpireReason::Deadline => 0,
        ExpireReason::QueueTimeout => 1,
    }
}

/// Adds counts place by place.
pub(crate) fn merge_counts(to: &mut [u64], from: &[u64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// Returns the place of `item` in the list of all.
pub(crate) fn place<T: PartialEq>(all: &[T], item: T) -> usize {
    all.iter().position(|known| *known == item).expect("the list names every kind")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::{Request, Timestamp, Tokens, Usage};

    fn finished(took_ms: u64) -> Completion {
        Completion {
            request: Request::example(0),
            ending: Ending::Finished,
            dispatched: Some(Timestamp::from_millis(1000)),
            first_token: Some(Timestamp::from_millis(1100)),
            ended: Timestamp::from_millis(1000 + took_ms),
            usage: Usage { output: Tokens(100), ..Usage::default() },
            cost: Usd(0.25),
        }
    }

    fn check(took_ms: u64, error_ms: u64, accurate: u64) {
        // 100 ms to the first of the 100 forecast tokens, 10 ms for each of the other 99.
        let predicted = Estimate {
            ttft: Duration::from_millis(100),
            tpot: Duration::from_millis(10),
            cost: Usd(0.5),
            spread: 0.0,
            ..Estimate::default()
        };
        let mut sums = Fleetwide::default();
        sums.end(&finished(took_ms), Some(&predicted));
        assert_eq!(sums.predictions.mean_error(), Some(Duration::from_millis(error_ms)));
        assert_eq!(sums.predictions.accurate, accurate);
        assert_eq!(sums.predictions.cost_predicted, Usd(0.5));
    }

    #[test]
    fn a_prediction_within_ten_percent_of_what_happened_is_accurate() {
        check(1090, 0, 1);
        check(1000, 90, 1);
        check(990, 100, 0);
        check(1211, 121, 1);
        check(1212, 122, 0);
    }

    #[test]
    fn every_reason_has_its_place() {
        let mut sums = Fleetwide::default();
        for kind in FailureKind::ALL {
            sums.end(&Completion { ending: Ending::Failed(kind), ..finished(1) }, None);
        }
        for reason in REFUSE_REASONS {
            let ending = Ending::Refused { reason, retry_after: None };
            sums.end(&Completion { ending, ..finished(1) }, None);
        }
        for reason in EXPIRE_REASONS {
            sums.end(&Completion { ending: Ending::Expired(reason), ..finished(1) }, None);
        }
        assert_eq!(
            (sums.failures, sums.refusals, sums.expiries),
            ([1; FailureKind::ALL.len()], [1; 5], [1; 2])
        );
    }
}
