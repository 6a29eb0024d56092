//! From waiting to running: which pool, which request, which instance.

use std::time::Duration;

use sagellm_fleet::Need;
use sagellm_strategies::Narrowing;
use sagellm_strategies::queue::{Head, PoolId};
use sagellm_types::planted::{self, Bug};
use sagellm_types::{
    Attempt, Candidate, CandidateSet, EngineState, Estimate, EstimateCache, Estimator, InstanceId,
    Load, MAX_CANDIDATES, RequestId, Rng, Seed, Timestamp,
};

use super::explain::best_others;
use super::requests::{Live, Try};
use super::timers::Timer;
use super::{Command, Considered, ControlPlane, Dispatch, Excluded, Explanation};

/// Memory that decisions use again and again.
#[derive(Debug)]
pub(super) struct Scratch {
    estimates: EstimateCache,
    shown: Shown,
    favourites: Vec<InstanceId>,
    least: Vec<usize>,
    followers: Vec<RequestId>,
    contenders: Vec<PoolId>,
    rng: Rng,
}

impl Scratch {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            estimates: EstimateCache::default(),
            shown: Shown::default(),
            favourites: Vec::new(),
            least: Vec::new(),
            followers: Vec::new(),
            contenders: Vec::new(),
            rng: seed.stream("candidates"),
        }
    }
}

/// What became of trying to place a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Placed,
    /// No instance has room for it.
    Unfit,
    /// The strategy wants it to wait.
    Waits,
}

/// Where a request goes, and what is expected there.
struct Placed {
    instance: InstanceId,
    /// The load that it meets.
    met: Load,
    /// What it is predicted to see, if somebody asked.
    estimate: Option<Estimate>,
    /// The time per token that it asks for, if that can be kept.
    promised: Option<Duration>,
}

impl ControlPlane {
    /// Dispatches a request that has just come into `pool`, if it is its turn.
    pub(super) fn dispatch_new(&mut self, pool: PoolId, id: RequestId, now: Timestamp) {
        if self.fleet.open(self.pools.roster(pool)).is_empty() {
            return;
        }
        // A pool that waits although instances are open has a head that fits nowhere: somebody new
        // matters only at the head or among its first followers.
        let few = self.queue.pool_len(pool) <= self.config.queue.backfill + 1;
        if few || self.head(pool, now).is_some_and(|head| head.request == id) {
            self.dispatch(pool, now);
        }
    }

    /// Dispatches from `pool` as long as somebody fits.
    pub(super) fn dispatch(&mut self, pool: PoolId, now: Timestamp) {
        while !self.fleet.open(self.pools.roster(pool)).is_empty() && self.step(pool, now) {}
    }

    /// Dispatches what may run now that `instance` has more room: the pools which it serves
    /// compete by the rank of their heads.
    pub(super) fn after_release(&mut self, instance: InstanceId, now: Timestamp) {
        if let Some(transition) = self.fleet.drained(instance) {
            return self.transition(instance, transition, "drained", now);
        }
        if let Some(holder) = self.fleet.get(instance).and_then(|found| found.hold)
            && !self.try_held(instance, holder, now)
        {
            return;
        }
        let mut contenders = std::mem::take(&mut self.scratch.contenders);
        contenders.clear();
        let rosters = self.fleet.rosters_of(instance).iter();
        contenders.extend(
            rosters.map(|roster| PoolId(roster.0)).filter(|&pool| self.queue.pool_len(pool) > 0),
        );
        while !contenders.is_empty() {
            let best = if contenders.len() == 1 { Some(0) } else { self.best(&contenders, now) };
            let Some(best) = best else { break };
            let pool = contenders[best];
            let open = !self.fleet.open(self.pools.roster(pool)).is_empty();
            if !(open && self.step(pool, now)) || self.queue.pool_len(pool) == 0 {
                contenders.swap_remove(best);
            }
        }
        self.scratch.contenders = contenders;
    }

