//! Strings: where they are, how long they are once read, and what they say.

use std::borrow::Cow;

use super::runs::{HEX, NOT_HEX, plain_run};
use super::{Fault, Reader};

/// A string's place in the bytes, without its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Length in bytes once its escapes are resolved.
    pub(crate) length: usize,
}

impl Text {
    fn escaped(&self) -> bool {
        self.length != self.end - self.start
    }
}

impl<'a> Reader<'a> {
    /// Reads a string.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<Text, Fault> {
        let start = self.at + 1;
        let mut at = start;
        let mut saved = 0;
        loop {
            let rest = &self.bytes[at..];
            let run = plain_run(rest);
            at += run;
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Text { start, end: at, length: at - start - saved });
                }
                Some(b'\\') => {}
                Some(_) => {
                    self.at = at;
                    return Err(self.expected("no bare control character in a string"));
                }
                None => {
                    self.at = at;
                    return Err(self.expected("a closing quote"));
                }
            }
            // Escapes come in runs where a client writes ASCII only.
            while self.bytes.get(at) == Some(&b'\\') {
                let (written, meant) = self.escape(at)?;
                at += written;
                saved += written - meant;
            }
        }
    }

    /// Returns how many bytes the escape at `at` takes, and how many it stands for in UTF-8.
    #[inline]
    fn escape(&mut self, at: usize) -> Result<(usize, usize), Fault> {
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok((2, 1)),
            Some(b'u') => {
                let digits = self.bytes.get(at + 2..at + 6).unwrap_or_default();
                let unit = digits
                    .iter()
                    .fold(0u32, |unit, &digit| (unit << 4) | u32::from(HEX[usize::from(digit)]));
                if digits.is_empty() || digits.iter().any(|&b| HEX[usize::from(b)] == NOT_HEX) {
                    let rest = &self.bytes[at + 2..];
                    self.at = at + 2 + rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
                    return Err(self.expected("four hexadecimal digits"));
                }
                // Each half of a surrogate pair stands for half of a four-byte character.
                let meant = match unit {
                    0..0x80 => 1,
                    0x80..0x800 | 0xD800..0xE000 => 2,
                    _ => 3,
                };
                Ok((6, meant))
            }
            _ => {
                self.at = at + 1;
                Err(self.expected("an escape sequence"))
            }
        }
    }

    /// Returns the decoded string, or `None` if it is not Unicode.
    pub(crate) fn decode(&self, text: Text) -> Option<Cow<'a, str>> {
        if text.escaped() {
            serde_json::from_slice(&self.bytes[text.start - 1..=text.end]).ok().map(Cow::Owned)
        } else {
            std::str::from_utf8(&self.bytes[text.start..text.end]).ok().map(Cow::Borrowed)
        }
    }

    /// Returns the name of a member; a name that is not Unicode is nobody's and stays as written.
    pub(super) fn name(&self, text: Text) -> Cow<'a, [u8]> {
        if text.escaped()
            && let Some(decoded) = self.decode(text)
        {
            return Cow::Owned(decoded.into_owned().into_bytes());
        }
        Cow::Borrowed(&self.bytes[text.start..text.end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_as_long_as_its_utf8() {
        for written in ["plain", r"\n\t\\", r"\u4f60\u597d", r"\ud83d\ude00", r"a\u00e9b", "你好"]
        {
            let quoted = format!("\"{written}\"");
            let decoded: String = serde_json::from_str(&quoted).expect("a JSON string");
            let text = Reader::new(quoted.as_bytes()).text().expect("a JSON string");
            assert_eq!(text.length, decoded.len(), "{written}");
        }
    }
}
