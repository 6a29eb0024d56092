//! `/v1/embeddings`: vectors that depend on the input alone.

use serde_json::{Map, Value};

use super::errors::ApiError;
use super::fields::Fields;
use super::json;
use super::prompt::{self, prompts};
use super::request::{Limits, served};
use super::text::{Prompt, mix};

/// An embedding request, checked.
pub(super) struct Embedding {
    model: String,
    pub(super) inputs: Vec<Prompt>,
    dimensions: usize,
    base64: bool,
}

/// Numbers in a vector unless `dimensions` says otherwise.
const DIMENSIONS: i64 = 64;
const MOST_DIMENSIONS: i64 = 8_192;

impl Embedding {
    /// Returns what `body` asks for.
    ///
    /// # Errors
    /// As vLLM words them.
    pub(super) fn parse(body: &Map<String, Value>, limits: &Limits<'_>) -> Result<Self, ApiError> {
        let mut fields = Fields::new(body);
        fields.require("input");
        let input = fields.get("input");
        fields.found(prompt::check("input", input.unwrap_or(&Value::Null)));
        let model = fields.text("model");
        let dimensions = fields.integer("dimensions").unwrap_or(DIMENSIONS);
        let base64 = fields.text("encoding_format") == Some("base64");
        fields.finish()?;
        let model = served(model, limits)?.to_owned();
        let inputs = prompts(input.unwrap_or(&Value::Null), limits, 0)?;
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            let message =
                format!("dimensions must be in [1, {MOST_DIMENSIONS}], got {dimensions}.");
            let value = dimensions.to_string();
            return Err(ApiError::parameter(&message, "dimensions", Some(&value)));
        }
        if let Some(long) = inputs.iter().find(|input| input.tokens > limits.max_model_len) {
            let message = format!(
                "This model's maximum context length is {} tokens. However, your prompt contains {} \
                 input tokens, which exceeds this limit even without any output tokens. Please \
                 reduce the length of the input prompt.",
                limits.max_model_len, long.tokens
            );
            let value = long.tokens.to_string();
            return Err(ApiError::parameter(&message, "input_tokens", Some(&value)));
        }
        Ok(Self { model, inputs, dimensions: dimensions as usize, base64 })
    }

    /// Returns the answer.
    pub(super) fn body(&self, id: &str, created: u64) -> Vec<u8> {
        let mut out = br#"{"id":"embd-"#.to_vec();
        json::escaped(&mut out, id);
        out.extend(format!(r#"","object":"list","created":{created},"model":"#).bytes());
        json::string(&mut out, &self.model);
        out.extend(br#","data":["#);
        for (index, input) in self.inputs.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend(format!(r#"{{"index":{index},"object":"embedding","embedding":"#).bytes());
            let vector = vector(input.hash, self.dimensions);
            if self.base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                json::string(&mut out, &base64(&bytes));
            } else {
                let values: Vec<String> = vector.iter().map(|value| format!("{value:?}")).collect();
                out.extend(format!("[{}]", values.join(",")).bytes());
            }
            out.push(b'}');
        }
        let tokens: u64 = self.inputs.iter().map(|input| u64::from(input.tokens)).sum();
        out.extend(
            format!(
                r#"],"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens},"completion_tokens":0,"prompt_tokens_details":null}}}}"#
            )
            .bytes(),
        );
        out
    }
}

/// Returns a vector of length one.
fn vector(hash: u64, dimensions: usize) -> Vec<f32> {
    let draw = |i: usize| (mix(hash ^ i as u64) >> 40) as f64 / f64::from(1 << 23) - 1.0;
    let raw: Vec<f64> = (0..dimensions).map(draw).collect();
    let length = raw.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-9);
    raw.into_iter().map(|value| (value / length) as f32).collect()
}

/// Returns `bytes` in base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let place = (bits >> (18 - 6 * digit)) as usize & 63;
            out.push(if digit <= group.len() { char::from(DIGITS[place]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn vectors_have_length_one_and_differ() {
        let (a, b) = (vector(1, 64), vector(2, 64));
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        assert!((dot(&a, &a) - 1.0).abs() < 1e-5);
        assert!(dot(&a, &b).abs() < 0.6);
    }
}
