//! Earliest latest-start first, so that what was asked for is met as often as it can be.
//!
//! rank = latest start = deadline − predicted service (least-slack-first; EDF over the start, Liu
//! and Layland, 1973). A request that can no longer make it falls behind all those that can, and is
//! given up at its end-to-end deadline. One that asks for nothing ranks as if it had to start a
//! default horizon after its arrival, and a late one without a deadline as if it had to start a
//! `late_horizon` after it, so nobody waits for ever.
//!
//! Place: where the most endangered promise, its own or that of somebody who runs there, is least
//! endangered; instances that are about as good are offered to the router. What it asks for and can be
//! had nowhere does not count: then only the others do. Where it would break another's promise
//! wherever it goes it gives way, as long as less than half of its own limit is used up: work that
//! may wait is done when those who cannot wait leave room. A prompt that is long enough to break all
//! promises goes where it breaks the fewest.
//!
//! With `refuse_hopeless`, a request that would be late is refused at once and told when to come
//! back: refused clients form a virtual queue, each with a booking, and one that returns when it
//! was told to is let in before those that never waited, unless nobody waits. Limit: a returning
//! client is recognised by its user, prompt and size; one that comes back as somebody else is new.

use std::collections::VecDeque;
use std::time::Duration;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{CandidateSet, RefuseReason, Request, Timestamp};
use serde::{Deserialize, Serialize};

use crate::strain::{Promises, Strain};
use crate::{Admission, Narrowing, Pressure, Rank, SchedulingStrategy, Urgency};

/// Settings of [`SloAware`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SloAwareConfig {
    /// A request without an objective ranks as if it had to start this long after its arrival, in
    /// milliseconds.
    pub default_horizon_ms: u64,
    /// A request that is late and has no end-to-end deadline ranks as if it had to start this long
    /// after its arrival, in milliseconds: those that can be on time go first, but not for ever.
    pub late_horizon_ms: u64,
    /// Refuse at admission what is predicted to be late, with the time after which it would not be.
    pub refuse_hopeless: bool,
}

impl Default for SloAwareConfig {
    fn default() -> Self {
        Self { default_horizon_ms: 30_000, late_horizon_ms: 300_000, refuse_hopeless: false }
    }
}

/// Instances on which no promise uses more than this share of its limit are as good as any.
const COMFORT: f64 = 0.3;
/// Instances whose strain is larger by no more than this share are alike.
const ALIKE: f64 = 0.1;
/// A request gives way where another's promise would use more than this share of its limit.
const HARM: f64 = 0.9;
/// Where even the best placement takes others this far beyond their limit, a prompt is so long that it
/// holds up whoever runs beside it: then the fewest shall suffer, not everybody alike.
const LOST: f64 = 3.0;
/// A request gives way until this share of its own limit is used up.
const GIVES_WAY: f64 = 0.5;

/// Serves the request with the least slack first.
#[derive(Clone, Debug)]
pub struct SloAware {
    default_horizon: Duration,
    late_horizon: Duration,
    refuse_hopeless: bool,
    bookings: Bookings,
    /// Of the decision under way, one per candidate.
    strains: Vec<Strain>,
}

impl SloAware {
    /// Returns the strategy with these settings.
    pub fn new(config: &SloAwareConfig) -> Self {
        Self {
            default_horizon: Duration::from_millis(config.default_horizon_ms),
            late_horizon: Duration::from_millis(config.late_horizon_ms),
            refuse_hopeless: config.refuse_hopeless,
            bookings: Bookings::default(),
            strains: Vec::new(),
        }
    }
}

impl SchedulingStrategy for SloAware {
    fn urgency(&self, request: &Request, now: Timestamp) -> Urgency {
        let Some(start) = request.latest_start() else {
            return Urgency::fixed(Rank::at(request.arrival + self.default_horizon));
        };
        if start >= now {
            return Urgency { rank: Rank::at(start), valid_until: start };
        }
        if request.deadline().is_some() {
            // There it is given up; until then it takes what nobody else wants.
            return Urgency::fixed(Rank::at(request.arrival).behind());
        }
        Urgency::fixed(Rank::at(start.max(request.arrival + self.late_horizon)))
    }

