//! Probabilities of tokens: invented, of the right shape, and the same for the same answer.

use std::ops::Range;

use super::json;
use super::request::{Choice, Generation, Kind, Script};
use super::text;

/// Writes `,"logprobs":…` for `tokens` of a choice.
pub(super) fn write(
    out: &mut Vec<u8>,
    generation: &Generation,
    choice: &Choice,
    tokens: Range<u32>,
) {
    out.extend(br#","logprobs":"#);
    let (Some(alternatives), Script::Words(seed)) = (generation.logprobs, &choice.script) else {
        out.extend(b"null");
        return;
    };
    let token = |i: u32, rank: u32| {
        let id = text::generated(seed ^ u64::from(rank) << 40, i);
        let word = text::word(id);
        let word = std::str::from_utf8(&word).expect("words are ASCII").to_owned();
        // Of one draw in eight: −0.1, −0.2 …; of each alternative less.
        (word, -f64::from(id % 8 + 1) / 10.0 - f64::from(rank))
    };
    match generation.kind {
        Kind::Chat => chat_logprobs(out, tokens, alternatives, token),
        Kind::Completion => completion_logprobs(out, tokens, alternatives, token),
    }
}

fn list<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    for (place, item) in items.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(out, item);
    }
}

fn chat_logprobs(
    out: &mut Vec<u8>,
    tokens: Range<u32>,
    alternatives: u32,
    token: impl Fn(u32, u32) -> (String, f64),
) {
    let entry = |out: &mut Vec<u8>, (word, logprob): (String, f64)| {
        out.extend(br#"{"token":"#);
        json::string(out, &word);
        out.extend(format!(r#","logprob":{logprob:?},"bytes":["#).bytes());
        list(out, word.bytes(), |out, byte| json::number(out, u64::from(byte)));
        out.push(b']');
    };
    out.extend(br#"{"content":["#);
    list(out, tokens, |out, i| {
        entry(out, token(i, 0));
        out.extend(br#","top_logprobs":["#);
        list(out, 0..alternatives, |out, rank| {
            entry(out, token(i, rank));
            out.push(b'}');
        });
        out.extend(b"]}");
    });
    out.extend(b"]}");
}

fn completion_logprobs(
    out: &mut Vec<u8>,
    tokens: Range<u32>,
    alternatives: u32,
    token: impl Fn(u32, u32) -> (String, f64),
) {
    out.extend(br#"{"text_offset":["#);
    list(out, tokens.clone(), |out, i| json::number(out, u64::from(i) * 4));
    out.extend(br#"],"token_logprobs":["#);
    list(out, tokens.clone(), |out, i| out.extend(format!("{:?}", token(i, 0).1).bytes()));
    out.extend(br#"],"tokens":["#);
    list(out, tokens.clone(), |out, i| json::string(out, &token(i, 0).0));
    out.extend(br#"],"top_logprobs":["#);
    list(out, tokens, |out, i| {
        out.push(b'{');
        list(out, 0..alternatives.max(1), |out, rank| {
            let (word, logprob) = token(i, rank);
            json::string(out, &word);
            out.extend(format!(":{logprob:?}").bytes());
        });
        out.push(b'}');
    });
    out.extend(b"]}");
}
