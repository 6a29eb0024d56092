//! What placing a request on an instance risks: its own promises, and those of whoever runs there.
//!
//! A strain is a share of a limit that is predicted to be used up, at the upper end of the known
//! error: 1 is the limit. A prompt that an instance has to compute holds up everybody there, so
//! a placement is measured by the most endangered promise, whoever's it is. Placing by that keeps
//! long prompts away from those who asked for short gaps, without a list of who goes where.

use std::time::Duration;

use sagellm_types::{Choice, Request, Timestamp};

/// The strain of a placement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Strain {
    /// On what the request asks for.
    pub(crate) own: f64,
    /// On what those ask for that run on the instance.
    pub(crate) others: f64,
    /// Requests that are predicted to suffer by it: itself, and all that run there (of whom only the
    /// strictest promise is known) unless that is broken already.
    pub(crate) broken: u32,
}

impl Strain {
    /// Returns the strain on the most endangered promise.
    pub(crate) fn most(&self) -> f64 {
        self.own.max(self.others)
    }
}

/// What a request asks for, made ready to be compared with every candidate: 1 / limit in seconds, 0
/// where it asks for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promises {
    any: bool,
    ttft: f64,
    tpot: f64,
    e2e: f64,
    /// Seconds that it has waited.
    waited: f64,
    /// Tokens after the first.
    gaps: f64,
}

/// Returns 1 / limit in seconds, or 0.
fn inverse(limit: Option<Duration>) -> f64 {
    limit.map_or(0.0, |limit| 1.0 / limit.as_secs_f64().max(1e-9))
}

impl Promises {
    /// Returns what `request` asks for at `now`.
    pub(crate) fn of(request: &Request, now: Timestamp) -> Self {
        let asked = &request.objectives;
        Self {
            any: asked.any(),
            ttft: inverse(asked.ttft),
            tpot: inverse(asked.tpot),
            e2e: inverse(asked.e2e),
            waited: now.since(request.arrival).as_secs_f64(),
            gaps: (request.forecast.output.as_f64() - 1.0).max(0.0),
        }
    }

    /// Returns the strain of placing the request on `choice`.
    pub(crate) fn strain(&self, choice: &Choice<'_>) -> Strain {
        let strictest = choice.load.strictest_tpot;
        if strictest.is_none() && !self.any {
            return Strain { own: 0.0, others: 0.0, broken: 0 };
        }
        let estimate = choice.estimate();
        let upper = 1.0 + estimate.spread.clamp(0.0, 10.0);
        let (ttft, tpot) =
            (estimate.ttft.as_secs_f64() * upper, estimate.tpot.as_secs_f64() * upper);
        let first = self.waited + ttft;
        let own =
            (first * self.ttft).max(tpot * self.tpot).max((first + tpot * self.gaps) * self.e2e);
        let strictest = inverse(strictest);
        let others = estimate.others_tpot.as_secs_f64() * upper * strictest;
        let breaks = others > 1.0 && tpot * strictest <= 1.0;
        let there = if breaks { choice.load.sequences } else { 0 };
        Strain { own, others, broken: there + u32::from(own > 1.0) }
    }
}
