//! What fits: weights, room for work, and the rest for keys and values.

use thiserror::Error;

use crate::{Dtype, Gpu, Layout, ModelSpec};

/// The memory of one GPU of an instance, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// What the engine takes of it.
    pub usable: f64,
    /// The weights of its share.
    pub weights: f64,
    /// Captured graphs, communication, and the activations of the largest step.
    pub work: f64,
    /// Keys and values of one token.
    pub kv_per_token: f64,
}

/// A model that does not fit.
#[derive(Clone, Debug, PartialEq, Error)]
#[error(
    "{model} does not fit on {gpus} × {gpu}: {needed:.1} GiB of weights and work per GPU, {usable:.1} GiB \
     usable; {lacking:.1} GiB are lacking"
)]
pub struct DoesNotFit {
    model: String,
    gpu: String,
    gpus: u32,
    needed: f64,
    usable: f64,
    /// GiB lacking per GPU.
    pub lacking: f64,
}

const GIB: f64 = 1_073_741_824.0;
/// Share of a GPU's memory that vLLM takes (`gpu_memory_utilization`).
const SHARE: f64 = 0.9;
/// Captured graphs, communication and the runtime, in bytes.
const FIXED: f64 = 2.5 * GIB;
/// What fits into less than one token of every sequence is no cache: at least so many tokens.
const LEAST_TOKENS: f64 = 1_024.0;

impl Memory {
    /// Returns the memory of a GPU of one instance of `model` over `layout`, whose ranks compute up
    /// to `step_tokens` tokens in a step, with keys and values in `kv`.
    pub fn of(model: &ModelSpec, gpu: &Gpu, layout: Layout, kv: Dtype, step_tokens: u32) -> Self {
        let layout = layout.sound();
        let (tensor, stage) = (f64::from(layout.tensor), layout.longest_stage(model));
        let experts = model.expert_bytes();
        let shared = model.kv_parts(layout.tensor);
        let wide = f64::from(model.ffn).max(f64::from(model.hidden) * 4.0);
        Self {
            usable: gpu.memory() * SHARE,
            weights: (model.weight_bytes() - experts) * stage / tensor
                + experts * stage / f64::from(layout.expert_group()),
            work: FIXED
                + f64::from(step_tokens)
                    * (2.0 * wide / tensor + 6.0 * f64::from(model.hidden))
                    * 2.0,
            kv_per_token: f64::from(model.layers) * stage * model.kv_width() * kv.bytes() / shared,
        }
    }

    /// Returns the KV tokens that fit, of all ranks together.
    ///
    /// # Errors
    /// If the weights leave no room; with what is lacking.
    pub fn kv_tokens(
        &self,
        model: &ModelSpec,
        gpu: &Gpu,
        layout: Layout,
    ) -> Result<u64, DoesNotFit> {
        self.kv_tokens_for(model, gpu, layout, 0)
    }

    /// Returns the KV tokens that fit, of all ranks together, if one request of `longest` tokens fits.
    ///
    /// # Errors
    /// If it does not; with what is lacking.
    pub fn kv_tokens_for(
        &self,
        model: &ModelSpec,
        gpu: &Gpu,
        layout: Layout,
        longest: u64,
    ) -> Result<u64, DoesNotFit> {
        let free = self.usable - self.weights - self.work;
        let least = LEAST_TOKENS.max(longest as f64) * self.kv_per_token;
        if free < least {
            return Err(DoesNotFit {
                model: model.name.clone(),
                gpu: gpu.name.clone(),
                gpus: layout.gpus(),
                needed: (self.weights + self.work + least) / GIB,
                usable: self.usable / GIB,
                lacking: (least - free) / GIB,
            });
        }
        Ok((free / self.kv_per_token) as u64 * u64::from(layout.sound().data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(model: &str, gpu: &str, tensor: u32, kv: Dtype) -> Result<u64, DoesNotFit> {
        let (model, gpu) =
            (ModelSpec::named(model).expect("known"), Gpu::named(gpu).expect("known"));
        let layout = Layout::tensor(tensor);
        Memory::of(&model, gpu, layout, kv, 8_192).kv_tokens(&model, gpu, layout)
    }

    #[test]
    fn the_cache_of_a_measured_engine_has_its_size() {
        // A measured closed loop of 8,192 + 1,024 tokens saturates at 27 sequences of 8,300.
        let tokens = tokens("llama-3.1-70b-fp8", "H100", 2, Dtype::Bf16).expect("it fits");
        assert!((200_000..260_000).contains(&tokens), "{tokens}");
    }

    #[test]
    fn what_lacks_is_told() {
        let error = tokens("llama-3.1-70b", "H100", 1, Dtype::Bf16).expect_err("140 GB in 80");
        assert!((60.0..75.0).contains(&error.lacking), "{error}");
        assert!(error.to_string().contains("does not fit on 1 × H100"), "{error}");
    }
}