    /// Returns the place of the pool whose head goes first.
    fn best(&mut self, contenders: &[PoolId], now: Timestamp) -> Option<usize> {
        let heads = contenders.iter().enumerate().filter_map(|(place, &pool)| {
            let head = self.head(pool, now)?;
            Some((head.rank, head.sequence, place))
        });
        heads.min().map(|(_, _, place)| place)
    }

    fn head(&mut self, pool: PoolId, now: Timestamp) -> Option<Head> {
        let (strategy, requests) = (&self.strategy, &self.requests);
        self.queue.head(pool, now, |id| {
            let live = requests.get(id).expect("a waiting request is live");
            strategy.urgency(&live.request, now)
        })
    }

    /// Dispatches one request of `pool`: its head, else one of the few behind it. Returns whether
    /// somebody was placed.
    fn step(&mut self, pool: PoolId, now: Timestamp) -> bool {
        let Some(head) = self.head(pool, now) else { return false };
        match self.try_place(head.request, now) {
            Tried::Placed => return true,
            Tried::Unfit if self.stuck(head.request, now) => return true,
            Tried::Unfit | Tried::Waits => {}
        }
        let mut followers = std::mem::take(&mut self.scratch.followers);
        followers.clear();
        self.queue.followers(pool, self.config.queue.backfill, &mut followers);
        let placed = followers.iter().any(|&id| self.try_place(id, now) == Tried::Placed);
        self.scratch.followers = followers;
        placed
    }

    /// Notes that the head of a pool fits nowhere; when it has been passed long enough, keeps the
    /// instance free for it that lacks the least. Returns whether that has placed it: of very many
    /// instances, one with room may not have been among those shown.
    fn stuck(&mut self, id: RequestId, now: Timestamp) -> bool {
        let Some(live) = self.requests.get_mut(id) else { return false };
        if live.hold.is_some() {
            return false;
        }
        let since = *live.stuck_since.get_or_insert(now);
        let mut patience = Duration::from_millis(self.config.queue.patience_ms);
        if let Some(deadline) = live.request.deadline() {
            let slack = deadline.since(live.request.arrival + live.request.forecast.service);
            patience = patience.min(slack / 2);
        }
        if now.since(since) < patience {
            return false;
        }
        let (need, pool) = (live.request.forecast.total(), live.pool);
        let Some(live) = self.requests.get(id) else { return false };
        let avoided = self.avoided(live);
        let lacks = |&instance: &InstanceId| {
            let found = self.fleet.get(instance)?;
            let free = found.hold.is_none() && found.state == EngineState::Ready;
            let load = found.load();
            (free && !avoided.contains(&instance))
                .then(|| ((load.tokens + need).saturating_sub(load.capacity), instance))
        };
        let members = self.fleet.members(self.pools.roster(pool));
        let Some((_, instance)) = members.iter().filter_map(lacks).min() else { return false };
        self.fleet.hold(instance, id);
        if let Some(live) = self.requests.get_mut(id) {
            live.hold = Some(instance);
        }
        self.try_held(instance, id, now)
    }

    /// Gives an instance that was kept free to its holder, if it fits by now. Returns whether the
    /// instance is free for others again.
    fn try_held(&mut self, instance: InstanceId, holder: RequestId, now: Timestamp) -> bool {
        let Some(live) = self.requests.get(holder) else {
            self.fleet.unhold(instance);
            return true;
        };
        let need = live.request.forecast.total();
        if !self.fleet.get(instance).is_some_and(|found| found.load().fits(need)) {
            return false;
        }
        self.fleet.unhold(instance);
        let placed = self.try_place(holder, now) == Tried::Placed;
        if !placed {
            self.fleet.hold(instance, holder);
        }
        placed
    }

    /// Ends the hold of a request that has gone elsewhere or ended.
    pub(super) fn end_hold(&mut self, hold: Option<InstanceId>, now: Timestamp) {
        if let Some(instance) = hold.filter(|_| !planted::is(Bug::HoldKept)) {
            self.fleet.unhold(instance);
            self.after_release(instance, now);
        }
    }

