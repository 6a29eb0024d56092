//! Looks at a stream of server-sent events while it passes.
//!
//! Paid per network chunk of every stream, so bytes are searched and not parsed, and what arrives as
//! whole events (the usual case: one event per chunk) is handed on without a copy. Only an event that
//! is cut by a chunk's end is copied, until its rest comes.
//!
//! Lines end in `\n` or `\r\n`; an event ends at an empty line. That the searches cannot be fooled by
//! text that a model wrote is explained in [`crate::Usage`]'s module: in a JSON string every quote is
//! escaped. An event whose data is spread over several `data:` lines is passed on but not understood;
//! no engine sends one.

mod event;

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use event::inspect;
use memchr::memchr;

use crate::{ApiError, Usage};

/// An unfinished event larger than this is passed on unread. Whole prompts' log probabilities come in
/// one event; nothing that is worth reading is as large.
const MAX_HELD: usize = 256 * 1024;

/// What to do with the one event of a stream that holds usage and no choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageChunk {
    /// The client asked for it: every byte is forwarded, as soon as it comes.
    Forward,
    /// It was asked for on the client's behalf: that event is left out. An event that is not yet
    /// complete is held back until it is known not to be that one.
    Withhold,
}

/// What one chunk of a stream contained.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Marks {
    /// Events with at least one choice: about as many as tokens.
    pub content: u32,
    /// Whether `[DONE]` came.
    pub done: bool,
    /// The latest usage. Where a client asked for usage in every event, each one counts from the
    /// start: replace what was known, never add to it.
    pub usage: Option<Usage>,
    /// An error that came in the midst of the stream, with status 200 for want of a better one.
    pub error: Option<Box<ApiError>>,
}

/// What is to be done with one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fed {
    /// The bytes to forward; may be empty.
    pub forward: Bytes,
    /// What was in them, or in events left out.
    pub marks: Marks,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Scanner {
    usage_chunk: UsageChunk,
    /// The beginning of an event whose end has not come.
    held: BytesMut,
    /// Where the last, unfinished line of `held` begins.
    line: usize,
    /// Inside an event that is too large to be held.
    oversize: Option<Oversize>,
}

/// How far into a line an event is that is not held.
#[derive(Clone, Copy, Debug)]
struct Oversize {
    line_length: usize,
    last: u8,
}

impl Scanner {
    /// Returns the state at the start of a stream.
    pub fn new(usage_chunk: UsageChunk) -> Self {
        Self { usage_chunk, held: BytesMut::new(), line: 0, oversize: None }
    }

    /// Takes the next chunk, cut anywhere, and returns what to forward and what was in it.
    pub fn feed(&mut self, chunk: Bytes) -> Fed {
        let mut marks = Marks::default();
        let forward = if self.oversize.is_some() {
            self.feed_oversize(&chunk, &mut marks)
        } else {
            self.feed_events(chunk, &mut marks)
        };
        Fed { forward, marks }
    }

    /// Ends the stream: returns what was held back, and what was in it.
    pub fn finish(&mut self) -> Fed {
        let rest = self.held.split().freeze();
        let mut marks = Marks::default();
        let drop = inspect(&rest, &mut marks);
        (self.line, self.oversize) = (0, None);
        let forward = match self.usage_chunk {
            UsageChunk::Withhold if !drop => rest,
            // What was forwarded as it came is not forwarded again.
            UsageChunk::Withhold | UsageChunk::Forward => Bytes::new(),
        };
        Fed { forward, marks }
    }

    fn feed_events(&mut self, chunk: Bytes, marks: &mut Marks) -> Bytes {
        if self.held.is_empty() {
            let found = scan(&chunk, 0, 0, marks);
            if found.whole < chunk.len() {
                self.hold(&chunk[found.whole..], found.line - found.whole);
            }
            return match self.usage_chunk {
                UsageChunk::Forward => chunk,
                UsageChunk::Withhold => {
                    let forward = keep(chunk, &found);
                    self.release_oversize(forward, marks)
                }
            };
        }
        let searched = self.held.len();
        self.held.extend_from_slice(&chunk);
        let found = scan(&self.held, self.line, searched, marks);
        let events = self.held.split_to(found.whole).freeze();
        self.line = found.line - found.whole;
        match self.usage_chunk {
            UsageChunk::Forward => {
                self.release_oversize(Bytes::new(), marks);
                chunk
            }
            UsageChunk::Withhold => self.release_oversize(keep(events, &found), marks),
        }
    }

