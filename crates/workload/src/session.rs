//! Conversations: turns that begin with all that was said before.

use std::time::Duration;

use sagellm_types::{Rng, Timestamp, Tokens, stable_hash};
use serde::{Deserialize, Serialize};

use crate::draw::exponential;
use crate::error::{ConfigError, check, positive};
use crate::workload::{Arrival, BLOCK};

/// How conversations go on. An arrival of the process is a first turn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// Mean turns of a conversation, geometrically distributed; at least 1.
    pub mean_turns: f64,
    /// Most turns of a conversation.
    pub max_turns: u32,
    /// Mean time from one turn to the next, in seconds, exponentially distributed: reading the
    /// answer and writing.
    pub think_s: f64,
    /// A conversation ends before its prompt would be longer than so many tokens.
    pub max_prompt: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { mean_turns: 4.0, max_turns: 20, think_s: 20.0, max_prompt: 32_768 }
    }
}

impl Sessions {
    /// # Errors
    /// If a field is not what its documentation says.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let turns = self.mean_turns.is_finite() && self.mean_turns >= 1.0;
        check("sessions.mean_turns", turns, "a number that is at least 1", self.mean_turns)?;
        check("sessions.max_turns", self.max_turns > 0, "at least 1", self.max_turns)?;
        check("sessions.max_prompt", self.max_prompt > 0, "at least 1", self.max_prompt)?;
        positive("sessions.think_s", self.think_s)
    }

    /// Appends the later turns of the conversation that `first` begins; `lengths` draws what the
    /// user writes and what is answered.
    pub(crate) fn follow(
        &self,
        first: &Arrival,
        prefix: Prefix,
        rng: &mut Rng,
        mut lengths: impl FnMut(&mut Rng) -> (Tokens, Tokens),
        arrivals: &mut Vec<Arrival>,
    ) {
        let mut last = first.clone();
        for _ in 1..self.max_turns {
            if rng.unit() * self.mean_turns < 1.0 {
                return;
            }
            let think = exponential(rng) * self.think_s;
            let (written, output) = lengths(rng);
            let prompt = last.prompt + last.output + written;
            if prompt.0 > self.max_prompt {
                return;
            }
            let at: Timestamp =
                last.at + Duration::try_from_secs_f64(think).unwrap_or(Duration::MAX);
            last = Arrival { at, prompt, output, blocks: prefix.blocks(prompt), ..last };
            arrivals.push(last.clone());
        }
    }
}

/// What the prompts of a conversation begin with: the class's text, the user's, then its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix {
    /// Stands for the text that all prompts of the class share.
    pub(crate) class: u64,
    /// Tokens of that text.
    pub(crate) shared: u64,
    /// Stands for the text that all prompts of the user share.
    pub(crate) user: u64,
    /// Tokens of that text.
    pub(crate) of_user: u64,
    /// Stands for the conversation.
    pub(crate) session: u64,
}

impl Prefix {
    /// Returns the tokens that are the same in every conversation of the user.
    pub(crate) fn known(&self) -> Tokens {
        Tokens(self.shared + self.of_user)
    }

    /// Returns the block ids of a prompt of so many tokens. A block that is shared only in part is
    /// the conversation's own.
    pub(crate) fn blocks(&self, prompt: Tokens) -> Vec<u64> {
        let id = |block: u64| {
            let owner = if (block + 1) * BLOCK <= self.shared {
                ("class", self.class)
            } else if (block + 1) * BLOCK <= self.known().0 {
                ("user", self.user)
            } else {
                ("session", self.session)
            };
            stable_hash(owner.0.as_bytes(), stable_hash(&block.to_le_bytes(), owner.1))
        };
        (0..prompt.0.div_ceil(BLOCK)).map(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::Seed;

    #[test]
    fn a_turn_begins_with_all_that_was_said_before() {
        let sessions = Sessions { mean_turns: 1e9, max_turns: 6, ..Sessions::default() };
        let prefix = Prefix { class: 1, shared: 1024, user: 5, of_user: 0, session: 77 };
        let prompt = Tokens(1500);
        let first = Arrival {
            prompt,
            output: Tokens(200),
            blocks: prefix.blocks(prompt),
            ..Arrival::default()
        };
        let mut turns = vec![first.clone()];
        let mut rng = Seed(1).stream("sessions");
        let lengths = |_: &mut Rng| (Tokens(300), Tokens(200));
        sessions.follow(&first, prefix, &mut rng, lengths, &mut turns);
        assert_eq!(turns.len(), 6);
        for pair in turns.windows(2) {
            assert_eq!(pair[1].prompt, pair[0].prompt + Tokens(500));
            assert!(pair[1].blocks.starts_with(&pair[0].blocks));
            assert!(pair[1].at > pair[0].at);
        }
        let stranger = Prefix { session: 78, ..prefix }.blocks(prompt);
        assert_eq!(stranger[..2], first.blocks[..2], "the system prompt is shared");
        assert_ne!(stranger[2], first.blocks[2], "the rest is not");
        let told = |user, session| Prefix { user, of_user: 512, session, ..prefix }.blocks(prompt);
        assert_eq!(told(5, 77)[2], told(5, 78)[2], "what a user tells is in every conversation");
        assert_ne!(told(5, 77)[2], told(6, 77)[2], "and in nobody else's");
    }

    #[test]
    fn the_mean_number_of_turns_is_as_asked() {
        let sessions = Sessions { mean_turns: 3.0, max_turns: 1000, ..Sessions::default() };
        let prefix = Prefix { class: 0, shared: 0, user: 0, of_user: 0, session: 0 };
        let mut rng = Seed(6).stream("sessions");
        let mut turns = Vec::new();
        for _ in 0..10_000 {
            let first = Arrival::default();
            turns.push(first.clone());
            sessions.follow(&first, prefix, &mut rng, |_| Default::default(), &mut turns);
        }
        assert!((turns.len() as f64 / 10_000.0 - 3.0).abs() < 0.1, "{}", turns.len());
    }
}
