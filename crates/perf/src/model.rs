//! The size of a model, read from its name.
//!
//! Known families come from a table of their `config.json`; of others the parameter count in the
//! name ("7b", "8x7b", "a3b") gives the layers, and eight KV heads of 128 give the KV size.

/// What matters of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelShape {
    /// Parameters, in 10⁹.
    pub params: f64,
    /// Parameters that one token uses, in 10⁹.
    pub active: f64,
    /// Layers.
    pub layers: f64,
    /// KV bytes of one token over all layers, in 16 bits.
    pub kv_bytes: f64,
    /// Bytes of one weight.
    pub weight_bytes: f64,
}

/// Words that must all occur in the name; parameters, active parameters, layers, KV bytes.
type Family = (&'static [&'static str], [f64; 4]);

const FAMILIES: &[Family] = &[
    (&["llama-2", "70b"], [68.98, 68.98, 80.0, 327_680.0]),
    (&["llama-2", "13b"], [13.02, 13.02, 40.0, 819_200.0]),
    (&["llama-2", "7b"], [6.74, 6.74, 32.0, 524_288.0]),
    (&["llama", "405b"], [405.9, 405.9, 126.0, 516_096.0]),
    (&["llama", "70b"], [70.55, 70.55, 80.0, 327_680.0]),
    (&["llama", "8b"], [8.03, 8.03, 32.0, 131_072.0]),
    (&["qwen3", "235b"], [235.0, 22.0, 94.0, 192_512.0]),
    (&["qwen3", "30b-a3b"], [30.5, 3.3, 48.0, 98_304.0]),
    (&["qwen3", "32b"], [32.76, 32.76, 64.0, 262_144.0]),
    (&["qwen3", "8b"], [8.19, 8.19, 36.0, 147_456.0]),
    (&["qwen2.5", "72b"], [72.7, 72.7, 80.0, 327_680.0]),
    (&["qwen2.5", "32b"], [32.76, 32.76, 64.0, 262_144.0]),
    (&["qwen2.5", "7b"], [7.62, 7.62, 28.0, 57_344.0]),
    (&["8x22b"], [140.6, 39.2, 56.0, 229_376.0]),
    (&["8x7b"], [46.7, 12.9, 32.0, 131_072.0]),
    (&["deepseek-v3"], [671.0, 37.0, 61.0, 70_272.0]),
    (&["deepseek-r1-distill-llama", "70b"], [70.55, 70.55, 80.0, 327_680.0]),
    (&["gpt-oss", "120b"], [116.8, 5.1, 36.0, 36_864.0]),
    (&["gpt-oss", "20b"], [20.9, 3.6, 24.0, 24_576.0]),
];

/// Parameters in 10⁹ and layers of dense models of common sizes.
const SIZES: &[(f64, f64)] = &[
    (0.6, 24.0),
    (1.8, 28.0),
    (4.0, 32.0),
    (9.0, 32.0),
    (15.0, 40.0),
    (40.0, 64.0),
    (110.0, 80.0),
    (f64::MAX, 126.0),
];

impl ModelShape {
    /// Returns the shape that `name` tells, or `None` if it tells no size.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let weight_bytes = weight_bytes(&name);
        let known = FAMILIES.iter().find(|(words, _)| words.iter().all(|w| name.contains(w)));
        if let Some((_, [params, active, layers, kv_bytes])) = known {
            let [params, active, layers, kv_bytes] = [*params, *active, *layers, *kv_bytes];
            return Some(Self { params, active, layers, kv_bytes, weight_bytes });
        }
        let (mut params, mut active) = (None, None);
        // A point is part of a number: "qwen2.5-1.5b".
        for word in name.split(['-', '_', '/', ':', ' ', '@']) {
            match size(word) {
                Some((billions, false)) => params = params.or(Some(billions)),
                Some((billions, true)) => active = active.or(Some(billions)),
                None => {}
            }
        }
        let params = params?;
        let &(_, layers) = SIZES.iter().find(|(most, _)| params <= *most).expect("the last is ∞");
        let active = active.unwrap_or(params).min(params);
        Some(Self { params, active, layers, kv_bytes: layers * 4096.0, weight_bytes })
    }

    /// Returns the shape that stands for an unknown model: 8 × 10⁹ dense parameters.
    pub fn typical() -> Self {
        Self { params: 8.0, active: 8.0, layers: 32.0, kv_bytes: 131_072.0, weight_bytes: 2.0 }
    }

    /// Returns the bytes of all weights.
    pub fn weights(&self) -> f64 {
        self.params * 1e9 * self.weight_bytes
    }
}

/// Returns the bytes of one weight under the quantisation that the name tells.
fn weight_bytes(name: &str) -> f64 {
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if has(&["awq", "gptq", "int4", "4bit", "w4a16", "nvfp4", "mxfp4", "gpt-oss"]) {
        0.56
    } else if has(&["fp8", "int8", "8bit", "w8a8", "deepseek-v3"]) {
        1.0
    } else {
        2.0
    }
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

    fn check(name: &str, params: f64, active: f64, layers: f64) {
        let shape = ModelShape::from_name(name).unwrap_or_else(|| panic!("{name} tells its size"));
        assert_eq!((shape.params, shape.active, shape.layers), (params, active, layers), "{name}");
    }

    #[test]
    fn known_families_come_from_the_table() {
        check("meta-llama/Llama-3.1-70B-Instruct", 70.55, 70.55, 80.0);
        check("Qwen/Qwen3-30B-A3B", 30.5, 3.3, 48.0);
        check("mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7, 12.9, 32.0);
    }

    #[test]
    fn other_names_tell_their_size() {
        check("llama-7b", 7.0, 7.0, 32.0);
        check("qwen2.5-1.5b-instruct", 1.5, 1.5, 28.0);
        check("acme/moe-57b-a14b", 57.0, 14.0, 80.0);
        check("bloom-560m", 0.56, 0.56, 24.0);
        assert_eq!(ModelShape::from_name("my-model"), None);
        assert_eq!(ModelShape::from_name("web"), None);
    }

    #[test]
    fn quantisation_shrinks_the_weights() {
        let bytes = |name| ModelShape::from_name(name).expect("sized").weight_bytes;
        assert_eq!(bytes("llama-3.1-70b-fp8"), 1.0);
        assert_eq!(bytes("llama-3.1-70b-awq"), 0.56);
        assert_eq!(bytes("llama-3.1-70b"), 2.0);
    }
}
