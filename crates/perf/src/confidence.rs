//! How far a prediction may be off: what was measured of engines like it, and how far predictions
//! were from runs that they had not seen.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::{Gpu, Layout, ModelSpec};

/// What of a run was not measured: the more, the wider the interval of its prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Novelty {
    /// The model was measured on this GPU in this layout, under other loads.
    Load,
    /// It was measured on this GPU in other layouts.
    Layout,
    /// The GPU was measured with other models.
    Model,
    /// The GPU was not measured.
    Gpu,
}

impl Novelty {
    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::Load, Self::Layout, Self::Model, Self::Gpu];

    /// Returns the name that people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "the load",
            Self::Layout => "the layout",
            Self::Model => "the model",
            Self::Gpu => "the GPU",
        }
    }
}

/// A model in a layout on a GPU, of which runs were measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The GPU's name in the catalogue.
    pub gpu: String,
    /// The model's.
    pub model: String,
    /// The layout, as it is written.
    pub layout: String,
    /// The most requests at a time of those runs.
    #[serde(default)]
    pub requests: u32,
}

impl Seen {
    /// Returns the mark of a model in a layout on a GPU.
    pub fn new(model: &ModelSpec, gpu: &Gpu, layout: Layout) -> Self {
        let (gpu, model) = (gpu.name.clone(), model.name.clone());
        Self { gpu, model, layout: layout.to_string(), requests: 0 }
    }

    /// Returns what of this was not measured, where `all` was.
    pub fn novelty<'a>(&self, all: impl IntoIterator<Item = &'a Self>) -> Novelty {
        let one = |other: &Self| match other {
            other if other.gpu != self.gpu => Novelty::Gpu,
            other if other.model != self.model => Novelty::Model,
            other if other.layout != self.layout => Novelty::Layout,
            _ => Novelty::Load,
        };
        all.into_iter().map(one).min().unwrap_or(Novelty::Gpu)
    }
}

/// What 80 % of measured times lie within, as multiples of their prediction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// What had not been measured.
    pub novelty: Novelty,
    /// Whether the model is a mixture of experts.
    pub moe: bool,
    /// Measured over predicted time to first token, the lower and the upper end.
    pub ttft: (f64, f64),
    /// The same of the time per output token.
    pub tpot: (f64, f64),
    /// Runs behind it, each predicted without having been fitted.
    pub rows: usize,
}

