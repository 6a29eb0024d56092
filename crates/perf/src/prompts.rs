//! What an instance gives that computes prompts only and hands their keys and values over.

use crate::{Batch, OperatorCost};

/// An instance that computes prompts of one size, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prompts {
    /// Seconds of the steps of a lone prompt.
    pub alone: f64,
    /// Seconds from one prompt to the next when there are always enough.
    pub each: f64,
    /// Seconds of a prompt beside the steps.
    pub ways: f64,
    /// Prompts for which a batch of one rank and stage has room.
    room: f64,
    /// What a further prompt adds to a step, in seconds.
    more: f64,
}

impl Prompts {
    /// Returns what an instance gives whose steps take `cost`, with up to `step_tokens` tokens in a
    /// step of a rank and room for `kv_tokens` tokens in all: prompts of `prompt` tokens beside `cached`
    /// ones that it finds in its cache. Those that have been computed keep their room until they are
    /// read.
    ///
    /// ```
    /// use sagellm_perf::{Layout, OperatorCost, Prompts};
    ///
    /// let cost = OperatorCost::preset("llama-3.1-8b", Some("H100"), Layout::tensor(1));
    /// let prompts = Prompts::of(&cost, 8_192, 400_000, 4_000.0, 0.0);
    /// let busy = 0.8 / prompts.each;
    /// assert!(prompts.ttft(busy) > prompts.ttft(0.1 * busy));
    /// assert_eq!(prompts.ttft(1.01 / prompts.each), f64::INFINITY);
    /// ```
    pub fn of(
        cost: &OperatorCost,
        step_tokens: u32,
        kv_tokens: u64,
        prompt: f64,
        cached: f64,
    ) -> Self {
        let budget = f64::from(step_tokens.max(1));
        let chunks = (prompt / budget).max(1.0);
        let (tokens, before) = (prompt / chunks, cached + 0.5 * (chunks - 1.0) * prompt / chunks);
        let steps = |prompts: f64| {
            chunks
                * cost.seconds(&Batch {
                    prefill_tokens: (prompts * tokens) as u64,
                    prefill_sequences: prompts as u64,
                    prefill_pairs: (prompts * tokens * (before + 0.5 * tokens)) as u64,
                    completing: prompts as u64,
                    ..Batch::EMPTY
                })
        };
        let (lanes, of_rank) = (cost.lanes() as f64, (budget / prompt).max(1.0));
        // One that has been computed waits to be read.
        let held = (kv_tokens as f64 / (prompt + cached) - 1.0).floor().max(1.0);
        let (alone, whole) = (steps(1.0), (of_rank.floor() * lanes).min(held));
        let full = steps(whole);
        Self {
            alone,
            each: (full / whole).min(alone),
            ways: cost.overhead((prompt + cached) as u64),
            room: of_rank.min(held / lanes).max(1.0),
            more: if whole > 1.0 { (full - alone).max(0.0) / (whole - 1.0) } else { full },
        }
    }

    /// Returns the share of what it can do that `per_s` prompts per second are.
    pub fn busy(&self, per_s: f64) -> f64 {
        per_s * self.each
    }

    /// Returns the mean time to the first token of prompts that come at random, `per_s` of them per
    /// second, in seconds. Infinite where more come than can be computed.
    pub fn ttft(&self, per_s: f64) -> f64 {
        let busy = self.busy(per_s);
        if busy >= 1.0 {
            return f64::INFINITY;
        }
        // One after the other: a queue with constant service (Khinchin and Pollaczek).
        let queued = self.alone + 0.5 * busy / (1.0 - busy) * self.each;
        // What has come during a step shares the next one, as far as there is room. (What goes side by
        // side over ranks and stages takes as long as alone: then the queue is that of the whole.)
        let shared = (2.0 * (1.0 - 1.0 / self.room)).min(1.0);
        let together = if shared > 0.0 { self.together(per_s) } else { queued };
        self.ways + queued + shared * (together - queued)
    }

    /// Returns the mean time of a prompt that shares its step with all that came during the one before.
    fn together(&self, per_s: f64) -> f64 {
        let fixed = (self.alone - self.more).max(0.0);
        // Prompts in a step and their squares, seconds of a step, the share of time that steps take:
        // each follows from the others. A step after idling has one prompt; one after another has those
        // that came meanwhile (Poisson, at least one).
        let (mut mean, mut square, mut busy) = (1.0, 1.0, 0.0);
        let mut step = self.alone;
        for _ in 0..12 {
            let come = (per_s * step).max(1e-12);
            let some = come / (1.0 - libm::exp(-come));
            busy = (per_s * (fixed / mean + self.more)).min(0.999);
            mean = (1.0 - busy) + busy * some;
            square = (1.0 - busy) + busy * some * (1.0 + come);
            step = fixed + self.more * mean;
        }
        let spread = self.more * self.more * (square - mean * mean).max(0.0) / (step * step);
        // Who comes meets a long step rather than a short one.
        let met = busy * step * (1.0 + spread);
        0.5 * met + fixed + self.more * (1.0 + per_s * met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    fn prompts(model: &str, layout: Layout, prompt: f64) -> Prompts {
        let cost = OperatorCost::preset(model, Some("H100"), layout);
        Prompts::of(&cost, 8_192, 1_000_000, prompt, 0.0)
    }

    #[test]
    fn short_prompts_share_steps_and_long_ones_fill_them() {
        let short = prompts("llama-3.1-8b", Layout::tensor(1), 100.0);
        assert!(short.each < 0.5 * short.alone, "{short:?}");
        let long = prompts("llama-3.1-8b", Layout::tensor(1), 8_000.0);
        assert!((long.each / long.alone - 1.0).abs() < 1e-9, "{long:?}");
    }

    #[test]
    fn ranks_and_stages_compute_side_by_side() {
        let one = prompts("qwen3-30b-a3b", Layout::tensor(1), 8_000.0);
        let layout = Layout { data: 4, ..Layout::tensor(1) };
        let ranks = prompts("qwen3-30b-a3b", layout, 8_000.0);
        assert!(ranks.each < 0.5 * one.each, "{ranks:?} {one:?}");
        let staged = prompts("llama-3.1-8b", Layout { pipeline: 4, ..Layout::tensor(1) }, 8_000.0);
        assert!(staged.each < 0.5 * staged.alone, "{staged:?}");
    }
}
