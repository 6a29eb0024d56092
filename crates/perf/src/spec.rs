//! What a model is made of: the figures of its `config.json`.

use serde::Deserialize;
use thiserror::Error;

use crate::catalogue::{self, UnknownName};

/// In what a number is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 16 bits.
    #[default]
    Bf16,
    /// 8 bits, floating.
    Fp8,
    /// 8 bits, whole.
    Int8,
    /// 4 bits, floating, a scale per 16 or 32.
    Fp4,
    /// 4 bits, whole, a scale per 64 or 128.
    Int4,
}

impl Dtype {
    /// Returns the bytes of one number, its share of the scales included.
    pub const fn bytes(self) -> f64 {
        match self {
            Self::Bf16 => 2.0,
            Self::Fp8 | Self::Int8 => 1.0,
            Self::Fp4 => 0.5625,
            Self::Int4 => 0.53,
        }
    }

    /// Returns the dtype called `name`, as people and vLLM write it.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        if has(&["nvfp4", "mxfp4", "fp4"]) {
            Some(Self::Fp4)
        } else if has(&["awq", "gptq", "int4", "4bit", "w4a16"]) {
            Some(Self::Int4)
        } else if has(&["fp8"]) {
            Some(Self::Fp8)
        } else if has(&["int8", "8bit", "w8a8"]) {
            Some(Self::Int8)
        } else if has(&["bf16", "fp16", "float16"]) {
            Some(Self::Bf16)
        } else {
            None
        }
    }
}

/// Multi-head latent attention: one compressed row per token instead of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mla {
    /// Width of the compressed row.
    pub kv_rank: u32,
    /// Width of compressed queries.
    pub q_rank: u32,
    /// Width of the part that carries positions.
    pub rope: u32,
    /// Width of the part of a head that carries none.
    pub nope: u32,
    /// Width of a head's values.
    pub value: u32,
}

/// A mixture of experts in place of feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    /// Experts per layer.
    pub experts: u32,
    /// Experts that one token uses.
    pub active: u32,
    /// Width of an expert.
    pub ffn: u32,
    /// Experts that every token uses besides.
    #[serde(default)]
    pub shared: u32,
    /// Layers at the front that have a dense feed-forward layer instead.
    #[serde(default)]
    pub dense_layers: u32,
}

/// Layers that look back over a few tokens only.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// How far.
    pub tokens: u32,
    /// How many layers do.
    pub layers: u32,
}

/// A model: counts per layer unless said otherwise.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Its name here.
    pub name: String,
    #[serde(default)]
    pub(crate) words: Vec<String>,
    /// Where the figures were read.
    pub source: String,
    /// Layers.
    pub layers: u32,
    /// Width.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of a dense feed-forward layer.
    pub ffn: u32,
    /// Size of the vocabulary.
    pub vocab: u32,
    /// Whether the output layer is the embedding.
    #[serde(default)]
    pub tied: bool,
    /// Longest context, in tokens.
    pub max_context: u32,
    /// Parameters in 10⁹, as its maker says.
    #[serde(default)]
    pub params_b: Option<f64>,
    /// In what its weights are published.
    #[serde(default)]
    pub weights: Dtype,
    /// Width of the blocks in which its published 8-bit weights are scaled, if they are.
    #[serde(default)]
    pub block: Option<u32>,
    /// In what its experts are published, if otherwise.
    #[serde(default)]
    pub experts: Option<Dtype>,
    /// Latent attention, if it has that.
    #[serde(default)]
    pub mla: Option<Mla>,
    /// Experts, if it has those.
    #[serde(default)]
    pub moe: Option<Moe>,
    /// Layers of short sight, if it has those.
    #[serde(default)]
    pub window: Option<Window>,
}

impl ModelSpec {
    pub(crate) fn empty() -> Self {
        Self {
            name: String::new(),
            words: Vec::new(),
            source: String::new(),
            layers: 0,
            hidden: 0,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
            ffn: 0,
            vocab: 0,
            tied: false,
            max_context: 0,
            params_b: None,
            weights: Dtype::Bf16,
            block: None,
            experts: None,
            mla: None,
            moe: None,
            window: None,
        }
    }

    /// Returns the model of the catalogue that `name` means, if there is one.
    pub fn find(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase();
        catalogue::models().iter().find(|model| catalogue::means(&model.words, &name))
    }

    /// Returns the model that `name` means, in the dtype that the name tells.
    ///
    /// # Errors
    /// If none is meant; with the nearest names.
    pub fn named(name: &str) -> Result<Self, UnknownName> {
        let known = || catalogue::models().iter().map(|model| model.name.as_str());
        let found =
            Self::find(name).ok_or_else(|| catalogue::unknown("model", name, known()))?.clone();
        Ok(match Dtype::parse(name) {
            Some(dtype) => found.in_dtype(dtype),
            None => found,
        })
    }