    /// Returns whether another instance of a pool might run what has failed on these.
    pub(super) fn elsewhere(
        &self,
        pool: PoolId,
        failed_on: &[InstanceId],
        last: InstanceId,
    ) -> bool {
        self.fleet.members(self.pools.roster(pool)).iter().any(|&id| {
            id != last
                && !failed_on.contains(&id)
                && self.fleet.get(id).is_some_and(|found| found.state == EngineState::Ready)
        })
    }

    /// Returns where a request has failed, to be avoided as long as it can run elsewhere.
    fn avoided<'a>(&self, live: &'a Live) -> &'a [InstanceId] {
        match live.failed_on.last() {
            Some(&last) if self.elsewhere(live.pool, &live.failed_on, last) => &live.failed_on,
            _ => &[],
        }
    }

    /// Places a waiting request if an instance takes it.
    fn try_place(&mut self, id: RequestId, now: Timestamp) -> Tried {
        let Some(live) = self.requests.get(id) else { return Tried::Unfit };
        let (request, pool) = (&live.request, live.pool);
        let need = request.forecast.total();
        let roster = self.pools.roster(pool);
        let avoided = self.avoided(live);
        let (open, located) = (self.fleet.open(roster), self.fleet.places());
        let Scratch { shown, favourites, least, rng, estimates, .. } = &mut self.scratch;
        let fits = |c: &Candidate| c.load.fits(need) && !avoided.contains(&c.id);
        let (predictor, all) = (&self.predictor, open.len());
        let (set, seen) = if all <= MAX_CANDIDATES {
            (CandidateSet::new(open, request, now, predictor, estimates, fits), all)
        } else {
            favourites.clear();
            favourites.extend(request.preferred);
            self.router.favourites(request, open, located, favourites);
            least.clear();
            self.fleet.least_loaded(roster, LEAST_LOADED, least);
            shown.fill(open, favourites, least, rng);
            let places = shown.places.as_slice();
            let set = CandidateSet::among(open, places, request, now, predictor, estimates, fits);
            (set, places.len())
        };
        let mut set = set.with_places(located);
        let fitting = set.len();
        if fitting == 0 {
            return Tried::Unfit;
        }
        if request.preferred.is_some_and(|wanted| set.iter().any(|c| c.id == wanted)) {
            set.retain(|c| Some(c.id) == request.preferred);
        } else if let Narrowing::WaitUntil(at) = self.strategy.narrow(request, &mut set, now) {
            let at = at.max(now + Duration::from_millis(1));
            let wake = &mut self.pools.get_mut(pool).wake;
            // Every event asks again; one timer is enough.
            if wake.is_none_or(|set| at < set) {
                *wake = Some(at);
                self.timers.set(at, Timer::Wake(pool));
            }
            return Tried::Waits;
        }
        let Some(candidates) = set.offer() else { return Tried::Waits };
        let picked = self.router.pick(request, candidates, now);
        let choice = candidates.find(picked).unwrap_or_else(|| candidates.get(0));
        let (instance, load) = (choice.id, choice.load);
        // What could not be kept there even alone is no promise: nobody shall give way for it.
        let promised = request.objectives.tpot.filter(|&limit| {
            let alone = || self.predictor.estimate(request, instance, &Load::default(), now);
            choice.estimate().tpot <= limit || alone().tpot <= limit
        });
        let estimate = choice.known_estimate();
        let explained = self.explanations.wanted().then(|| {
            let mut others = self.explanations.spare();
            best_others(&set, instance, &mut others);
            let excluded = Excluded {
                closed: (self.fleet.members(roster).len() - all) as u32,
                unfit: (seen - fitting) as u32,
                narrowed: (fitting - set.len()) as u32,
                unseen: (all - seen) as u32,
            };
            self.explanations.keep(Explanation {
                request: id,
                label: live.label.clone(),
                model: request.model,
                priority: request.priority,
                attempt: live.tries,
                strategy: self.strategy.acting_as(),
                router: self.router.name(),
                arrival: request.arrival,
                decided: now,
                waiting: self.queue.pool_len(pool) as u32 - 1,
                forecast: request.forecast,
                winner: Considered { instance, load: load.fraction(), estimate },
                others,
                excluded,
                ending: None,
            })
        });
        self.start(id, Placed { instance, met: load, estimate, promised }, explained, now);
        Tried::Placed
    }

    /// Reserves and dispatches.
    fn start(&mut self, id: RequestId, placed: Placed, explained: Option<u64>, now: Timestamp) {
        let Placed { instance, met, estimate, promised } = placed;
        let charged = self.queue.serve(id).expect("a request that is placed waits");
        self.timers.clear_deadline(id);
        self.monitor.queue_length(self.queue.len() as u64, now);
        let live = self.requests.get_mut(id).expect("a waiting request is live");
        let n = live.tries;
        let attempt = Attempt { request: id, n };
        let forecast = live.request.forecast;
        let need = Need { prompt: forecast.prompt, output: forecast.output, tpot: promised };
        let charge = self.fleet.reserve(attempt, instance, need, now);
        let hold = live.hold.take();
        live.tries += 1;
        live.charged = charged;
        live.stuck_since = None;
        live.explained = explained;
        live.running = Some(Try {
            n,
            instance,
            charge,
            dispatched: now,
            first_token: None,
            output: sagellm_types::Tokens(0),
            estimate,
            met,
        });
        self.monitor.dispatched(&live.request, n, instance, now);
        let pool = live.pool;
        self.measure_gap(pool, now);
        self.commands.push_back(Command::Dispatch(Dispatch { attempt, instance }));
        if hold.is_some_and(|held| held != instance) {
            self.end_hold(hold, now);
        }
    }

    /// Learns how fast a pool that waits is worked off.
    fn measure_gap(&mut self, pool: PoolId, now: Timestamp) {
        let waits = self.queue.pool_len(pool) > 0;
        let measured = self.pools.get_mut(pool);
        if let (Some(last), true) = (measured.last_dispatch, waits) {
            let gap = now.since(last);
            measured.gap = Some(measured.gap.map_or(gap, |mean| (mean * 19 + gap) / 20));
        }
        measured.last_dispatch = waits.then_some(now);
    }
}

