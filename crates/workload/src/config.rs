//! A workload as its settings describe it.

use std::time::Duration;

use sagellm_types::{Seed, Timestamp, Tokens, stable_hash};
use serde::{Deserialize, Serialize};

use crate::arrivals::Arrivals;
use crate::class::{SloClass, draw_class};
use crate::error::{ConfigError, check, positive};
use crate::length::Length;
use crate::session::{Prefix, Sessions};
use crate::workload::{Arrival, Workload};

/// A synthetic workload.
///
/// ```
/// use sagellm_types::Seed;
/// use sagellm_workload::{Arrivals, WorkloadConfig};
///
/// let config = WorkloadConfig::new(Arrivals::poisson(10.0), 60.0);
/// let workload = config.generate(Seed(7)).expect("the settings are sound");
/// assert_eq!(workload, config.generate(Seed(7)).expect("a seed gives the same again"));
/// let shape = workload.shape().expect("something arrives");
/// assert!((shape.rate - 10.0).abs() < 2.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadConfig {
    /// When requests arrive.
    pub arrivals: Arrivals,
    /// For how long, in seconds; later turns of conversations may come after it.
    pub duration_s: f64,
    /// Most requests, if there is a limit.
    #[serde(default)]
    pub max_requests: Option<usize>,
    /// Tokens of prompts, where a class does not say.
    #[serde(default = "default_prompt")]
    pub prompt: Length,
    /// Tokens of answers, where a class does not say.
    #[serde(default = "default_output")]
    pub output: Length,
    /// Conversations; every request stands alone when absent.
    #[serde(default)]
    pub sessions: Option<Sessions>,
    /// The classes of requests; one plain class when empty.
    #[serde(default)]
    pub classes: Vec<SloClass>,
}

/// Prompts as in the conversations of Azure's trace of November 2023, without its longest.
fn default_prompt() -> Length {
    Length::Lognormal { mean: 1155.0, cv: 0.95, max: 8192 }
}

/// Answers as in the same trace.
fn default_output() -> Length {
    Length::Lognormal { mean: 211.0, cv: 0.8, max: 1000 }
}

