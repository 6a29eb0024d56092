//! How large is a prompt? Exact for token ids, the bytes of the text otherwise.
//!
//! `prompt` and `input` may be a string, a list of strings, a list of token ids or a list of such lists;
//! `messages` is a list of objects whose `content` is a string or a list of parts. Text is counted in
//! bytes of UTF-8 with escapes resolved, because what a token is worth in bytes is learnt per model
//! from such counts. Images and other media are not text and count nothing.

use std::ops::Range;

use crate::json::{Fate, Fault, Reader};

/// Bytes of a prompt that [`crate::Peek::prefix`] shows at most.
const PREFIX: usize = 1024;

/// The size of what an engine will have to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptSize {
    /// Token ids were sent: exactly so many tokens, over all prompts of the request.
    Tokens(u64),
    /// Text was sent: so many bytes of UTF-8, over all prompts of the request, tools included.
    Bytes(u64),
}

/// What was counted so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    text: Option<u64>,
    tokens: Option<u64>,
    pub(crate) prompts: u64,
    pub(crate) prefix: Range<usize>,
}

impl Count {
    /// Returns the size, or `None` if there was no prompt.
    pub(crate) fn size(&self) -> Option<PromptSize> {
        match (self.text, self.tokens) {
            (None, Some(tokens)) => Some(PromptSize::Tokens(tokens)),
            (Some(bytes), _) => Some(PromptSize::Bytes(bytes)),
            (None, None) => None,
        }
    }

    /// Counts `bytes` of text.
    pub(crate) fn add_text(&mut self, bytes: usize) {
        self.text = Some(self.text.unwrap_or(0) + bytes as u64);
    }

    fn add_tokens(&mut self, tokens: u64) {
        self.tokens = Some(self.tokens.unwrap_or(0) + tokens);
    }

    /// Reads the value of `prompt` or `input`.
    pub(crate) fn read_prompt(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let start = reader.at();
        match reader.peek() {
            Some(b'"') => {
                self.read_text(reader)?;
                self.prompts += 1;
            }
            Some(b'[') => match reader.integers() {
                Some(tokens) => {
                    self.add_tokens(tokens);
                    self.prompts += 1;
                }
                None => {
                    let mut whole = false;
                    reader.elements(|reader| self.read_element(reader, &mut whole))?;
                    self.prompts += u64::from(whole);
                }
            },
            _ => return reader.skip(),
        }
        self.note_prefix(start, reader.at());
        Ok(())
    }

    /// Reads the value of `messages`.
    pub(crate) fn read_messages(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let start = reader.at();
        if reader.peek() != Some(b'[') {
            return reader.skip();
        }
        reader.elements(|reader| match reader.peek() {
            Some(b'{') => self.read_message(reader),
            _ => reader.skip(),
        })?;
        self.prompts += 1;
        self.note_prefix(start, reader.at());
        Ok(())
    }

    /// Reads one of several prompts, or a part of one: then the list as a `whole` is the prompt.
    fn read_element(&mut self, reader: &mut Reader<'_>, whole: &mut bool) -> Result<(), Fault> {
        match reader.peek() {
            Some(b'"') => {
                self.read_text(reader)?;
                self.prompts += 1;
                Ok(())
            }
            Some(b'[') => {
                self.prompts += 1;
                match reader.integers() {
                    Some(tokens) => {
                        self.add_tokens(tokens);
                        Ok(())
                    }
                    None => reader.elements(|reader| self.read_token(reader)),
                }
            }
            Some(b'{') => {
                *whole = true;
                self.read_message(reader)
            }
            Some(b'0'..=b'9') => {
                *whole = true;
                self.read_token(reader)
            }
            _ => reader.skip(),
        }
    }

    /// Reads a token id, in a list that is not written the usual way.
    fn read_token(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if matches!(reader.peek(), Some(b'0'..=b'9')) {
            self.add_tokens(1);
        }
        reader.skip()
    }

    fn read_message(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        reader.members(|reader, name| {
            match name {
                b"content" => self.read_content(reader)?,
                // Written into the prompt by the chat template, about as it stands here.
                b"tool_calls" => {
                    let start = reader.at();
                    reader.skip()?;
                    self.add_text(reader.at() - start);
                }
                _ => reader.skip()?,
            }
            Ok(Fate::Keep)
        })?;
        Ok(())
    }

    fn read_content(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        match reader.peek() {
            Some(b'"') => self.read_text(reader),
            Some(b'[') => reader.elements(|reader| match reader.peek() {
                Some(b'"') => self.read_text(reader),
                Some(b'{') => self.read_part(reader),
                _ => reader.skip(),
            }),
            _ => reader.skip(),
        }
    }

    fn read_part(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        reader.members(|reader, name| {
            match (name, reader.peek()) {
                (b"text", Some(b'"')) => self.read_text(reader)?,
                _ => reader.skip()?,
            }
            Ok(Fate::Keep)
        })?;
        Ok(())
    }

    fn read_text(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let text = reader.text()?;
        self.add_text(text.length);
        Ok(())
    }

    /// Keeps the place of the first bytes between the value's delimiters.
    fn note_prefix(&mut self, start: usize, end: usize) {
        self.prefix = start + 1..(end - 1).min(start + 1 + PREFIX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, size: Option<PromptSize>, prompts: u64) {
        let mut count = Count::default();
        count.read_prompt(&mut Reader::new(value.as_bytes())).expect("well-formed");
        assert_eq!((count.size(), count.prompts), (size, prompts), "{value}");
    }

    #[test]
    fn token_ids_are_counted_exactly() {
        check("[1, 22,333]", Some(PromptSize::Tokens(3)), 1);
        check("[ 1 ,\n22\t,333 ]", Some(PromptSize::Tokens(3)), 1);
        check("[[ 1,2 ], [3], [4,5]]", Some(PromptSize::Tokens(5)), 3);
        check("[[1,2],[3]]", Some(PromptSize::Tokens(3)), 2);
    }

    #[test]
    fn text_is_counted_in_bytes_of_utf8() {
        check(r#""hello""#, Some(PromptSize::Bytes(5)), 1);
        check(r#"["hello","\u4f60"]"#, Some(PromptSize::Bytes(8)), 2);
        check(r#"[{"role":"user","content":"hello"}]"#, Some(PromptSize::Bytes(5)), 1);
    }

    #[test]
    fn what_is_no_prompt_is_left_to_the_engine() {
        check("null", None, 0);
        check("[]", None, 0);
        check(r#"{"a":[1,2]}"#, None, 0);
    }

    #[test]
    fn only_the_text_of_messages_counts() {
        let messages = r#"[
            {"role":"system","content":"abc"},
            {"role":"user","content":[
                {"type":"text","text":"defg"},
                {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAAAAAA"}}]},
            {"role":"assistant","content":null,"tool_calls":[{"id":1}]}]"#;
        let mut count = Count::default();
        count.read_messages(&mut Reader::new(messages.as_bytes())).expect("well-formed");
        let expected = 3 + 4 + r#"[{"id":1}]"#.len() as u64;
        assert_eq!((count.size(), count.prompts), (Some(PromptSize::Bytes(expected)), 1));
    }
}
