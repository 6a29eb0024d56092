//! The search: every legal layout that fits, at every number of requests that keeps the limits.
//!
//! A decode step grows with the number of requests, once there is one for each stage of each rank, and no
//! request gets its tokens faster: where a step alone breaks the limit, larger numbers are not looked at.
//! (The time to first token does not only grow: experts that decodes read anyway cost a prompt less.) That leaves the answer as it is: a property test
//! compares it with the exhaustive search.

use sagellm_perf::Layout;

use crate::front::Front;
use crate::laid::{Laid, Obstacles, lay_out};
use crate::plan::{Answer, Plan, Rejected};
use crate::point::{Point, Times};
use crate::question::{PlanError, Question, Split};
use crate::split;
use crate::together::{self, Unit};

/// What has been found so far.
pub(crate) struct Found<'q, 'a> {
    pub(crate) question: &'q Question<'a>,
    /// Whether numbers of requests are skipped that cannot be good.
    pub(crate) prune: bool,
    pub(crate) front: Front,
    /// Operating points computed.
    pub(crate) points: usize,
    /// The most requests per second within the limits.
    most: f64,
    /// The least time to first token, per output token and to the last token of a request alone.
    least: (f64, f64, f64),
}

impl Found<'_, '_> {
    /// Takes note of a point, and returns whether it keeps the limits.
    pub(crate) fn seen(&mut self, point: &Point) -> bool {
        self.points += 1;
        if point.requests == 1 {
            let (ttft, tpot, e2e) = self.least;
            self.least = (ttft.min(point.ttft), tpot.min(point.tpot), e2e.min(point.e2e));
        }
        let keeps = point.keeps(&self.question.limits);
        if keeps {
            self.most = self.most.max(point.per_s);
        }
        keeps
    }

    /// Takes note of a point that was computed as far as to see that it breaks a limit.
    pub(crate) fn skipped(&mut self) {
        self.points += 1;
    }

    /// Takes note of a point that keeps the limits and gives enough; it may be the best so far, and on
    /// the front.
    pub(crate) fn good(&mut self, point: Point, best: &mut Option<Point>) {
        self.front.add(point, self.question);
        self.better(point, best);
    }

    /// Takes note of a point that may be the best so far.
    pub(crate) fn better(&self, point: Point, best: &mut Option<Point>) {
        if best.is_none_or(|best| point.order(&best, self.question).is_lt()) {
            *best = Some(point);
        }
    }
}

pub(crate) fn search(question: &Question<'_>, prune: bool) -> Result<Answer, PlanError> {
    question.validate()?;
    let (mut rejected, mut obstacles) = (Vec::new(), Obstacles::default());
    let laid = lay_out(question, &mut rejected, &mut obstacles);
    if laid.is_empty() {
        return Err(obstacles.told(question));
    }
    let least = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    let front = Front::default();
    let mut found = Found { question, prune, front, points: 0, most: 0.0, least };
    let (mut best, mut units): (Vec<Point>, Vec<Unit>) = (Vec::new(), Vec::new());
    if question.split != Split::Only {
        for (place, one) in laid.iter().enumerate() {
            best.extend(whole(&mut found, one, place, &mut units, &mut rejected));
        }
    }
    if question.split != Split::Never {
        best.extend(split::pairs(&mut found, &laid));
    }
    best.sort_by(|a, b| a.order(b, question));
    let together = together::together(question, &laid, &units, best.first());
    if best.is_empty() && together.is_none() {
        let (ttft, tpot, e2e_s) = found.least;
        return Err(match question.demand.requests_per_s {
            Some(wanted) if found.most > 0.0 => {
                let most = found.most.max(together::most(question, &laid, &units));
                PlanError::TooFew { wanted, most }
            }
            _ if ttft.is_infinite() => PlanError::NoRoomToSplit,
            _ => PlanError::OutOfReach { ttft_ms: ttft * 1e3, tpot_ms: tpot * 1e3, e2e_s },
        });
    }
    // Of a layout that can be seated in several ways, the best.
    let mut known: Vec<(usize, Layout, bool)> = Vec::new();
    best.retain(|point| {
        let laid = &laid[point.laid];
        let own = (laid.kind, laid.layout, point.prefill.is_some());
        let first = !known.contains(&own);
        known.extend(first.then_some(own));
        first
    });
    let plans = |points: &[Point]| -> Vec<Plan> {
        points.iter().map(|point| point.plan(question, &laid)).collect()
    };
    Ok(Answer {
        plans: together.into_iter().chain(plans(&best)).collect(),
        front: plans(&found.front.into_points()),
        rejected,
        layouts: laid.len(),
        points: found.points,
    })
}

/// Returns the numbers that are tried, of requests at a time and of instances that decode: steps of one
/// up to sixteen, then of about an eighth, and `most`. (Who waits outside is served no sooner.)
pub(crate) fn grid(most: u32) -> impl Iterator<Item = u32> {
    let next = |n: &u32| Some(n + (n / 8).max(1));
    std::iter::successors(Some(1_u32), next).take_while(move |n| *n < most).chain([most])
}

/// Returns the best point of a layout whose instances run whole requests.
fn whole(
    found: &mut Found<'_, '_>,
    laid: &Laid<'_>,
    place: usize,
    units: &mut Vec<Unit>,
    rejected: &mut Vec<Rejected>,
) -> Option<Point> {
    let question = found.question;
    let (mut best, mut broken): (Option<Point>, Option<Point>) = (None, None);
    let mut short: Option<Point> = None;
    for budget in 0..laid.budgets.len() {
        for requests in grid(laid.seats(question, budget)) {
            let steady = laid.steady(question, requests, budget, false);
            let interval = laid.interval(question, requests);
            let filled = laid.filled(question, requests, budget);
            let times = Times { ttft: steady.ttft, tpot: steady.tpot, interval, filled };
            let of = |instances: u32| {
                let all = f64::from(instances);
                let given =
                    (steady.per_s * all, laid.layout.gpus() * instances, laid.usd_per_hour() * all);
                Point::new(question, &times, (place, instances), (requests, budget), None, given)
            };
            let point = of(laid.instances);
            if !found.seen(&point) {
                broken = broken.or(Some(point));
                if found.prune && laid.too_slow(question, requests, &steady) {
                    break;
                }
                continue;
            }
            if question.gpus.len() > 1 {
                units.push(Unit { times, point: of(1) });
            }
            let instances = match question.demand.requests_per_s {
                None => laid.instances,
                Some(wanted) => (wanted / steady.per_s).ceil().max(1.0) as u32,
            };
            if instances > laid.instances {
                if short.is_none_or(|short| point.per_s > short.per_s) {
                    short = Some(point);
                }
                continue;
            }
            found.good(of(instances), &mut best);
        }
    }
    if best.is_none() {
        // What comes nearest is told: too little of it, or what breaks a limit.
        let why = match (short, broken) {
            (Some(short), _) => {
                format!("gives at most {:.2} requests per second within the limits", short.per_s)
            }
            (None, Some(broken)) => broken.broken(&question.limits)?,
            (None, None) => return None,
        };
        let (gpu, layout) = (laid.gpu.name.clone(), laid.layout.to_string());
        rejected.push(Rejected { gpu, layout, why });
    }
    best
}
