//! GPUs of several types side by side: each type has a layout of its own, and all share the traffic.
//!
//! Only what is asked of all GPUs together can gain by that: requests per second, or the least rent for
//! so many. What is asked per GPU, per token or of one request is best on the best type alone.

use crate::laid::Laid;
use crate::plan::{Plan, PlanInterval};
use crate::point::{Point, Times};
use crate::question::{Objective, Question};

/// One instance of a layout at a number of requests that keeps the limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    pub(crate) times: Times,
    /// Of one instance.
    pub(crate) point: Point,
}

impl Unit {
    /// Returns what an instance is worth by the objective, of two that are paid the same. By latency, the fewer
    /// requests are there at once the better.
    fn value(&self, objective: Objective) -> f64 {
        let Point { per_s, chance, e2e, .. } = self.point;
        match objective {
            Objective::Goodput => per_s * chance,
            Objective::Throughput | Objective::Cost => per_s,
            Objective::Latency => -per_s * e2e,
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

/// A choice of some types, as a step from another: what all of it costs and is worth, and what the last
/// step added.
#[derive(Clone, Copy, Debug)]
struct Step<T> {
    cost: f64,
    worth: f64,
    added: Option<T>,
    /// The step before it.
    before: usize,
}

impl<T> Step<T> {
    const NONE: Self = Self { cost: 0.0, worth: 0.0, added: None, before: 0 };

    fn new(cost: f64, worth: f64, added: T) -> Self {
        Self { cost, worth, added: Some(added), before: 0 }
    }
}

/// Steps kept after each type: of more than so many, some are left out evenly. No fleet of fewer
/// instances of a type than that has more.
const MOST: usize = 512;

/// Returns the steps that cost less than all that are worth as much, by ascending cost.
fn cheapest<T>(mut steps: Vec<Step<T>>) -> Vec<Step<T>> {
    steps.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.worth.total_cmp(&a.worth)));
    let mut most = f64::NEG_INFINITY;
    steps.retain(|step| {
        let more = step.worth > most;
        most = most.max(step.worth);
        more
    });
    steps
}

/// Chooses one of each list so that together they are worth `wanted` at the least cost, or are worth most at
/// a cost of up to `budget`. Each list ascends both in cost and in worth.
fn choose<T: Copy>(lists: &[Vec<Step<T>>], wanted: Option<f64>, budget: f64) -> Option<Vec<T>> {
    let (last, others) = lists.split_last()?;
    let mut tree: Vec<Vec<Step<T>>> = vec![vec![Step::NONE]];
    for list in others {
        let from = tree.last().map_or(&[][..], Vec::as_slice);
        let pairs = from.iter().enumerate().flat_map(|(before, step)| {
            list.iter().map(move |own| Step {
                cost: step.cost + own.cost,
                worth: step.worth + own.worth,
                before,
                ..*own
            })
        });
        let within = pairs.filter(|step| step.cost <= budget);
        let kept = cheapest(within.collect());
        let every = kept.len().div_ceil(MOST).max(1);
        let even = kept.iter().rev().step_by(every).copied().collect::<Vec<_>>();
        tree.push(even.into_iter().rev().collect());
    }
    let ends = tree.last()?.iter().enumerate().filter_map(|(before, step)| {
        let place = match wanted {
            Some(wanted) => last.partition_point(|own| step.worth + own.worth < wanted),
            None => last.partition_point(|own| step.cost + own.cost <= budget).checked_sub(1)?,
        };
        let own = last.get(place)?;
        let (cost, worth) = (step.cost + own.cost, step.worth + own.worth);
        let end = Step { cost, worth, added: own.added, before };
        (end.cost <= budget).then_some(end)
    });
    let best = ends.min_by(|a, b| {
        let (cheaper, worthier) = (a.cost.total_cmp(&b.cost), b.worth.total_cmp(&a.worth));
        if wanted.is_some() { cheaper.then(worthier) } else { worthier.then(cheaper) }
    })?;
    let (mut taken, mut before) = (Vec::from_iter(best.added), best.before);
    for steps in tree.iter().rev() {
        let step = steps[before];
        taken.extend(step.added);
        before = step.before;
    }
    taken.reverse();
    Some(taken)
}

/// Returns the layout and the number of instances of each type that are best together: the cheapest that
/// give `wanted` requests per second, else those that are worth most within the budget.
fn counts(
    question: &Question<'_>,
    laid: &[Laid<'_>],
    units: &[Unit],
    wanted: Option<f64>,
    worth: impl Fn(&Unit) -> f64,
) -> Option<Vec<(usize, u32)>> {
    let of_kind = |kind: usize| {
        let own = units.iter().filter(|unit| laid[unit.point.laid].kind == kind);
        let mut best: Vec<&Unit> = Vec::new();
        for unit in own {
            match best.iter_mut().find(|known| known.point.laid == unit.point.laid) {
                Some(known) if worth(unit) > worth(known) => *known = unit,
                Some(_) => {}
                None => best.push(unit),
            }
        }
        let steps = best.into_iter().flat_map(|unit| {
            let (usd, worth, place) = (unit.point.usd_per_hour, worth(unit), unit.point.laid);
            (1..=laid[place].instances).map(move |count| {
                Step::new(usd * f64::from(count), worth * f64::from(count), (place, count))
            })
        });
        cheapest(std::iter::once(Step::NONE).chain(steps).collect())
    };
    let kinds: Vec<Vec<_>> = (0..question.gpus.len()).map(of_kind).collect();
    choose(&kinds, wanted, question.demand.budget())
}

/// Returns the most requests per second that all types give together.
pub(crate) fn most(question: &Question<'_>, laid: &[Laid<'_>], units: &[Unit]) -> f64 {
    let per_s = |unit: &Unit| unit.point.per_s;
    let of_layout = |place: usize| {
        units.iter().filter(|unit| unit.point.laid == place).map(per_s).fold(0.0, f64::max)
    };
    let found = counts(question, laid, units, None, per_s).unwrap_or_default();
    found.into_iter().map(|(place, count)| f64::from(count) * of_layout(place)).sum()
}

/// Returns the layouts and the numbers of requests that are best by the objective and give what is wanted,
/// of those that cost each type as much as `counts`.
fn loads(
    question: &Question<'_>,
    laid: &[Laid<'_>],
    units: &[Unit],
    counts: &[(usize, u32)],
    wanted: f64,
) -> Option<Vec<(Unit, u32)>> {
    let lists: Vec<Vec<_>> = counts
        .iter()
        .map(|&(place, count)| {
            let (kind, gpus) = (laid[place].kind, laid[place].layout.gpus() * count);
            let own = units.iter().filter_map(|unit| {
                let other = &laid[unit.point.laid];
                let count = gpus / other.layout.gpus();
                let alike = other.kind == kind
                    && gpus.is_multiple_of(other.layout.gpus())
                    && count <= other.instances;
                let all = f64::from(count);
                // What is lost by the objective is the price of more requests.
                let lost = -unit.value(question.objective) * all;
                alike.then(|| Step::new(lost, unit.point.per_s * all, (*unit, count)))
            });
            cheapest(own.collect())
        })
        .collect();
    choose(&lists, Some(wanted), f64::INFINITY)
}

/// Returns the best plan of several types together, if it is 1 % better than `best`, the best without.
pub(crate) fn together(
    question: &Question<'_>,
    laid: &[Laid<'_>],
    units: &[Unit],
    best: Option<&Point>,
) -> Option<Plan> {
    /// How much better it must be to be worth several types.
    const WORTH_IT: f64 = 1.01;
    let wanted = question.demand.requests_per_s;
    if wanted.is_none() && question.objective != Objective::Goodput {
        return None;
    }
    let chosen = counts(question, laid, units, wanted, |unit| match wanted {
        Some(_) => unit.point.per_s,
        None => unit.point.per_s * unit.point.chance,
    })?;
    if chosen.len() < 2 {
        return None;
    }
    let mut points: Vec<Point> = loads(question, laid, units, &chosen, wanted.unwrap_or(0.0))?
        .into_iter()
        .map(|(unit, count)| unit.point(question, count))
        .collect();
    let sum = |of: fn(&Point) -> f64| points.iter().map(of).sum::<f64>();
    let better = best.is_none_or(|best| match wanted {
        Some(_) => sum(|point| point.usd_per_hour) * WORTH_IT < best.usd_per_hour,
        None => sum(|point| point.per_s * point.chance) > WORTH_IT * best.per_s * best.chance,
    });
    points.sort_by(|a, b| b.per_s.total_cmp(&a.per_s));
    better
        .then(|| joined(question, points.iter().map(|point| point.plan(question, laid)).collect()))
}

/// Returns plans as one: what they give and cost together; times are means over all requests.
fn joined(question: &Question<'_>, parts: Vec<Plan>) -> Plan {
    let sum = |of: fn(&Plan) -> f64| parts.iter().map(of).sum::<f64>();
    let per_s = sum(|plan| plan.requests_per_s);
    let mean =
        |of: fn(&Plan) -> f64| parts.iter().map(|p| of(p) * p.requests_per_s).sum::<f64>() / per_s;
    let gpus = parts.iter().map(|plan| plan.gpus).sum();
    let usd_per_hour = sum(|plan| plan.usd_per_hour);
    let tokens_per_s = per_s * question.workload.output;
    let widest = |of: fn(&PlanInterval) -> (f64, f64)| {
        let all = parts.iter().map(|plan| of(&plan.interval));
        all.fold((f64::INFINITY, 0.0_f64), |(low, high), own| (low.min(own.0), high.max(own.1)))
    };
    Plan {
        gpus,
        ttft: mean(|plan| plan.ttft),
        tpot: mean(|plan| plan.tpot),
        e2e: mean(|plan| plan.e2e),
        requests_per_s: per_s,
        tokens_per_s_per_gpu: tokens_per_s / f64::from(gpus),
        tokens_per_s_per_user: mean(|plan| plan.tokens_per_s_per_user),
        usd_per_million: usd_per_hour / 3600.0 / tokens_per_s * 1e6,
        usd_per_hour,
        interval: PlanInterval {
            ttft: widest(|interval| interval.ttft),
            tpot: widest(|interval| interval.tpot),
        },
        chance: mean(|plan| plan.chance),
        types: parts.clone(),
        ..parts[0].clone()
    }
}
