//! Step costs and memory by name, for instances that say no more than their model and GPU.

use sagellm_types::Tokens;

use crate::{Calibration, Dtype, Gpu, Layout, LinearCost, Memory, ModelSpec, OperatorCost};

/// KV tokens of an instance about which nothing is known: one A100 with a model of 8 × 10⁹.
pub const DEFAULT_KV_TOKENS: Tokens = Tokens(400_000);
/// Tokens of a step for whose work memory is kept free (vLLM's default).
const STEP_TOKENS: u32 = 8_192;

impl OperatorCost {
    /// Returns the calibrated cost of `model` in tensor parallelism over `gpus` GPUs; unknown names
    /// count as typical ones.
    pub fn preset(model: &str, gpu: Option<&str>, gpus: u32) -> Self {
        let model = ModelSpec::guess(model).unwrap_or_else(ModelSpec::typical);
        let gpu = gpu.and_then(Gpu::find).unwrap_or_else(Gpu::typical);
        Self::new(&model, gpu, Layout::tensor(gpus.max(1)), Calibration::of(gpu))
    }
}

impl LinearCost {
    /// Returns the line through the calibrated cost of `model` over `gpus` GPUs; unknown names count
    /// as typical ones.
    pub fn preset(model: &str, gpu: Option<&str>, gpus: u32) -> Self {
        OperatorCost::preset(model, gpu, gpus).line()
    }
}

/// Returns how many KV tokens fit beside the weights of `model` on `gpus` GPUs, or
/// [`DEFAULT_KV_TOKENS`] if the model or the GPU is unknown or the weights do not fit.
pub fn kv_tokens_that_fit(model: &str, gpu: Option<&str>, gpus: u32) -> Tokens {
    let layout = Layout::tensor(gpus.max(1));
    let known = ModelSpec::guess(model).zip(gpu.and_then(Gpu::find));
    let fitting = known.and_then(|(model, gpu)| {
        let memory = Memory::of(&model, gpu, layout, Dtype::Bf16, STEP_TOKENS);
        memory.kv_tokens(&model, gpu, layout).ok()
    });
    fitting.map_or(DEFAULT_KV_TOKENS, Tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;

    #[test]
    fn the_line_is_near_the_operators() {
        for (model, gpu, gpus) in [
            ("llama-3.1-70b-fp8", "H100", 2),
            ("llama-3.1-8b", "A100", 1),
            ("qwen3-30b-a3b", "H200", 1),
        ] {
            let (operators, line) = (
                OperatorCost::preset(model, Some(gpu), gpus),
                LinearCost::preset(model, Some(gpu), gpus),
            );
            let check = |batch: Batch, within: f64| {
                let ratio = line.step_time(&batch).as_secs_f64() / operators.seconds(&batch);
                assert!((ratio - 1.0).abs() < within, "{model} on {gpu}: {ratio} for {batch:?}");
            };
            for sequences in [16, 32, 64, 128] {
                let kv_tokens = sequences * 1_500;
                check(Batch { decode_sequences: sequences, kv_tokens, ..Batch::EMPTY }, 0.2);
            }
            for prompt in [2_048, 8_192] {
                let prefill_pairs = prompt * prompt / 2;
                check(Batch { prefill_tokens: prompt, prefill_pairs, ..Batch::EMPTY }, 0.2);
            }
        }
    }

    #[test]
    fn an_unknown_name_costs_the_typical() {
        let typical = LinearCost::preset("llama-3.1-8b", Some("A100"), 1);
        assert_eq!(LinearCost::preset("my-model", None, 1), typical);
        assert_eq!(LinearCost::preset("my-model", Some("abacus"), 0), typical);
    }

    #[test]
    fn kv_memory_is_what_the_weights_leave() {
        let fitting = kv_tokens_that_fit("Llama-3.1-8B", Some("H100"), 1).0;
        assert!((400_000..460_000).contains(&fitting), "{fitting}");
        assert_eq!(kv_tokens_that_fit("Llama-3.1-8B", None, 1), DEFAULT_KV_TOKENS);
        assert_eq!(kv_tokens_that_fit("Llama-3.1-70B", Some("L4"), 1), DEFAULT_KV_TOKENS);
        assert_eq!(kv_tokens_that_fit("my-model", Some("H100"), 1), DEFAULT_KV_TOKENS);
    }
}
