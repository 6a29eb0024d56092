//! Prompts on instances of their own: which layouts compute them, which decode, and how many of each.
//!
//! A pair of layouts gives what its decoding instances take at a number of requests at a time; the
//! prefilling ones compute the prompts as they come at random, and every request waits for its keys and
//! values to be read. More prefilling instances shorten that wait and give nothing else: so the fewest
//! that keep the limits are looked at (best by GPU and by dollar) and the most that there are (the
//! shortest times), and none between. The front holds no others either.

use std::time::Duration;

use sagellm_perf::{Dtype, Link, Prompts};

use crate::laid::Laid;
use crate::plan::PlanInterval;
use crate::point::{Point, Times};
use crate::question::{Question, Seating, Split};
use crate::search::{Found, grid};

/// Most of the time that prompts may take of an instance, and reads of a link: beyond, a queue that is
/// short in the mean is long whenever more come than usual.
const BUSY: f64 = 0.9;

/// How often the rate of one request at a time is cut by a fifth: down to a thousandth.
const IDLE: i32 = 32;

/// A pair of layouts.
struct Pair<'l, 'a> {
    prefill: (usize, &'l Laid<'a>),
    decode: (usize, &'l Laid<'a>),
    prompts: &'l Waits,
    /// Seconds that the keys and values of one request take.
    transfer: f64,
}

/// The times to first token of prompts on a layout, by how busy it is: they are asked for at every point.
struct Waits {
    /// Seconds from one prompt to the next at best.
    each: f64,
    /// Times at even steps from idle to [`BUSY`].
    times: Vec<f64>,
}

impl Waits {
    /// Steps of the table.
    const STEPS: u32 = 90;

    fn of(prompts: &Prompts) -> Self {
        let at = |step: u32| BUSY * f64::from(step) / f64::from(Self::STEPS) / prompts.each;
        Self {
            each: prompts.each,
            times: (0..=Self::STEPS).map(|step| prompts.ttft(at(step))).collect(),
        }
    }

    fn busy(&self, per_s: f64) -> f64 {
        per_s * self.each
    }

    /// Returns the time to first token of `per_s` prompts per second, between those of the table;
    /// infinite where they would keep the layout too busy.
    fn ttft(&self, per_s: f64) -> f64 {
        let place = self.busy(per_s) / BUSY * f64::from(Self::STEPS);
        let (whole, part) = (place as usize, place.fract());
        match (self.times.get(whole), self.times.get(whole + 1)) {
            (Some(low), Some(high)) => low + part * (high - low),
            (Some(last), None) if part <= 1e-9 => *last,
            _ => f64::INFINITY,
        }
    }
}

/// So many requests at a time on each decoding instance.
#[derive(Clone, Copy)]
struct Load {
    requests: u32,
    /// Seconds from the keys and values to the first token.
    first: f64,
    tpot: f64,
    /// Requests per second of one instance.
    per_s: f64,
}

