//! Step costs by name: a roofline with the efficiencies of well-tuned engines.
//!
//! Per step: a launch overhead of 55 µs per layer (what a fit over 160 measured vLLM runs leaves
//! once every other factor sits near its physical bound), the weights at 92 % of the bandwidth, two
//! all-reduces per layer under tensor parallelism, each token's arithmetic at 75 % of the peak rate
//! and each KV token at 95 % of the bandwidth. That form predicts the measured time per output
//! token of dense models to about 6 %. A mixture of experts reads all its weights here, which is
//! right for batches of more than some dozens and too slow below.

use sagellm_types::Tokens;

use crate::{Dtype, Gpu, LinearCost, ModelShape, Picos};

/// KV tokens of an instance about which nothing is known: one A100 with a model of 8 × 10⁹.
pub const DEFAULT_KV_TOKENS: Tokens = Tokens(400_000);

const LAUNCH_PER_LAYER: f64 = 55e-6;
const WEIGHT_READS: f64 = 0.92;
const KV_READS: f64 = 0.95;
const ARITHMETIC: f64 = 0.75;
/// One all-reduce of a decode step, over fast links and over PCIe.
const ALL_REDUCE: f64 = 6e-6;
const ALL_REDUCE_PCIE: f64 = 27e-6;
/// Sampling, detokenising and bookkeeping of one sequence in one step.
const PER_SEQUENCE: f64 = 4.4e-6;
/// Share of a GPU's memory that an engine takes.
const MEMORY_SHARE: f64 = 0.9;

impl LinearCost {
    /// Returns a plausible cost of `model` over `gpus` GPUs; unknown names count as typical ones.
    pub fn preset(model: &str, gpu: Option<&str>, gpus: u32) -> Self {
        let shape = ModelShape::from_name(model).unwrap_or_else(ModelShape::typical);
        let gpu = gpu.and_then(Gpu::find).unwrap_or_else(Gpu::typical);
        Self::roofline(&shape, gpu, gpus)
    }

    /// Returns the cost of a model of `shape` in tensor parallelism over `gpus` GPUs.
    pub fn roofline(shape: &ModelShape, gpu: &Gpu, gpus: u32) -> Self {
        let gpus = f64::from(gpus.max(1));
        let bandwidth = gpu.bandwidth * 1e9 * gpus;
        let dtype = if shape.weight_bytes == 1.0 { Dtype::Fp8 } else { Dtype::Bf16 };
        let peak = gpu.peak(dtype) * gpus;
        let all_reduce = if gpu.link.is_some() { ALL_REDUCE } else { ALL_REDUCE_PCIE };
        let exchange = if gpus > 1.0 { 1.4 * 2.0 * shape.layers * all_reduce } else { 0.0 };
        let token = 2.0 * shape.active * 1e9 / (peak * ARITHMETIC);
        Self {
            base: Picos::from_secs_f64(
                LAUNCH_PER_LAYER * shape.layers
                    + shape.weights() / (bandwidth * WEIGHT_READS)
                    + exchange,
            ),
            per_prefill_token: Picos::from_secs_f64(token),
            per_sequence: Picos::from_secs_f64(token + PER_SEQUENCE),
            per_kv_token: Picos::from_secs_f64(shape.kv_bytes / (bandwidth * KV_READS)),
        }
    }
}

/// Returns how many KV tokens fit beside the weights of `model` on `gpus` GPUs of `memory_gb`
/// each (that of the named GPU if zero), or [`DEFAULT_KV_TOKENS`] if the model or the memory is
/// unknown or the weights do not fit.
pub fn kv_tokens_that_fit(model: &str, gpu: Option<&str>, gpus: u32, memory_gb: f64) -> Tokens {
    let memory = if memory_gb > 0.0 {
        memory_gb
    } else {
        gpu.and_then(Gpu::find).map_or(0.0, |gpu| gpu.memory() * 1e-9)
    };
    let Some(shape) = ModelShape::from_name(model) else { return DEFAULT_KV_TOKENS };
    let free = memory * 1e9 * MEMORY_SHARE * f64::from(gpus.max(1)) - shape.weights();
    if free > 0.0 { Tokens((free / shape.kv_bytes) as u64) } else { DEFAULT_KV_TOKENS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;

    fn tpot_ms(cost: &LinearCost, sequences: u64, context: u64) -> f64 {
        let batch =
            Batch { decode_sequences: sequences, kv_tokens: sequences * context, ..Batch::EMPTY };
        cost.step_time(&batch).as_secs_f64() * 1e3
    }

    #[test]
    fn presets_are_near_what_engines_do() {
        let check = |cost: LinearCost, sequences, context, from: f64, to: f64| {
            let tpot = tpot_ms(&cost, sequences, context);
            assert!((from..to).contains(&tpot), "{tpot} ms is not in {from}..{to}");
        };
        // Weights alone: 70.55 GB / (4 × 3.35 TB/s) = 5.3 ms, and 4.4 ms of launches.
        check(LinearCost::preset("Llama-3.1-70B-FP8", Some("H100"), 4), 4, 1500, 9.0, 14.0);
        check(LinearCost::preset("Llama-3.1-8B", Some("H100"), 1), 1, 500, 5.0, 9.0);
        check(LinearCost::preset("llama-7b", Some("A100"), 1), 32, 1000, 9.0, 14.0);
    }

    #[test]
    fn an_unknown_name_costs_the_typical() {
        assert_eq!(
            LinearCost::preset("my-model", None, 1),
            LinearCost::roofline(&ModelShape::typical(), Gpu::typical(), 1)
        );
    }

    #[test]
    fn kv_memory_is_what_the_weights_leave() {
        // (79.6 GiB × 0.9 − 16.06 GB) / 131,072 bytes.
        assert_eq!(kv_tokens_that_fit("Llama-3.1-8B", Some("H100"), 1, 0.0), Tokens(464_346));
        assert_eq!(kv_tokens_that_fit("Llama-3.1-8B", None, 1, 0.0), DEFAULT_KV_TOKENS);
        assert_eq!(kv_tokens_that_fit("Llama-3.1-70B", Some("L4"), 1, 0.0), DEFAULT_KV_TOKENS);
        assert_eq!(kv_tokens_that_fit("my-model", Some("H100"), 1, 0.0), DEFAULT_KV_TOKENS);
    }
}
