//! Token counts as engines report them.
//!
//! Found without building a tree: inside a JSON string every quote is escaped, so the bytes `"usage"`
//! followed by a colon and a brace are the member itself and never text that a model wrote.

use std::sync::LazyLock;

use memchr::memmem::{Finder, FinderRev};

use crate::json::{Fate, Fault, Reader};

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
static USAGE_FROM_END: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new("\"usage\""));

/// Tokens that a request took, as the engine counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens generated; zero for embeddings.
    pub completion: u64,
    /// Prompt tokens that were found in the prefix cache; `None` if the engine does not say.
    pub cached: Option<u64>,
}

impl Usage {
    /// Returns the usage that the body of an answer reports, if any. Searches from the end, where
    /// engines put it.
    pub fn find(body: &[u8]) -> Option<Self> {
        USAGE_FROM_END.rfind_iter(body).find_map(|at| Self::of_member(body, at))
    }

    /// Returns the usage that one event of a stream reports, if any.
    pub(crate) fn find_in_event(event: &[u8]) -> Option<Self> {
        let mut from = 0;
        loop {
            let at = from + USAGE.find(&event[from..])?;
            if let Some(usage) = Self::of_member(event, at) {
                return Some(usage);
            }
            from = at + 1;
        }
    }

    /// Reads the value of the member whose name begins at `at`.
    fn of_member(bytes: &[u8], at: usize) -> Option<Self> {
        let mut reader = Reader::starting_at(bytes, value_of(bytes, at + "\"usage\"".len())?);
        Self::read(&mut reader).ok().flatten()
    }

    /// Reads an object of counts, under OpenAI's names or under those of its newer endpoints.
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, Fault> {
        let mut usage = Self::default();
        let mut counts = false;
        reader.members(|reader, name| {
            match name {
                b"prompt_tokens" | b"input_tokens" => {
                    counts = true;
                    usage.prompt = count(reader)?.unwrap_or(0);
                }
                b"completion_tokens" | b"output_tokens" => {
                    counts = true;
                    usage.completion = count(reader)?.unwrap_or(0);
                }
                b"prompt_tokens_details" | b"input_tokens_details"
                    if reader.peek() == Some(b'{') =>
                {
                    reader.members(|reader, name| {
                        if name == b"cached_tokens" {
                            usage.cached = count(reader)?;
                        } else {
                            reader.skip()?;
                        }
                        Ok(Fate::Keep)
                    })?;
                }
                _ => reader.skip()?,
            }
            Ok(Fate::Keep)
        })?;
        Ok(counts.then_some(usage))
    }
}

/// Returns where the value begins if `at` is just behind a member's name.
pub(crate) fn value_of(bytes: &[u8], at: usize) -> Option<usize> {
    let mut reader = Reader::starting_at(bytes, at);
    if reader.peek() != Some(b':') {
        return None;
    }
    let mut value = Reader::starting_at(bytes, reader.at() + 1);
    value.peek()?;
    Some(value.at())
}

fn count(reader: &mut Reader<'_>) -> Result<Option<u64>, Fault> {
    if matches!(reader.peek(), Some(b'0'..=b'9')) {
        Ok(std::str::from_utf8(reader.number()?).ok().and_then(|number| number.parse().ok()))
    } else {
        reader.skip()?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Option<(u64, u64, Option<u64>)>) {
        let expected =
            expected.map(|(prompt, completion, cached)| Usage { prompt, completion, cached });
        assert_eq!(Usage::find(body.as_bytes()), expected, "{body}");
        assert_eq!(Usage::find_in_event(body.as_bytes()), expected, "{body}");
    }

    #[test]
    fn counts_are_found_in_a_recorded_answer() {
        check(
            r#"{"id":"cmpl-ab","choices":[{"text":" to"}],"usage":{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2,"prompt_tokens_details":null,"completion_tokens_details":null},"kv_transfer_params":null}"#,
            Some((1, 2, None)),
        );
        check(
            r#"{"usage" : { "prompt_tokens": 9, "completion_tokens": 0,
               "prompt_tokens_details": {"audio_tokens":1,"cached_tokens": 4} } }"#,
            Some((9, 0, Some(4))),
        );
        check(r#"{"usage":{"input_tokens":5,"output_tokens":6}}"#, Some((5, 6, None)));
    }

    #[test]
    fn text_about_usage_is_not_usage() {
        check(r#"{"text":"\"usage\":{\"prompt_tokens\":7}","usage":null}"#, None);
        check(r#"{"finish_reason":"usage","x":{"prompt_tokens":7}}"#, None);
        check(r#"{"usage":{"gpu":1}}"#, None);
        check(r#"{"usage":{"prompt_tokens":7"#, None);
    }
}
