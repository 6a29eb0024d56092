//! What arrives when: the arrivals of a run and the classes to which they belong.

use std::time::Duration;

use sagellm_types::{Seed, Timestamp, Tokens};

use crate::class::{SloClass, draw_class};

/// Tokens in one block of a prompt.
pub const BLOCK: u64 = 512;

/// One request as it arrives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Arrival {
    /// When it arrives, after the start of the workload.
    pub at: Timestamp,
    /// Tokens of its prompt.
    pub prompt: Tokens,
    /// Tokens of its answer.
    pub output: Tokens,
    /// Its class, as an index into [`Workload::classes`].
    pub class: usize,
    /// Who sends it: a number within the class.
    pub user: Option<u32>,
    /// The conversation of which it is a turn.
    pub session: Option<u64>,
    /// Ids of the prompt's blocks of [`BLOCK`] tokens, the last one perhaps cut short. Prompts whose
    /// leading ids are equal begin with the same tokens. Empty: nothing is known to be shared.
    pub blocks: Vec<u64>,
}

/// The arrivals of a run, in order of time.
///
/// ```
/// use sagellm_types::{Timestamp, Tokens};
/// use sagellm_workload::{Arrival, Workload};
///
/// let at = |second| Arrival { at: Timestamp::from_secs(second), ..Arrival::default() };
/// let workload = Workload::new(vec![at(0), at(10), at(20)]);
/// let faster = workload.rate_scale(2.0).truncate(2);
/// assert_eq!(faster.arrivals.last().map(|arrival| arrival.at), Some(Timestamp::from_secs(5)));
/// ```
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Workload {
    /// The classes; at least one if there are arrivals.
    pub classes: Vec<SloClass>,
    /// The arrivals, in order of time.
    pub arrivals: Vec<Arrival>,
}

/// Figures of a workload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Requests.
    pub requests: usize,
    /// Time from the start to the last arrival.
    pub span: Duration,
    /// Requests per second over the span.
    pub rate: f64,
    /// Coefficient of variation of the gaps between arrivals: 1 for a Poisson process.
    pub gap_cv: f64,
    /// Mean tokens of a prompt.
    pub mean_prompt: f64,
    /// Mean tokens of an answer.
    pub mean_output: f64,
}

impl Workload {
    /// Returns a workload of one plain class.
    pub fn new(arrivals: Vec<Arrival>) -> Self {
        Self { classes: vec![SloClass::default()], arrivals }
    }

    /// Returns the class of an arrival.
    pub fn class(&self, arrival: &Arrival) -> &SloClass {
        &self.classes[arrival.class]
    }

    /// Returns the workload with `factor` times the rate: the same order, shorter gaps.
    ///
    /// # Panics
    /// If `factor` is not a positive finite number.
    pub fn rate_scale(mut self, factor: f64) -> Self {
        assert!(factor.is_finite() && factor > 0.0, "a rate is scaled by a positive number");
        for arrival in &mut self.arrivals {
            arrival.at = Timestamp::from_nanos((arrival.at.as_nanos() as f64 / factor) as u64);
        }
        self
    }

    /// Returns the arrivals in `from..to`, moved so that `from` is the start.
    pub fn trim(mut self, from: Timestamp, to: Timestamp) -> Self {
        self.arrivals.retain(|arrival| (from..to).contains(&arrival.at));
        for arrival in &mut self.arrivals {
            arrival.at = Timestamp::ZERO + arrival.at.since(from);
        }
        self
    }

    /// Returns the first `count` arrivals.
    pub fn truncate(mut self, count: usize) -> Self {
        self.arrivals.truncate(count);
        self
    }

    /// Returns the workload with prompts and answers cut to what an engine takes.
    pub fn cap(mut self, prompt: Tokens, output: Tokens) -> Self {
        for arrival in &mut self.arrivals {
            arrival.prompt = arrival.prompt.min(prompt);
            arrival.output = arrival.output.min(output);
            let blocks = usize::try_from(arrival.prompt.0.div_ceil(BLOCK)).unwrap_or(usize::MAX);
            arrival.blocks.truncate(blocks);
        }
        self
    }

    /// Returns the same arrivals with classes and users drawn anew: a trace says neither. Turns of
    /// one session stay in one class and with one user. Shares need not add up to one.
    ///
    /// # Panics
    /// If `classes` is empty.
    pub fn classify(mut self, classes: Vec<SloClass>, seed: Seed) -> Self {
        let mut rng = seed.stream("workload.classes");
        for arrival in &mut self.arrivals {
            let mut own;
            let rng = match arrival.session {
                Some(session) => {
                    own = Seed(seed.0 ^ session).stream("workload.classes.session");
                    &mut own
                }
                None => &mut rng,
            };
            arrival.class = draw_class(&classes, rng);
            arrival.user = classes[arrival.class].draw_user(rng);
        }
        self.classes = classes;
        self
    }

