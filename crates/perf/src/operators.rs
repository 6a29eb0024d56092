//! How long a step takes, from what it computes: a sum over operators.
//!
//! Each operator takes the larger of its arithmetic and its memory traffic, each at a calibrated
//! share of the datasheet ([`Calibration`]); operators follow one another, so their times add up.
//! On top come a price per step, per layer, per sequence and per exchange between GPUs. A step
//! without prompt tokens runs in a captured graph, whose batch is rounded up to the next captured
//! size.

use crate::{Batch, Calibration, Dtype, Factor, Gpu, LinearCost, ModelSpec, Picos};

/// How a model is laid over GPUs: one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// GPUs that share every layer.
    pub tensor: u32,
    /// Groups of layers, one after the other.
    pub pipeline: u32,
    /// Whether experts are spread over the tensor group instead of being cut.
    pub expert: bool,
}

impl Layout {
    /// One replica in tensor parallelism over `gpus` GPUs.
    pub const fn tensor(gpus: u32) -> Self {
        Self { tensor: gpus, pipeline: 1, expert: false }
    }

    /// Returns how many GPUs it takes.
    pub const fn gpus(&self) -> u32 {
        self.tensor * self.pipeline
    }
}

/// Work in units of each [`Factor`]: the time is the sum of products with a [`Calibration`].
pub type Work = [f64; Factor::COUNT];

/// A model on a layout of GPUs, turned into coefficients once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatorCost {
    calibration: Calibration,
    tensor: f64,
    /// Layers of one stage, and stages.
    layers: f64,
    expert_layers: f64,
    stages: f64,
    weights: Dtype,
    expert_dtype: Dtype,
    /// Seconds to read a stage's dense weights once, at the datasheet's rate.
    read: f64,
    /// Seconds to multiply one token by them.
    gemm: f64,
    /// The same of the output layer, in 16 bits, per sampled token.
    head_read: f64,
    head_gemm: f64,
    /// Seconds to read one expert's share of all layers, and to multiply one token by it.
    expert_read: f64,
    expert_gemm: f64,
    experts: f64,
    active: f64,
    /// How much more the busiest GPU has to do than the mean one.
    imbalance: f64,
    /// Seconds per attended pair of tokens over all layers that see everything, of a prompt.
    attend: f64,
    /// Seconds to read one token's keys and values.
    kv_read: f64,
    window: f64,
    window_attend: f64,
    window_kv_read: f64,
    /// Seconds to move what flows between the kernels of one token.
    activations: f64,
    /// Seconds to exchange one token's activations, and exchanges per step.
    exchange: f64,
    exchanges: f64,
    /// Seconds to hand one token's activations to the next stage.
    hop: f64,
}

/// Bytes per token, layer and width that flow between kernels, beside what weights and KV take.
const FLOWS: f64 = 24.0;
/// Rows of an expert's matrix product that are computed whether they are filled or not.
const TILE: f64 = 16.0;
/// What handing over to the next stage costs besides moving bytes, in microseconds.
const HOP_US: f64 = 10.0;
/// Sizes of captured graphs: 1, 2, 4, then every 8 up to this.
const LARGEST_GRAPH: u64 = 512;