    fn hold(&mut self, rest: &[u8], line: usize) {
        self.held.extend_from_slice(rest);
        self.line = line;
    }

    /// Gives up reading an event that has grown too large, and returns `forward` with its bytes.
    fn release_oversize(&mut self, forward: Bytes, marks: &mut Marks) -> Bytes {
        if self.held.len() <= MAX_HELD {
            return forward;
        }
        let last = self.held.last().copied().unwrap_or(b'\n');
        self.oversize = Some(Oversize { line_length: self.held.len() - self.line, last });
        self.line = 0;
        // Nothing but choices is as large.
        marks.content += 1;
        let held = self.held.split().freeze();
        if forward.is_empty() { held } else { join(&forward, &held) }
    }

    /// Passes on an event that is not held, until its end; what follows is read again.
    fn feed_oversize(&mut self, chunk: &Bytes, marks: &mut Marks) -> Bytes {
        let Some(mut state) = self.oversize else { return Bytes::new() };
        let mut at = 0;
        while let Some(found) = memchr(b'\n', &chunk[at..]) {
            let newline = at + found;
            let length = state.line_length + found;
            let before = if found > 0 { chunk[newline - 1] } else { state.last };
            at = newline + 1;
            state = Oversize { line_length: 0, last: b'\n' };
            if length == 0 || (length == 1 && before == b'\r') {
                self.oversize = None;
                let rest = self.feed_events(chunk.slice(at..), marks);
                return if rest.len() == chunk.len() - at {
                    chunk.clone()
                } else {
                    join(&chunk[..at], &rest)
                };
            }
        }
        state.line_length += chunk.len() - at;
        state.last = chunk.last().copied().unwrap_or(state.last);
        self.oversize = Some(state);
        chunk.clone()
    }
}

/// What was found in a stretch of bytes.
struct Found {
    /// Where the last whole event ends.
    whole: usize,
    /// Where the line that is not complete begins.
    line: usize,
    /// Events to leave out.
    dropped: Vec<Range<usize>>,
}

/// Reads the whole events of `bytes`, of which the line at `line` is searched from `searched` on.
fn scan(bytes: &[u8], mut line: usize, searched: usize, marks: &mut Marks) -> Found {
    let mut whole = 0;
    let mut at = searched;
    let mut dropped = Vec::new();
    while let Some(found) = memchr(b'\n', &bytes[at..]) {
        let newline = at + found;
        let blank = newline == line || (newline == line + 1 && bytes[line] == b'\r');
        at = newline + 1;
        line = at;
        if blank {
            if inspect(&bytes[whole..at], marks) {
                dropped.push(whole..at);
            }
            whole = at;
        }
    }
    Found { whole, line, dropped }
}

/// Returns the whole events of `bytes` without those to leave out; a copy only where the middle goes.
fn keep(mut bytes: Bytes, found: &Found) -> Bytes {
    let whole = found.whole;
    match &found.dropped[..] {
        [] => {
            bytes.truncate(whole);
            bytes
        }
        [one] if one.end == whole => bytes.slice(..one.start),
        [one] if one.start == 0 => bytes.slice(one.end..whole),
        several => {
            let mut kept = BytesMut::with_capacity(whole);
            let mut copied = 0;
            for range in several {
                kept.extend_from_slice(&bytes[copied..range.start]);
                copied = range.end;
            }
            kept.extend_from_slice(&bytes[copied..whole]);
            kept.freeze()
        }
    }
}