/// Returns the best point of each layout that decodes, with the prefilling layout that suits it best.
pub(crate) fn pairs(found: &mut Found<'_, '_>, laid: &[Laid<'_>]) -> Vec<Point> {
    debug_assert!(found.question.split != Split::Never);
    let question = found.question;
    let prompts: Vec<Waits> =
        laid.iter().map(|laid| Waits::of(&laid.prompts(question).1)).collect();
    let mut best = Vec::new();
    for (place, decode) in laid.iter().enumerate() {
        let loads = loads(found, decode);
        let mut of_layout = None;
        for (source, prefill) in laid.iter().enumerate() {
            let pair = Pair {
                prefill: (source, prefill),
                decode: (place, decode),
                prompts: &prompts[source],
                transfer: transfer(question, prefill, decode),
            };
            // Where prompts take longest, there is not even one request at all times.
            let one = &loads[0];
            let most = pair.most(question, 1);
            if pair.prompts.busy(one.per_s) > BUSY * f64::from(most.max(1)) {
                for times in (1..IDLE).rev() {
                    let per_s = one.per_s * 0.8_f64.powi(times);
                    pair.at(found, &Load { per_s, ..*one }, &mut of_layout);
                }
            }
            for load in &loads {
                pair.at(found, load, &mut of_layout);
            }
        }
        best.extend(of_layout);
    }
    best
}

/// Returns the loads of a decoding instance that may keep the limits. The smallest steps leave the most
/// room for keys and values.
fn loads(found: &Found<'_, '_>, decode: &Laid<'_>) -> Vec<Load> {
    let mut loads = Vec::new();
    for requests in grid(decode.seats(found.question, 0)) {
        let steady = decode.steady(found.question, requests, 0, true);
        let (tpot, per_s) = (steady.tpot, steady.per_s);
        // A read begins with a step, and its end is seen at the end of another.
        let first = steady.ttft + 0.5 * steady.decode;
        loads.push(Load { requests, first, tpot, per_s });
        if found.prune && decode.too_slow(found.question, requests, &steady) {
            break;
        }
    }
    loads
}

impl Pair<'_, '_> {
    /// Looks at all numbers of instances under a load.
    fn at(&self, found: &mut Found<'_, '_>, load: &Load, best: &mut Option<Point>) {
        let (question, (_, decode)) = (found.question, self.decode);
        let busy = load.per_s * self.transfer;
        if busy > BUSY {
            return;
        }
        let read = self.transfer * (1.0 + 0.5 * busy / (1.0 - busy));
        let interval = self.prefill.1.handed(question, decode, load.requests);
        for instances in grid(decode.instances) {
            let most = self.most(question, instances);
            let point =
                |prefill: u32| self.point(question, load, interval, read, instances, prefill);
            let keeps = |prefill: u32| {
                let ttft = self.ttft(load, read, instances, prefill);
                question.limits.kept(ttft, load.tpot, question.workload.output)
            };
            if most == 0 {
                break;
            }
            if !found.prune {
                let mut good = (1..=most).filter(|prefill| {
                    let point = point(*prefill);
                    let good = found.seen(&point) && self.enough(question, &point);
                    if good {
                        found.better(point, best);
                    }
                    good
                });
                let ends = (good.next(), good.last());
                for prefill in [ends.0, ends.1].into_iter().flatten() {
                    found.good(point(prefill), best);
                }
                continue;
            }
            if !keeps(most) && load.requests > 1 {
                found.skipped();
                continue;
            }
            if !self.note(found, point(most), best) {
                continue;
            }
            // The fewest that keep the limits: times only fall with their number.
            let (mut bad, mut good) = (0, most);
            while bad + 1 < good {
                let middle = bad + (good - bad) / 2;
                if keeps(middle) { good = middle } else { bad = middle }
            }
            if good < most {
                self.note(found, point(good), best);
            }
        }
    }

    /// Takes note of a point; returns whether it keeps the limits.
    fn note(&self, found: &mut Found<'_, '_>, point: Point, best: &mut Option<Point>) -> bool {
        if !found.seen(&point) {
            return false;
        }
        if self.enough(found.question, &point) {
            found.good(point, best);
        }
        true
    }

    /// Returns whether a point gives what is demanded.
    fn enough(&self, question: &Question<'_>, point: &Point) -> bool {
        question.demand.requests_per_s.is_none_or(|wanted| point.per_s >= wanted)
    }

    /// Returns how many prefilling instances there may be beside so many that decode.
    fn most(&self, question: &Question<'_>, decoding: u32) -> u32 {
        let ((_, prefill), (_, decode)) = (self.prefill, self.decode);
        let (count, size) = (question.gpus[prefill.kind].1, prefill.layout.gpus());
        let there = if prefill.kind != decode.kind {
            prefill.instances
        } else if question.links.is_some() {
            let taken = decode.layout.gpus() * decoding;
            prefill.instances.min(count.saturating_sub(taken) / size)
        } else {
            let each = prefill.gpu.per_host();
            Seating::beside(each, size, count, (decode.layout.gpus(), decoding))
        };
        let rent = decode.usd_per_hour() * f64::from(decoding);
        there.min(question.demand.affords(prefill.usd_per_hour(), rent))
    }

    /// Returns the time to first token.
    fn ttft(&self, load: &Load, read: f64, decoding: u32, prefilling: u32) -> f64 {
        let each = load.per_s * f64::from(decoding) / f64::from(prefilling);
        self.prompts.ttft(each) + read + load.first
    }

    fn point(
        &self,
        question: &Question<'_>,
        load: &Load,
        interval: PlanInterval,
        read: f64,
        decoding: u32,
        prefilling: u32,
    ) -> Point {
        let ((source, prefill), (place, decode)) = (self.prefill, self.decode);
        let (n_prefill, n_decode) = (f64::from(prefilling), f64::from(decoding));
        let per_s = load.per_s * n_decode;
        let ttft = self.ttft(load, read, decoding, prefilling);
        let filled = decode.filled(question, load.requests, 0);
        let times = Times { ttft, tpot: load.tpot, interval, filled };
        let gpus = prefill.layout.gpus() * prefilling + decode.layout.gpus() * decoding;
        let hour = prefill.usd_per_hour() * n_prefill + decode.usd_per_hour() * n_decode;
        Point::new(
            question,
            &times,
            (place, decoding),
            (load.requests, 0),
            Some((source, prefilling)),
            (per_s, gpus, hour),
        )
    }
}

/// Returns the seconds that the keys and values of one request take from one instance to another: as
/// many links side by side as the fewer of the two have parts of them.
pub(crate) fn transfer(question: &Question<'_>, from: &Laid<'_>, to: &Laid<'_>) -> f64 {
    let together = from.layout.gpus() + to.layout.gpus();
    let usual = match from.kind == to.kind {
        true => Link::among(from.gpu, together),
        false => Link {
            bytes_per_second: from.gpu.nic.min(to.gpu.nic) * 1e9,
            latency: Duration::from_micros(10),
        },
    };
    let known = question.links.and_then(|links| links.between(from.gpu, to.gpu));
    let link = known.unwrap_or(usual);
    let parts = |laid: &Laid<'_>| {
        question.model.kv_parts(laid.layout.tensor) * f64::from(laid.layout.pipeline)
    };
    let wide =
        Link { bytes_per_second: link.bytes_per_second * parts(from).min(parts(to)), ..link };
    let tokens = question.workload.prompt + question.workload.cached;
    let seconds = wide.kv_seconds(question.model, Dtype::Bf16, tokens as u64);
    seconds + wide.latency.as_secs_f64()
}
