//! JSON on the way out, and where it went wrong on the way in.

/// Appends `text` as a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

/// Appends the inside of a JSON string.
pub(super) fn escaped(out: &mut Vec<u8>, text: &str) {
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0..=0x1f => out.extend(format!("\\u{byte:04x}").as_bytes()),
            byte => out.push(byte),
        }
    }
}

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend(&digits[at..]);
}

/// Where and why Python's `json` gives up on `text`: the position in characters, and its message.
///
/// The caller knows that `text` is not JSON; if this scanner disagrees, the end is blamed.
pub(super) fn fault(text: &str) -> (usize, &'static str) {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0, depth: 0 };
    let (at, why) = match scanner.document() {
        Ok(()) => (text.len(), "Expecting value"),
        Err(fault) => fault,
    };
    let characters = text.as_bytes()[..at].iter().filter(|byte| **byte & 0xC0 != 0x80).count();
    (characters, why)
}

type Fault = (usize, &'static str);

/// Nesting beyond which the scanner does not follow.
const DEEPEST: u32 = 128;

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), Fault> {
        self.space();
        self.value()?;
        self.space();
        if self.at < self.bytes.len() { Err((self.at, "Extra data")) } else { Ok(()) }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<(), Fault> {
        let start = self.at;
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let words: [&[u8]; 5] = [b"true", b"false", b"null", b"NaN", b"Infinity"];
                let word = words.iter().find(|word| self.bytes[start..].starts_with(word));
                self.at += word.ok_or((start, "Expecting value"))?.len();
                Ok(())
            }
        }
    }

    fn nested(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEEPEST { Err((self.at, "Expecting value")) } else { Ok(()) }
    }

    fn object(&mut self) -> Result<(), Fault> {
        const NAME: &str = "Expecting property name enclosed in double quotes";
        self.nested()?;
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err((self.at, NAME));
            }
            self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err((self.at, "Expecting ':' delimiter"));
            }
            self.at += 1;
            self.space();
            self.value()?;
            if self.end_of_item(b'}')? {
                return Ok(());
            }
        }
    }

    fn array(&mut self) -> Result<(), Fault> {
        self.nested()?;
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            self.value()?;
            if self.end_of_item(b']')? {
                return Ok(());
            }
        }
    }

    /// Passes the comma or the `close` after an item; returns whether it was the last.
    fn end_of_item(&mut self, close: u8) -> Result<bool, Fault> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(false)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth -= 1;
                Ok(true)
            }
            _ => Err((self.at, "Expecting ',' delimiter")),
        }
    }

    fn string(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err((start, "Unterminated string starting at")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at += 2,
                Some(0..=0x1f) => return Err((self.at, "Invalid control character at")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err((start, "Expecting value"));
        }
        let zero = self.peek() == Some(b'0');
        self.at += 1;
        if zero && matches!(self.peek(), Some(b'0'..=b'9')) {
            return Ok(());
        }
        while matches!(self.peek(), Some(b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_lie_where_python_finds_them() {
        let check = |text: &str, at: usize, why: &str| assert_eq!(fault(text), (at, why), "{text}");
        check(r#"{"model":"tiny","prompt":"#, 25, "Expecting value");
        check(r#"{"a":1,}"#, 7, "Expecting property name enclosed in double quotes");
        check(r#"{"a" 1}"#, 5, "Expecting ':' delimiter");
        check("[1 2]", 3, "Expecting ',' delimiter");
        check(r#"["abc"#, 1, "Unterminated string starting at");
        check("{} x", 3, "Extra data");
        check("[01]", 2, "Expecting ',' delimiter");
        check("", 0, "Expecting value");
        check(r#"{"é":}"#, 5, "Expecting value");
        check(&"[".repeat(100_000), 128, "Expecting value");
    }

    #[test]
    fn strings_and_numbers_are_json() {
        let mut out = Vec::new();
        let text = "a\"b\\c\n\u{1}é你";
        string(&mut out, text);
        assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        for value in [0, 7, 10, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }
}