impl Interval {
    /// Returns the interval of predictions for `model` in a layout on a GPU.
    ///
    /// ```
    /// use sagellm_perf::{Gpu, Interval, Layout, ModelSpec, Novelty};
    ///
    /// let model = ModelSpec::named("llama-3.1-70b-fp8")?;
    /// let measured = Interval::of(&model, Gpu::named("H100")?, Layout::tensor(4));
    /// let guessed = Interval::of(&model, Gpu::named("L40S")?, Layout::tensor(4));
    /// assert_eq!((measured.novelty, guessed.novelty), (Novelty::Load, Novelty::Gpu));
    /// assert!(measured.tpot.0 < 1.0 && measured.tpot.1 > 1.0);
    /// # Ok::<(), sagellm_perf::UnknownName>(())
    /// ```
    pub fn of(model: &ModelSpec, gpu: &Gpu, layout: Layout) -> Self {
        let seen = Seen::new(model, gpu, layout);
        let moe = model.moe.is_some();
        let of = |novelty| {
            let same = |i: &&Self| i.novelty == novelty && i.moe == moe;
            *FILE.intervals.iter().find(same).expect("a test finds an interval for each")
        };
        let novelty = seen.novelty(&FILE.seen);
        let model_seen = FILE.seen.iter().any(|other| other.model == seen.model);
        // As far off as anything that is new about it may be, and never surer than of what is less so.
        let new = |part: &Novelty| match part {
            Novelty::Load => true,
            Novelty::Layout => novelty >= Novelty::Layout,
            Novelty::Model => novelty == Novelty::Model || !model_seen,
            Novelty::Gpu => novelty == Novelty::Gpu,
        };
        let wider = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.max(b.1));
        let parts = Novelty::ALL.iter().filter(|part| new(part)).map(|&part| of(part));
        parts.fold(of(novelty), |all, part| Self {
            ttft: wider(all.ttft, part.ttft),
            tpot: wider(all.tpot, part.tpot),
            ..all
        })
    }

    /// Returns the interval of predictions for so many requests at a time: beyond what was measured of a
    /// model on a GPU, times may be longer by as much as there are more, since limits of engines show
    /// there that no smaller load has met.
    pub fn at(self, model: &ModelSpec, gpu: &Gpu, requests: u32) -> Self {
        let most = |of: &dyn Fn(&&Seen) -> bool| {
            FILE.seen.iter().filter(|seen| of(seen)).map(|seen| seen.requests).max()
        };
        let same = most(&|seen| seen.model == model.name && seen.gpu == gpu.name);
        let known = same.or_else(|| most(&|_| true)).unwrap_or(1).max(1);
        // Twice as many are still like what was measured.
        let beyond = (f64::from(requests) / (2.0 * f64::from(known))).max(1.0);
        let wider = |(low, high): (f64, f64)| (low, high * beyond);
        Self { ttft: wider(self.ttft), tpot: wider(self.tpot), ..self }
    }

    /// Returns how likely a time that is predicted keeps `limit`: 90 % if the upper end of the interval
    /// is at the limit, 10 % if the lower is.
    pub fn chance((low, high): (f64, f64), predicted: f64, limit: f64) -> f64 {
        let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
        shape((limit / predicted - middle) / half)
    }

    /// Returns how likely requests find room that are predicted to fill this share of the KV cache: 50 %
    /// if they fill all of it.
    ///
    /// Measured engines began to let requests wait at 0.78 to 1.1 times of what is predicted to fit: how
    /// much they keep for themselves differs by version and by settings that nobody noted down.
    pub fn room(filled: f64) -> f64 {
        /// Half of what 80 % of them lie within, on the logarithm: 1.28 standard deviations of 12 %.
        const HALF: f64 = 0.154;
        shape(-libm::log(filled.max(1e-9)) / HALF)
    }

    /// Returns the relative error that half of its width means, of both times: that of a normal
    /// distribution of which 80 % lies within.
    pub fn spread(&self) -> f64 {
        /// Standard deviations from the mean within which 80 % lie.
        const OF_80: f64 = 1.2816;
        let half = |(low, high): (f64, f64)| (high - low) / (high + low) / OF_80;
        let (ttft, tpot) = (half(self.ttft), half(self.tpot));
        (0.5 * (ttft * ttft + tpot * tpot)).sqrt()
    }
}

/// Returns the share of what is below `x`, where 80 % lie between −1 and 1: `(1 + y / √(1 + y²)) / 2`, like
/// a normal distribution with longer tails, as residuals have them.
fn shape(x: f64) -> f64 {
    /// Where it has its 90 %.
    const AT_90: f64 = 4.0 / 3.0;
    let y = x * AT_90;
    0.5 * (1.0 + y / (1.0 + y * y).sqrt())
}

/// The intervals of all kinds, and what was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confidence {
    /// One per [`Novelty`] and kind of model.
    pub intervals: Vec<Interval>,
    /// What was measured.
    pub seen: Vec<Seen>,
}

impl Confidence {
    /// Returns it as the file from which [`Interval::of`] reads.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for i in &self.intervals {
            let name = match i.novelty {
                Novelty::Load => "load",
                Novelty::Layout => "layout",
                Novelty::Model => "model",
                Novelty::Gpu => "gpu",
            };
            let ends = |(low, high): (f64, f64)| format!("[{low:.3}, {high:.3}]");
            text += &format!(
                "[[intervals]]\nnovelty = \"{name}\"\nmoe = {}\nttft = {}\ntpot = {}\nrows = {}\n\n",
                i.moe,
                ends(i.ttft),
                ends(i.tpot),
                i.rows
            );
        }
        for Seen { gpu, model, layout, requests } in &self.seen {
            text += &format!(
                "[[seen]]\ngpu = \"{gpu}\"\nmodel = \"{model}\"\nlayout = \"{layout}\"\nrequests = {requests}\n\n"
            );
        }
        text
    }
}

