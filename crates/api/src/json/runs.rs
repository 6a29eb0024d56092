//! The two loops that long bodies spend their time in: plain text and lists of token ids.

use memchr::memchr2;

/// Bytes that end a plain run inside a string.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special
};

/// What a byte is worth as a hexadecimal digit, or [`NOT_HEX`].
pub(super) const HEX: [u8; 256] = {
    let mut worth = [NOT_HEX; 256];
    let mut digit = 0;
    while digit < 16 {
        worth[b"0123456789abcdef"[digit] as usize] = digit as u8;
        worth[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    worth
};
pub(super) const NOT_HEX: u8 = 0xFF;

/// Returns how many bytes come before a quote, a backslash, a control character or the end.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    // Names and code have quotes and escapes every few bytes, where a search costs more than looking.
    const NEAR: usize = 16;
    let near = &bytes[..bytes.len().min(NEAR)];
    let special = |&byte: &u8| SPECIAL[usize::from(byte)];
    if let Some(found) = near.iter().position(special) {
        return found;
    }
    let rest = &bytes[near.len()..];
    let run = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    // A fold without an early exit is what the compiler can vectorise.
    let run = if rest[..run].iter().fold(false, |bad, &byte| bad | (byte < 0x20)) {
        rest.iter().position(special).unwrap_or(run)
    } else {
        run
    };
    near.len() + run
}

/// Returns how many whole numbers `list` holds, parted by commas with at most one blank behind each, or
/// `None` if it is anything else.
///
/// Every byte is judged by itself and the two before it, without a branch: a prompt of a hundred
/// thousand token ids is read as fast as text.
pub(super) fn count_integers(list: &[u8]) -> Option<u64> {
    const fn digit(byte: u8) -> u8 {
        (byte.wrapping_sub(b'0') < 10) as u8
    }
    const fn is(byte: u8, other: u8) -> u8 {
        (byte == other) as u8
    }
    /// Returns 1 if `byte` may not follow `middle`, or may not follow both.
    const fn bad(before: u8, middle: u8, byte: u8) -> u8 {
        let unknown = 1 ^ (digit(byte) | is(byte, b',') | is(byte, b' '));
        let comma = is(byte, b',') & (1 ^ digit(middle));
        let blank = is(byte, b' ') & (1 ^ is(middle, b','));
        let zero = digit(byte) & is(middle, b'0') & (1 ^ digit(before));
        unknown | comma | blank | zero
    }
    let (first, last) = (*list.first()?, *list.last()?);
    if digit(first) & digit(last) == 0 {
        return None;
    }
    let second = list.get(1).copied().unwrap_or(b',');
    let mut fault = bad(b',', first, second);
    let mut commas = u64::from(is(second, b',') & u8::from(list.len() > 1));
    // Pieces whose commas fit a byte, so that the loop is one of bytes alone, sixteen at a time.
    const PIECE: usize = 240;
    let mut at = 2;
    while at < list.len() {
        let end = list.len().min(at + PIECE);
        let (now, middle, before) =
            (&list[at..end], &list[at - 1..end - 1], &list[at - 2..end - 2]);
        let mut here = 0;
        for index in 0..now.len() {
            fault |= bad(before[index], middle[index], now[index]);
            here += is(now[index], b',');
        }
        commas += u64::from(here);
        at = end;
    }
    (fault == 0).then_some(1 + commas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_counted_and_nothing_else() {
        let check = |list: &str, expected: Option<u64>| {
            assert_eq!(count_integers(list.as_bytes()), expected, "{list}");
        };
        check("7", Some(1));
        check("10", Some(1));
        check("1,0, 20,3", Some(4));
        check(&vec!["128000"; 1000].join(", "), Some(1000));
        for other in [
            "", ",", "1,", ",1", "1,,2", "1 2", "01", "1,02", "-1", "1.5", "\"1\"", "1 ,2", "[1",
            "1,  2",
        ] {
            check(other, None);
        }
    }

    #[test]
    fn a_plain_run_ends_at_the_first_special_byte() {
        for length in 0..70 {
            let plain = "x".repeat(length);
            assert_eq!(plain_run(plain.as_bytes()), length);
            for special in ["\"", "\\", "\n\"", "\u{1}"] {
                assert_eq!(plain_run(format!("{plain}{special}yy\"").as_bytes()), length);
            }
        }
    }
}
