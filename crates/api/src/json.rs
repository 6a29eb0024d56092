//! A reader that walks over JSON bytes without building a tree.
//!
//! It checks the grammar of RFC 8259 and keeps positions, nothing else; strings are passed over with
//! `memchr`, so a long prompt costs little more than reading it. Nesting is bounded and skipping uses
//! no recursion, so hostile bodies cost what they weigh. UTF-8 is checked only in strings that are
//! decoded; the engine judges the rest.

mod runs;
mod text;

use std::ops::Range;

use memchr::memchr;

use runs::count_integers;

/// Deepest nesting that is read, as in `serde_json`.
pub(crate) const MAX_DEPTH: u32 = 128;

/// What was wrong with the bytes, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The grammar asks for something else here.
    Expected { offset: usize, what: &'static str },
    /// More than [`MAX_DEPTH`] arrays and objects inside each other.
    TooDeep { offset: usize },
}

/// Whether the caller wants a member kept or taken out of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Keep,
    Remove,
}

/// What an object was found to hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    pub(crate) kept: usize,
    pub(crate) removed: usize,
    /// Bytes to leave out, commas included, so that what stays is well formed.
    pub(crate) removals: Vec<Range<usize>>,
}

/// A position in JSON bytes.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self::starting_at(bytes, 0)
    }

    pub(crate) fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, depth: 0 }
    }

    /// Returns what was read since `start`.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Passes over white space and returns the byte that follows.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Returns the fault of something else than `what` being here.
    pub(crate) fn expected(&self, what: &'static str) -> Fault {
        Fault::Expected { offset: self.at, what }
    }

    /// Checks that nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end of the body")),
        }
    }

    /// Reads an object, calling `visit` at each value with the decoded name of the member.
    pub(crate) fn members(
        &mut self,
        mut visit: impl FnMut(&mut Self, &[u8]) -> Result<Fate, Fault>,
    ) -> Result<Members, Fault> {
        self.open(b'{', "an object")?;
        let mut found = Members::default();
        let mut comma = None;
        let mut after_comma_of = None;
        if self.peek() == Some(b'}') {
            self.close();
            return Ok(found);
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a member's name in double quotes"));
            }
            let member = self.at;
            let name = self.text()?;
            if self.peek() != Some(b':') {
                return Err(self.expected("':'"));
            }
            self.at += 1;
            if self.peek().is_none() {
                return Err(self.expected("a value"));
            }
            let fate = visit(self, &self.name(name))?;
            match (fate, comma) {
                (Fate::Keep, _) => found.kept += 1,
                (Fate::Remove, Some(comma)) if found.kept > 0 => {
                    found.removals.push(comma..self.at);
                }
                (Fate::Remove, _) => {
                    after_comma_of = Some(found.removals.len());
                    found.removals.push(member..self.at);
                }
            }
            found.removed += usize::from(fate == Fate::Remove);
            match self.peek() {
                Some(b',') => {
                    comma = Some(self.at);
                    self.at += 1;
                    // The first of the members: the comma that goes with it is the one behind it.
                    if let Some(removal) = after_comma_of.take() {
                        found.removals[removal].end = self.at;
                    }
                }
                Some(b'}') => {
                    self.close();
                    return Ok(found);
                }
                _ => return Err(self.expected("',' or '}'")),
            }
        }
    }

    /// Reads an array, calling `visit` at each element.
    pub(crate) fn elements(
        &mut self,
        mut visit: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.open(b'[', "an array")?;
        if self.peek() == Some(b']') {
            self.close();
            return Ok(());
        }
        loop {
            if self.peek().is_none() {
                return Err(self.expected("a value"));
            }
            visit(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.close();
                    return Ok(());
                }
                _ => return Err(self.expected("',' or ']'")),
            }
        }
    }

    /// Passes over an array of whole numbers and returns how many there are; stays where it was and
    /// returns `None` if it holds anything else, or is written with other white space than one blank
    /// behind each comma.
    pub(crate) fn integers(&mut self) -> Option<u64> {
        let inside = &self.bytes[self.at + 1..];
        let inside = &inside[..memchr(b']', inside)?];
        let count = count_integers(inside)?;
        self.at += inside.len() + 2;
        Some(count)
    }

    /// Passes over a value of any kind.
    pub(crate) fn skip(&mut self) -> Result<(), Fault> {
        // One bit for each level that was opened here: set for an object.
        let mut objects: u128 = 0;
        let outer = self.depth;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.text()?;
                }
                Some(b'{') => {
                    self.open(b'{', "an object")?;
                    if self.peek() != Some(b'}') {
                        objects = objects << 1 | 1;
                        self.skip_name()?;
                        continue;
                    }
                    self.close();
                }
                Some(b'[') => {
                    self.open(b'[', "an array")?;
                    if self.peek() != Some(b']') {
                        objects <<= 1;
                        continue;
                    }
                    self.close();
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                }
                Some(b't') => self.word(b"true")?,
                Some(b'f') => self.word(b"false")?,
                Some(b'n') => self.word(b"null")?,
                _ => return Err(self.expected("a value")),
            }
            // A value is complete: close what it completes, or go on to the next one.
            loop {
                if self.depth == outer {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                match (self.peek(), in_object) {
                    (Some(b','), true) => {
                        self.at += 1;
                        self.peek();
                        self.skip_name()?;
                        break;
                    }
                    (Some(b','), false) => {
                        self.at += 1;
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.close();
                        objects >>= 1;
                    }
                    (_, true) => return Err(self.expected("',' or '}'")),
                    (_, false) => return Err(self.expected("',' or ']'")),
                }
            }
        }
    }

    fn skip_name(&mut self) -> Result<(), Fault> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(self.expected("a member's name in double quotes"));
        }
        self.text()?;
        if self.peek() != Some(b':') {
            return Err(self.expected("':'"));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a number and returns it as written.
    pub(crate) fn number(&mut self) -> Result<&'a [u8], Fault> {
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let leading_zero = self.bytes.get(self.at) == Some(&b'0');
        let whole = self.digits()?;
        if leading_zero && whole > 1 {
            self.at -= whole - 1;
            return Err(self.expected("no digit after a leading zero"));
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.bytes[start..self.at])
    }

    fn digits(&mut self) -> Result<usize, Fault> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(self.expected("a digit")) } else { Ok(self.at - start) }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), Fault> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.expected("a value"))
        }
    }

    fn open(&mut self, bracket: u8, what: &'static str) -> Result<(), Fault> {
        if self.peek() != Some(bracket) {
            return Err(self.expected(what));
        }
        if self.depth == MAX_DEPTH {
            return Err(Fault::TooDeep { offset: self.at });
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<(), Fault>) {
        let mut reader = Reader::new(body.as_bytes());
        let skipped = reader.skip().and_then(|()| reader.end());
        assert_eq!(skipped, expected, "{body}");
    }

    fn fault(offset: usize, what: &'static str) -> Result<(), Fault> {
        Err(Fault::Expected { offset, what })
    }

    #[test]
    fn every_kind_of_value_is_passed_over() {
        check(r#" {"a":[1,-0.5e+3,true,false,null,"x\"\u00e9",{}],"b":{"c":[[]]}} "#, Ok(()));
    }

    #[test]
    fn faults_say_where_and_what() {
        check("", fault(0, "a value"));
        check(r#"{"a" 1}"#, fault(5, "':'"));
        check(r#"{"a":1,}"#, fault(7, "a member's name in double quotes"));
        check(r#"{"a":1]"#, fault(6, "',' or '}'"));
        check("[1 2]", fault(3, "',' or ']'"));
        check("[01]", fault(2, "no digit after a leading zero"));
        check("[1.]", fault(3, "a digit"));
        check("[nul]", fault(1, "a value"));
        check(r#"["\x"]"#, fault(3, "an escape sequence"));
        check(r#"["\u12g4"]"#, fault(6, "four hexadecimal digits"));
        check("[\"a\nb\"]", fault(3, "no bare control character in a string"));
        check(r#"["abc"#, fault(5, "a closing quote"));
        check("{} x", fault(3, "the end of the body"));
    }

    #[test]
    fn nesting_is_bounded() {
        let deepest = MAX_DEPTH as usize;
        check(&("[".repeat(deepest) + &"]".repeat(deepest)), Ok(()));
        check(&"[".repeat(1_000_000), Err(Fault::TooDeep { offset: deepest }));
        check(&r#"{"a":"#.repeat(100_000), Err(Fault::TooDeep { offset: 5 * deepest }));
    }

    #[test]
    fn members_are_removed_with_one_comma_each() {
        for body in [
            r#"{"x":1}"#,
            r#"{"x":1,"k":2}"#,
            r#"{"k":1 , "x":2}"#,
            r#"{"x":1, "x":2, "k":3, "x":4, "k2":5, "x":6, "x":7}"#,
        ] {
            let mut reader = Reader::new(body.as_bytes());
            let members = reader
                .members(|reader, name| {
                    reader.skip()?;
                    Ok(if name == b"x" { Fate::Remove } else { Fate::Keep })
                })
                .expect("well-formed");
            let mut left = body.to_owned();
            for range in members.removals.iter().rev() {
                left.replace_range(range.clone(), "");
            }
            let parsed: serde_json::Value = serde_json::from_str(&left).expect(&left);
            let object = parsed.as_object().expect("an object");
            assert_eq!(object.len(), members.kept, "{left}");
            assert!(!object.contains_key("x"), "{left}");
        }
    }
}
