//! How long a step takes, from what it computes: a sum over operators.
//!
//! Each operator takes the larger of its arithmetic and its memory traffic, each at a calibrated
//! share of the datasheet ([`Calibration`]); operators follow one another, so their times add up.
//! On top come a price per step, per layer, per sequence and per exchange between GPUs. A step
//! without prompt tokens runs in a captured graph, whose batch is rounded up to the next captured
//! size.

use crate::pass::Pass;
use crate::{
    Batch, Calibration, Dtype, Fabric, Factor, Gpu, Layout, LinearCost, ModelSpec, Picos, RunTime,
};

/// Work in units of each [`Factor`]: the time is the sum of products with a [`Calibration`].
pub type Work = [f64; Factor::COUNT];

/// A model on a layout of GPUs, turned into coefficients once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatorCost {
    calibration: Calibration,
    tensor: f64,
    /// Layers of the longest stage, and stages.
    layers: f64,
    expert_layers: f64,
    pub(crate) stages: u64,
    /// Ranks that compute attention for themselves, and by how much their contexts differ.
    pub(crate) ranks: u64,
    pub(crate) uneven: f64,
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
    /// GPUs that experts are spread over, and how unevenly tokens fall on them.
    spread: f64,
    skew: f64,
    /// Seconds per attended pair of tokens over all layers that see everything, of a prompt.
    attend: f64,
    /// Seconds to read one token's keys and values.
    kv_read: f64,
    window: f64,
    window_attend: f64,
    window_kv_read: f64,
    /// Seconds to move what flows between the kernels of one token.
    activations: f64,
    /// Seconds to exchange one token's activations, and exchanges per stage.
    exchange: f64,
    exchanges: f64,
    /// Seconds per stage that exchanges take however little they carry, beside their calibrated price.
    floor: f64,
    /// Seconds to hand one token's activations to the next stage, and to hand over at all.
    hop: f64,
    hop_floor: f64,
}

/// Bytes per token, layer and width that flow between kernels, beside what weights and KV take.
const FLOWS: f64 = 24.0;
/// Rows of an expert's matrix product that are computed whether they are filled or not.
const TILE: f64 = 16.0;
/// What handing over to the next stage costs besides moving bytes, in seconds.
const HOP: f64 = 10e-6;
/// Sending tokens to their experts and back, of one token: DeepEP's low-latency kernels on one H200
/// node take 16.3 and 12.2 µs.
const EXPERT_ROUND_TRIP: f64 = 28.5e-6;
/// How much more often the busiest GPU's experts are chosen than the mean, however many tokens come.
const SKEW: f64 = 1.2;
/// Standard deviation of contexts relative to their mean.
const CONTEXTS_VARY: f64 = 0.5;
/// Sizes of captured graphs: 1, 2, 4, then every 8 up to this.
const LARGEST_GRAPH: u64 = 512;

impl OperatorCost {
    /// Returns the cost of `model` on one instance of `layout` over GPUs of one type that lie as near
    /// to each other as their nodes allow.
    pub fn new(model: &ModelSpec, gpu: &Gpu, layout: Layout, calibration: Calibration) -> Self {
        Self::over(model, gpu, layout, Fabric::of(gpu, layout), calibration)
    }

