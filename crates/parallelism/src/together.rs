//! GPUs of several types side by side: each type has a layout of its own, and all share the traffic.
//!
//! Only what is asked of all GPUs together can gain by that: requests per second, or the least rent for
//! so many. What is asked per GPU, per token or of one request is best on the best type alone.

use crate::laid::Laid;
use crate::plan::Plan;
use crate::point::{Point, Times};
use crate::question::{Objective, Question};

/// One instance of a layout, at the number of requests with which it is worth most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    pub(crate) times: Times,
    /// Of one instance.
    pub(crate) point: Point,
}

impl Unit {
    /// Returns what an instance is worth: requests per second; times how likely they keep the limits,
    /// where that is the objective.
    pub(crate) fn worth(question: &Question<'_>, point: &Point) -> f64 {
        match question.demand.requests_per_s {
            Some(_) => point.per_s,
            None => point.per_s * point.chance,
        }
    }

    /// Returns the point of so many instances.
    fn point(&self, question: &Question<'_>, instances: u32) -> Point {
        let Point { laid, requests, budget, per_s, gpus, usd_per_hour, .. } = self.point;
        let all = f64::from(instances);
        let given = (per_s * all, gpus * instances, usd_per_hour * all);
        Point::new(question, &self.times, (laid, instances), (requests, budget), None, given)
    }
}

/// So many instances on each of some types.
#[derive(Clone, Debug, Default)]
struct Choice {
    usd: f64,
    worth: f64,
    /// Units by their place, and how many of each.
    parts: Vec<(usize, u32)>,
}

impl Choice {
    fn with(&self, other: &Self) -> Self {
        Self {
            usd: self.usd + other.usd,
            worth: self.worth + other.worth,
            parts: [self.parts.as_slice(), &other.parts].concat(),
        }
    }
}

/// Returns those that cost less than all that are worth as much, by ascending rent.
fn cheapest(mut choices: Vec<Choice>) -> Vec<Choice> {
    choices.sort_by(|a, b| a.usd.total_cmp(&b.usd).then(b.worth.total_cmp(&a.worth)));
    let mut most = f64::NEG_INFINITY;
    choices.retain(|choice| {
        let more = choice.worth > most;
        most = most.max(choice.worth);
        more
    });
    choices
}

/// Returns the instances of all types that are best together: the cheapest that are worth `wanted`, else
/// those that are worth most within the budget.
fn choose(
    question: &Question<'_>,
    laid: &[Laid<'_>],
    units: &[Unit],
    wanted: Option<f64>,
) -> Option<Choice> {
    let of_kind = |kind: usize| -> Vec<Choice> {
        let of = |place: usize| {
            let point = &units[place].point;
            let (usd, worth) = (point.usd_per_hour, Unit::worth(question, point));
            (1..=laid[point.laid].instances).map(move |count| {
                let all = f64::from(count);
                Choice { usd: usd * all, worth: worth * all, parts: vec![(place, count)] }
            })
        };
        let own = (0..units.len()).filter(|&place| laid[units[place].point.laid].kind == kind);
        cheapest([Choice::default()].into_iter().chain(own.flat_map(of)).collect())
    };
    let mut kinds: Vec<Vec<Choice>> = (0..question.gpus.len()).map(of_kind).collect();
    let last = kinds.pop()?;
    let others = kinds.into_iter().reduce(|all, own| {
        let pairs = all.iter().flat_map(|a| own.iter().map(|b| a.with(b)));
        cheapest(pairs.collect())
    })?;
    let within = |usd: f64| question.demand.usd_per_hour.is_none_or(|budget| usd <= budget);
    let found = others.iter().filter_map(|choice| {
        // `last` ascends both in rent and in worth.
        let place = match wanted {
            Some(wanted) => last.partition_point(|own| choice.worth + own.worth < wanted),
            None => last.partition_point(|own| within(choice.usd + own.usd)).checked_sub(1)?,
        };
        let all = choice.with(last.get(place)?);
        within(all.usd).then_some(all)
    });
    let cheaper = |a: &Choice, b: &Choice| a.usd.total_cmp(&b.usd);
    let worthier = |a: &Choice, b: &Choice| b.worth.total_cmp(&a.worth);
    found.min_by(|a, b| match wanted {
        Some(_) => cheaper(a, b).then(worthier(a, b)),
        None => worthier(a, b).then(cheaper(a, b)),
    })
}

/// Returns the most requests per second that all types give together.
pub(crate) fn most(question: &Question<'_>, laid: &[Laid<'_>], units: &[Unit]) -> f64 {
    choose(question, laid, units, None).map_or(0.0, |choice| choice.worth)
}

/// Returns the best plan of several types together, if it is 1 % better than `best`, the best without.
pub(crate) fn together(
    question: &Question<'_>,
    laid: &[Laid<'_>],
    units: &[Unit],
    best: Option<&Point>,
) -> Option<Plan> {
    let wanted = question.demand.requests_per_s;
    if wanted.is_none() && question.objective != Objective::Goodput {
        return None;
    }
    /// How much better it must be to be worth several types.
    const WORTH_IT: f64 = 1.01;
    let found = choose(question, laid, units, wanted)?;
    let better = best.is_none_or(|best| match wanted {
        Some(_) => found.usd * WORTH_IT < best.usd_per_hour,
        None => found.worth > WORTH_IT * best.per_s * best.chance,
    });
    if found.parts.len() < 2 || !better {
        return None;
    }
    let mut parts: Vec<Point> =
        found.parts.iter().map(|&(place, count)| units[place].point(question, count)).collect();
    parts.sort_by(|a, b| b.per_s.total_cmp(&a.per_s));
    Some(joined(question, parts.iter().map(|part| part.plan(question, laid)).collect()))
}

/// Returns plans as one: what they give and cost together; times are means over all requests.
fn joined(question: &Question<'_>, mut parts: Vec<Plan>) -> Plan {
    let sum = |of: fn(&Plan) -> f64| parts.iter().map(of).sum::<f64>();
    let per_s = sum(|plan| plan.requests_per_s);
    let mean =
        |of: fn(&Plan) -> f64| parts.iter().map(|p| of(p) * p.requests_per_s).sum::<f64>() / per_s;
    let gpus = parts.iter().map(|plan| plan.gpus).sum();
    let usd_per_hour = sum(|plan| plan.usd_per_hour);
    let tokens_per_s = per_s * question.workload.output;
    let all = Plan {
        gpus,
        ttft: mean(|plan| plan.ttft),
        tpot: mean(|plan| plan.tpot),
        e2e: mean(|plan| plan.e2e),
        requests_per_s: per_s,
        tokens_per_s_per_gpu: tokens_per_s / f64::from(gpus),
        tokens_per_s_per_user: mean(|plan| plan.tokens_per_s_per_user),
        usd_per_million: usd_per_hour / 3600.0 / tokens_per_s * 1e6,
        usd_per_hour,
        chance: mean(|plan| plan.chance),
        ..parts[0].clone()
    };
    let beside = parts.split_off(1);
    Plan { beside, ..all }
}
