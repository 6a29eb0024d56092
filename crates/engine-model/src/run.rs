//! A run of steps of one batch: affine in the step index, so its times have a closed form.

use sagellm_perf::{Batch, LinearCost, Picos};

/// Steps that the engine has committed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// When its first step began.
    pub(crate) start: Picos,
    /// What its first step processes; each later one reads a KV token more per sequence.
    pub(crate) first: Batch,
    pub(crate) cost: LinearCost,
    /// Steps planned: at least one.
    pub(crate) steps: u64,
    /// Steps whose tokens have been given out.
    pub(crate) done: u64,
}

impl Run {
    /// Returns when step `n` (the first is 1) ends.
    pub(crate) fn end_of(&self, n: u64) -> Picos {
        self.start + self.cost.run_time(&self.first, n)
    }

    /// Returns how many of the planned steps have ended at `to`. Cost: O(log steps).
    pub(crate) fn ended_by(&self, to: Picos) -> u64 {
        let (mut ended, mut not) = (self.done, self.steps + 1);
        while ended + 1 < not {
            let middle = ended + (not - ended) / 2;
            if self.end_of(middle) <= to { ended = middle } else { not = middle }
        }
        ended
    }

    /// Ends the run with the step that is under way at `now`.
    pub(crate) fn cut(&mut self, now: Picos) {
        self.steps = self.steps.min(self.ended_by(now) + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_steps_are_those_whose_end_has_come() {
        let first = Batch { prefill_tokens: 0, decode_sequences: 3, kv_tokens: 100 };
        let run =
            Run { start: Picos::from_millis(7), first, cost: LinearCost::TINY, steps: 50, done: 4 };
        for n in 5..=50 {
            assert_eq!(run.ended_by(run.end_of(n)), n);
            assert_eq!(run.ended_by(run.end_of(n) - Picos(1)), n - 1);
        }
        assert_eq!(run.ended_by(Picos::MAX), 50);
    }
}
