//! What an engine is started with.

use serde::{Deserialize, Serialize};

/// In which order waiting sequences are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// As they came.
    #[default]
    Fcfs,
    /// The lowest priority number first, then as they came.
    Priority,
}

/// Whether runs of equal steps are taken one by one or at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Every step is a boundary, and each of its tokens an event.
    #[default]
    Step,
    /// A run of pure decode steps is one boundary, and its tokens one event per sequence.
    Leap,
}

/// The settings of an engine, named as vLLM names them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Tokens in a KV block.
    pub block_size: u32,
    /// KV blocks.
    pub num_blocks: u32,
    /// Most sequences in a step.
    pub max_num_seqs: u32,
    /// Most tokens computed in a step: decodes first, the rest for prompts.
    pub max_num_batched_tokens: u32,
    /// Most prompt tokens of one sequence in a step; 0: no limit but the step's.
    pub long_prefill_token_threshold: u32,
    /// Most tokens of one sequence, prompt and output together.
    pub max_model_len: u32,
    /// Whether full prompt blocks are kept and found again.
    pub enable_prefix_caching: bool,
    /// Most sequences waiting; more are refused.
    pub max_num_queued_reqs: Option<u32>,
    /// How long the blocks of a prompt stay for another engine to read, in milliseconds (vLLM's
    /// `kv_lease_duration`).
    pub kv_lease_ms: u64,
    /// In which order waiting sequences are taken.
    pub scheduling_policy: Policy,
    /// Whether runs of equal steps are leapt over.
    pub pace: Pace,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            block_size: 16,
            num_blocks: 25_000,
            max_num_seqs: 256,
            max_num_batched_tokens: 8_192,
            long_prefill_token_threshold: 0,
            max_model_len: 32_768,
            enable_prefix_caching: true,
            max_num_queued_reqs: None,
            kv_lease_ms: 30_000,
            scheduling_policy: Policy::Fcfs,
            pace: Pace::Step,
        }
    }
}

impl EngineConfig {
    /// Returns the settings with each count at least one and `max_model_len` no longer than the
    /// whole cache, so that every sequence that is accepted can end.
    pub(crate) fn sound(self) -> Self {
        let block_size = self.block_size.max(1);
        let num_blocks = self.num_blocks.max(1);
        Self {
            block_size,
            num_blocks,
            max_num_seqs: self.max_num_seqs.max(1),
            max_num_batched_tokens: self.max_num_batched_tokens.max(1),
            max_model_len: self.max_model_len.clamp(1, num_blocks.saturating_mul(block_size)),
            ..self
        }
    }

    /// Returns the most tokens of one sequence in a step.
    pub(crate) fn chunk(&self) -> u32 {
        match self.long_prefill_token_threshold {
            0 => u32::MAX,
            most => most,
        }
    }

    /// Returns the KV tokens of all blocks.
    pub fn kv_tokens(&self) -> u64 {
        u64::from(self.block_size) * u64::from(self.num_blocks)
    }
}
