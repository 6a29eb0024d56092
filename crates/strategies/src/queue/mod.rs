//! Waiting requests in their order.
//!
//! Requests that the same set of instances could run form a *pool*; a pool holds *lanes*, one per
//! user when fairness is on, else one; a lane is a heap by the strategy's rank. Lanes are ordered
//! by the user's virtual token counter and the most urgent priority level present, a level being
//! worth a fixed number of tokens, so serving a user moves one lane and none of its requests. Push,
//! remove and pop are O(log n), whatever waits in other pools. A rank that has run out is asked for
//! again lazily, at the head only.

mod fairness;
mod heap;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{Request, RequestId, RequestPriority, Timestamp, UserId};

pub use fairness::FairnessConfig;
use fairness::{Debts, corrected};
pub use heap::{IndexedHeap, Places};

use crate::{Rank, Urgency};

/// A pool, by its place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub u32);

/// The request that goes next in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The request.
    pub request: RequestId,
    /// Its rank.
    pub rank: Rank,
    /// Its place among all submissions, for ties between pools.
    pub sequence: u64,
}

/// The order within a lane: by rank, then by submission, in one number since that compares fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u128);

impl Place {
    fn new(rank: Rank, submission: u64) -> Self {
        Self(u128::from(rank.bits()) << 64 | u128::from(submission))
    }

    fn rank(self) -> Rank {
        Rank::from_bits((self.0 >> 64) as u64)
    }

    fn submission(self) -> u64 {
        self.0 as u64
    }
}

/// (counter + what the most urgent level lacks, lane): the order of lanes within a pool.
type Turn = (u64, u32);

/// What the queue keeps of a waiting request.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: RequestId,
    pool: u32,
    lane: u32,
    level: u8,
    valid_until: Timestamp,
    weight: u64,
}

#[derive(Clone, Debug)]
struct Lane {
    user: Option<UserId>,
    counter: u64,
    levels: [u32; RequestPriority::ALL.len()],
    requests: IndexedHeap<Place>,
}

impl Lane {
    fn turn(&self, index: u32, level_weight: u64) -> Turn {
        let level = self.levels.iter().position(|&n| n > 0).unwrap_or(self.levels.len());
        (self.counter.saturating_add((level as u64).saturating_mul(level_weight)), index)
    }
}

#[derive(Clone, Debug, Default)]
struct Pool {
    /// What a level of priority is worth; without fairness there is one lane and no order of lanes.
    level_weight: Option<u64>,
    lanes: Vec<Lane>,
    free: Vec<u32>,
    by_user: IndexMap<Option<UserId>, u32, FxBuildHasher>,
    order: IndexedHeap<Turn>,
    order_places: Places,
    /// The same lanes by counter alone.
    counters: IndexedHeap<(u64, u32)>,
    counter_places: Places,
    debts: Debts,
    len: usize,
}

/// All waiting requests.
#[derive(Clone, Debug)]
pub struct Queue {
    fairness: Option<FairnessConfig>,
    pools: Vec<Pool>,
    waiting: Vec<Option<Waiting>>,
    places: Places,
    submissions: u64,
    len: usize,
}

impl Queue {
    /// Returns an empty queue, fair between users if `fairness` is given.
    pub fn new(fairness: Option<FairnessConfig>) -> Self {
        Self {
            fairness,
            pools: Vec::new(),
            waiting: Vec::new(),
            places: Places::default(),
            submissions: 0,
            len: 0,
        }
    }

    /// Adds an empty pool.
    pub fn add_pool(&mut self) -> PoolId {
        let level_weight = self.fairness.as_ref().map(|fairness| fairness.level_weight);
        self.pools.push(Pool { level_weight, ..Pool::default() });
        PoolId(self.pools.len() as u32 - 1)
    }

    /// Returns how many requests wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how many requests wait in `pool`.
    pub fn pool_len(&self, pool: PoolId) -> usize {
        self.pools[pool.0 as usize].len
    }

    /// Returns whether `request` waits.
    pub fn contains(&self, request: RequestId) -> bool {
        self.get(request).is_some()
    }

