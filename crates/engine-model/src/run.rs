//! A run of steps of one batch: affine in the step index, so its times have a closed form.

use sagellm_perf::{Batch, Picos, RunTime};

/// Steps that the engine has committed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// When its first step began.
    pub(crate) start: Picos,
    /// What its first step processes; each later one reads a KV token more per decoding sequence.
    pub(crate) first: Batch,
    /// Of those sequences, the ones that still see less than their window.
    pub(crate) near: u64,
    /// How long its steps take.
    pub(crate) time: RunTime,
    /// Steps planned: at least one.
    pub(crate) steps: u64,
    /// Steps whose tokens have been given out.
    pub(crate) done: u64,
}

impl Run {
    /// Returns when step `n` (the first is 1) ends.
    pub(crate) fn end_of(&self, n: u64) -> Picos {
        self.start + self.time.of(n)
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
    use sagellm_perf::{LinearCost, StepCost};

    #[test]
    fn ended_steps_are_those_whose_end_has_come() {
        let first = Batch { decode_sequences: 3, kv_tokens: 100, ..Batch::EMPTY };
        let time = StepCost::Linear(LinearCost::TINY).run(&first, 0);
        let run = Run { start: Picos::from_millis(7), first, near: 0, time, steps: 50, done: 4 };
        for n in 5..=50 {
            assert_eq!(run.ended_by(run.end_of(n)), n);
            assert_eq!(run.ended_by(run.end_of(n) - Picos(1)), n - 1);
        }
        assert_eq!(run.ended_by(Picos::MAX), 50);
    }
}
