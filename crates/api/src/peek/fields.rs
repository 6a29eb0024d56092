//! Reads the members of a request body one by one.

use std::borrow::Cow;

use super::{Peek, PeekError, Spans, StreamOptions};
use crate::json::{Fate, Fault, Members, Reader};
use crate::prompt::Count;

/// The field that hands KV between engines; from a client it is a way to crash one.
const KV_TRANSFER: &[u8] = b"kv_transfer_params";

/// What was read so far. A field of the wrong type is reported only once the whole body is known to
/// be well formed, so that the worse fault is named.
#[derive(Default)]
pub(super) struct Found<'a> {
    model: Option<Cow<'a, str>>,
    stream: bool,
    include_usage: bool,
    continuous_usage: bool,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    user: Option<Cow<'a, str>>,
    count: Count,
    tools: usize,
    pub(super) spans: Spans,
    wrong: Option<PeekError>,
}

impl<'a> Found<'a> {
    pub(super) fn read(&mut self, reader: &mut Reader<'a>, name: &[u8]) -> Result<Fate, Fault> {
        match name {
            b"model" => self.read_model(reader)?,
            b"stream" => self.stream = self.flag(reader)?,
            b"stream_options" => self.read_stream_options(reader)?,
            b"max_tokens" => self.max_tokens = self.whole(reader, "max_tokens")?,
            b"max_completion_tokens" => {
                self.max_completion_tokens = self.whole(reader, "max_completion_tokens")?;
            }
            b"n" => self.n = self.whole(reader, "n")?,
            b"user" => {
                self.user = match reader.peek() {
                    Some(b'"') => {
                        let text = reader.text()?;
                        reader.decode(text)
                    }
                    _ => {
                        reader.skip()?;
                        None
                    }
                }
            }
            b"prompt" | b"input" => self.count.read_prompt(reader)?,
            b"messages" => self.count.read_messages(reader)?,
            // Chat templates write the tools into the prompt, about as they stand here.
            b"tools" => {
                let start = reader.at();
                let present = reader.peek() == Some(b'[');
                reader.skip()?;
                self.tools = if present { reader.at() - start } else { 0 };
            }
            KV_TRANSFER => {
                reader.skip()?;
                return Ok(Fate::Remove);
            }
            // vLLM copies these beside its own arguments, under the same names.
            b"vllm_xargs" if reader.peek() == Some(b'{') => {
                let members = reader.members(|reader, name| {
                    reader.skip()?;
                    Ok(if name == KV_TRANSFER { Fate::Remove } else { Fate::Keep })
                })?;
                self.spans.kv_transfer.extend(members.removals);
            }
            _ => reader.skip()?,
        }
        Ok(Fate::Keep)
    }

    fn read_model(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        let start = reader.at();
        (self.model, self.spans.model) = (None, None);
        match reader.peek() {
            Some(b'"') => {
                let text = reader.text()?;
                self.model = reader.decode(text);
                if self.model.is_none() {
                    self.complain("model", "a string of valid Unicode");
                }
                self.spans.model = Some(start..reader.at());
            }
            Some(b'n') => reader.skip()?,
            _ => {
                reader.skip()?;
                self.complain("model", "a string");
            }
        }
        Ok(())
    }

    fn read_stream_options(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        let start = reader.at();
        (self.include_usage, self.continuous_usage) = (false, false);
        match reader.peek() {
            Some(b'{') => {
                let (mut usage, mut odd) = (None, false);
                let members = reader.members(|reader, name| {
                    let start = reader.at();
                    let first = reader.peek();
                    let yes = first == Some(b't');
                    reader.skip()?;
                    match name {
                        b"include_usage" => {
                            self.include_usage = yes;
                            usage = Some(start..reader.at());
                            odd = !matches!(first, Some(b't' | b'f' | b'n'));
                        }
                        b"continuous_usage_stats" => self.continuous_usage = yes,
                        _ => {}
                    }
                    Ok(Fate::Keep)
                })?;
                self.spans.stream_options = match usage {
                    // What is no flag is the engine's to judge.
                    Some(_) if odd => StreamOptions::Other,
                    Some(value) => StreamOptions::Usage(value),
                    None => StreamOptions::Object { inside: start + 1, empty: members.kept == 0 },
                };
            }
            other => {
                reader.skip()?;
                self.spans.stream_options = if other == Some(b'n') {
                    StreamOptions::Null(start..reader.at())
                } else {
                    StreamOptions::Other
                };
            }
        }
        Ok(())
    }