/// Of too many instances, so many of the least loaded are shown.
const LEAST_LOADED: usize = 32;

/// Places in the list of open instances, each at most once. Cost of clearing: O(1).
#[derive(Debug, Default)]
struct Shown {
    places: Vec<u32>,
    /// By place: the turn in which it was last added.
    added: Vec<u32>,
    turn: u32,
}

impl Shown {
    /// Fills it with the router's favourites, the least loaded, and a run of the others that begins
    /// anywhere.
    fn fill(
        &mut self,
        open: &[Candidate],
        favourites: &[InstanceId],
        least: &[usize],
        rng: &mut Rng,
    ) {
        self.places.clear();
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 {
            self.added.clear();
            self.turn = 1;
        }
        if self.added.len() < open.len() {
            self.added.resize(open.len(), 0);
        }
        for id in favourites.iter().take(MAX_CANDIDATES / 2) {
            if let Some(place) = open.iter().position(|candidate| candidate.id == *id) {
                self.add(place);
            }
        }
        least.iter().for_each(|&place| self.add(place));
        let start = rng.below(open.len());
        for place in (start..open.len()).chain(0..start) {
            if self.places.len() == MAX_CANDIDATES {
                break;
            }
            self.add(place);
        }
    }

    fn add(&mut self, place: usize) {
        if self.added[place] != self.turn {
            self.added[place] = self.turn;
            self.places.push(place as u32);
        }
    }
}
