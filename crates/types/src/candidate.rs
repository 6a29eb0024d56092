//! What a policy chooses from: instances that may take a request, with their load and, on demand,
//! an estimate of what the request would see there.
//!
//! Estimates are asked for, not attached: a policy that compares none computes none.

use std::cell::Cell;
use std::time::Duration;

use serde::Serialize;

use crate::{Distance, InstanceId, Places, Request, Rng, Timestamp, Tokens, Usd};

/// The most instances that a policy is shown at once.
pub const MAX_CANDIDATES: usize = 128;

/// The load of an instance as the control plane sees it: its own charges and foreign load together.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Load {
    /// Requests reserved.
    pub sequences: u32,
    /// KV tokens reserved.
    pub tokens: Tokens,
    /// Requests that it takes at once: its dispatch window.
    pub window: u32,
    /// KV tokens that may be reserved.
    pub capacity: Tokens,
    /// Prompt tokens of requests that have no first token yet.
    pub prefilling: Tokens,
    /// Prompt tokens that it was given of late.
    pub prefilled: Recent,
    /// The least time per output token that a request there asks for.
    pub strictest_tpot: Option<Duration>,
    /// Recent mean time from dispatch to end; zero if unknown.
    pub latency: Duration,
    /// Share of traffic that its operator wants, relative to the others.
    pub weight: f64,
}

/// An amount that comes in pieces, each of which counts less the longer ago it came.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Recent {
    amount: f64,
    at: Timestamp,
}

impl Recent {
    /// What came so long ago counts about a third.
    pub const MEMORY: Duration = Duration::from_secs(10);

    /// Returns the amount with `more` that comes at `now`.
    pub fn add(self, more: f64, now: Timestamp) -> Self {
        Self { amount: self.left(now) + more, at: self.at.max(now) }
    }

    /// Returns what is left of the amount at `now`: e^(−x) after x times the memory, by the first
    /// terms of its series.
    fn left(&self, now: Timestamp) -> f64 {
        let x = now.since(self.at).as_secs_f64() / Self::MEMORY.as_secs_f64();
        self.amount / (1.0 + x * (1.0 + 0.5 * x))
    }

    /// Returns how much comes per second at `now`.
    pub fn per_second(&self, now: Timestamp) -> f64 {
        Self::rate(self.left(now))
    }

    /// Returns by how much `more`, if it comes now, raises what comes per second.
    pub fn rate(more: f64) -> f64 {
        more / Self::MEMORY.as_secs_f64()
    }
}

impl Load {
    /// Returns the reserved share of the instance: the larger of sequences and KV tokens.
    pub fn fraction(&self) -> f64 {
        let sequences = f64::from(self.sequences) / f64::from(self.window.max(1));
        let tokens = self.tokens.as_f64() / self.capacity.as_f64().max(1.0);
        sequences.max(tokens)
    }

    /// Returns whether a request of `need` KV tokens fits. An idle instance takes any one request:
    /// one that is larger than the whole cache is the engine's to refuse.
    pub fn fits(&self, need: Tokens) -> bool {
        self.sequences < self.window && (self.sequences == 0 || self.tokens + need <= self.capacity)
    }
}

/// What a request would see on an instance, as predicted.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize)]
pub struct Estimate {
    /// Time from dispatch to the first token.
    pub ttft: Duration,
    /// Time per output token.
    pub tpot: Duration,
    /// Time per output token of those that run there already, once its prompt is among what the
    /// instance computes.
    pub others_tpot: Duration,
    /// Attributed cost.
    pub cost: Usd,
    /// Relative error learnt from residuals: 0.2 means ± 20 % at one standard deviation.
    pub spread: f64,
}

impl Estimate {
    /// Returns `duration` at the upper end of the error.
    pub fn upper(&self, duration: Duration) -> Duration {
        duration.mul_f64(1.0 + self.spread.clamp(0.0, 10.0))
    }

    /// Returns the time from dispatch to the last of `output` tokens.
    pub fn service(&self, output: Tokens) -> Duration {
        let gaps = u32::try_from(output.0.saturating_sub(1)).unwrap_or(u32::MAX);
        self.ttft.saturating_add(self.tpot.saturating_mul(gaps))
    }
}

/// Predicts what a request would see on an instance.
pub trait Estimator {
    /// Returns the prediction for `request` if it were dispatched to `instance` at `now`.
    fn estimate(
        &self,
        request: &Request,
        instance: InstanceId,
        load: &Load,
        now: Timestamp,
    ) -> Estimate;
}

/// Predicts nothing, for policies and tests that compare no estimates.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEstimates;

impl Estimator for NoEstimates {
    fn estimate(&self, _: &Request, _: InstanceId, _: &Load, _: Timestamp) -> Estimate {
        Estimate::default()
    }
}

/// An instance that may take a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The instance.
    pub id: InstanceId,
    /// A stable hash of its name: the same in every process, for hashing onto instances.
    pub key: u64,
    /// Its load.
    pub load: Load,
    /// Prompt tokens that its prefix cache already holds; zero until KV events tell.
    pub cached_prefix: Tokens,
}

