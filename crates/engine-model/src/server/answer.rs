//! Answers on the wire, in the shapes of vLLM 0.32.
//!
//! Everything that the chunks of a stream have in common is formatted once per request; a chunk is
//! a few copies.

use std::ops::Range;

use super::json;
use super::live::Reach;
use super::request::{Choice, Generation, Kind, Script, StreamUsage};
use super::text::Prompt;
use super::{logprobs, text};

/// What `system_fingerprint` says.
const FINGERPRINT: &str = "vllm-0.32.0-7d376611";

/// A generation with what is common to its answers already formatted.
pub(super) struct Answer {
    pub(super) generation: Generation,
    /// `{"id":…,"object":…,"created":…,"model":…,"choices":[`, for whole answers.
    whole: Vec<u8>,
    /// The same for chunks, after `data: `.
    chunk: Vec<u8>,
    call_id: String,
}

/// How much of a choice has been written to a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) tokens: u32,
    bytes: usize,
}

impl Answer {
    /// `id` is without its prefix; `created` in seconds since 1970.
    pub(super) fn new(generation: Generation, id: &str, created: u64) -> Self {
        let (prefix, whole, chunk) = match generation.kind {
            Kind::Chat => ("chatcmpl-", "chat.completion", "chat.completion.chunk"),
            Kind::Completion => ("cmpl-", "text_completion", "text_completion"),
        };
        let head = |start: &str, object: &str| {
            let mut head = start.as_bytes().to_vec();
            head.extend(br#"{"id":""#);
            head.extend(prefix.as_bytes());
            json::escaped(&mut head, id);
            head.extend(format!(r#"","object":"{object}","created":{created},"model":"#).bytes());
            json::string(&mut head, &generation.model);
            head.extend(br#","choices":["#);
            head
        };
        let (whole, chunk) = (head("", whole), head("data: ", chunk));
        let call_id = format!("chatcmpl-tool-{:016x}", generation.prompts[0].hash);
        Self { generation, whole, chunk, call_id }
    }

    /// Returns the whole answer.
    pub(super) fn body(&self, reach: &[Reach]) -> Vec<u8> {
        let mut out = self.whole.clone();
        for (index, choice) in self.generation.choices.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend(br#"{"index":"#);
            json::number(&mut out, index as u64);
            match self.generation.kind {
                Kind::Chat => self.message(&mut out, choice),
                Kind::Completion => {
                    out.extend(br#","text":""#);
                    json::escaped(&mut out, &shown(choice));
                    out.push(b'"');
                }
            }
            logprobs::write(&mut out, &self.generation, choice, 0..choice.tokens);
            out.extend(br#","finish_reason":""#);
            out.extend(choice.finish.as_bytes());
            out.extend(br#"","stop_reason":"#);
            stop_reason(&mut out, choice);
            out.extend(match self.generation.kind {
                Kind::Chat => &br#","token_ids":null,"routed_experts":null}"#[..],
                Kind::Completion => {
                    br#","token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}"#
                }
            });
        }
        out.extend(br#"],"service_tier":null"#);
        fingerprint(&mut out);
        out.extend(br#","usage":"#);
        self.usage(&mut out, reach, true);
        if self.generation.kind == Kind::Chat {
            out.extend(br#","prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null"#);
        }
        out.extend(br#","kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"#);
        out
    }

    fn message(&self, out: &mut Vec<u8>, choice: &Choice) {
        out.extend(br#","message":{"role":"assistant","content":"#);
        let tool = match &choice.script {
            Script::Words(_) => {
                json::string(out, &shown(choice));
                None
            }
            Script::Tool { name, arguments, .. } => {
                out.extend(br#""""#);
                Some((name, arguments))
            }
        };
        out.extend(br#","refusal":null,"annotations":null,"audio":null,"function_call":null"#);
        if let Some((name, arguments)) = tool {
            out.extend(br#","tool_calls":["#);
            self.call_head(out, name, b"");
            out.extend(br#","arguments":""#);
            json::escaped(out, arguments);
            out.extend(br#""}}]"#);
        }
        out.extend(br#","reasoning":null}"#);
    }

    /// Writes a tool call up to its name.
    fn call_head(&self, out: &mut Vec<u8>, name: &str, index: &[u8]) {
        out.extend(br#"{"id":""#);
        out.extend(self.call_id.as_bytes());
        out.extend(br#"","type":"function""#);
        out.extend(index);
        out.extend(br#","function":{"name":"#);
        json::string(out, name);
    }

    /// Writes the chunks of a choice's next token: the first also opens the message, the last of a
    /// tool call closes it.
    pub(super) fn chunks(&self, out: &mut Vec<u8>, index: usize, written: &mut Written) {
        let choice = &self.generation.choices[index];
        let chat = self.generation.kind == Kind::Chat;
        let token = written.tokens;
        let last = token + 1 == choice.tokens;
        if token == 0 && chat {
            self.begin(out, index, written);
        }
        written.tokens += 1;
        let start = written.bytes;
        match &choice.script {
            Script::Words(seed) => {
                let word = text::word(text::generated(*seed, token));
                let length = choice.shown.saturating_sub(start).min(word.len());
                written.bytes += length;
                if length == 0 && !last {
                    return;
                }
                self.open(out, index);
                out.extend(if chat { &br#"{"content":""#[..] } else { b"" });
                out.extend(&word[..length]);
                out.extend(if chat { &br#""}"#[..] } else { br#"""# });
                self.rest(out, choice, token..token + 1, last, written);
            }
            Script::Tool { arguments, .. } => {
                let piece = text::pieces(&arguments[start..]).next().unwrap_or_default();
                written.bytes += piece.len();
                self.open(out, index);
                out.extend(
                    br#"{"content":null,"tool_calls":[{"index":0,"function":{"arguments":""#,
                );
                json::escaped(out, piece);
                out.extend(br#""}}]}"#);
                self.rest(out, choice, 0..0, false, written);
                if last {
                    self.open(out, index);
                    out.extend(b"{}");
                    self.rest(out, choice, 0..0, true, written);
                }
            }
        }
    }

    /// Writes what opens the message of a choice.
    fn begin(&self, out: &mut Vec<u8>, index: usize, written: &Written) {
        let choice = &self.generation.choices[index];
        self.open(out, index);
        out.extend(br#"{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#);
        self.running_usage(out, choice, written);
        out.extend(br#","prompt_token_ids":null,"prompt_text":null}"#);
        out.extend(b"\n\n");
        if let Script::Tool { name, .. } = &choice.script {
            self.open(out, index);
            out.extend(br#"{"content":null,"tool_calls":["#);
            self.call_head(out, name, br#","index":0"#);
            out.extend(b"}}]}");
            self.rest(out, choice, 0..0, false, written);
        }
    }

    /// Writes a chunk from behind its delta or text to its end.
    fn rest(
        &self,
        out: &mut Vec<u8>,
        choice: &Choice,
        tokens: Range<u32>,
        last: bool,
        written: &Written,
    ) {
        let chat = self.generation.kind == Kind::Chat;
        logprobs::write(out, &self.generation, choice, tokens);
        out.extend(br#","finish_reason":"#);
        if last {
            out.push(b'"');
            out.extend(choice.finish.as_bytes());
            out.extend(br#"","stop_reason":"#);
            stop_reason(out, choice);
        } else if chat {
            out.extend(b"null");
        } else {
            out.extend(br#"null,"stop_reason":null"#);
        }
        if !chat {
            out.extend(br#","prompt_token_ids":null"#);
        }
        out.extend(br#","token_ids":null}]"#);
        self.running_usage(out, choice, written);
        // The last chunk has the fingerprint: that of the usage, or else that which ends a choice.
        if last && self.generation.usage == StreamUsage::Never {
            fingerprint(out);
        }
        out.extend(b"}\n\n");
    }

    /// Begins a chunk, up to the delta or the inside of the text.
    fn open(&self, out: &mut Vec<u8>, index: usize) {
        out.extend(&self.chunk);
        out.extend(br#"{"index":"#);
        json::number(out, index as u64);
        out.extend(match self.generation.kind {
            Kind::Chat => &br#","delta":"#[..],
            Kind::Completion => br#","text":""#,
        });
    }

    /// Writes the usage so far, if every chunk has it.
    fn running_usage(&self, out: &mut Vec<u8>, choice: &Choice, written: &Written) {
        if self.generation.usage == StreamUsage::InEveryChunk {
            out.extend(br#","usage":"#);
            let prompt = u64::from(self.generation.prompts[choice.prompt].tokens);
            usage_counts(out, prompt, u64::from(written.tokens));
            if self.generation.kind == Kind::Chat {
                out.extend(br#","completion_tokens_details":null"#);
            }
            out.push(b'}');
        }
    }

    /// Writes what follows the last token of a stream.
    pub(super) fn end(&self, out: &mut Vec<u8>, reach: &[Reach]) {
        if self.generation.usage != StreamUsage::Never {
            out.extend(&self.chunk);
            out.extend(br#"],"usage":"#);
            self.usage(out, reach, false);
            fingerprint(out);
            out.extend(b"}\n\n");
        }
        out.extend(b"data: [DONE]\n\n");
    }

    /// Writes the usage of all; `whole` answers have more nulls in it than the last chunk of a
    /// stream.
    fn usage(&self, out: &mut Vec<u8>, reach: &[Reach], whole: bool) {
        let prompts = &self.generation.prompts;
        let prompt = prompts.iter().map(|prompt| u64::from(prompt.tokens)).sum();
        let output = reach.iter().map(|reach| u64::from(reach.tokens)).sum();
        usage_counts(out, prompt, output);
        // As of `--enable-prompt-tokens-details`; of several answers vLLM reports the last one's.
        let cached = reach.last().map_or(0, |reach| reach.cached);
        out.extend(br#","prompt_tokens_details":{"cached_tokens":"#);
        json::number(out, u64::from(cached));
        if self.generation.kind == Kind::Chat {
            let created = prompts.last().map_or(0, Prompt::storable).saturating_sub(cached);
            out.extend(br#","created_cache_tokens":"#);
            json::number(out, u64::from(created));
        } else if whole {
            out.extend(br#","created_cache_tokens":null"#);
        }
        if whole {
            out.extend(br#","multimodal_tokens":null},"completion_tokens_details":null"#);
        } else {
            out.push(b'}');
        }
        out.push(b'}');
    }
}

fn fingerprint(out: &mut Vec<u8>) {
    out.extend(br#","system_fingerprint":""#);
    out.extend(FINGERPRINT.as_bytes());
    out.push(b'"');
}

fn usage_counts(out: &mut Vec<u8>, prompt: u64, output: u64) {
    out.extend(br#"{"prompt_tokens":"#);
    json::number(out, prompt);
    out.extend(br#","total_tokens":"#);
    json::number(out, prompt + output);
    out.extend(br#","completion_tokens":"#);
    json::number(out, output);
}

fn stop_reason(out: &mut Vec<u8>, choice: &Choice) {
    match &choice.stop {
        Some(stop) => json::string(out, stop),
        None => out.extend(b"null"),
    }
}

/// Returns the text of a choice that is shown.
fn shown(choice: &Choice) -> String {
    match &choice.script {
        Script::Words(seed) => {
            let words = (0..choice.tokens).map(|i| text::word(text::generated(*seed, i)));
            let bytes = words.flatten().take(choice.shown).collect();
            String::from_utf8(bytes).expect("words are ASCII")
        }
        Script::Tool { arguments, .. } => arguments.clone(),
    }
}