    /// Reads `stream`.
    fn flag(&mut self, reader: &mut Reader<'a>) -> Result<bool, Fault> {
        let first = reader.peek();
        if first == Some(b'"') {
            let text = reader.text()?;
            let text = reader.decode(text).unwrap_or_default().to_ascii_lowercase();
            // The words that engines take for a flag.
            return Ok(match text.as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => true,
                "false" | "f" | "no" | "n" | "off" | "0" => false,
                _ => {
                    self.complain("stream", "true or false");
                    false
                }
            });
        }
        let start = reader.at();
        reader.skip()?;
        let written = reader.since(start);
        if !matches!(first, Some(b't' | b'f' | b'n')) && !matches!(written, b"0" | b"1") {
            self.complain("stream", "true or false");
        }
        Ok(first == Some(b't') || written == b"1")
    }

    /// Reads a count: a whole number that is not negative, or null.
    fn whole(
        &mut self,
        reader: &mut Reader<'a>,
        field: &'static str,
    ) -> Result<Option<u64>, Fault> {
        match reader.peek() {
            Some(b'-' | b'0'..=b'9') => {
                let written = reader.number()?;
                let value = whole_number(written);
                if value.is_none() && written[0] == b'-' {
                    self.wrong.get_or_insert(PeekError::Negative { field });
                } else if value.is_none() {
                    self.complain(field, "a whole number");
                }
                Ok(value)
            }
            // Engines take a number in quotes for the number.
            Some(b'"') => {
                let text = reader.text()?;
                let value = reader.decode(text).and_then(|text| text.trim().parse().ok());
                if value.is_none() {
                    self.complain(field, "a whole number");
                }
                Ok(value)
            }
            other => {
                reader.skip()?;
                if other != Some(b'n') {
                    self.complain(field, "a whole number");
                }
                Ok(None)
            }
        }
    }

    fn complain(&mut self, field: &'static str, expected: &'static str) {
        self.wrong.get_or_insert(PeekError::Field { field, expected });
    }

    pub(super) fn finish(
        mut self,
        body: &'a [u8],
        members: Members,
    ) -> Result<Peek<'a>, PeekError> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        self.spans.kept = members.kept;
        self.spans.removed = members.removed;
        self.spans.kv_transfer.extend(members.removals);
        self.spans.kv_transfer.sort_unstable_by_key(|range| range.start);
        if self.tools > 0 {
            self.count.add_text(self.tools);
        }
        Ok(Peek {
            model: self.model,
            stream: self.stream,
            include_usage: self.include_usage,
            continuous_usage: self.continuous_usage,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            n: self.n,
            user: self.user,
            prompt: self.count.size(),
            prompts: self.count.prompts,
            prefix: self.count.prefix,
            body,
            spans: self.spans,
        })
    }
}

/// Returns the value of a number as written; `16.0` and `1e3` are whole, as they are to vLLM.
fn whole_number(written: &[u8]) -> Option<u64> {
    let written = std::str::from_utf8(written).ok()?;
    written.parse().ok().or_else(|| {
        let value: f64 = written.parse().ok()?;
        // Above 2^53 a float no longer tells whole numbers apart.
        (value >= 0.0 && value.fract() == 0.0 && value < 9_007_199_254_740_992.0)
            .then_some(value as u64)
    })
}