    /// Adds `request` to `pool`. O(log n).
    pub fn push(&mut self, pool: PoolId, request: &Request, urgency: Urgency) {
        let slot = request.id.index();
        debug_assert!(!self.contains(request.id), "a request waits once");
        self.submissions += 1;
        let weight = self.fairness.as_ref().map_or(0, |f| f.forecast(&request.forecast));
        let user = self.fairness.as_ref().and(request.user);
        let home = &mut self.pools[pool.0 as usize];
        let lane = home.lane_of(user);
        let level = request.priority.level();
        home.lanes[lane as usize].levels[level] += 1;
        home.lanes[lane as usize].requests.push(
            Place::new(urgency.rank, self.submissions),
            slot as u32,
            &mut self.places,
        );
        home.reorder(lane);
        home.len += 1;
        self.len += 1;
        if slot >= self.waiting.len() {
            self.waiting.resize(slot + 1, None);
        }
        self.waiting[slot] = Some(Waiting {
            id: request.id,
            pool: pool.0,
            lane,
            level: level as u8,
            valid_until: urgency.valid_until,
            weight,
        });
    }

    /// Takes `request` out without serving it; returns whether it waited. O(log n).
    pub fn remove(&mut self, request: RequestId) -> bool {
        self.take(request, 0).is_some()
    }

    /// Takes `request` out to be served and charges its user the forecast; returns what was
    /// charged, or `None` if it did not wait. O(log n).
    pub fn serve(&mut self, request: RequestId) -> Option<u64> {
        let weight = self.get(request)?.weight;
        self.take(request, weight).map(|_| weight)
    }

    /// Corrects what `user` was charged in `pool` once it is known what was used.
    pub fn settle(&mut self, pool: PoolId, user: Option<UserId>, charged: u64, used: u64) {
        if self.fairness.is_none() || charged == used {
            return;
        }
        let home = &mut self.pools[pool.0 as usize];
        match home.by_user.get(&user).copied() {
            Some(lane) => {
                let counter = &mut home.lanes[lane as usize].counter;
                *counter = corrected(*counter, charged, used);
                home.reorder(lane);
            }
            None => home.debts.correct(user, charged, used),
        }
    }

    /// Returns what fairness is measured in, if it is on.
    pub fn fairness(&self) -> Option<&FairnessConfig> {
        self.fairness.as_ref()
    }

    /// Returns the request that goes next in `pool`; `ask` gives a new urgency to one whose rank
    /// has run out. O(log n) for each of those, else O(1).
    pub fn head(
        &mut self,
        pool: PoolId,
        now: Timestamp,
        mut ask: impl FnMut(RequestId) -> Urgency,
    ) -> Option<Head> {
        let home = &mut self.pools[pool.0 as usize];
        let lane = home.first_lane()?;
        let requests = &mut home.lanes[lane as usize].requests;
        loop {
            let (place, slot) = requests.peek().expect("a lane in order is not empty");
            let (rank, sequence) = (place.rank(), place.submission());
            let waiting = self.waiting[slot as usize].as_mut().expect("a slot in a heap waits");
            if waiting.valid_until >= now {
                return Some(Head { request: waiting.id, rank, sequence });
            }
            let fresh = ask(waiting.id);
            // An answer that is not less urgent would be asked for again and again.
            waiting.valid_until = fresh.valid_until.max(now);
            let place = Place::new(fresh.rank.max(rank), sequence);
            requests.update(place, slot, &mut self.places);
        }
    }

    /// Appends up to `count` requests that follow the head of `pool` to `out`, in order: with
    /// fairness the heads of the next lanes, then the rest of the first.
    pub fn followers(&mut self, pool: PoolId, count: usize, out: &mut Vec<RequestId>) {
        let home = &mut self.pools[pool.0 as usize];
        let (mut lanes, mut slots) = (Vec::new(), Vec::new());
        match home.level_weight {
            Some(_) => home.order.least(count + 1, &mut lanes, &mut home.order_places),
            None => lanes.extend(home.first_lane()),
        }
        for &lane in lanes.iter().skip(1) {
            slots.extend(home.lanes[lane as usize].requests.peek().map(|(_, slot)| slot));
        }
        if let Some(&first) = lanes.first() {
            let mut same = Vec::new();
            home.lanes[first as usize].requests.least(count + 1, &mut same, &mut self.places);
            slots.extend(same.into_iter().skip(1));
        }
        out.extend(
            slots.iter().take(count).filter_map(|&slot| Some(self.waiting[slot as usize]?.id)),
        );
    }

    /// Asks for every rank again. O(n).
    pub fn rebuild(&mut self, mut ask: impl FnMut(RequestId) -> Urgency) {
        let (waiting, places) = (&mut self.waiting, &mut self.places);
        for lane in self.pools.iter_mut().flat_map(|pool| &mut pool.lanes) {
            lane.requests.rekey(
                |slot, place| {
                    let kept = waiting[slot as usize].as_mut().expect("a slot in a heap waits");
                    let urgency = ask(kept.id);
                    kept.valid_until = urgency.valid_until;
                    Place::new(urgency.rank, place.submission())
                },
                places,
            );
        }
    }