impl OperatorCost {
    /// Returns the cost of `model` on one replica of `layout` over GPUs of one type.
    pub fn new(model: &ModelSpec, gpu: &Gpu, layout: Layout, calibration: Calibration) -> Self {
        let (tensor, stages) = (f64::from(layout.tensor.max(1)), f64::from(layout.pipeline.max(1)));
        let layers = f64::from(model.layers) / stages;
        let (bandwidth, hidden) = (gpu.bandwidth * 1e9, f64::from(model.hidden));
        let (weights, expert_dtype) = (model.weights, model.expert_dtype());
        let dense = (f64::from(model.layers) * model.attention_params() + model.dense_ffn_params())
            / (stages * tensor);
        let head = model.head_params() / tensor;
        let expert_layers = model.expert_layers() / stages;
        let expert = expert_layers * model.expert_params() / tensor;
        let (experts, active) =
            model.moe.map_or((0.0, 0.0), |moe| (f64::from(moe.experts), f64::from(moe.active)));
        let short = model.window.map_or(0.0, |window| f64::from(window.layers)) / stages;
        let pair = match model.mla {
            Some(mla) => 2.0 * f64::from(model.heads) * f64::from(mla.nope + mla.rope + mla.value),
            None => 4.0 * f64::from(model.heads) * f64::from(model.head_dim),
        } / (tensor * gpu.peak(Dtype::Bf16));
        let shared = match model.mla {
            // The compressed row is kept whole on every GPU.
            Some(_) => 1.0,
            None => tensor.min(f64::from(model.kv_heads)),
        };
        let kv = model.kv_width() * 2.0 / (shared * bandwidth);
        let many = tensor > 1.0;
        let ring = if many { 2.0 * (tensor - 1.0) / tensor } else { 0.0 };
        Self {
            calibration,
            tensor,
            layers,
            expert_layers,
            stages,
            weights,
            expert_dtype,
            read: dense * weights.bytes() / bandwidth,
            gemm: 2.0 * dense / gpu.peak(weights),
            head_read: head * 2.0 / bandwidth,
            head_gemm: 2.0 * head / gpu.peak(Dtype::Bf16),
            expert_read: expert * expert_dtype.bytes() / bandwidth,
            expert_gemm: 2.0 * expert / gpu.peak(expert_dtype),
            experts,
            active,
            imbalance: if layout.expert && many { 1.2 } else { 1.0 },
            attend: (layers - short) * pair,
            kv_read: (layers - short) * kv,
            window: model.window.map_or(0.0, |window| f64::from(window.tokens)),
            window_attend: short * pair,
            window_kv_read: short * kv,
            activations: layers * hidden * FLOWS / bandwidth,
            exchange: 2.0 * layers * hidden * 2.0 * ring / gpu.peer_bandwidth(),
            exchanges: if many { 2.0 * layers } else { 0.0 },
            hop: if stages > 1.0 { hidden * 2.0 / gpu.peer_bandwidth() } else { 0.0 },
        }
    }

    /// Returns the calibrated numbers that it uses.
    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// Returns the same cost with other calibrated numbers.
    pub fn calibrated(self, calibration: Calibration) -> Self {
        Self { calibration, ..self }
    }

    /// Returns what a step over `batch` has to do, in units of each factor. Of an operator, only
    /// the larger of its arithmetic and its traffic is counted.
    pub fn work(&self, batch: &Batch) -> Work {
        let mut work = [0.0; Factor::COUNT];
        let mut add = |factor: Factor, amount: f64| work[factor as usize] += amount;
        let eager = batch.prefill_tokens > 0;
        let decodes = if eager { batch.decode_sequences } else { padded(batch.decode_sequences) };
        let tokens = (batch.prefill_tokens + decodes) as f64;
        let sampled = batch.sampled() as f64;

        add(Factor::Step, 1e-6);
        add(Factor::Layer, 1e-6 * self.layers * self.stages);
        if eager {
            add(Factor::EagerLayer, 1e-6 * self.layers * self.stages);
        }
        add(Factor::ExpertLayer, 1e-6 * self.expert_layers * self.stages);
        add(Factor::Sequence, 1e-6 * sampled);
        let mut larger = |read: (Factor, f64), gemm: (Factor, f64)| {
            let time = |(factor, amount): (Factor, f64)| self.calibration.get(factor) * amount;
            let (factor, amount) = if time(gemm) > time(read) { gemm } else { read };
            add(factor, amount * self.stages);
        };
        let (read, gemm) = (Factor::read(self.weights), Factor::gemm(self.weights));
        larger((read, self.read), (gemm, self.gemm * tokens));
        larger(
            (Factor::ReadBf16, self.head_read / self.stages),
            (Factor::GemmBf16, self.head_gemm * sampled / self.stages),
        );
        if self.experts > 0.0 {
            let hit = self.experts * (1.0 - power(1.0 - self.active / self.experts, tokens as u64));
            let rows = (tokens * self.active).max(hit * TILE);
            larger(
                (Factor::expert_read(self.expert_dtype), self.expert_read * hit * self.imbalance),
                (Factor::expert_gemm(self.expert_dtype), self.expert_gemm * rows * self.imbalance),
            );
        }
        let stages = self.stages;
        add(
            Factor::DecodeAttention,
            stages
                * (self.kv_read * batch.kv_tokens as f64
                    + self.window_kv_read * batch.window_tokens as f64),
        );
        if eager {
            let pairs = batch.prefill_pairs as f64;
            let near = pairs.min(batch.prefill_tokens as f64 * self.window);
            add(
                Factor::PrefillAttention,
                stages * (self.attend * pairs + self.window_attend * near),
            );
        }
        add(Factor::Activations, stages * self.activations * tokens);
        if self.tensor > 1.0 {
            add(Factor::AllReduce, 1e-6 * stages * self.exchanges);
            add(Factor::AllReduceBytes, stages * self.exchange * tokens);
        }
        work
    }