/// Keeps the estimates of one decision, so that each is computed at most once.
#[derive(Debug, Default)]
pub struct EstimateCache {
    slots: Vec<Cell<(u32, Estimate)>>,
    stamp: u32,
}

impl EstimateCache {
    /// Forgets all estimates and makes room for those of `len` candidates. Cost: O(1) amortised.
    fn begin(&mut self, len: usize) {
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.slots.clear();
            self.stamp = 1;
        }
        if self.slots.len() < len {
            self.slots.resize(len, Cell::new((0, Estimate::default())));
        }
    }
}

/// Where instances are when nobody has told.
static UNKNOWN_PLACES: Places = Places::new();

/// The facts of one decision that stay the same while it narrows.
#[derive(Clone, Copy)]
struct Decision<'a> {
    all: &'a [Candidate],
    /// Places in `all` of those that are looked at.
    shown: &'a [u32],
    request: &'a Request,
    now: Timestamp,
    estimator: &'a dyn Estimator,
    cache: &'a EstimateCache,
    places: &'a Places,
}

impl<'a> Decision<'a> {
    fn candidate(&self, place: usize) -> &'a Candidate {
        &self.all[self.shown[place] as usize]
    }

    fn estimate(&self, place: usize) -> Estimate {
        let slot = &self.cache.slots[place];
        let (stamp, kept) = slot.get();
        if stamp == self.cache.stamp {
            return kept;
        }
        let candidate = self.candidate(place);
        let estimate =
            self.estimator.estimate(self.request, candidate.id, &candidate.load, self.now);
        slot.set((self.cache.stamp, estimate));
        estimate
    }

    fn known(&self, place: usize) -> Option<Estimate> {
        let (stamp, kept) = self.cache.slots[place].get();
        (stamp == self.cache.stamp).then_some(kept)
    }
}

/// The instances that may take a request, for a strategy to narrow. May become empty.
pub struct CandidateSet<'a> {
    decision: Decision<'a>,
    places: [u8; MAX_CANDIDATES],
    len: usize,
}

impl<'a> CandidateSet<'a> {
    /// Returns the set of those of `all` for which `keep` holds.
    ///
    /// # Panics
    /// If `all` is longer than [`MAX_CANDIDATES`].
    pub fn new(
        all: &'a [Candidate],
        request: &'a Request,
        now: Timestamp,
        estimator: &'a dyn Estimator,
        cache: &'a mut EstimateCache,
        keep: impl FnMut(&Candidate) -> bool,
    ) -> Self {
        static EACH: [u32; MAX_CANDIDATES] = {
            let (mut each, mut place) = ([0; MAX_CANDIDATES], 0);
            while place < MAX_CANDIDATES {
                each[place] = place as u32;
                place += 1;
            }
            each
        };
        assert!(all.len() <= MAX_CANDIDATES, "a decision looks at no more than {MAX_CANDIDATES}");
        Self::among(all, &EACH[..all.len()], request, now, estimator, cache, keep)
    }

    /// Returns the set of those of `all` at the places `shown` for which `keep` holds, in the order of
    /// `shown`.
    ///
    /// # Panics
    /// If `shown` is longer than [`MAX_CANDIDATES`] or names a place that is not there.
    pub fn among(
        all: &'a [Candidate],
        shown: &'a [u32],
        request: &'a Request,
        now: Timestamp,
        estimator: &'a dyn Estimator,
        cache: &'a mut EstimateCache,
        mut keep: impl FnMut(&Candidate) -> bool,
    ) -> Self {
        assert!(shown.len() <= MAX_CANDIDATES, "a decision looks at no more than {MAX_CANDIDATES}");
        cache.begin(shown.len());
        let mut places = [0; MAX_CANDIDATES];
        let mut len = 0;
        for (place, &at) in shown.iter().enumerate() {
            places[len] = place as u8;
            len += usize::from(keep(&all[at as usize]));
        }
        let decision =
            Decision { all, shown, request, now, estimator, cache, places: &UNKNOWN_PLACES };
        Self { decision, places, len }
    }

    /// Returns the set, which knows from now on where the instances are. Without it all are far from
    /// each other.
    pub fn with_places(mut self, places: &'a Places) -> Self {
        self.decision.places = places;
        self
    }

    /// Returns how many are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Iterates over those left, in the fleet's order.
    pub fn iter(&self) -> impl Iterator<Item = Choice<'_>> {
        self.places[..self.len].iter().map(|&place| Choice { decision: self.decision, place })
    }

    /// Keeps those for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&Choice<'_>) -> bool) {
        let mut kept = 0;
        for i in 0..self.len {
            let place = self.places[i];
            self.places[kept] = place;
            kept += usize::from(keep(&Choice { decision: self.decision, place }));
        }
        self.len = kept;
    }

    /// Returns the candidates for a router, or `None` if none is left.
    pub fn offer(&self) -> Option<Candidates<'_>> {
        (self.len > 0)
            .then(|| Candidates { decision: self.decision, places: &self.places[..self.len] })
    }
}

/// The instances that may take a request, for a router to pick from. Never empty.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    decision: Decision<'a>,
    places: &'a [u8],
}