    /// Returns the cost of `model` on one instance of `layout` whose GPUs are joined by `fabric`.
    pub fn over(
        model: &ModelSpec,
        gpu: &Gpu,
        layout: Layout,
        fabric: Fabric,
        calibration: Calibration,
    ) -> Self {
        let layout = layout.sound();
        // The longest stage is waited for.
        let (tensor, stage) = (f64::from(layout.tensor), layout.longest_stage(model));
        let (ranks, group) = (f64::from(layout.data), f64::from(layout.expert_group()));
        let layers = f64::from(model.layers) * stage;
        let (bandwidth, hidden) = (gpu.bandwidth * 1e9, f64::from(model.hidden));
        let (weights, expert_dtype) = (model.weights, model.expert_dtype());
        let dense = (f64::from(model.layers) * model.attention_params() + model.dense_ffn_params())
            * stage
            / tensor;
        let head = model.head_params() / tensor;
        let expert_layers = model.expert_layers() * stage;
        let expert = expert_layers * model.expert_params() / group;
        let (experts, active) =
            model.moe.map_or((0.0, 0.0), |moe| (f64::from(moe.experts), f64::from(moe.active)));
        let short = model.window.map_or(0.0, |window| f64::from(window.layers)) * stage;
        let pair = match model.mla {
            Some(mla) => 2.0 * f64::from(model.heads) * f64::from(mla.nope + mla.rope + mla.value),
            None => 4.0 * f64::from(model.heads) * f64::from(model.head_dim),
        } / (tensor * gpu.peak(Dtype::Bf16));
        let shared = model.kv_parts(layout.tensor);
        let kv = model.kv_width() * 2.0 / (shared * bandwidth);
        let (many, apart) = (layout.tensor > 1, layout.data > 1 && experts > 0.0);
        // Each layer reduces twice over the tensor group; where ranks share experts, those layers send
        // tokens to the experts instead of the second time.
        let reduced = if apart { 2.0 * layers - expert_layers } else { 2.0 * layers };
        let ring = if many { 2.0 * (tensor - 1.0) / tensor } else { 0.0 };
        let sent = match (apart, layout.expert) {
            (false, _) => 0.0,
            // To each GPU that holds one of its experts, in the experts' width, and back in 16 bits.
            (true, true) => {
                let reached = (group - 1.0) * (1.0 - power(1.0 - 1.0 / group, active as u64));
                reached * (expert_dtype.bytes().max(1.0) + 2.0) / tensor
            }
            // Every rank gathers the tokens of all others, and gives back its part of their sums.
            (true, false) => (ranks - 1.0) * 4.0,
        };
        let trip = match (apart, layout.expert) {
            (false, _) => 0.0,
            (true, true) => EXPERT_ROUND_TRIP + 2.0 * fabric.expert.latency.as_secs_f64(),
            (true, false) => 2.0 * fabric.expert.latency.as_secs_f64(),
        };
        // The price of an exchange is that of two GPUs; each doubling of their number adds half of it.
        let among = |gpus: f64| 0.5 + 0.5 * gpus.log2();
        let gathered = if apart && !layout.expert { expert_layers * among(group) } else { 0.0 };
        Self {
            calibration,
            tensor,
            layers,
            expert_layers,
            stages: u64::from(layout.pipeline),
            ranks: u64::from(layout.data),
            uneven: CONTEXTS_VARY * busiest(layout.data),
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
            spread: if layout.expert { group } else { 1.0 },
            skew: if layout.expert { busiest(layout.expert_group()) } else { 0.0 },
            attend: (layers - short) * pair,
            kv_read: (layers - short) * kv,
            window: model.window.map_or(0.0, |window| f64::from(window.tokens)),
            window_attend: short * pair,
            window_kv_read: short * kv,
            activations: layers * hidden * FLOWS / bandwidth,
            exchange: reduced * hidden * 2.0 * ring / fabric.tensor.bytes_per_second
                + expert_layers * hidden * sent / fabric.expert.bytes_per_second,
            exchanges: if many { reduced * among(tensor) } else { 0.0 } + gathered,
            floor: expert_layers * trip
                + if many { reduced * fabric.tensor.latency.as_secs_f64() } else { 0.0 },
            hop: hidden * 2.0 / fabric.stage.bytes_per_second,
            hop_floor: HOP + fabric.stage.latency.as_secs_f64(),
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

    /// Returns the cost with every part `factor` times as large.
    pub fn scaled(self, factor: f64) -> Self {
        let Calibration(prices) = self.calibration;
        let calibration = Calibration(prices.map(|price| price * factor));
        let (floor, hop_floor) = (self.floor * factor, self.hop_floor * factor);
        Self { calibration, floor, hop: self.hop * factor, hop_floor, ..self }
    }

    /// Returns what a step over `batch` has to do, in units of each factor. Of an operator, only
    /// the larger of its arithmetic and its traffic is counted.
    pub fn work(&self, batch: &Batch) -> Work {
        self.work_of(batch, &self.pass(batch))
    }

    fn work_of(&self, batch: &Batch, pass: &Pass) -> Work {
        let mut work = [0.0; Factor::COUNT];
        let mut add = |factor: Factor, amount: f64| work[factor as usize] += amount;
        let eager = batch.prefill_tokens > 0;
        let stages = self.stages as f64;
        let decodes = if eager { pass.decodes } else { padded(pass.decodes) };
        let tokens = pass.prefill + decodes as f64;

        add(Factor::Step, 1e-6);
        add(Factor::Layer, 1e-6 * self.layers * stages);
        if eager {
            add(Factor::EagerLayer, 1e-6 * self.layers * stages);
        }
        add(Factor::ExpertLayer, 1e-6 * self.expert_layers * stages);
        add(Factor::Sequence, 1e-6 * pass.sampled * pass.passes as f64);
        let mut larger = |read: (Factor, f64), gemm: (Factor, f64)| {
            let time = |(factor, amount): (Factor, f64)| self.calibration.get(factor) * amount;
            let (factor, amount) = if time(gemm) > time(read) { gemm } else { read };
            add(factor, amount * stages);
        };
        let (read, gemm) = (Factor::read(self.weights), Factor::gemm(self.weights));
        larger((read, self.read), (gemm, self.gemm * tokens));
        larger(
            (Factor::ReadBf16, self.head_read / stages),
            (Factor::GemmBf16, self.head_gemm * pass.sampled / stages),
        );
        if self.experts > 0.0 {
            let tokens = if self.ranks > 1 { pass.tokens_of_all } else { tokens };
            let hit = self.experts * (1.0 - power(1.0 - self.active / self.experts, tokens as u64));
            let rows = (tokens * self.active).max(hit * TILE);
            let more = self.imbalance(tokens);
            // Even the busiest GPU reads each of its experts once.
            let most = self.experts.min(hit * more);
            larger(
                (Factor::expert_read(self.expert_dtype), self.expert_read * most),
                (Factor::expert_gemm(self.expert_dtype), self.expert_gemm * rows * more),
            );
        }
        let context = stages * pass.context;
        add(
            Factor::DecodeAttention,
            context
                * (self.kv_read * batch.kv_tokens as f64
                    + self.window_kv_read * batch.window_tokens as f64),
        );
        if eager {
            let near = pass.pairs.min(pass.prefill * self.window);
            add(
                Factor::PrefillAttention,
                stages * (self.attend * pass.pairs + self.window_attend * near),
            );
        }
        add(Factor::Activations, stages * self.activations * tokens);
        add(Factor::AllReduce, 1e-6 * stages * self.exchanges);
        add(Factor::AllReduceBytes, stages * self.exchange * tokens);
        work
    }

    /// Returns by how much the GPU on which most tokens of a pass fall has more to do than the mean.
    fn imbalance(&self, tokens: f64) -> f64 {
        if self.spread <= 1.0 {
            return 1.0;
        }
        let mean = (tokens * self.active / self.spread).max(1e-3);
        (SKEW * (1.0 + self.skew / mean.sqrt())).min(self.spread)
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
        let pass = self.pass(batch);
        let mut work = self.work_of(batch, &pass);
        work[Factor::DecodeAttention as usize] += self.stages as f64 * pass.context * grown;
        for (sum, work) in sum.iter_mut().zip(work) {
            *sum += count as f64 * work;
        }
    }

    /// Returns how long a step over `batch` takes, in seconds.
    pub fn seconds(&self, batch: &Batch) -> f64 {
        self.seconds_of(batch, &self.pass(batch))
    }

    fn seconds_of(&self, batch: &Batch, pass: &Pass) -> f64 {
        let work = self.work_of(batch, pass);
        let time: f64 =
            work.iter().zip(&self.calibration.0).map(|(work, price)| work * price).sum();
        let handed = self.hop_floor + self.hop * (pass.prefill + pass.decodes as f64);
        time + self.stages as f64 * self.floor + (self.stages - 1) as f64 * handed
    }

    /// Returns how long a step over `batch` takes. What it reads of each token is a whole number of
    /// picoseconds, so that a run of steps can be leapt over exactly.
    pub fn step_time(&self, batch: &Batch) -> Picos {
        self.run(batch, 0).first
    }

    /// Returns the times of a run of steps whose first is over `batch`, while its sequences stay and
    /// `growing` of them still see less than their window.
    pub fn run(&self, batch: &Batch, growing: u64) -> RunTime {
        let pass = self.pass(batch);
        let rest = Batch { kv_tokens: 0, window_tokens: 0, ..*batch };
        let (far, near) = self.per_kv_token(&pass);
        let still = Picos::from_secs_f64(self.seconds_of(&rest, &pass)).max(Picos(1_000));
        RunTime {
            first: still + far * batch.kv_tokens + near * batch.window_tokens,
            growth: far * batch.decode_sequences + near * growing,
        }
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
            prefill_sequences: 1,
            prefill_pairs: PROMPT * PROMPT / 2,
            completing: 1,
            ..Batch::EMPTY
        };
        let usual = Batch { decode_sequences: (FEW + MANY) / 2, ..Batch::EMPTY };
        let (far, near) = self.per_kv_token(&self.pass(&usual));
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

    /// Returns what reading one token takes in all layers that see everything, and in the others.
    fn per_kv_token(&self, pass: &Pass) -> (Picos, Picos) {
        let price =
            self.stages as f64 * pass.context * self.calibration.get(Factor::DecodeAttention);
        let time = |read: f64| Picos::from_secs_f64(read * price);
        (time(self.kv_read), time(self.window_kv_read))
    }

    /// Returns how far short-sighted layers look back: zero if there are none.
    pub fn window(&self) -> u64 {
        self.window as u64
    }

    /// Returns what exchanges take however little they carry, beside their calibrated price, in seconds.
    pub(crate) fn floor(&self) -> f64 {
        self.stages as f64 * self.floor
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

/// Returns by how many standard deviations the busiest of so many groups is above the mean, about:
/// the root of twice the logarithm of their number.
fn busiest(groups: u32) -> f64 {
    (2.0 * std::f64::consts::LN_2 * f64::from(groups.max(1).ilog2())).sqrt()
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
        for (name, layout) in [
            ("llama-3.1-70b-fp8", "tp8"),
            ("gpt-oss-120b", "tp8"),
            ("deepseek-v3", "tp1dp8ep"),
            ("llama-3.1-70b-fp8", "tp2pp3"),
        ] {
            let cost = laid(name, "H200", layout);
            let (first, later) = (decode(16, 2_000), decode(16, 2_100));
            let grown = cost.run(&first, 0).growth * 100;
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
        let layout = Layout { pipeline: 2, ..Layout::tensor(2) };
        let staged = OperatorCost::new(&model, gpu, layout, Calibration::default());
        let ratio = staged.seconds(&decode(1, 1_000)) / one.seconds(&decode(1, 1_000));
        assert!((1.0..1.05).contains(&ratio), "the stages follow one another: {ratio}");
    }

    fn laid(model: &str, gpu: &str, layout: &str) -> OperatorCost {
        let (model, gpu) =
            (ModelSpec::named(model).expect("known"), Gpu::named(gpu).expect("known"));
        OperatorCost::new(&model, gpu, layout.parse().expect("a layout"), Calibration::default())
    }

    #[test]
    fn stages_work_side_by_side_on_many_sequences() {
        let (one, four) =
            (laid("llama-3.1-70b-fp8", "H200", "tp1"), laid("llama-3.1-70b-fp8", "H200", "tp1pp4"));
        // A single sequence goes through the stages one after the other.
        let alone = four.seconds(&decode(1, 4_000)) / one.seconds(&decode(1, 4_000));
        assert!((1.0..1.02).contains(&alone), "{alone}");
        // The keys of many are read by all stages at once, weights are read once by each pass.
        let read = |cost: &OperatorCost| {
            let work = cost.work(&decode(64, 4_000));
            (work[Factor::DecodeAttention as usize], work[Factor::ReadFp8 as usize])
        };
        assert!((read(&four).0 / read(&one).0 - 0.25).abs() < 1e-9, "{:?}", read(&four));
        assert!((read(&four).1 / read(&one).1 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_slowest_rank_is_waited_for() {
        let cost = laid("deepseek-v3", "H200", "tp1dp8ep");
        // Nine sequences on eight ranks: one rank has two, as with sixteen.
        let attention = |n| {
            let work = cost.work(&Batch { kv_tokens: n * 1_000, ..decode(n, 0) });
            work[Factor::DecodeAttention as usize]
        };
        assert!(attention(9) > 0.99 * attention(16), "{} {}", attention(9), attention(16));
        assert!(attention(8) < 0.75 * attention(9));
        // One prompt is computed by one rank.
        let prompt = |prompts| Batch {
            prefill_tokens: 8_192,
            prefill_sequences: prompts,
            prefill_pairs: 8_192 * 512,
            ..Batch::EMPTY
        };
        let gemm = |batch| cost.work(&batch)[Factor::GemmFp8 as usize];
        assert!((gemm(prompt(1)) / gemm(prompt(8)) - 8.0).abs() < 1e-6);
    }

    #[test]
    fn experts_that_are_spread_are_reached_over_the_links() {
        let (near, far) =
            (laid("deepseek-v3", "H200", "tp1dp8ep"), laid("deepseek-v3", "H200", "tp1dp16ep"));
        let exchanged = |cost: &OperatorCost| {
            let bytes = cost.work(&decode(256, 1_000))[Factor::AllReduceBytes as usize];
            // Dispatch in 8 bits and combine in 16, of each token to the other GPUs that it needs.
            bytes * 1e12
        };
        // 58 layers × 32 tokens × 7168 × 3 bytes × 7 × (1 − (7 ÷ 8)⁸) over 450 GB/s.
        let reached = 7.0 * (1.0 - 0.875_f64.powi(8));
        let expected = 58.0 * 32.0 * 7_168.0 * 3.0 * reached / 450e9 * 1e12;
        assert!((exchanged(&near) / expected - 1.0).abs() < 1e-9, "{}", exchanged(&near));
        assert!(exchanged(&far) > 4.0 * exchanged(&near) / 2.0, "over the network");
        // Few tokens fall unevenly on the GPUs, many nearly evenly.
        assert!(near.imbalance(2.0) > 2.0 * near.imbalance(4_096.0));
        assert!((near.imbalance(1e9) - SKEW).abs() < 1e-3);
    }

    #[test]
    fn batches_are_rounded_up_to_captured_graphs() {
        assert_eq!([0, 1, 2, 3, 5, 8, 9, 512, 513].map(padded), [0, 1, 2, 4, 8, 8, 16, 512, 513]);
    }
}