    /// Adds to `sum` what the given steps of a run have to do, whose first step is over `batch` while
    /// `growing` of its sequences see less than their window.
    pub fn add_run(
        &self,
        batch: &Batch,
        growing: u64,
        steps: std::ops::Range<u64>,
        sum: &mut Work,
    ) {
        let count = steps.end - steps.start;
        // Reading grows evenly: the mean step stands for all.
        let later = (steps.start + steps.end - 1) as f64 / 2.0;
        let grown = later
            * (self.kv_read * batch.decode_sequences as f64 + self.window_kv_read * growing as f64);
        let mut work = self.work(batch);
        work[Factor::DecodeAttention as usize] += self.stages * grown;
        for (sum, work) in sum.iter_mut().zip(work) {
            *sum += count as f64 * work;
        }
    }

    /// Returns how long a step over `batch` takes, in seconds.
    pub fn seconds(&self, batch: &Batch) -> f64 {
        let work = self.work(batch);
        let time: f64 =
            work.iter().zip(&self.calibration.0).map(|(work, price)| work * price).sum();
        time + (self.stages - 1.0) * (HOP_US * 1e-6 + self.hop * batch.tokens() as f64)
    }

    /// Returns how long a step over `batch` takes. What it reads of each token is a whole number of
    /// picoseconds, so that a run of steps can be leapt over exactly.
    pub fn step_time(&self, batch: &Batch) -> Picos {
        let rest = Batch { kv_tokens: 0, window_tokens: 0, ..*batch };
        let (far, near) = self.per_kv_token();
        Picos::from_secs_f64(self.seconds(&rest)).max(Picos(1_000))
            + far * batch.kv_tokens
            + near * batch.window_tokens
    }

    /// Returns the line through the times of usual batches: decode steps of 16 and of 128 sequences,
    /// and a step over a prompt of 4,096 tokens.
    pub fn line(&self) -> LinearCost {
        /// Sequences of the two decode steps.
        const FEW: u64 = 16;
        const MANY: u64 = 128;
        const PROMPT: u64 = 4_096;
        let decode =
            |sequences| self.seconds(&Batch { decode_sequences: sequences, ..Batch::EMPTY });
        let per_sequence = (decode(MANY) - decode(FEW)) / (MANY - FEW) as f64;
        let base = decode(FEW) - FEW as f64 * per_sequence;
        let prompt = Batch {
            prefill_tokens: PROMPT,
            prefill_pairs: PROMPT * PROMPT / 2,
            completing: 1,
            ..Batch::EMPTY
        };
        let (far, near) = self.per_kv_token();
        LinearCost {
            base: Picos::from_secs_f64(base.max(0.0)).max(Picos(1_000)),
            per_prefill_token: Picos::from_secs_f64(
                ((self.seconds(&prompt) - base) / PROMPT as f64).max(0.0),
            ),
            per_sequence: Picos::from_secs_f64(per_sequence.max(0.0)),
            // Contexts are mostly longer than a window: what lies before it is not read.
            per_kv_token: if self.window > 0.0 { far } else { far + near },
        }
    }

    /// Returns how much longer each decode step is than the one before, while the sequences stay
    /// and `growing` of them still see less than their window.
    pub fn growth(&self, sequences: u64, growing: u64) -> Picos {
        let (far, near) = self.per_kv_token();
        far * sequences + near * growing
    }

    /// Returns what reading one token takes in all layers that see everything, and in the others.
    fn per_kv_token(&self) -> (Picos, Picos) {
        let price = self.stages * self.calibration.get(Factor::DecodeAttention);
        let time = |read: f64| Picos::from_secs_f64(read * price);
        (time(self.kv_read), time(self.window_kv_read))
    }

    /// Returns how far short-sighted layers look back: zero if there are none.
    pub fn window(&self) -> u64 {
        self.window as u64
    }

    /// Returns the time beside the engine's steps until a request's first token is with its
    /// client.
    pub fn overhead(&self, prompt_tokens: u64) -> f64 {
        self.calibration.get(Factor::Request) * 1e-3
            + self.calibration.get(Factor::PromptToken) * 1e-6 * prompt_tokens as f64
    }
}