    /// Returns the repository on the Hugging Face hub from which the figures were read, whose weights an
    /// engine can load.
    ///
    /// ```
    /// use sagellm_perf::ModelSpec;
    /// let model = ModelSpec::named("qwen3-32b-fp8")?;
    /// assert_eq!(model.repository(), Some("Qwen/Qwen3-32B"));
    /// # Ok::<(), sagellm_perf::UnknownName>(())
    /// ```
    pub fn repository(&self) -> Option<&str> {
        let rest = self.source.strip_prefix("config.json of ")?;
        let name = rest.split(' ').next()?.trim_end_matches([';', ':', ',']);
        name.contains('/').then_some(name)
    }

    /// Returns the model with its weights in `dtype`; experts that are published in a dtype of their
    /// own stay in that.
    pub fn in_dtype(self, dtype: Dtype) -> Self {
        if self.experts.is_some() { self } else { Self { weights: dtype, ..self } }
    }

    /// Returns the width of its blocks, if `parts` parts of `width` are not whole blocks.
    pub(crate) fn cuts_blocks(&self, width: u32, parts: u32) -> Option<u32> {
        let block = self.block.filter(|_| self.weights == Dtype::Fp8)?;
        (!(width / parts).is_multiple_of(block)).then_some(block)
    }

    /// Returns the dtype of the experts.
    pub fn expert_dtype(&self) -> Dtype {
        self.experts.unwrap_or(self.weights)
    }

    /// Returns the parameters of one layer's attention.
    pub fn attention_params(&self) -> f64 {
        let (hidden, heads) = (f64::from(self.hidden), f64::from(self.heads));
        if let Some(mla) = self.mla {
            let [kv, q, rope, nope, value] =
                [mla.kv_rank, mla.q_rank, mla.rope, mla.nope, mla.value].map(f64::from);
            let queries = hidden * q + q * heads * (nope + rope);
            let keys = hidden * (kv + rope) + kv * heads * (nope + value);
            return queries + keys + heads * value * hidden;
        }
        let (head, kv_heads) = (f64::from(self.head_dim), f64::from(self.kv_heads));
        2.0 * hidden * heads * head + 2.0 * hidden * kv_heads * head
    }

    /// Returns the parameters of one expert.
    pub fn expert_params(&self) -> f64 {
        self.moe.map_or(0.0, |moe| 3.0 * f64::from(self.hidden) * f64::from(moe.ffn))
    }

    /// Returns how many layers have experts.
    pub fn expert_layers(&self) -> f64 {
        self.moe.map_or(0.0, |moe| f64::from(self.layers.saturating_sub(moe.dense_layers)))
    }

    /// Returns the parameters of all dense feed-forward layers, shared experts included.
    pub fn dense_ffn_params(&self) -> f64 {
        let dense = f64::from(self.layers) - self.expert_layers();
        let shared = self.moe.map_or(0.0, |moe| f64::from(moe.shared)) * self.expert_params();
        dense * 3.0 * f64::from(self.hidden) * f64::from(self.ffn) + self.expert_layers() * shared
    }

    /// Returns the parameters of all experts.
    pub fn all_expert_params(&self) -> f64 {
        let experts = self.moe.map_or(0.0, |moe| f64::from(moe.experts));
        self.expert_layers() * experts * self.expert_params()
    }

    /// Returns the parameters of the output layer.
    pub fn head_params(&self) -> f64 {
        f64::from(self.vocab) * f64::from(self.hidden)
    }

    /// Returns all parameters.
    pub fn params(&self) -> f64 {
        let embeddings = if self.tied { 1.0 } else { 2.0 } * self.head_params();
        f64::from(self.layers) * self.attention_params()
            + self.dense_ffn_params()
            + self.all_expert_params()
            + embeddings
    }

    /// Returns the parameters that one token uses.
    pub fn active_params(&self) -> f64 {
        let active = self.moe.map_or(0.0, |moe| f64::from(moe.active));
        let idle = self.moe.map_or(0.0, |moe| f64::from(moe.experts)) - active;
        self.params() - self.expert_layers() * idle * self.expert_params()
    }

    /// Returns the bytes of all weights. Embeddings and the output layer stay in 16 bits.
    pub fn weight_bytes(&self) -> f64 {
        let embeddings = if self.tied { 1.0 } else { 2.0 } * self.head_params() * 2.0;
        let dense = f64::from(self.layers) * self.attention_params() + self.dense_ffn_params();
        dense * self.weights.bytes() + self.expert_bytes() + embeddings
    }

