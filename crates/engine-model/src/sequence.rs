//! What comes in and what comes out: sequences, refusals, events, gauges.

use sagellm_perf::Picos;
use sagellm_types::Timestamp;
use thiserror::Error;

use crate::Leg;

/// One generation to run. `n > 1` answers are `n` sequences.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sequence {
    /// The caller's name for it; unique among those that have not ended.
    pub id: u64,
    /// Prompt tokens: at least one.
    pub prompt_tokens: u32,
    /// Output tokens that it will have; zero for embeddings, which end with their prefill.
    pub output_tokens: u32,
    /// Hashes of the prompt's full blocks, each chained with those before it; may be shorter than
    /// the prompt or empty.
    pub prefix_blocks: Vec<u64>,
    /// Lower is more urgent; counts under [`Policy::Priority`](crate::Policy) only.
    pub priority: i64,
    /// Which part of its request it is.
    pub leg: Leg,
}

/// Why a sequence is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Rejection {
    /// There is nothing to compute.
    #[error("the prompt is empty")]
    Empty,
    /// Prompt and output are longer than the model's context.
    #[error("{tokens} tokens are more than the {most} of the model's context")]
    TooLong {
        /// Prompt and output tokens.
        tokens: u64,
        /// The longest that fits.
        most: u32,
    },
    /// As many sequences wait as may.
    #[error("{most} sequences are waiting already")]
    QueueFull {
        /// How many may wait.
        most: u32,
    },
    /// The id belongs to a sequence that has not ended.
    #[error("sequence {id} has not ended")]
    Duplicate {
        /// The id.
        id: u64,
    },
}

/// Something that happened to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The sequence.
    pub id: u64,
    /// When: the end of the step.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What happened to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Its first output token came.
    FirstToken {
        /// Prompt tokens that the prefix cache held, or that came from another engine, when it was
        /// first scheduled.
        cached: u32,
    },
    /// So many further output tokens came, the last of them at the time of the event.
    Tokens(u32),
    /// Its last token has come, or its prefill if it has no output; nothing follows.
    Finished,
    /// Its blocks were needed by others: it waits again and will be computed anew.
    Preempted,
    /// The keys and values of its prompt have come from another engine, which may drop them now.
    Received,
}

/// What an engine shows of itself: gauges now, counters since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Sequences in the batch.
    pub running: u32,
    /// Sequences waiting, for blocks or for what they read from other engines.
    pub waiting: u32,
    /// Blocks that sequences hold, or that are kept for other engines.
    pub used_blocks: u32,
    /// All blocks.
    pub num_blocks: u32,
    /// Prompt tokens looked for in the prefix cache.
    pub prefix_queries: u64,
    /// Prompt tokens found there.
    pub prefix_hits: u64,
    /// Prompt tokens of sequences whose prefill has ended, found ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens whose keys and values were read from other engines.
    pub received_tokens: u64,
    /// Prompts whose blocks were kept for another engine until their lease ran out.
    pub leases_expired: u64,
    /// Output tokens.
    pub generation_tokens: u64,
    /// Preemptions.
    pub preemptions: u64,
    /// Sequences that ended with all their tokens.
    pub finished: u64,
    /// Steps taken.
    pub steps: u64,
    /// How long they took together.
    pub busy: Picos,
}

impl Gauges {
    /// Returns the share of blocks that sequences hold, 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        f64::from(self.used_blocks) / f64::from(self.num_blocks.max(1))
    }
}