fn join(first: &[u8], second: &[u8]) -> Bytes {
    let mut joined = BytesMut::with_capacity(first.len() + second.len());
    joined.extend_from_slice(first);
    joined.extend_from_slice(second);
    joined.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str =
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"choices\\\":[]\"}}]}\n\n";
    const USAGE: &str = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":1}}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    /// Feeds `stream` in pieces of `size` bytes; returns all that came out.
    fn feed(usage_chunk: UsageChunk, stream: &str, size: usize) -> (String, Marks) {
        let mut scanner = Scanner::new(usage_chunk);
        let mut forwarded = Vec::new();
        let mut all = Marks::default();
        let mut note = |fed: Fed| {
            forwarded.extend_from_slice(&fed.forward);
            all.content += fed.marks.content;
            all.done |= fed.marks.done;
            all.usage = fed.marks.usage.or(all.usage);
            all.error = fed.marks.error.or(all.error.take());
        };
        for piece in stream.as_bytes().chunks(size) {
            note(scanner.feed(Bytes::copy_from_slice(piece)));
        }
        note(scanner.finish());
        (String::from_utf8(forwarded).expect("UTF-8 as it was fed"), all)
    }

    /// Checks the same outcome for every way to cut the stream into equal pieces.
    fn check(stream: &str, forwarded: &str, expected: &Marks) {
        for size in 1..=stream.len() {
            let (all, marks) = feed(UsageChunk::Forward, stream, size);
            assert_eq!((all.as_str(), &marks), (stream, expected), "forward, pieces of {size}");
            let (kept, marks) = feed(UsageChunk::Withhold, stream, size);
            assert_eq!(
                (kept.as_str(), &marks),
                (forwarded, expected),
                "withhold, pieces of {size}"
            );
        }
    }

    fn marks(content: u32, usage: Option<(u64, u64, Option<u64>)>) -> Marks {
        let usage = usage.map(|(prompt, completion, cached)| Usage { prompt, completion, cached });
        Marks { content, done: true, usage, error: None }
    }

    #[test]
    fn the_usage_chunk_is_withheld_however_the_stream_is_cut() {
        let stream = [ROLE, TEXT, USAGE, DONE].concat();
        check(&stream, &[ROLE, TEXT, DONE].concat(), &marks(2, Some((3, 2, Some(1)))));
    }

    #[test]
    fn carriage_returns_and_missing_spaces_are_understood() {
        let stream = [ROLE, TEXT, USAGE, DONE].concat().replace('\n', "\r\n").replace(": ", ":");
        let kept = [ROLE, TEXT, DONE].concat().replace('\n', "\r\n").replace(": ", ":");
        check(&stream, &kept, &marks(2, Some((3, 2, Some(1)))));
    }

    #[test]
    fn usage_in_every_event_is_replaced_and_never_stripped() {
        let event = |n: u64| {
            format!(
                "data: {{\"choices\": [ {{}}], \"usage\": {{\"prompt_tokens\": 3, \"completion_tokens\": {n}}}}}\n\n"
            )
        };
        let stream = [event(1), event(2), DONE.to_owned()].concat();
        check(&stream, &stream, &marks(2, Some((3, 2, None))));
    }

    #[test]
    fn comments_null_usage_and_empty_choices_alone_pass() {
        let stream =
            ": ping\n\nevent: x\ndata: {\"choices\":[],\"usage\":null}\n\n\n\ndata: [DONE]\n\n";
        check(stream, stream, &marks(0, None));
    }

    #[test]
    fn an_end_without_an_empty_line_is_read_at_the_finish() {
        let stream = [TEXT, USAGE, "data: [DONE]"].concat();
        check(&stream, &[TEXT, "data: [DONE]"].concat(), &marks(1, Some((3, 2, Some(1)))));
    }

    #[test]
    fn an_error_in_the_stream_is_seen() {
        let stream = "data: {\"error\": {\"message\":\"EngineCore\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\ndata: [DONE]\n\n";
        let (forwarded, marks) = feed(UsageChunk::Withhold, stream, 7);
        assert_eq!(forwarded, stream);
        assert_eq!(marks.error.expect("an error").message, "EngineCore");
        assert_eq!(marks.content, 0);
    }

    #[test]
    fn whole_events_are_forwarded_without_a_copy() {
        let mut scanner = Scanner::new(UsageChunk::Withhold);
        let chunk = Bytes::from(TEXT.to_owned());
        let fed = scanner.feed(chunk.clone());
        assert_eq!((fed.forward.as_ptr(), fed.forward.len()), (chunk.as_ptr(), chunk.len()));
        let chunk = Bytes::from([TEXT, USAGE].concat());
        let fed = scanner.feed(chunk.clone());
        assert_eq!((fed.forward.as_ptr(), fed.forward.len()), (chunk.as_ptr(), TEXT.len()));
    }

    #[test]
    fn an_oversize_event_passes_and_reading_goes_on_behind_it() {
        let large = format!("data: {{\"choices\":[\"{}\"]}}\n\n", "x".repeat(MAX_HELD + 1000));
        let stream = [TEXT, &large, USAGE, TEXT, DONE].concat();
        for size in [1000, 65_536, MAX_HELD + 900, stream.len()] {
            let (kept, marks) = feed(UsageChunk::Withhold, &stream, size);
            assert!(kept == [TEXT, &large, TEXT, DONE].concat(), "pieces of {size}");
            assert_eq!(marks, self::marks(3, Some((3, 2, Some(1)))), "pieces of {size}");
            let (all, marks) = feed(UsageChunk::Forward, &stream, size);
            assert!(all == stream, "pieces of {size}");
            assert_eq!(marks.content, 3);
        }
    }
}
