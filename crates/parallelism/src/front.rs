//! The Pareto front: operating points of which none is better in everything.

use crate::point::Point;
use crate::question::Question;

/// Points that no other beats, in steps of [`STEP`]: what differs by less counts as equal, so that the
/// front is as long as people can read.
#[derive(Debug, Default)]
pub(crate) struct Front {
    points: Vec<(Place, Point)>,
    /// Where the one was that last beat a point: a guess, since others go.
    last: usize,
}

/// Where a point stands on each axis, in steps; more is better.
type Place = [i32; 4];

/// How much better counts: 3 %.
const STEP: f64 = 1.03;

fn place(point: &Point) -> Place {
    let steps = |value: f64| (libm::log(value.max(1e-12)) / libm::log(STEP)).round() as i32;
    [steps(point.per_gpu), steps(point.per_user), -steps(point.usd_per_million), -steps(point.ttft)]
}

/// Returns whether `a` is at least as good as `b` in everything, and better by more than a step in
/// something: without a logarithm.
fn clearly_beats(a: &Point, b: &Point) -> bool {
    let figures = [
        (a.per_gpu, b.per_gpu),
        (a.per_user, b.per_user),
        (b.usd_per_million, a.usd_per_million),
        (b.ttft, a.ttft),
    ];
    figures.iter().all(|(a, b)| a >= b) && figures.iter().any(|(a, b)| *a > 1.001 * STEP * b)
}

/// Returns whether `a` is at least as good as `b` in everything.
fn covers(a: &Place, b: &Place) -> bool {
    a[0] >= b[0] && a[1] >= b[1] && a[2] >= b[2] && a[3] >= b[3]
}

impl Front {
    /// Takes note of a point. Of equal ones the better by the question's order stays: the front does not
    /// depend on the order in which points are found.
    pub(crate) fn add(&mut self, point: Point, question: &Question<'_>) {
        // Most points are beaten by the one that beat the point before.
        if self.points.get(self.last).is_some_and(|(_, last)| clearly_beats(last, &point)) {
            return;
        }
        let own = place(&point);
        let beaten = |(other, _): &(Place, Point)| *other != own && covers(other, &own);
        if let Some(by) = self.points.iter().position(beaten) {
            self.last = by;
            return;
        }
        if let Some((_, equal)) = self.points.iter_mut().find(|(other, _)| *other == own) {
            if point.order(equal, question).is_lt() {
                *equal = point;
            }
            return;
        }
        self.points.retain(|(other, _)| !covers(&own, other));
        self.points.push((own, point));
    }

    /// Returns the points from the fastest for a request to the slowest; of equally fast ones first
    /// that which gives the most per GPU.
    pub(crate) fn into_points(self) -> Vec<Point> {
        let mut points: Vec<Point> = self.points.into_iter().map(|(_, point)| point).collect();
        points.sort_by(|a, b| {
            let faster = b.per_user.total_cmp(&a.per_user);
            faster.then(b.per_gpu.total_cmp(&a.per_gpu)).then(a.ttft.total_cmp(&b.ttft))
        });
        points
    }
}
