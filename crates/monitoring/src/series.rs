//! Sums over requests: of one priority, of one model, of one class of a workload.

use std::time::Duration;

use sagellm_types::{Completion, Ending, Tokens, Usage, Usd};

use crate::{Sketch, window::Summary};

/// The five ways in which a request ends, without their reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndingKind {
    /// Answered in full.
    Finished,
    /// Answered with an error.
    Failed,
    /// Its client went away.
    Cancelled,
    /// It was not done in time.
    Expired,
    /// It was not taken.
    Refused,
}

impl EndingKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Finished, Self::Failed, Self::Cancelled, Self::Expired, Self::Refused];

    /// Returns the kind of `ending`.
    pub const fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Finished => Self::Finished,
            Ending::Failed(_) => Self::Failed,
            Ending::Cancelled => Self::Cancelled,
            Ending::Expired(_) => Self::Expired,
            Ending::Refused { .. } => Self::Refused,
        }
    }

    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

/// Sums over the requests of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Requests submitted.
    pub submitted: u64,
    /// Requests ended, by [`EndingKind`].
    pub endings: [u64; EndingKind::ALL.len()],
    /// Requests with an objective that met it.
    pub met: u64,
    /// Requests with an objective that missed it: late, failed, refused or expired.
    pub missed: u64,
    /// Requests answered in full that missed no objective: the goodput.
    pub good: u64,
    /// Tokens, as reported or counted.
    pub usage: Usage,
    /// Attributed cost.
    pub cost: Usd,
    /// Time from arrival to the first dispatch.
    pub wait: Sketch,
    /// Time from arrival to the first token.
    pub ttft: Sketch,
    /// Mean time per output token after the first, of requests answered in full.
    pub tpot: Sketch,
    /// Time from arrival to the last token, of requests answered in full.
    pub e2e: Sketch,
}

impl Series {
    /// Returns how many requests ended so.
    pub fn ending(&self, kind: EndingKind) -> u64 {
        self.endings[kind as usize]
    }

    /// Returns how many requests ended.
    pub fn ended(&self) -> u64 {
        self.endings.iter().sum()
    }

    /// Returns the share of requests with an objective that met it; `None` without such requests.
    pub fn attainment(&self) -> Option<f64> {
        let judged = self.met + self.missed;
        (judged > 0).then(|| self.met as f64 / judged as f64)
    }

    /// Adds a request that has ended. Wait and time to first token are added when they happen.
    pub fn end(&mut self, completion: &Completion) {
        let kind = EndingKind::of(&completion.ending);
        let on_time = completion.on_time();
        self.endings[kind as usize] += 1;
        self.met += u64::from(on_time == Some(true));
        self.missed += u64::from(on_time == Some(false));
        self.usage = add(self.usage, completion.usage);
        self.cost += completion.cost;
        if kind == EndingKind::Finished {
            self.good += u64::from(on_time != Some(false));
            self.e2e.record(completion.e2e());
            if let Some(tpot) = completion.tpot() {
                self.tpot.record(tpot);
            }
        }
    }
}

impl Summary for Series {
    fn merge(&mut self, other: &Self) {
        self.submitted += other.submitted;
        for (to, from) in self.endings.iter_mut().zip(other.endings) {
            *to += from;
        }
        self.met += other.met;
        self.missed += other.missed;
        self.good += other.good;
        self.usage = add(self.usage, other.usage);
        self.cost += other.cost;
        self.wait.merge(&other.wait);
        self.ttft.merge(&other.ttft);
        self.tpot.merge(&other.tpot);
        self.e2e.merge(&other.e2e);
    }

    fn clear(&mut self) {
        let Self { mut wait, mut ttft, mut tpot, mut e2e, .. } = std::mem::take(self);
        for sketch in [&mut wait, &mut ttft, &mut tpot, &mut e2e] {
            sketch.clear();
        }
        *self = Self { wait, ttft, tpot, e2e, ..Self::default() };
    }
}

/// Returns a duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns `amount` per second, or 0 if no time has passed.
pub(crate) fn per_second(amount: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { amount / time.as_secs_f64() }
}

fn add(a: Usage, b: Usage) -> Usage {
    let sum = |a: Tokens, b: Tokens| a + b;
    Usage {
        prompt: sum(a.prompt, b.prompt),
        output: sum(a.output, b.output),
        cached: sum(a.cached, b.cached),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::{FailureKind, Objectives, Request, Timestamp};

    fn completion(ending: Ending, limit: Option<u64>) -> Completion {
        let e2e = limit.map(Duration::from_millis);
        Completion {
            request: Request {
                objectives: Objectives { e2e, ..Objectives::NONE },
                ..Request::example(0)
            },
            ending,
            dispatched: None,
            first_token: Some(Timestamp::from_millis(100)),
            ended: Timestamp::from_millis(500),
            usage: Usage { prompt: Tokens(7), output: Tokens(5), cached: Tokens(2) },
            cost: Usd(0.5),
        }
    }

    #[test]
    fn goodput_counts_what_finished_and_missed_nothing() {
        let mut series = Series::default();
        series.end(&completion(Ending::Finished, Some(500)));
        series.end(&completion(Ending::Finished, Some(499)));
        series.end(&completion(Ending::Finished, None));
        series.end(&completion(Ending::Failed(FailureKind::Reset), Some(900)));
        series.end(&completion(Ending::Failed(FailureKind::Reset), None));
        series.end(&completion(Ending::Cancelled, Some(900)));
        assert_eq!((series.good, series.met, series.missed), (2, 1, 2));
        assert_eq!(series.attainment(), Some(1.0 / 3.0));
        assert_eq!(series.ended(), 6);
        assert_eq!(series.ending(EndingKind::Failed), 2);
        assert_eq!(series.usage.output, Tokens(30));
        assert_eq!(series.tpot.quantile(0.5), Some(Duration::from_millis(100)));
        assert_eq!(series.e2e.count(), 3, "failures would flatter or spoil the latency");
    }

    #[test]
    fn merging_and_clearing_leave_nothing_out() {
        let mut one = Series { submitted: 3, ..Series::default() };
        one.end(&completion(Ending::Finished, Some(500)));
        one.ttft.record_ns(5);
        one.wait.record_ns(6);
        let mut two = Series::default();
        two.merge(&one);
        assert_eq!(two, one);
        two.clear();
        assert_eq!(two, Series::default());
    }
}