    fn admit(&mut self, request: &Request, pressure: &Pressure, now: Timestamp) -> Admission {
        if !self.refuse_hopeless {
            return Admission::Admit;
        }
        let Some(start) = request.latest_start() else {
            return Admission::Admit;
        };
        let slack = start.since(request.arrival);
        let turn = self.bookings.turn(request, pressure, slack, now);
        if turn <= now {
            return Admission::Admit;
        }
        Admission::Refuse { reason: RefuseReason::Hopeless, retry_after: Some(turn.since(now)) }
    }

    fn narrow(
        &mut self,
        request: &Request,
        candidates: &mut CandidateSet<'_>,
        now: Timestamp,
    ) -> Narrowing {
        self.measure(request, candidates, now);
        self.narrow_measured(request, candidates, now)
    }

    fn name(&self) -> &'static str {
        "slo_aware"
    }
}

/// Returns the least value over `strains`.
fn least(strains: &[Strain], of: impl Fn(&Strain) -> f64) -> f64 {
    strains.iter().fold(f64::INFINITY, |least, strain| least.min(of(strain)))
}

impl SloAware {
    /// Returns the strain of each candidate, in their order, and keeps them for this decision.
    pub(crate) fn measure(
        &mut self,
        request: &Request,
        candidates: &CandidateSet<'_>,
        now: Timestamp,
    ) -> &[Strain] {
        let promises = Promises::of(request, now);
        self.strains.clear();
        self.strains.extend(candidates.iter().map(|choice| promises.strain(&choice)));
        &self.strains
    }

    /// Narrows candidates that have been measured and are all still there.
    pub(crate) fn narrow_measured(
        &self,
        request: &Request,
        candidates: &mut CandidateSet<'_>,
        now: Timestamp,
    ) -> Narrowing {
        let strains = self.strains.as_slice();
        if strains.iter().all(|strain| strain.most() <= COMFORT) {
            return Narrowing::Offer;
        }
        // What cannot be kept anywhere does not count against a place: then it is the others' turn.
        let hopeless = least(strains, |strain| strain.own) > 1.0;
        let most = |strain: &Strain| if hopeless { strain.others } else { strain.most() };
        let bound = (least(strains, most) * (1.0 + ALIKE)).max(COMFORT);
        let good = |strain: &Strain| most(strain) <= bound;
        let harm = least(strains, |s| if good(s) { s.others } else { f64::INFINITY });
        if harm > HARM {
            let own = least(strains, |s| if good(s) { s.own } else { f64::INFINITY });
            if let Some(until) = self.gives_way(request, own, now) {
                return Narrowing::WaitUntil(until);
            }
        }
        let mut each = strains.iter();
        if harm > LOST {
            let fewest = strains.iter().map(|strain| strain.broken).min();
            candidates.retain(|_| each.next().is_some_and(|strain| Some(strain.broken) == fewest));
        } else {
            let unharmed = |strain: &Strain| good(strain) && strain.others <= harm.max(HARM);
            candidates.retain(|_| each.next().is_some_and(unharmed));
        }
        Narrowing::Offer
    }

    /// Returns until when a request may still wait so that others keep their promises; `None` once
    /// half of what it asks for, or of the time after which it counts as waiting too long, is used.
    fn gives_way(&self, request: &Request, own: f64, now: Timestamp) -> Option<Timestamp> {
        let objectives = &request.objectives;
        let waited = now.since(request.arrival);
        let mut asked = [objectives.ttft, objectives.e2e].into_iter().flatten().peekable();
        // It asks for nothing that waiting could break, or all of that is broken already.
        let horizon = if asked.peek().is_some() { self.late_horizon } else { self.default_horizon };
        let (limit, used) = match asked.find(|limit| waited < *limit) {
            Some(limit) => (limit, own),
            None => (horizon, waited.as_secs_f64() / horizon.as_secs_f64().max(1e-9)),
        };
        (used < GIVES_WAY).then(|| now + limit.mul_f64(GIVES_WAY - used))
    }
}

/// The virtual queue of refused clients.
///
/// Each refused request books the capacity that it will need, behind those refused before it, as
/// far as refused clients come back at all. One that never waited is let in only behind all
/// bookings, or when nobody waits: capacity that nobody claims is not kept free.
#[derive(Clone, Debug)]
struct Bookings {
    due: IndexMap<u64, Timestamp, FxBuildHasher>,
    /// The same in the order of their time, for those who do not come; may name claimed ones.
    order: VecDeque<(Timestamp, u64)>,
    /// When the capacity booked so far will have been used.
    booked_until: Timestamp,
    /// Share of refused clients that come back, of late.
    shows: f64,
}

