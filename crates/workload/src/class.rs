//! Classes of requests: who sends them, how urgent they are and what they ask for.

use std::time::Duration;

use sagellm_types::{Objectives, RequestPriority, Rng};
use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, check, positive};
use crate::length::Length;

/// A class of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SloClass {
    /// Its name.
    pub name: String,
    /// How urgent its requests are.
    pub priority: RequestPriority,
    /// Its share of the requests, relative to the other classes.
    pub share: f64,
    /// How many users send them; 0: nobody is named.
    pub users: u32,
    /// Time to first token that they ask for, in milliseconds.
    pub ttft_ms: Option<f64>,
    /// Time per output token that they ask for, in milliseconds.
    pub tpot_ms: Option<f64>,
    /// Time to the last token that they ask for, in milliseconds.
    pub e2e_ms: Option<f64>,
    /// Tokens of their prompts; as in the whole workload when absent.
    pub prompt: Option<Length>,
    /// Tokens of their answers; as in the whole workload when absent.
    pub output: Option<Length>,
    /// Leading tokens that all prompts of the class share, such as a system prompt.
    pub shared_prefix: u64,
    /// Tokens after those that all prompts of one user share, such as the user's documents.
    pub user_prefix: u64,
}

impl Default for SloClass {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            priority: RequestPriority::Normal,
            share: 1.0,
            users: 0,
            ttft_ms: None,
            tpot_ms: None,
            e2e_ms: None,
            prompt: None,
            output: None,
            shared_prefix: 0,
            user_prefix: 0,
        }
    }
}

impl SloClass {
    /// Returns the latencies that its requests ask for.
    pub fn objectives(&self) -> Objectives {
        let duration = |ms: Option<f64>| ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
        Objectives {
            ttft: duration(self.ttft_ms),
            tpot: duration(self.tpot_ms),
            e2e: duration(self.e2e_ms),
        }
    }

    pub(crate) fn draw_user(&self, rng: &mut Rng) -> Option<u32> {
        (self.users > 0).then(|| rng.below(self.users as usize) as u32)
    }

    /// # Errors
    /// If a field is not what its documentation says.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let field = |field: &str| format!("classes.{}.{field}", self.name);
        positive(&field("share"), self.share)?;
        for (name, limit) in
            [("ttft_ms", self.ttft_ms), ("tpot_ms", self.tpot_ms), ("e2e_ms", self.e2e_ms)]
        {
            limit.map_or(Ok(()), |limit| positive(&field(name), limit))?;
        }
        let named = self.user_prefix == 0 || self.users > 0;
        check(&field("user_prefix"), named, "0, or `users`", self.user_prefix)?;
        for (name, length) in [("prompt", &self.prompt), ("output", &self.output)] {
            length.as_ref().map_or(Ok(()), |length| length.validate(&field(name)))?;
        }
        Ok(())
    }
}

/// Draws a class by share.
///
/// # Panics
/// If there is none.
pub(crate) fn draw_class(classes: &[SloClass], rng: &mut Rng) -> usize {
    assert!(!classes.is_empty(), "a class is drawn from at least one");
    let mut left = rng.unit() * classes.iter().map(|class| class.share).sum::<f64>();
    for (index, class) in classes.iter().enumerate() {
        left -= class.share;
        if left < 0.0 {
            return index;
        }
    }
    classes.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::Seed;

    #[test]
    fn classes_are_drawn_by_share() {
        let class = |share| SloClass { share, ..SloClass::default() };
        let classes = [class(1.0), class(3.0), class(6.0)];
        let mut rng = Seed(3).stream("test");
        let mut drawn = [0u32; 3];
        (0..10_000).for_each(|_| drawn[draw_class(&classes, &mut rng)] += 1);
        for (count, expected) in drawn.into_iter().zip([1000u32, 3000, 6000]) {
            assert!(count.abs_diff(expected) < 200, "{drawn:?}");
        }
    }

    #[test]
    fn objectives_are_milliseconds() {
        let class = SloClass { ttft_ms: Some(250.0), ..SloClass::default() };
        assert_eq!(class.objectives().ttft, Some(Duration::from_millis(250)));
        assert_eq!(class.objectives().e2e, None);
    }
}
