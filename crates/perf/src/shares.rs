//! Of what a step is made.

use serde::Serialize;

use crate::{Batch, Factor, OperatorCost};

/// Of what a step is made: shares of its time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorkShares {
    /// Arithmetic.
    pub compute: f64,
    /// Reading weights, keys and values, and what flows between kernels.
    pub memory: f64,
    /// Exchanges between the GPUs that share a layer or its experts.
    pub communication: f64,
    /// Launching, scheduling, sampling, and handing over between stages.
    pub overhead: f64,
    /// Of the time of the pipeline's stages, what they wait for others: fewer sequences than stages, or
    /// parts of unequal size. Beside the other shares, which add up to one without it.
    pub bubbles: f64,
}

impl OperatorCost {
    /// Returns a batch of so many sequences that decode, each with so long a context.
    pub fn decode_batch(&self, sequences: f64, context: f64) -> Batch {
        Batch {
            decode_sequences: (sequences + 0.5) as u64,
            kv_tokens: (sequences * context) as u64,
            window_tokens: (sequences * context.min(self.window() as f64)) as u64,
            ..Batch::EMPTY
        }
    }

    /// Returns of what a decode step of so many sequences is made, each with so long a context.
    pub fn shares(&self, sequences: f64, context: f64) -> WorkShares {
        let batch = self.decode_batch(sequences.max(1.0), context);
        let (work, all) = (self.work(&batch), self.seconds(&batch));
        let of = |factors: &[Factor]| {
            factors
                .iter()
                .map(|&factor| work[factor as usize] * self.calibration().get(factor))
                .sum::<f64>()
        };
        use Factor as F;
        let compute = of(&[F::GemmBf16, F::GemmFp8, F::GemmFp4, F::ExpertGemm, F::ExpertGemmFp4]);
        let reads = [F::ReadBf16, F::ReadFp8, F::ReadFp4, F::ExpertRead, F::ExpertReadFp4];
        let memory = of(&reads) + of(&[F::DecodeAttention, F::Activations]);
        let between = of(&[F::AllReduce, F::AllReduceBytes]);
        let communication = between + self.floor();
        WorkShares {
            compute: compute / all,
            memory: memory / all,
            communication: communication / all,
            overhead: (1.0 - (compute + memory + communication) / all).max(0.0),
            bubbles: self.bubbles(batch.decode_sequences),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    #[test]
    fn few_sequences_wait_for_memory_and_more_gpus_for_each_other() {
        let shares = |gpus| {
            let layout = Layout::tensor(gpus);
            OperatorCost::preset("llama-3.1-70b-fp8", Some("H100"), layout).shares(8.0, 1_000.0)
        };
        let (two, eight) = (shares(2), shares(8));
        assert!(two.memory > 0.5 && eight.memory < two.memory, "{two:?} {eight:?}");
        assert!(eight.communication > two.communication && two.compute < 0.1);
        for own in [two, eight] {
            let sum = own.compute + own.memory + own.communication + own.overhead;
            assert!((sum - 1.0).abs() < 1e-9, "{own:?}");
            assert_eq!(own.bubbles, 0.0, "there is one stage");
        }
    }

    #[test]
    fn stages_without_a_sequence_are_bubbles() {
        let layout = Layout { pipeline: 4, ..Layout::tensor(1) };
        let cost = OperatorCost::preset("llama-3.1-8b", Some("H100"), layout);
        let bubbles = [1.0, 2.0, 4.0, 5.0, 400.0].map(|n| cost.shares(n, 1_000.0).bubbles);
        assert_eq!(bubbles, [0.75, 0.5, 0.0, 0.375, 0.0]);
    }
}