impl Default for Bookings {
    fn default() -> Self {
        Self {
            due: IndexMap::default(),
            order: VecDeque::new(),
            booked_until: Timestamp::ZERO,
            shows: 1.0,
        }
    }
}

/// A client may come this much later than it was told to and still find its booking.
const GRACE: Duration = Duration::from_secs(10);
/// A client may come this much earlier: Retry-After is sent in whole seconds, and clocks differ.
const EARLY: Duration = Duration::from_millis(1_500);
/// Bookings beyond this are told their time and not kept.
const MOST_BOOKINGS: usize = 65_536;
/// How fast the share of clients that come back is learnt.
const SHOW_RATE: f64 = 1.0 / 64.0;

impl Bookings {
    /// Returns when `request` would be on time: `now` if it is its turn, else when to come back.
    fn turn(
        &mut self,
        request: &Request,
        pressure: &Pressure,
        slack: Duration,
        now: Timestamp,
    ) -> Timestamp {
        self.give_up(now);
        let key = fingerprint(request);
        let ready = now + pressure.wait.saturating_sub(slack);
        if let Some(&due) = self.due.get(&key) {
            if now + EARLY < due {
                return due;
            }
            self.due.swap_remove(&key);
            if ready <= now {
                self.learn(1.0);
                return now;
            }
            // It came when told, and the prediction was wrong: it keeps its place at the head.
            self.book(key, ready);
            return ready;
        }
        if pressure.wait.is_zero() {
            return now;
        }
        let turn = ready.max(self.booked_until);
        if turn > now {
            let share = request.forecast.service / pressure.slots.max(1);
            self.booked_until = turn + share.mul_f64(self.shows);
            self.book(key, turn);
        }
        turn
    }

    fn book(&mut self, key: u64, due: Timestamp) {
        if self.due.len() < MOST_BOOKINGS {
            self.due.insert(key, due);
            self.order.push_back((due, key));
        }
    }

    /// Forgets the bookings whose clients have not come.
    fn give_up(&mut self, now: Timestamp) {
        while let Some(&(due, key)) = self.order.front().filter(|(due, _)| *due + GRACE < now) {
            self.order.pop_front();
            if self.due.get(&key) == Some(&due) {
                self.due.swap_remove(&key);
                self.learn(0.0);
            }
        }
    }

    fn learn(&mut self, came: f64) {
        self.shows += SHOW_RATE * (came - self.shows);
    }
}