    /// Returns the bytes of all experts.
    pub fn expert_bytes(&self) -> f64 {
        self.all_expert_params() * self.expert_dtype().bytes()
    }

    /// Returns the width of what is kept of one token per layer.
    pub fn kv_width(&self) -> f64 {
        match self.mla {
            Some(mla) => f64::from(mla.kv_rank + mla.rope),
            None => 2.0 * f64::from(self.kv_heads) * f64::from(self.head_dim),
        }
    }

    /// Returns over how many of `tensor` GPUs keys and values are divided: one head is on one GPU at
    /// least, and the compressed row of MLA is kept whole on every one.
    pub fn kv_parts(&self, tensor: u32) -> f64 {
        match self.mla {
            Some(_) => 1.0,
            None => f64::from(tensor.min(self.kv_heads)),
        }
    }

    /// Reads a model from a Hugging Face `config.json`.
    ///
    /// # Errors
    /// If it is not JSON, or a figure that is needed is absent or cannot be.
    pub fn from_config_json(name: &str, text: &str) -> Result<Self, SpecError> {
        crate::hugging_face::read(name, text)
    }

    /// Checks that a model of these figures can exist.
    ///
    /// # Errors
    /// The first figure that cannot be.
    pub fn validate(&self) -> Result<(), SpecError> {
        let wrong = |field, expected| {
            Err(SpecError::Impossible { model: self.name.clone(), field, expected })
        };
        let counts = [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn", self.ffn),
            ("vocab", self.vocab),
            ("max_context", self.max_context),
        ];
        for (field, value) in counts {
            if !(1..=100_000_000).contains(&value) {
                return wrong(field, "a count above zero");
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return wrong("kv_heads", "a divisor of heads");
        }
        if let Some(moe) = self.moe {
            if moe.active == 0 || moe.active > moe.experts {
                return wrong("moe.active", "between 1 and moe.experts");
            }
            if moe.ffn == 0 || moe.dense_layers >= self.layers {
                return wrong("moe", "a width above zero and fewer dense layers than layers");
            }
        }
        if self.window.is_some_and(|window| window.layers > self.layers || window.tokens == 0) {
            return wrong("window", "at least one token, in no more layers than there are");
        }
        Ok(())
    }
}

/// Why a model cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The file is no JSON object.
    #[error("{model}: not a config.json: {message}")]
    Json {
        /// The model.
        model: String,
        /// What is wrong.
        message: String,
    },
    /// A figure that is needed is not there.
    #[error("{model}: config.json lacks `{field}`, a count above zero")]
    Missing {
        /// The model.
        model: String,
        /// The figure.
        field: &'static str,
    },
    /// A figure that cannot be.
    #[error("{model}: {field} cannot be; expected {expected}")]
    Impossible {
        /// The model.
        model: String,
        /// The figure.
        field: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_follow_from_the_shape() {
        for model in catalogue::models() {
            model.validate().expect("a model that exists");
            let published = model.params_b.expect("published");
            let computed = model.params() * 1e-9;
            let off = (computed / published - 1.0).abs();
            assert!(off < 0.02, "{}: {computed:.2} is not {published:.2} × 10⁹", model.name);
        }
    }

    #[test]
    fn active_parameters_are_those_of_the_chosen_experts() {
        let active = |name| ModelSpec::find(name).expect("known").active_params() * 1e-9;
        for (name, published) in
            [("mixtral-8x7b", 12.9), ("deepseek-v3", 37.5), ("gpt-oss-120b", 5.7)]
        {
            assert!((active(name) / published - 1.0).abs() < 0.04, "{name}: {}", active(name));
        }
    }

    #[test]
    fn a_name_tells_its_dtype_unless_the_experts_have_their_own() {
        let dtype = |name| ModelSpec::named(name).expect("known").weights;
        assert_eq!(dtype("meta-llama/Llama-3.1-70B"), Dtype::Bf16);
        assert_eq!(dtype("Llama-3.1-70B-FP8"), Dtype::Fp8);
        assert_eq!(dtype("Qwen3-32B-AWQ"), Dtype::Int4);
        let oss = ModelSpec::named("openai/gpt-oss-120b-mxfp4").expect("known");
        assert_eq!((oss.weights, oss.expert_dtype()), (Dtype::Bf16, Dtype::Fp4));
        // 63 GB, as published.
        assert!((oss.weight_bytes() * 1e-9 - 66.0).abs() < 3.0, "{}", oss.weight_bytes());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let mut model = ModelSpec::named("llama-3.1-8b").expect("known");
        model.kv_heads = 5;
        let error = model.validate().expect_err("32 heads").to_string();
        assert_eq!(error, "llama-3.1-8b: kv_heads cannot be; expected a divisor of heads");
    }
}
