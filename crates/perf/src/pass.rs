//! How a step is divided over ranks and stages.

use crate::{Batch, OperatorCost};

/// What the busiest rank computes in one pass through the stages.
pub(crate) struct Pass {
    pub(crate) decodes: u64,
    pub(crate) prefill: f64,
    pub(crate) pairs: f64,
    pub(crate) sampled: f64,
    /// Passes that one step over the batch takes, side by side in the stages.
    pub(crate) passes: u64,
    /// Tokens of all ranks together.
    pub(crate) tokens_of_all: f64,
    /// The part of all keys and values that is read.
    pub(crate) context: f64,
}

impl OperatorCost {
    /// Returns what the busiest rank computes of `batch` in one pass through the stages.
    ///
    /// Ranks get their sequences in turn. While one pass is in a stage, the others are in the other
    /// stages, as long as there are sequences to divide: an instance of P stages makes up to P passes
    /// for one token of every sequence. That is what a step costs everybody; a single prompt takes as
    /// long as all stages one after the other, which is longer when others keep the stages busy.
    pub(crate) fn pass(&self, batch: &Batch) -> Pass {
        let decodes = batch.decode_sequences.div_ceil(self.ranks);
        let prompts = batch.prefill_sequences.max(u64::from(batch.prefill_tokens > 0));
        let prompts_of_rank = prompts.div_ceil(self.ranks);
        let passes = self.stages.min(decodes + prompts_of_rank).max(1);
        let share = prompts_of_rank as f64 / (prompts.max(1) * passes) as f64;
        let decodes_of_pass = decodes.div_ceil(passes);
        Pass {
            decodes: decodes_of_pass,
            prefill: batch.prefill_tokens as f64 * share,
            pairs: batch.prefill_pairs as f64 * share,
            sampled: decodes_of_pass as f64 + batch.completing as f64 * share,
            passes,
            tokens_of_all: batch.tokens() as f64 / passes as f64,
            context: self.context_share(batch.decode_sequences, passes),
        }
    }

    /// Returns which part of all keys and values the busiest rank reads in one of so many passes.
    fn context_share(&self, sequences: u64, passes: u64) -> f64 {
        if self.ranks == 1 {
            return 1.0 / passes as f64;
        }
        let sequences = sequences.max(1);
        let of_rank = sequences.div_ceil(self.ranks) as f64;
        let more = 1.0 + self.uneven / of_rank.sqrt();
        (of_rank / sequences as f64 * more).min(1.0) / passes as f64
    }

    /// Returns how many prompts are computed side by side without sharing a step: one per rank and stage.
    pub(crate) fn lanes(&self) -> u64 {
        self.ranks * self.stages
    }

    /// Returns the share of the stages' time in which they wait for others, while so many decode.
    pub(crate) fn bubbles(&self, sequences: u64) -> f64 {
        let pass = self.pass(&Batch { decode_sequences: sequences, ..Batch::EMPTY });
        let of_rank = sequences.div_ceil(self.ranks) as f64;
        1.0 - of_rank / (self.stages * pass.decodes.max(1)) as f64
    }
}