/// Returns what a client that comes back has in common with itself.
fn fingerprint(request: &Request) -> u64 {
    let mut key = request.forecast.prompt.0 ^ (u64::from(request.model.0) << 40);
    for part in [
        request.user.map_or(0, |user| user.0),
        request.prefix.map_or(0, |prefix| prefix.0),
        request.session.map_or(0, |session| session.0),
    ] {
        key = (key.rotate_left(23) ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::{
        Candidate, Estimate, EstimateCache, Estimator, InstanceId, Load, Objectives, Tokens, UserId,
    };

    fn asking(index: u32, e2e_ms: u64) -> Request {
        let objectives =
            Objectives { e2e: Some(Duration::from_millis(e2e_ms)), ..Objectives::NONE };
        Request { objectives, user: Some(UserId(u64::from(index))), ..Request::example(index) }
    }

    fn strategy(refuse_hopeless: bool) -> SloAware {
        SloAware::new(&SloAwareConfig { refuse_hopeless, ..SloAwareConfig::default() })
    }

    #[test]
    fn the_least_slack_goes_first_and_the_hopeless_last() {
        let slo = strategy(false);
        let at = |request: &Request, now| slo.urgency(request, now).rank;
        let (tight, loose) = (asking(0, 1_500), asking(1, 5_000));
        assert!(at(&tight, Timestamp::ZERO) < at(&loose, Timestamp::ZERO));
        let later = Timestamp::from_millis(600);
        assert_eq!(slo.urgency(&tight, Timestamp::ZERO).valid_until, Timestamp::from_millis(500));
        assert!(at(&tight, later) > at(&loose, later), "what cannot make it gives way");
        assert!(at(&tight, later) > at(&Request::example(2), later));
    }

    /// A candidate: what it is predicted to give, and what is promised there, in milliseconds.
    struct Place {
        tpot: u64,
        others: u64,
        strictest: Option<u64>,
        sequences: u32,
    }

    struct Told<'a>(&'a [Place]);

    impl Estimator for Told<'_> {
        fn estimate(&self, _: &Request, id: InstanceId, _: &Load, _: Timestamp) -> Estimate {
            let place = &self.0[id.index()];
            Estimate {
                ttft: Duration::from_millis(100),
                tpot: Duration::from_millis(place.tpot),
                others_tpot: Duration::from_millis(place.others),
                ..Estimate::default()
            }
        }
    }

    /// Returns the places that are offered, or until when the request waits.
    fn narrowed(
        request: &Request,
        places: &[Place],
        now: Timestamp,
    ) -> Result<Vec<usize>, Timestamp> {
        let candidate = |(number, place): (usize, &Place)| Candidate {
            id: InstanceId::new(number as u32, 0),
            key: 0,
            load: Load {
                sequences: place.sequences,
                window: 64,
                strictest_tpot: place.strictest.map(Duration::from_millis),
                ..Load::default()
            },
            cached_prefix: Tokens::ZERO,
        };
        let all: Vec<Candidate> = places.iter().enumerate().map(candidate).collect();
        let (mut cache, told) = (EstimateCache::default(), Told(places));
        let mut set = CandidateSet::new(&all, request, now, &told, &mut cache, |_| true);
        match strategy(false).narrow(request, &mut set, now) {
            Narrowing::WaitUntil(until) => Err(until),
            Narrowing::Offer => Ok(set.iter().map(|choice| choice.id.index()).collect()),
        }
    }

    const QUIET: Place = Place { tpot: 20, others: 20, strictest: None, sequences: 5 };
    const ENDANGERED: Place = Place { tpot: 46, others: 48, strictest: Some(50), sequences: 5 };
    const LOST_BIG: Place = Place { tpot: 40, others: 200, strictest: Some(50), sequences: 9 };
    const LOST_SMALL: Place = Place { sequences: 2, ..LOST_BIG };

    #[test]
    fn a_request_goes_where_no_promise_is_endangered_or_waits() {
        let plain = Request::example(0);
        let start = Timestamp::ZERO;
        assert_eq!(narrowed(&plain, &[ENDANGERED, QUIET], start), Ok(vec![1]));
        // Half of its horizon of thirty seconds.
        assert_eq!(narrowed(&plain, &[ENDANGERED], start), Err(Timestamp::from_secs(15)));
        assert_eq!(narrowed(&plain, &[ENDANGERED], Timestamp::from_secs(16)), Ok(vec![0]));
    }

    #[test]
    fn what_can_be_had_nowhere_does_not_choose_the_place() {
        let objectives = Objectives { tpot: Some(Duration::from_millis(1)), ..Objectives::NONE };
        let absurd = Request { objectives, ..Request::example(0) };
        // On the quiet one its own time per token is as hopeless as on the other.
        assert_eq!(narrowed(&absurd, &[ENDANGERED, QUIET], Timestamp::ZERO), Ok(vec![1]));
    }

    #[test]
    fn a_prompt_that_breaks_all_promises_breaks_the_fewest() {
        let asked = Objectives { ttft: Some(Duration::from_millis(150)), ..Objectives::NONE };
        let long = Request { objectives: asked, ..Request::example(0) };
        assert_eq!(narrowed(&long, &[LOST_BIG, LOST_SMALL], Timestamp::ZERO), Ok(vec![1]));
    }

    #[test]
    fn refused_clients_come_back_one_after_the_other() {
        let mut slo = strategy(true);
        let pressure = Pressure { wait: Duration::from_secs(2), slots: 1, ..Pressure::default() };
        let mut refused =
            |request: &Request, pressure: &Pressure, now| match slo.admit(request, pressure, now) {
                Admission::Refuse { retry_after: Some(after), .. } => Some(after),
                _ => None,
            };
        let (first, second, third) = (asking(0, 2_000), asking(1, 2_000), asking(2, 2_000));
        assert_eq!(refused(&first, &pressure, Timestamp::ZERO), Some(Duration::from_secs(1)));
        assert_eq!(refused(&second, &pressure, Timestamp::ZERO), Some(Duration::from_secs(2)));
        // A second later the fleet has worked off a second; who never waited stands behind those
        // who were told to come back.
        let (now, pressure) =
            (Timestamp::from_secs(1), Pressure { wait: Duration::from_secs(1), ..pressure });
        let new = Request { arrival: now, ..third };
        assert_eq!(refused(&new, &pressure, now), Some(Duration::from_secs(2)));
        assert_eq!(refused(&Request { arrival: now, ..first }, &pressure, now), None);
    }
}