    /// Returns up to `count` waiting requests of `pool`, spread evenly over the heaps: a sample.
    pub fn sample(&self, pool: PoolId, count: usize, out: &mut Vec<RequestId>) {
        let home = &self.pools[pool.0 as usize];
        let stride = home.len.div_ceil(count.max(1)).max(1);
        let (mut skip, mut slots) = (0, Vec::with_capacity(count));
        for lane in &home.lanes {
            lane.requests.sample(&mut skip, stride, &mut slots);
        }
        out.extend(slots.iter().filter_map(|&slot| Some(self.waiting[slot as usize]?.id)));
    }

    /// Iterates over all waiting requests, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = RequestId> {
        self.waiting.iter().flatten().map(|waiting| waiting.id)
    }

    /// Returns all waiting requests with their ranks and until when these hold. O(n).
    pub fn ranks(&self) -> Vec<(RequestId, Rank, Timestamp)> {
        let lanes = self.pools.iter().flat_map(|pool| &pool.lanes);
        let places = lanes.flat_map(|lane| lane.requests.iter());
        let known = places.filter_map(|(place, slot)| {
            let waiting = self.waiting[slot as usize].as_ref()?;
            Some((waiting.id, place.rank(), waiting.valid_until))
        });
        known.collect()
    }

    fn get(&self, request: RequestId) -> Option<&Waiting> {
        self.waiting.get(request.index())?.as_ref().filter(|waiting| waiting.id == request)
    }

    fn take(&mut self, request: RequestId, charge: u64) -> Option<Waiting> {
        let waiting = *self.get(request)?;
        self.waiting[request.index()] = None;
        let home = &mut self.pools[waiting.pool as usize];
        let lane = &mut home.lanes[waiting.lane as usize];
        lane.requests.remove(request.index() as u32, &mut self.places);
        lane.levels[usize::from(waiting.level)] -= 1;
        lane.counter = lane.counter.saturating_add(charge);
        home.reorder(waiting.lane);
        home.len -= 1;
        self.len -= 1;
        Some(waiting)
    }
}

impl Pool {
    /// Returns the lane whose head goes next.
    fn first_lane(&self) -> Option<u32> {
        match self.level_weight {
            Some(_) => self.order.peek().map(|(_, lane)| lane),
            None => (self.len > 0).then_some(0),
        }
    }

    /// Returns the lane of `user`, a new one if it has none.
    fn lane_of(&mut self, user: Option<UserId>) -> u32 {
        if self.level_weight.is_none() && !self.lanes.is_empty() {
            return 0;
        }
        if let Some(&lane) = self.by_user.get(&user) {
            return lane;
        }
        let least = self.counters.peek().map(|((counter, _), _)| counter);
        let counter = self.debts.back(user, least);
        let lane = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(Lane {
                user: None,
                counter: 0,
                levels: [0; RequestPriority::ALL.len()],
                requests: IndexedHeap::default(),
            });
            self.lanes.len() as u32 - 1
        });
        (self.lanes[lane as usize].user, self.lanes[lane as usize].counter) = (user, counter);
        self.by_user.insert(user, lane);
        lane
    }

    /// Puts `lane` where it belongs after its requests or its counter have changed.
    fn reorder(&mut self, lane: u32) {
        let Some(level_weight) = self.level_weight else { return };
        let changed = &self.lanes[lane as usize];
        let turn = changed.turn(lane, level_weight);
        let (user, counter) = (changed.user, changed.counter);
        match (changed.requests.is_empty(), self.order_places.contains(lane)) {
            (false, true) => {
                self.order.update(turn, lane, &mut self.order_places);
                self.counters.update((counter, lane), lane, &mut self.counter_places);
            }
            (false, false) => {
                self.order.push(turn, lane, &mut self.order_places);
                self.counters.push((counter, lane), lane, &mut self.counter_places);
            }
            (true, in_order) => {
                if in_order {
                    self.order.remove(lane, &mut self.order_places);
                    self.counters.remove(lane, &mut self.counter_places);
                }
                self.by_user.swap_remove(&user);
                self.debts.leave(user, counter);
                self.free.push(lane);
            }
        }
        let least = self.counters.peek().map_or(counter, |((least, _), _)| least);
        self.debts.raise(least);
    }
}