/// Returns the size of the captured graph that holds so many sequences.
fn padded(sequences: u64) -> u64 {
    match sequences {
        0..=2 => sequences,
        3..=4 => 4,
        _ if sequences <= LARGEST_GRAPH => sequences.next_multiple_of(8),
        _ => sequences,
    }
}

/// Returns `base` to the power of `exponent` by squaring: the same on every machine.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(model: &str, gpu: &str, tensor: u32) -> OperatorCost {
        let (model, gpu) =
            (ModelSpec::named(model).expect("known"), Gpu::named(gpu).expect("known"));
        OperatorCost::new(&model, gpu, Layout::tensor(tensor), Calibration::default())
    }

    fn decode(sequences: u64, context: u64) -> Batch {
        Batch { decode_sequences: sequences, kv_tokens: sequences * context, ..Batch::EMPTY }
    }

    fn prefill(tokens: u64) -> Batch {
        Batch { prefill_tokens: tokens, prefill_pairs: tokens * tokens / 2, ..Batch::EMPTY }
    }

    #[test]
    fn the_parts_of_a_step_are_those_of_the_papers() {
        // 16.06 GB at 3.35 TB/s, once: the embedding is not read.
        let cost = cost("llama-3.1-8b", "H100", 1);
        let work = cost.work(&decode(1, 1));
        let read = work[Factor::ReadBf16 as usize];
        assert!((read * 3_350e9 / 1e9 - 15.0).abs() < 0.1, "{read}");
        // 131,072 bytes of each token.
        let kv = cost.work(&decode(1, 1_000))[Factor::DecodeAttention as usize];
        assert!((kv * 3_350e9 / 1_000.0 - 131_072.0).abs() < 1.0, "{kv}");
        // 2 × 7 × 10⁹ operations per token, without embeddings.
        let gemm = cost.work(&prefill(4_096))[Factor::GemmBf16 as usize];
        assert!((gemm * 989e12 / 4_096.0 / 1e9 - 13.96).abs() < 0.1, "{gemm}");
    }

    #[test]
    fn few_tokens_read_few_experts() {
        let cost = cost("qwen3-30b-a3b", "H100", 1);
        let read = |n| cost.work(&decode(n, 1))[Factor::ExpertRead as usize];
        assert!((read(1) / read(512) - 8.0 / 128.0).abs() < 0.01, "8 of 128 experts");
    }

    #[test]
    fn decode_steps_of_one_batch_grow_evenly() {
        for name in ["llama-3.1-70b-fp8", "gpt-oss-120b", "deepseek-v3"] {
            let cost = cost(name, "H200", 8);
            let (first, later) = (decode(16, 2_000), decode(16, 2_100));
            let grown = cost.growth(16, 0) * 100;
            assert_eq!(cost.step_time(&later), cost.step_time(&first) + grown, "{name}");
            let near = (cost.step_time(&later).as_secs_f64() / cost.seconds(&later) - 1.0).abs();
            assert!(near < 1e-4, "{name}: {near}");
        }
    }

    #[test]
    fn more_gpus_are_faster_and_stages_are_not() {
        let (one, two) =
            (cost("llama-3.1-70b-fp8", "H100", 2), cost("llama-3.1-70b-fp8", "H100", 4));
        assert!(two.seconds(&decode(8, 1_000)) < one.seconds(&decode(8, 1_000)));
        assert!(two.seconds(&prefill(8_192)) < 0.7 * one.seconds(&prefill(8_192)));
        let model = ModelSpec::named("llama-3.1-70b-fp8").expect("known");
        let gpu = Gpu::named("H100").expect("known");
        let layout = Layout { tensor: 2, pipeline: 2, expert: false };
        let staged = OperatorCost::new(&model, gpu, layout, Calibration::default());
        let ratio = staged.seconds(&decode(8, 1_000)) / one.seconds(&decode(8, 1_000));
        assert!((1.0..1.05).contains(&ratio), "the stages follow one another: {ratio}");
    }

    #[test]
    fn batches_are_rounded_up_to_captured_graphs() {
        assert_eq!([0, 1, 2, 3, 5, 8, 9, 512, 513].map(padded), [0, 1, 2, 4, 8, 8, 16, 512, 513]);
    }
}
