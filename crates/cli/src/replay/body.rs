//! Request bodies of a wanted size, and headers that say what a class of requests asks for.
//!
//! Text is made of three-letter words: each is one token of every common tokenizer, and with its
//! space four bytes, which is what engines without a tokenizer count. Prompts that share a block
//! (512 tokens, as in Mooncake's traces) begin with the same words; others share nothing.

use std::fmt::Write as _;

use bytes::Bytes;
use clap::ValueEnum;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sagellm_types::{Objectives, RequestPriority, Rng, Seed};

/// Tokens in a block of a shared prompt.
pub(crate) const BLOCK_TOKENS: u32 = 512;

/// Words of three letters.
const WORDS: [&str; 32] = [
    "the", "and", "for", "you", "not", "but", "all", "can", "had", "her", "was", "one", "our",
    "out", "day", "get", "has", "him", "his", "how", "man", "new", "now", "old", "see", "two",
    "way", "who", "boy", "did", "its", "say",
];

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Endpoint {
    /// /v1/chat/completions
    #[default]
    Chat,
    /// /v1/completions
    Completions,
}

impl Endpoint {
    /// Returns the path of the endpoint.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// How prompts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum PromptStyle {
    /// Words: about the wanted number of tokens under any tokenizer
    #[default]
    Text,
    /// Token ids: exactly the wanted number; for /v1/completions
    Tokens,
}

/// Writes the bodies of one run.
#[derive(Clone, Debug)]
pub(crate) struct BodyWriter {
    /// What is asked.
    pub(crate) endpoint: Endpoint,
    /// How prompts are written.
    pub(crate) style: PromptStyle,
    /// The model.
    pub(crate) model: String,
    /// Whether the engine goes on to the last token whatever the model says.
    pub(crate) ignore_eos: bool,
    /// From this all prompts are drawn.
    pub(crate) seed: Seed,
}

impl BodyWriter {
    /// Returns the body of request number `index` of the run: a prompt of `prompt_tokens` that
    /// begins with the blocks `shared`, answered with `output_tokens`.
    pub(crate) fn write(
        &self,
        index: usize,
        prompt_tokens: u32,
        output_tokens: u32,
        shared: &[u64],
    ) -> Bytes {
        let mut body = String::with_capacity(prompt_tokens as usize * 4 + 256);
        body.push_str("{\"model\":");
        body.push_str(&serde_json::to_string(&self.model).expect("a text is valid JSON"));
        let (before, after) = match (self.endpoint, self.style) {
            (Endpoint::Chat, _) => (",\"messages\":[{\"role\":\"user\",\"content\":\"", "\"}]"),
            (Endpoint::Completions, PromptStyle::Text) => (",\"prompt\":\"", "\""),
            (Endpoint::Completions, PromptStyle::Tokens) => (",\"prompt\":[", "]"),
        };
        body.push_str(before);
        self.prompt(index, prompt_tokens, shared, &mut body);
        body.push_str(after);
        let _ = write!(body, ",\"max_tokens\":{output_tokens}");
        body.push_str(",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
        if self.ignore_eos {
            body.push_str(",\"ignore_eos\":true");
        }
        body.push('}');
        body.into()
    }

    fn prompt(&self, index: usize, tokens: u32, shared: &[u64], out: &mut String) {
        let mut left = tokens;
        for block in shared {
            let part = left.min(BLOCK_TOKENS);
            let mut rng = Seed(*block).stream("prompt block");
            self.tokens(&mut rng, part, left == tokens, out);
            left -= part;
        }
        let mut rng = Seed(self.seed.0.wrapping_add(index as u64)).stream("prompt");
        self.tokens(&mut rng, left, left == tokens, out);
    }

    /// Appends `count` tokens; the `first` of a prompt has nothing before it.
    fn tokens(&self, rng: &mut Rng, count: u32, first: bool, out: &mut String) {
        let ids = self.endpoint == Endpoint::Completions && self.style == PromptStyle::Tokens;
        for i in 0..count {
            if ids {
                // Three digits: in every vocabulary, and four bytes with the comma.
                if !(first && i == 0) {
                    out.push(',');
                }
                let _ = write!(out, "{}", 100 + rng.below(900));
            } else {
                if !(first && i == 0) {
                    out.push(' ');
                }
                out.push_str(WORDS[rng.below(WORDS.len())]);
            }
        }
    }
}

/// What a request says of itself beside its body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// How urgent it is.
    pub(crate) priority: RequestPriority,
    /// The latencies it asks for.
    pub(crate) objectives: Objectives,
    /// Who asks.
    pub(crate) user: Option<&'a str>,
    /// The most that it may cost, in US dollars.
    pub(crate) cost_budget: Option<f64>,
    /// The key that it shows.
    pub(crate) api_key: Option<&'a str>,
}

