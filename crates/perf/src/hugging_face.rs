//! A model from the `config.json` that Hugging Face repositories have.

use serde_json::Value;

use crate::spec::{Dtype, Mla, ModelSpec, Moe, SpecError, Window};

/// Reads `text`; models that see and hear keep their language model in `text_config`.
pub(crate) fn read(name: &str, text: &str) -> Result<ModelSpec, SpecError> {
    let json = |message: String| SpecError::Json { model: name.to_owned(), message };
    let whole: Value = serde_json::from_str(text).map_err(|error| json(error.to_string()))?;
    if !whole.is_object() {
        return Err(json("expected an object".to_owned()));
    }
    let config = whole.get("text_config").filter(|inner| inner.is_object()).unwrap_or(&whole);
    let fields = Fields { name, config };
    let (heads, hidden) = (fields.need("num_attention_heads")?, fields.need("hidden_size")?);
    let layers = fields.need("num_hidden_layers")?;
    let mla = fields.first(&["kv_lora_rank"]).map(|kv_rank| Mla {
        kv_rank,
        q_rank: fields.first(&["q_lora_rank"]).unwrap_or(hidden),
        rope: fields.first(&["qk_rope_head_dim"]).unwrap_or(64),
        nope: fields.first(&["qk_nope_head_dim"]).unwrap_or(128),
        value: fields.first(&["v_head_dim"]).unwrap_or(128),
    });
    let experts = fields.first(&["n_routed_experts", "num_local_experts", "num_experts"]);
    let moe = match experts.filter(|&experts| experts > 1) {
        None => None,
        Some(experts) => Some(Moe {
            experts,
            active: fields.need("num_experts_per_tok")?,
            ffn: match fields.first(&["moe_intermediate_size"]) {
                Some(ffn) => ffn,
                None => fields.need("intermediate_size")?,
            },
            shared: fields.first(&["n_shared_experts"]).unwrap_or(0),
            dense_layers: fields.first(&["first_k_dense_replace"]).unwrap_or(0),
        }),
    };
    let quantised = dtype(whole.get("quantization_config").or(config.get("quantization_config")));
    let only_experts = quantised == Some(Dtype::Fp4)
        && text.contains("mxfp4")
        && text.contains("modules_to_not_convert");
    let model = ModelSpec {
        name: name.to_owned(),
        source: format!("config.json of {name}"),
        layers,
        hidden,
        heads,
        kv_heads: fields.first(&["num_key_value_heads"]).unwrap_or(heads),
        head_dim: fields.first(&["head_dim"]).unwrap_or(hidden / heads.max(1)),
        ffn: match fields.first(&["intermediate_size"]) {
            Some(ffn) => ffn,
            None => moe.map_or(4 * hidden, |moe| moe.ffn),
        },
        vocab: fields.need("vocab_size")?,
        tied: config["tie_word_embeddings"].as_bool().unwrap_or(false),
        max_context: fields.need("max_position_embeddings")?,
        weights: if only_experts { Dtype::Bf16 } else { quantised.unwrap_or_default() },
        block: block(whole.get("quantization_config").or(config.get("quantization_config"))),
        experts: only_experts.then_some(Dtype::Fp4),
        mla,
        moe,
        window: window(config, layers),
        ..ModelSpec::empty()
    };
    model.validate()?;
    Ok(model)
}

struct Fields<'a> {
    name: &'a str,
    config: &'a Value,
}

impl Fields<'_> {
    fn first(&self, names: &[&str]) -> Option<u32> {
        names.iter().find_map(|name| u32::try_from(self.config.get(*name)?.as_u64()?).ok())
    }

    fn need(&self, field: &'static str) -> Result<u32, SpecError> {
        self.first(&[field])
            .ok_or_else(|| SpecError::Missing { model: self.name.to_owned(), field })
    }
}

fn window(config: &Value, layers: u32) -> Option<Window> {
    let tokens = u32::try_from(config.get("sliding_window")?.as_u64()?).ok()?;
    if config["use_sliding_window"].as_bool() == Some(false) {
        return None;
    }
    let sliding = match config["layer_types"].as_array() {
        Some(kinds) => kinds.iter().filter(|kind| **kind == "sliding_attention").count() as u32,
        None => layers,
    };
    (sliding > 0).then_some(Window { tokens, layers: sliding })
}

/// Returns the width of the blocks in which weights are scaled.
fn block(quantization: Option<&Value>) -> Option<u32> {
    let sizes = quantization?.get("weight_block_size")?.as_array()?;
    u32::try_from(sizes.first()?.as_u64()?).ok().filter(|size| *size > 0)
}

fn dtype(quantization: Option<&Value>) -> Option<Dtype> {
    let config = quantization?;
    let method = config["quant_method"].as_str().unwrap_or_default();
    let bits = config["bits"].as_u64();
    let text = config.to_string();
    Dtype::parse(method).or_else(|| match bits {
        Some(4) => Some(Dtype::Int4),
        Some(8) => Some(Dtype::Int8),
        _ => Dtype::parse(&text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of Qwen/Qwen3-32B.
    const QWEN: &str = r#"{"architectures":["Qwen3ForCausalLM"],"head_dim":128,"hidden_size":5120,
        "intermediate_size":25600,"max_position_embeddings":40960,"num_attention_heads":64,
        "num_hidden_layers":64,"num_key_value_heads":8,"sliding_window":null,
        "tie_word_embeddings":false,"torch_dtype":"bfloat16","use_sliding_window":false,
        "vocab_size":151936}"#;

    #[test]
    fn a_config_says_what_the_catalogue_says() {
        let read = ModelSpec::from_config_json("mine", QWEN).expect("complete");
        let known = ModelSpec::named("qwen3-32b").expect("known");
        assert_eq!((read.params(), read.kv_width()), (known.params(), known.kv_width()));
        assert_eq!((read.weights, read.window, read.moe), (Dtype::Bf16, None, None));
    }

    #[test]
    fn experts_latent_attention_and_quantisation_are_seen() {
        let config = r#"{"hidden_size":7168,"num_attention_heads":128,"num_hidden_layers":61,
            "num_key_value_heads":128,"intermediate_size":18432,"moe_intermediate_size":2048,
            "n_routed_experts":256,"num_experts_per_tok":8,"n_shared_experts":1,
            "first_k_dense_replace":3,"kv_lora_rank":512,"q_lora_rank":1536,"qk_rope_head_dim":64,
            "qk_nope_head_dim":128,"v_head_dim":128,"vocab_size":129280,
            "max_position_embeddings":163840,"quantization_config":{"quant_method":"fp8"}}"#;
        let read = ModelSpec::from_config_json("v3", config).expect("complete");
        let known = ModelSpec::named("deepseek-v3").expect("known");
        assert_eq!((read.params(), read.kv_width()), (known.params(), known.kv_width()));
        assert_eq!(read.weights, Dtype::Fp8);
    }

    #[test]
    fn a_broken_config_is_named() {
        let error =
            |text: &str| ModelSpec::from_config_json("mine", text).expect_err("broken").to_string();
        assert!(error("{").starts_with("mine: not a config.json"));
        assert!(error("[]").ends_with("expected an object"));
        assert_eq!(
            error("{}"),
            "mine: config.json lacks `num_attention_heads`, a count above zero"
        );
        let odd = QWEN.replace("\"num_key_value_heads\":8", "\"num_key_value_heads\":7");
        assert!(error(&odd).contains("kv_heads cannot be"));
    }
}