impl WorkloadConfig {
    /// Returns one plain class with Azure's lengths, for so many seconds.
    pub fn new(arrivals: Arrivals, duration_s: f64) -> Self {
        Self {
            arrivals,
            duration_s,
            max_requests: None,
            prompt: default_prompt(),
            output: default_output(),
            sessions: None,
            classes: Vec::new(),
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// If a field is not what its documentation says, or two classes have one name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.arrivals.validate()?;
        positive("duration_s", self.duration_s)?;
        self.prompt.validate("prompt")?;
        self.output.validate("output")?;
        self.sessions.map_or(Ok(()), |sessions| sessions.validate())?;
        for (i, class) in self.classes.iter().enumerate() {
            class.validate()?;
            let unique = self.classes[..i].iter().all(|other| other.name != class.name);
            check("classes", unique, "a name of its own for each class", &class.name)?;
        }
        Ok(())
    }

    /// Returns the arrivals that `seed` gives: the same on every machine. Times, classes, prompts,
    /// answers and later turns are drawn from streams of their own, so that a change of one leaves
    /// the others as they are.
    ///
    /// # Errors
    /// If a field is not what its documentation says.
    pub fn generate(&self, seed: Seed) -> Result<Workload, ConfigError> {
        self.validate()?;
        let classes =
            if self.classes.is_empty() { vec![SloClass::default()] } else { self.classes.clone() };
        let mut class_rng = seed.stream("workload.classes");
        let mut prompt_rng = seed.stream("workload.prompts");
        let mut output_rng = seed.stream("workload.outputs");
        let mut session_rng = seed.stream("workload.sessions");
        let end =
            Timestamp::ZERO + Duration::try_from_secs_f64(self.duration_s).unwrap_or(Duration::MAX);
        let limit = self.max_requests.unwrap_or(usize::MAX);
        let times = self.arrivals.times(seed.stream("workload.arrivals"))?;
        let mut arrivals = Vec::new();
        for (number, at) in (0u64..).zip(times.take_while(|at| *at < end).take(limit)) {
            let class = draw_class(&classes, &mut class_rng);
            let user = classes[class].draw_user(&mut class_rng);
            let SloClass { name, prompt, output, shared_prefix, user_prefix, .. } = &classes[class];
            let (prompt, output) =
                (prompt.as_ref().unwrap_or(&self.prompt), output.as_ref().unwrap_or(&self.output));
            let of_class = stable_hash(name.as_bytes(), seed.0);
            let prefix = Prefix {
                class: of_class,
                shared: *shared_prefix,
                user: stable_hash(&user.unwrap_or_default().to_le_bytes(), of_class),
                of_user: *user_prefix,
                session: stable_hash(&number.to_le_bytes(), seed.0),
            };
            let mut first = Arrival {
                at,
                prompt: prompt.draw(&mut prompt_rng) + prefix.known(),
                output: output.draw(&mut output_rng),
                class,
                user,
                session: None,
                blocks: Vec::new(),
            };
            if prefix.known() > Tokens::ZERO || self.sessions.is_some() {
                first.blocks = prefix.blocks(first.prompt);
            }
            first.session = self.sessions.map(|_| prefix.session);
            arrivals.push(first.clone());
            if let Some(sessions) = self.sessions {
                let lengths = |rng: &mut _| (prompt.draw(rng), output.draw(rng));
                sessions.follow(&first, prefix, &mut session_rng, lengths, &mut arrivals);
            }
        }
        // Stable, so that requests of one instant stay as they were drawn.
        arrivals.sort_by_key(|arrival| arrival.at);
        arrivals.truncate(limit);
        Ok(Workload { classes, arrivals })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(config: &WorkloadConfig) -> String {
        config.generate(Seed(0)).expect_err("the settings are not sound").to_string()
    }

    #[test]
    fn lengths_do_not_move_arrivals() {
        let one = WorkloadConfig::new(Arrivals::poisson(5.0), 20.0);
        let two = WorkloadConfig { prompt: Length::Constant { tokens: 5 }, ..one.clone() };
        let [one, two] = [one, two].map(|config| config.generate(Seed(3)).expect("sound"));
        let times = |workload: &Workload| -> Vec<Timestamp> {
            workload.arrivals.iter().map(|arrival| arrival.at).collect()
        };
        assert_eq!(times(&one), times(&two));
        assert!(two.arrivals.iter().all(|arrival| arrival.prompt == Tokens(5)));
        assert!(one.arrivals.iter().zip(&two.arrivals).all(|(a, b)| a.output == b.output));
    }

    #[test]
    fn conversations_are_woven_together_in_order_of_time() {
        let config = WorkloadConfig {
            sessions: Some(Sessions { think_s: 5.0, ..Sessions::default() }),
            max_requests: Some(300),
            ..WorkloadConfig::new(Arrivals::poisson(2.0), 120.0)
        };
        let workload = config.generate(Seed(4)).expect("sound");
        assert_eq!(workload.arrivals.len(), 300);
        assert!(workload.arrivals.is_sorted_by_key(|arrival| arrival.at));
        for (i, arrival) in workload.arrivals.iter().enumerate() {
            let earlier = workload.arrivals[..i].iter().rev();
            if let Some(before) = earlier.into_iter().find(|a| a.session == arrival.session) {
                assert!(arrival.blocks.starts_with(&before.blocks));
                assert_eq!((arrival.class, arrival.user), (before.class, before.user));
            }
        }
    }

    #[test]
    fn an_error_names_the_field_and_what_it_may_be() {
        let sound = WorkloadConfig::new(Arrivals::poisson(5.0), 20.0);
        let rate = WorkloadConfig { arrivals: Arrivals::poisson(-1.0), ..sound.clone() };
        assert_eq!(error(&rate), "arrivals.rate.per_s: expected a positive number, found -1");
        let class = SloClass { name: "chat".into(), ttft_ms: Some(0.0), ..SloClass::default() };
        let limit = WorkloadConfig { classes: vec![class.clone()], ..sound.clone() };
        assert_eq!(error(&limit), "classes.chat.ttft_ms: expected a positive number, found 0");
        let class = SloClass { ttft_ms: None, ..class };
        let twice = WorkloadConfig { classes: vec![class.clone(), class], ..sound.clone() };
        assert_eq!(error(&twice), "classes: expected a name of its own for each class, found chat");
        let prompt = Length::Uniform { min: 5, max: 2 };
        let uniform = WorkloadConfig { prompt, ..sound };
        assert_eq!(error(&uniform), "prompt: expected 0 < min ≤ max, found 5..=2");
    }
}