impl Wish<'_> {
    /// Returns the headers that say it.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        set("content-type", "application/json".to_owned());
        set("x-request-priority", self.priority.name().to_ascii_uppercase());
        let limits = [
            ("x-slo-deadline-ms", self.objectives.e2e),
            ("x-slo-ttft-ms", self.objectives.ttft),
            ("x-slo-tpot-ms", self.objectives.tpot),
        ];
        for (name, limit) in limits {
            if let Some(limit) = limit {
                set(name, (limit.as_secs_f64() * 1e3).to_string());
            }
        }
        if let Some(budget) = self.cost_budget {
            set("x-cost-budget-usd", budget.to_string());
        }
        if let Some(user) = self.user {
            set("x-user-id", user.to_owned());
        }
        if let Some(key) = self.api_key {
            set("authorization", format!("Bearer {key}"));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_api::{Peek, PromptSize};
    use std::time::Duration;

    fn body(endpoint: Endpoint, style: PromptStyle, index: usize, shared: &[u64]) -> Bytes {
        let model = "a \"quoted\" model".to_owned();
        let writer = BodyWriter { endpoint, style, model, ignore_eos: true, seed: Seed(1) };
        writer.write(index, 1_000, 7, shared)
    }

    #[test]
    fn bodies_are_well_formed_and_of_the_wanted_size() {
        let check = |endpoint, style, expected| {
            let body = body(endpoint, style, 0, &[4, 5]);
            let peek = Peek::parse(&body).expect("well-formed");
            assert_eq!(peek.prompt, Some(expected));
            assert_eq!(peek.model.as_deref(), Some("a \"quoted\" model"));
            assert_eq!((peek.max_tokens, peek.stream, peek.include_usage), (Some(7), true, true));
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
        };
        check(Endpoint::Chat, PromptStyle::Text, PromptSize::Bytes(3_999));
        check(Endpoint::Completions, PromptStyle::Text, PromptSize::Bytes(3_999));
        check(Endpoint::Completions, PromptStyle::Tokens, PromptSize::Tokens(1_000));
    }

    #[test]
    fn prompts_share_their_blocks_and_nothing_else() {
        let prompt = |index, shared: &[u64]| {
            let body = body(Endpoint::Completions, PromptStyle::Tokens, index, shared);
            let value: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            value["prompt"].as_array().expect("ids").clone()
        };
        let (a, b, c) = (prompt(0, &[4]), prompt(1, &[4]), prompt(2, &[]));
        assert_eq!(a[..512], b[..512]);
        assert_ne!(a[512..], b[512..]);
        assert_ne!(a[..512], c[..512]);
        assert_eq!(a, prompt(0, &[4]), "the same again");
    }

    #[test]
    fn headers_say_what_a_class_asks_for() {
        let objectives = Objectives { ttft: Some(Duration::from_millis(500)), ..Objectives::NONE };
        let wish = Wish {
            priority: RequestPriority::High,
            objectives,
            user: Some("ann"),
            cost_budget: Some(0.5),
            api_key: Some("k"),
        };
        let headers = wish.headers();
        let value = |name: &str| headers.get(name).map(|v| v.to_str().expect("text").to_owned());
        assert_eq!(value("x-request-priority").as_deref(), Some("HIGH"));
        assert_eq!(value("x-slo-ttft-ms").as_deref(), Some("500"));
        assert_eq!(value("x-slo-deadline-ms"), None);
        assert_eq!(value("x-cost-budget-usd").as_deref(), Some("0.5"));
        assert_eq!(value("x-user-id").as_deref(), Some("ann"));
        assert_eq!(value("authorization").as_deref(), Some("Bearer k"));
    }
}
