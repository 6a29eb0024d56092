//! Why a request ran where it ran: the last decisions, kept as they were made.

use std::sync::Arc;

use sagellm_types::{
    CandidateSet, Estimate, Forecast, InstanceId, ModelId, RequestId, RequestPriority, Timestamp,
};

/// How many of the instances that lost are kept.
const OTHERS: usize = 8;

/// An instance that was considered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Considered {
    /// The instance.
    pub instance: InstanceId,
    /// Its reserved share at the decision.
    pub load: f64,
    /// What the request was predicted to see there, if the policy asked.
    pub estimate: Option<Estimate>,
}

/// How many instances were not offered to the router, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Excluded {
    /// Not ready, or without room for any request.
    pub closed: u32,
    /// Without room for this request, or the request has failed there.
    pub unfit: u32,
    /// Removed by the strategy.
    pub narrowed: u32,
    /// Not looked at: there were too many.
    pub unseen: u32,
}

/// A decision.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The request.
    pub request: RequestId,
    /// The client's name for it.
    pub label: Option<Arc<str>>,
    /// Its model.
    pub model: ModelId,
    /// How urgent it was.
    pub priority: RequestPriority,
    /// Which try: 0 is the first.
    pub attempt: u16,
    /// The strategy that ordered it.
    pub strategy: &'static str,
    /// The router that placed it.
    pub router: &'static str,
    /// When it arrived.
    pub arrival: Timestamp,
    /// When it was decided.
    pub decided: Timestamp,
    /// Requests that stayed behind in its pool.
    pub waiting: u32,
    /// What it was expected to need.
    pub forecast: Forecast,
    /// Where it went.
    pub winner: Considered,
    /// The best of the others, by predicted time to first token if known, else by load.
    pub others: Vec<Considered>,
    /// Those that were not offered.
    pub excluded: Excluded,
    /// How the request ended, once it has.
    pub ending: Option<&'static str>,
}

/// A decision with the names of what it speaks of.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The decision.
    pub decision: Explanation,
    /// Its model.
    pub model: String,
    /// The winner and then the others; `None` for those that have gone.
    pub instances: Vec<Option<String>>,
}

/// The last decisions, in a ring.
#[derive(Clone, Debug, Default)]
pub(super) struct Explanations {
    ring: Vec<Explanation>,
    keep: usize,
    kept: u64,
}

impl Explanations {
    pub(super) fn new(keep: usize) -> Self {
        Self { ring: Vec::with_capacity(keep.min(4_096)), keep, kept: 0 }
    }

    /// Returns whether decisions are kept.
    pub(super) fn wanted(&self) -> bool {
        self.keep > 0
    }

    /// Returns an emptied list for the instances that lost, the oldest decision's if the ring is
    /// full: no allocation in steady state.
    pub(super) fn spare(&mut self) -> Vec<Considered> {
        let oldest = (self.kept % self.keep as u64) as usize;
        let mut spare = match self.ring.get_mut(oldest) {
            Some(oldest) => std::mem::take(&mut oldest.others),
            None => Vec::with_capacity(OTHERS),
        };
        spare.clear();
        spare
    }

    /// Keeps a decision and returns its number.
    pub(super) fn keep(&mut self, explanation: Explanation) -> u64 {
        let place = (self.kept % self.keep as u64) as usize;
        if self.ring.len() < self.keep {
            self.ring.push(explanation);
        } else {
            self.ring[place] = explanation;
        }
        self.kept += 1;
        self.kept - 1
    }

    /// Notes how a request ended on its decision, if that is still kept.
    pub(super) fn ended(&mut self, number: u64, request: RequestId, ending: &'static str) {
        let place = (number % self.keep as u64) as usize;
        if let Some(decision) = self.ring.get_mut(place).filter(|d| d.request == request) {
            decision.ending = Some(ending);
        }
    }

    /// Returns the decisions on requests called `label`, the newest first.
    pub(super) fn find(&self, label: &str) -> Vec<Explanation> {
        let mut found: Vec<_> =
            self.ring.iter().filter(|e| e.label.as_deref() == Some(label)).cloned().collect();
        found.sort_by_key(|e| std::cmp::Reverse((e.decided, e.attempt)));
        found
    }

    /// Returns the last `count` decisions, the newest first.
    pub(super) fn last(&self, count: usize) -> Vec<Explanation> {
        let len = self.ring.len() as u64;
        (1..=len.min(count as u64))
            .map(|back| self.ring[((self.kept - back) % self.keep as u64) as usize].clone())
            .collect()
    }
}

/// Fills `out` with the best of those that lost. O(candidates).
pub(super) fn best_others(set: &CandidateSet<'_>, winner: InstanceId, out: &mut Vec<Considered>) {
    let mut best = [(f64::INFINITY, 0); OTHERS];
    let Some(choices) = set.offer() else { return };
    for (place, choice) in choices.iter().enumerate() {
        let key = match choice.known_estimate() {
            Some(estimate) => estimate.ttft.as_secs_f64(),
            None => choice.load.fraction(),
        };
        if key < best[OTHERS - 1].0 && choice.id != winner {
            let mut at = OTHERS - 1;
            while at > 0 && key < best[at - 1].0 {
                best[at] = best[at - 1];
                at -= 1;
            }
            best[at] = (key, place);
        }
    }
    out.extend(best.iter().take_while(|(key, _)| key.is_finite()).map(|&(_, place)| {
        let choice = choices.get(place);
        Considered {
            instance: choice.id,
            load: choice.load.fraction(),
            estimate: choice.known_estimate(),
        }
    }));
}