    /// Returns the figures of the workload, or `None` if nothing arrives.
    pub fn shape(&self) -> Option<Shape> {
        let last = self.arrivals.last()?;
        let requests = self.arrivals.len();
        let n = requests as f64;
        let mean = |tokens: fn(&Arrival) -> Tokens| {
            self.arrivals.iter().map(tokens).sum::<Tokens>().as_f64() / n
        };
        let gaps: Vec<f64> = self
            .arrivals
            .windows(2)
            .map(|pair| pair[1].at.since(pair[0].at).as_secs_f64())
            .collect();
        let span = last.at.since(Timestamp::ZERO);
        let seconds = span.as_secs_f64();
        Some(Shape {
            requests,
            span,
            rate: if seconds > 0.0 { n / seconds } else { 0.0 },
            gap_cv: variation(&gaps),
            mean_prompt: mean(|arrival| arrival.prompt),
            mean_output: mean(|arrival| arrival.output),
        })
    }
}

impl IntoIterator for Workload {
    type Item = Arrival;
    type IntoIter = std::vec::IntoIter<Arrival>;
    fn into_iter(self) -> Self::IntoIter {
        self.arrivals.into_iter()
    }
}

/// Returns standard deviation / mean, or 0 if that is not defined.
pub(crate) fn variation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / n;
    if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_second(count: u64) -> Workload {
        let arrival = |i| Arrival {
            at: Timestamp::from_secs(i),
            prompt: Tokens(1000 + i),
            output: Tokens(10),
            blocks: vec![0, i],
            ..Arrival::default()
        };
        Workload::new((0..count).map(arrival).collect())
    }

    fn seconds(workload: &Workload) -> Vec<f64> {
        workload.arrivals.iter().map(|arrival| arrival.at.as_secs_f64()).collect()
    }

    #[test]
    fn a_trimmed_workload_begins_at_zero() {
        let trimmed = every_second(10).trim(Timestamp::from_secs(3), Timestamp::from_secs(6));
        assert_eq!(seconds(&trimmed), [0.0, 1.0, 2.0]);
        assert_eq!(trimmed.arrivals[0].prompt, Tokens(1003));
    }

    #[test]
    fn scaling_the_rate_changes_times_alone() {
        let scaled = every_second(3).rate_scale(4.0);
        assert_eq!(seconds(&scaled), [0.0, 0.25, 0.5]);
        assert_eq!(scaled.arrivals[2].prompt, Tokens(1002));
    }

    #[test]
    fn a_cut_prompt_has_no_blocks_that_it_does_not_reach() {
        let capped = every_second(1).cap(Tokens(512), Tokens(4));
        let arrival = &capped.arrivals[0];
        assert_eq!((arrival.prompt, arrival.output), (Tokens(512), Tokens(4)));
        assert_eq!(arrival.blocks, [0]);
    }

    #[test]
    fn the_shape_says_what_the_workload_is() {
        let shape = every_second(11).shape().expect("there are arrivals");
        assert_eq!((shape.requests, shape.span), (11, Duration::from_secs(10)));
        assert_eq!((shape.rate, shape.gap_cv), (1.1, 0.0));
        assert_eq!((shape.mean_prompt, shape.mean_output), (1005.0, 10.0));
        assert_eq!(Workload::default().shape(), None);
    }

    #[test]
    fn turns_of_a_session_keep_their_class_and_user() {
        let mut workload = every_second(300);
        for (i, arrival) in workload.arrivals.iter_mut().enumerate() {
            arrival.session = Some(i as u64 % 10);
        }
        let class = |name: &str| SloClass { name: name.into(), users: 50, ..SloClass::default() };
        let drawn = workload.classify(vec![class("a"), class("b")], Seed(1));
        for arrival in &drawn.arrivals {
            let session = arrival.session.expect("every arrival has one") as usize;
            let first = &drawn.arrivals[session];
            assert_eq!((arrival.class, arrival.user), (first.class, first.user));
        }
        let first_ten = &drawn.arrivals[..10];
        assert!(first_ten.iter().any(|a| a.class == 0) && first_ten.iter().any(|a| a.class == 1));
    }
}
