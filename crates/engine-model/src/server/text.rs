//! Tokens of text, without a tokenizer's tables.
//!
//! A token is four ASCII bytes or one other character, so English has about four bytes per token
//! and Chinese one character. Generated tokens are space-led words of three letters; they have ids
//! that turn back into the same text, other text has ids that do not.

/// Ids are below this.
pub(super) const VOCABULARY: u32 = 32_768;
const SYMBOLS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const CONSONANTS: &[u8; 16] = b"bcdfghklmnprstvz";
const VOWELS: &[u8; 4] = b"aeio";

/// Returns the text of a token; every id below [`VOCABULARY`] has one of four bytes.
pub(super) fn word(id: u32) -> [u8; 4] {
    let symbol = |shift: u32| SYMBOLS[(id >> shift) as usize & 31];
    [b' ', symbol(10), symbol(5), symbol(0)]
}

/// Returns the id of a piece of text.
pub(super) fn id_of(piece: &str) -> u32 {
    let bytes = piece.as_bytes();
    let place = |byte: u8| SYMBOLS.iter().position(|symbol| *symbol == byte).map(|p| p as u32);
    if let [b' ', a, b, c] = *bytes
        && let (Some(a), Some(b), Some(c)) = (place(a), place(b), place(c))
    {
        return a << 10 | b << 5 | c;
    }
    (mix(code(piece)) >> 40) as u32 % VOCABULARY
}

/// Iterates over the pieces of `text` that are a token each.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let length = if first.is_ascii() {
            rest.bytes().take(4).take_while(u8::is_ascii).count()
        } else {
            first.len_utf8()
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(piece)
    })
}

/// Returns the bytes of a piece as a number.
fn code(piece: &str) -> u64 {
    piece.bytes().fold(1, |code, byte| code << 8 | u64::from(byte))
}

/// Scrambles 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Returns the id of the `index`-th token of the answer that `seed` names: a pronounceable word.
pub(super) fn generated(seed: u64, index: u32) -> u32 {
    let drawn = mix(seed ^ u64::from(index).wrapping_mul(0x9E37_79B9_7F4A_7C15)) as usize;
    let letter = |byte: u8| u32::from(byte - b'a');
    let (a, b, c) = (CONSONANTS[drawn & 15], VOWELS[drawn >> 4 & 3], CONSONANTS[drawn >> 6 & 15]);
    letter(a) << 10 | letter(b) << 5 | letter(c)
}

/// A prompt, counted and hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    /// Tokens.
    pub(super) tokens: u32,
    /// Hashes of its full blocks, each over everything before.
    pub(super) blocks: Vec<u64>,
    /// The hash of all of it.
    pub(super) hash: u64,
    /// Whether it was given as text, so that it was cut when it was counted.
    pub(super) text: bool,
    block_size: u32,
}

impl Prompt {
    /// Returns an empty prompt; `salt` keeps its blocks apart from those of other salts.
    pub(super) fn new(block_size: u32, salt: u64) -> Self {
        Self { tokens: 0, blocks: Vec::new(), hash: mix(!salt), text: false, block_size }
    }

    /// Returns how many of its tokens are in full blocks, which alone are cached.
    pub(super) fn storable(&self) -> u32 {
        self.tokens - self.tokens % self.block_size
    }

    /// Appends a token.
    pub(super) fn push(&mut self, code: u64) {
        self.hash = mix(self.hash.rotate_left(17) ^ code);
        self.tokens += 1;
        if self.tokens.is_multiple_of(self.block_size) {
            self.blocks.push(self.hash);
        }
    }

    /// Appends the tokens of `text`.
    pub(super) fn push_text(&mut self, text: &str) {
        self.text = true;
        pieces(text).for_each(|piece| self.push(code(piece)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_four_ascii_bytes_or_one_other_character() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(pieces(text).collect::<Vec<_>>(), expected);
        };
        check("hello world", &["hell", "o wo", "rld"]);
        check("ab你好cde", &["ab", "你", "好", "cde"]);
        check("", &[]);
    }

    #[test]
    fn every_word_turns_into_its_id_and_back() {
        for id in 0..VOCABULARY {
            let word = word(id);
            assert_eq!(id_of(std::str::from_utf8(&word).expect("ASCII")), id);
        }
        for index in 0..1000 {
            assert!(generated(7, index) < VOCABULARY);
        }
        assert!(id_of("你") < VOCABULARY);
    }

    #[test]
    fn blocks_of_equal_beginnings_are_equal() {
        let prompt = |text: &str, salt| {
            let mut prompt = Prompt::new(4, salt);
            prompt.push_text(text);
            prompt
        };
        let (a, b) = (prompt(&"abcd".repeat(9), 0), prompt(&"abcd".repeat(6), 0));
        assert_eq!((a.tokens, a.blocks.len(), b.blocks.len()), (9, 2, 1));
        assert_eq!(a.blocks[0], b.blocks[0]);
        assert_ne!(a.hash, b.hash);
        assert_ne!(prompt("abcdabcdabcdabcd", 1).blocks, prompt("abcdabcdabcdabcd", 0).blocks);
    }
}