impl<'a> Candidates<'a> {
    /// Returns how many there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Iterates over them, in the fleet's order.
    pub fn iter(&self) -> impl Iterator<Item = Choice<'a>> + use<'a> {
        let decision = self.decision;
        self.places.iter().map(move |&place| Choice { decision, place })
    }

    /// Returns the one at `index`.
    ///
    /// # Panics
    /// If `index` is not below `len()`.
    pub fn get(&self, index: usize) -> Choice<'a> {
        Choice { decision: self.decision, place: self.places[index] }
    }

    /// Returns the candidate of `instance`, if it is among them.
    pub fn find(&self, instance: InstanceId) -> Option<Choice<'a>> {
        self.iter().find(|choice| choice.id == instance)
    }

    /// Returns how far two instances are from each other, whether or not they are among the
    /// candidates.
    pub fn distance(&self, a: InstanceId, b: InstanceId) -> Distance {
        self.decision.places.distance(a, b)
    }

    /// Returns the one with the least `key`; the first of equals.
    pub fn least_by<K: PartialOrd>(&self, mut key: impl FnMut(&Choice<'a>) -> K) -> Choice<'a> {
        let mut best = self.get(0);
        let mut best_key = key(&best);
        for choice in self.iter().skip(1) {
            let k = key(&choice);
            if k < best_key {
                (best, best_key) = (choice, k);
            }
        }
        best
    }

    /// Returns two different candidates drawn at random, or the only one twice.
    pub fn draw_two(&self, rng: &mut Rng) -> (Choice<'a>, Choice<'a>) {
        let len = self.len();
        if len == 1 {
            return (self.get(0), self.get(0));
        }
        let first = rng.below(len);
        let second = rng.below(len - 1);
        (self.get(first), self.get(if second >= first { second + 1 } else { second }))
    }
}

/// One candidate within a decision; dereferences to [`Candidate`].
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    decision: Decision<'a>,
    place: u8,
}

impl Choice<'_> {
    /// Returns what the request would see there; computed at the first call and kept.
    pub fn estimate(&self) -> Estimate {
        self.decision.estimate(usize::from(self.place))
    }

    /// Returns the estimate if somebody has asked for it in this decision.
    pub fn known_estimate(&self) -> Option<Estimate> {
        self.decision.known(usize::from(self.place))
    }
}

impl std::ops::Deref for Choice<'_> {
    type Target = Candidate;
    fn deref(&self) -> &Candidate {
        self.decision.candidate(usize::from(self.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    struct Counting(Cell<u32>);
    impl Estimator for Counting {
        fn estimate(&self, _: &Request, id: InstanceId, _: &Load, _: Timestamp) -> Estimate {
            self.0.set(self.0.get() + 1);
            Estimate { ttft: Duration::from_millis(id.index() as u64), ..Estimate::default() }
        }
    }

    fn candidates(n: u32) -> Vec<Candidate> {
        let load = Load { window: 4, capacity: Tokens(1000), ..Load::default() };
        (0..n)
            .map(|i| Candidate {
                id: InstanceId::new(i, 0),
                key: u64::from(i),
                load,
                cached_prefix: Tokens::ZERO,
            })
            .collect()
    }

    #[test]
    fn an_estimate_is_computed_once_and_only_if_asked_for() {
        let (all, request, mut cache) =
            (candidates(4), Request::example(0), EstimateCache::default());
        let estimator = Counting(Cell::new(0));
        let mut set =
            CandidateSet::new(&all, &request, Timestamp::ZERO, &estimator, &mut cache, |_| true);
        assert_eq!(estimator.0.get(), 0);
        set.retain(|c| c.estimate().ttft >= Duration::from_millis(2));
        let offered = set.offer().expect("two are left");
        assert_eq!(offered.least_by(|c| c.estimate().ttft).id, InstanceId::new(2, 0));
        assert_eq!(estimator.0.get(), 4);
        CandidateSet::new(&all, &request, Timestamp::ZERO, &estimator, &mut cache, |_| true)
            .retain(|c| c.estimate().ttft.is_zero());
        assert_eq!(estimator.0.get(), 8, "a new decision asks again");
    }

    #[test]
    fn two_draws_differ_when_there_are_two() {
        let (all, request, mut cache) =
            (candidates(2), Request::example(0), EstimateCache::default());
        let set =
            CandidateSet::new(&all, &request, Timestamp::ZERO, &NoEstimates, &mut cache, |_| true);
        let mut rng = Seed(1).stream("test");
        for _ in 0..20 {
            let (a, b) = set.offer().expect("two").draw_two(&mut rng);
            assert_ne!(a.id, b.id);
        }
    }

    #[test]
    fn an_idle_instance_takes_one_request_of_any_size() {
        let mut load = candidates(1)[0].load;
        assert!(load.fits(Tokens(5000)));
        (load.sequences, load.tokens) = (1, Tokens(900));
        assert!(load.fits(Tokens(100)) && !load.fits(Tokens(101)));
        load.sequences = 4;
        assert!(!load.fits(Tokens(0)));
    }
}
