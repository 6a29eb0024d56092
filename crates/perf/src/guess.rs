//! A model that the catalogue does not hold, as far as its name tells.
//!
//! The parameter count in the name ("7b", "8x7b", "a3b") gives the layers, by the usual sizes; the
//! width follows from both. Keys and values are eight heads of 128, as in most models of today.

use crate::Dtype;
use crate::spec::{ModelSpec, Moe};

/// Parameters in 10⁹ and layers of dense models of common sizes.
const SIZES: &[(f64, u32)] = &[
    (0.6, 24),
    (1.8, 28),
    (4.0, 32),
    (9.0, 32),
    (15.0, 40),
    (40.0, 64),
    (110.0, 80),
    (f64::MAX, 126),
];
/// Width of a head, and heads of keys and values.
const HEAD: u32 = 128;
const KV_HEADS: u32 = 8;
const VOCABULARY: u32 = 32_000;
/// Experts of a mixture about which only its sizes are known.
const EXPERTS: u32 = 64;

impl ModelSpec {
    /// Returns the model that `name` means: of the catalogue, else one of the size that the name
    /// tells; `None` if it tells none.
    pub fn guess(name: &str) -> Option<Self> {
        Self::named(name).ok().or_else(|| sized(name))
    }

    /// Returns what stands for a model about which nothing is known: 8 × 10⁹ parameters.
    pub fn typical() -> Self {
        Self::guess("llama-3.1-8b").expect("the catalogue holds it")
    }
}

/// Returns a model of the size that `name` tells.
fn sized(name: &str) -> Option<ModelSpec> {
    let name = name.to_ascii_lowercase();
    let (mut params, mut active) = (None, None);
    // A point is part of a number: "qwen2.5-1.5b".
    for word in name.split(['-', '_', '/', ':', ' ', '@']) {
        match size(word) {
            Some((billions, false)) => params = params.or(Some(billions)),
            Some((billions, true)) => active = active.or(Some(billions)),
            None => {}
        }
    }
    let params: f64 = params.filter(|params| *params < 1e5)?;
    let active = active.unwrap_or(params).min(params);
    let &(_, layers) = SIZES.iter().find(|(most, _)| params <= *most).expect("the last is ∞");
    // What every token uses gives the width: about 12 squares of it per layer.
    let width = |per_layer: f64| (per_layer.max(1.0) / 12.0).sqrt();
    let embeddings = 2.0 * f64::from(VOCABULARY) * width(active * 1e9 / f64::from(layers));
    let per_layer = (active * 1e9 - embeddings).max(1.0) / f64::from(layers);
    let heads = ((width(per_layer) / f64::from(HEAD)) as u32).max(1);
    let kv_heads = KV_HEADS.min(heads);
    let mut model = ModelSpec {
        name: name.clone(),
        source: "the size in its name".to_owned(),
        layers,
        hidden: heads.next_multiple_of(kv_heads) * HEAD,
        heads: heads.next_multiple_of(kv_heads),
        kv_heads,
        head_dim: HEAD,
        ffn: 1,
        vocab: VOCABULARY,
        max_context: 32_768,
        weights: Dtype::parse(&name).unwrap_or_default(),
        ..ModelSpec::empty()
    };
    let width = 3.0 * f64::from(model.hidden);
    if active < params {
        let layer = (params * 1e9 - embeddings) / f64::from(layers) - model.attention_params();
        model.moe = Some(Moe {
            experts: EXPERTS,
            active: ((active / params * f64::from(EXPERTS)) as u32).clamp(1, EXPERTS),
            ffn: ((layer / (width * f64::from(EXPERTS))) as u32).max(1),
            shared: 0,
            dense_layers: 0,
        });
    } else {
        model.ffn = (((per_layer - model.attention_params()) / width) as u32).max(1);
    }
    Some(model)
}

/// Returns the 10⁹ parameters that a word such as "7b", "1.5b", "560m", "8x7b" or "a3b" means, and
/// whether they are the active ones.
fn size(word: &str) -> Option<(f64, bool)> {
    let (word, active) = match word.strip_prefix('a') {
        Some(rest) => (rest, true),
        None => (word, false),
    };
    let (number, unit) = match word.strip_suffix('b') {
        Some(number) => (number, 1.0),
        None => (word.strip_suffix('m')?, 1e-3),
    };
    let positive = |text: &str| text.parse::<f64>().ok().filter(|v| v.is_finite() && *v > 0.0);
    let billions = match number.split_once('x') {
        Some((experts, each)) => positive(experts)? * positive(each)?,
        None => positive(number)?,
    };
    Some((billions * unit, active))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, params: f64, active: f64, layers: u32) {
        let model = ModelSpec::guess(name).unwrap_or_else(|| panic!("{name} tells its size"));
        model.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        let near = |got: f64, wanted: f64| (got * 1e-9 / wanted - 1.0).abs() < 0.2;
        assert!(near(model.params(), params), "{name}: {}", model.params());
        assert!(near(model.active_params(), active), "{name}: {}", model.active_params());
        assert_eq!(model.layers, layers, "{name}");
    }

    #[test]
    fn known_families_come_from_the_catalogue() {
        check("meta-llama/Llama-3.1-70B-Instruct", 70.55, 70.55, 80);
        check("Qwen/Qwen3-30B-A3B", 30.5, 3.3, 48);
        check("mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7, 12.9, 32);
    }

    #[test]
    fn other_names_tell_their_size() {
        check("acme-7b", 7.0, 7.0, 32);
        check("falcon-40b", 40.0, 40.0, 64);
        check("acme/moe-57b-a14b", 57.0, 14.0, 80);
        check("bloom-560m", 0.56, 0.56, 24);
        assert_eq!(ModelSpec::guess("my-model"), None);
        assert_eq!(ModelSpec::guess("web"), None);
        assert_eq!(ModelSpec::guess("a-1000000b-wonder"), None);
    }

    #[test]
    fn the_name_tells_the_dtype() {
        let dtype = |name| ModelSpec::guess(name).expect("sized").weights;
        assert_eq!(dtype("llama-3.1-70b-fp8"), Dtype::Fp8);
        assert_eq!(dtype("acme-12b-awq"), Dtype::Int4);
        assert_eq!(dtype("acme-12b"), Dtype::Bf16);
    }
}