static FILE: LazyLock<Confidence> = LazyLock::new(|| {
    toml::from_str(include_str!("../data/confidence.toml")).expect("a test reads the file")
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_interval_for_each() {
        for novelty in Novelty::ALL {
            for moe in [false, true] {
                let own = FILE.intervals.iter().find(|i| i.novelty == novelty && i.moe == moe);
                let own = own.expect("one for each");
                for (low, high) in [own.ttft, own.tpot] {
                    assert!(0.0 < low && low < high && high < 10.0, "{own:?}");
                }
                assert!((0.02..1.0).contains(&own.spread()), "{own:?}");
            }
        }
    }

    #[test]
    fn what_is_newer_is_never_surer() {
        for (model, moe) in [("llama-3.1-70b-fp8", false), ("gpt-oss-120b", true)] {
            let model = ModelSpec::named(model).expect("known");
            let of = |gpu: &str, layout: &str| {
                let gpu = Gpu::named(gpu).expect("known");
                Interval::of(&model, gpu, layout.parse().expect("a layout"))
            };
            let (load, layout, gpu) = (of("H100", "tp4"), of("H100", "tp2pp2"), of("A100", "tp4"));
            let novelties = [load, layout, gpu].map(|interval| interval.novelty);
            assert_eq!(novelties, [Novelty::Load, Novelty::Layout, Novelty::Gpu]);
            assert!([load, layout, gpu].iter().all(|interval| interval.moe == moe));
            for (less, more) in [(load, layout), (layout, gpu)] {
                for (a, b) in [(less.ttft, more.ttft), (less.tpot, more.tpot)] {
                    assert!(b.0 <= a.0 && a.1 <= b.1, "{less:?} {more:?}");
                }
                assert!(less.spread() <= more.spread(), "{less:?} {more:?}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let again: Confidence = toml::from_str(&FILE.to_toml()).expect("as written");
        assert_eq!(again, *FILE);
    }

    #[test]
    fn what_was_measured_is_in_the_catalogue() {
        assert!(FILE.seen.len() > 10);
        for seen in &FILE.seen {
            let model = ModelSpec::named(&seen.model).expect("known");
            let gpu = Gpu::named(&seen.gpu).expect("known");
            let layout = seen.layout.parse().expect("a layout");
            assert_eq!(Seen { requests: seen.requests, ..Seen::new(&model, gpu, layout) }, *seen);
            let interval = Interval::of(&model, gpu, layout);
            assert!(interval.at(&model, gpu, 100_000).ttft.1 > 10.0 * interval.ttft.1);
            assert_eq!(Interval::of(&model, gpu, layout).novelty, Novelty::Load);
        }
    }

    #[test]
    fn the_ends_of_an_interval_are_its_quantiles() {
        let chance = |limit| Interval::chance((0.8, 1.2), 10.0, limit);
        assert!((chance(12.0) - 0.9).abs() < 1e-9 && (chance(8.0) - 0.1).abs() < 1e-9);
        assert!((chance(10.0) - 0.5).abs() < 1e-9 && chance(20.0) > 0.99 && chance(1.0) < 0.01);
    }

    #[test]
    fn who_fills_the_cache_may_find_no_room() {
        let room = [0.0, 0.3, 0.6, 0.8, 0.9, 1.0, 1.2].map(Interval::room);
        assert!(room.windows(2).all(|pair| pair[0] > pair[1]), "{room:?}");
        assert!(room[1] > 0.99 && room[3] > 0.9 && (room[5] - 0.5).abs() < 1e-9, "{room:?}");
    }

    #[test]
    fn the_least_novelty_counts() {
        let seen = |gpu: &str, model: &str, layout: &str| Seen {
            gpu: gpu.to_owned(),
            model: model.to_owned(),
            layout: layout.to_owned(),
            requests: 64,
        };
        let all = [seen("H100", "a", "tp1"), seen("H100", "b", "tp2"), seen("B200", "a", "tp2")];
        let check = |of: Seen, wanted| assert_eq!(of.novelty(&all), wanted, "{of:?}");
        check(seen("H100", "a", "tp1"), Novelty::Load);
        check(seen("H100", "a", "tp2"), Novelty::Layout);
        check(seen("B200", "b", "tp2"), Novelty::Model);
        check(seen("L4", "a", "tp1"), Novelty::Gpu);
    }
}
