//! A running answer on its way to the client.
//!
//! The engine's body is read only when the client has taken what came before, so a slow reader
//! holds no more than the connection's own buffers. Dropping the relay before the answer's last event
//! drops the permit, which cancels the request, and the engine's connection, which stops its work.

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use sagellm_api::{Marks, Scanner, says_engine_died};
use sagellm_executor::ReplyBody;
use sagellm_manager::Permit;
use sagellm_monitoring::Sketch;
use sagellm_types::clock::Clock;
use sagellm_types::{FailureKind, Timestamp, Tokens, Usage};

use crate::error::Refusal;

/// The core hears of a running attempt at most this often.
const PROGRESS_TOKENS: u64 = 64;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// How an answer is written.
pub(crate) enum Format {
    /// OpenAI's events: counted, checked for their end.
    Events(Box<Scanner>),
    /// Anything else: handed on, and searched for usage at its end.
    Opaque { tail: Vec<u8> },
}

impl Format {
    /// Returns the format of an answer that begins with `first` and is not OpenAI's events.
    pub(crate) fn opaque(first: &[u8]) -> Self {
        let mut tail = Vec::new();
        keep_tail(&mut tail, first);
        Self::Opaque { tail }
    }
}

/// How much of the end of an opaque answer is searched for usage.
const TAIL: usize = 4 << 10;

/// An answer broke after its first byte; the connection is closed without a proper end.
#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the engine's answer broke after its first byte")
    }
}

impl std::error::Error for Broken {}

/// A running answer.
pub(crate) struct Relay {
    permit: Option<Permit>,
    body: ReplyBody,
    format: Format,
    clock: Clock,
    /// Forwarded before anything else is read.
    first: Option<Bytes>,
    usage: Option<Usage>,
    output: u64,
    told: u64,
    told_at: Timestamp,
    last_token: Option<Timestamp>,
    gaps: Box<Sketch>,
    done: bool,
    /// The engine said in the midst of its answer that it broke; its reader has read that.
    failed: Option<FailureKind>,
}

impl Relay {
    /// Returns a relay of `body`, whose beginning has been looked at: `first` is to be forwarded,
    /// `marks` is what was in it.
    pub(crate) fn new(
        permit: Permit,
        body: ReplyBody,
        format: Format,
        clock: Clock,
        first: Bytes,
        marks: &Marks,
    ) -> Self {
        let now = clock.now();
        let mut relay = Self {
            permit: Some(permit),
            body,
            format,
            clock,
            first: (!first.is_empty()).then_some(first),
            usage: None,
            output: 0,
            told: 0,
            told_at: now,
            last_token: None,
            gaps: Box::default(),
            done: false,
            failed: None,
        };
        // The core has been told of the first token by whoever looked at it.
        relay.note(marks, now);
        relay
    }

    /// Returns the next bytes for the client.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Broken>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        loop {
            if self.permit.is_none() {
                return Poll::Ready(None);
            }
            let next = match self.body.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => next,
            };
            let forward = match next {
                Some(Ok(bytes)) => self.take(bytes),
                Some(Err(error)) => return self.broke(error.kind()),
                None => match self.end() {
                    Ok(rest) => rest,
                    Err(kind) => return self.broke(kind),
                },
            };
            if !forward.is_empty() {
                return Poll::Ready(Some(Ok(forward)));
            }
        }
    }

    /// Looks at bytes on their way and returns those that go on.
    fn take(&mut self, bytes: Bytes) -> Bytes {
        let fed = match &mut self.format {
            Format::Events(scanner) => scanner.feed(bytes),
            Format::Opaque { tail } => {
                keep_tail(tail, &bytes);
                return bytes;
            }
        };
        let now = self.clock.now();
        self.note(&fed.marks, now);
        if let Some(permit) = &self.permit {
            let due = now.since(self.told_at) >= PROGRESS_INTERVAL;
            if self.output >= self.told + PROGRESS_TOKENS || (due && self.output > self.told) {
                permit.progress(Tokens(self.output));
                (self.told, self.told_at) = (self.output, now);
            }
        }
        fed.forward
    }

    /// Counts what came.
    fn note(&mut self, marks: &Marks, now: Timestamp) {
        if marks.content > 0 {
            if let Some(last) = self.last_token.replace(now) {
                // Tokens that came together share their gap.
                let gap = now.since(last) / marks.content;
                (0..marks.content).for_each(|_| self.gaps.record(gap));
            }
            self.output += u64::from(marks.content);
        }
        if let Some(usage) = marks.usage {
            self.usage = Some(convert(usage));
            self.output = self.output.max(usage.completion);
        }
        self.done |= marks.done;
        if let Some(error) = &marks.error {
            // vLLM writes its own death into the stream, says `[DONE]` and closes properly.
            let died = error.status >= 500 || says_engine_died(500, error.message.as_bytes());
            self.failed = Some(if died { FailureKind::Unavailable } else { FailureKind::Rejected });
        }
    }

    /// Ends the request, or says why the answer broke off.
    fn end(&mut self) -> Result<Bytes, FailureKind> {
        let rest = match &mut self.format {
            Format::Events(scanner) => {
                let fed = scanner.finish();
                let now = self.clock.now();
                self.note(&fed.marks, now);
                if !self.done {
                    // An engine that dies may close its streams cleanly.
                    return Err(FailureKind::Reset);
                }
                fed.forward
            }
            Format::Opaque { tail } => {
                self.usage = sagellm_api::Usage::find(tail).map(convert);
                Bytes::new()
            }
        };
        self.finish();
        Ok(rest)
    }

    fn finish(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        if let Some(kind) = self.failed {
            permit.fail_begun(kind);
        } else {
            let counted = Usage { output: Tokens(self.output), ..Usage::default() };
            let gaps = std::mem::take(&mut self.gaps);
            permit.finish(self.usage.unwrap_or(counted), (!gaps.is_empty()).then_some(gaps));
        }
    }

    /// Ends the request badly. Readers of events are told by an event; others by a connection that
    /// is closed before its proper end.
    fn broke(&mut self, kind: FailureKind) -> Poll<Option<Result<Bytes, Broken>>> {
        if let Some(permit) = self.permit.take() {
            permit.fail_begun(kind);
        }
        match self.format {
            Format::Events(_) => Poll::Ready(Some(Ok(Refusal::event(kind)))),
            Format::Opaque { .. } => Poll::Ready(Some(Err(Broken))),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A client that leaves after the last event, before the engine has closed, has its answer.
        if self.done && self.first.is_none() {
            self.finish();
        }
    }
}

/// Keeps the last [`TAIL`] bytes of what has gone by.
fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    let wanted = &bytes[bytes.len().saturating_sub(TAIL)..];
    let surplus = (tail.len() + wanted.len()).saturating_sub(TAIL);
    tail.drain(..surplus.min(tail.len()));
    tail.extend_from_slice(wanted);
}

/// Returns usage in the control plane's words.
pub(crate) fn convert(usage: sagellm_api::Usage) -> Usage {
    Usage {
        prompt: Tokens(usage.prompt),
        output: Tokens(usage.completion),
        cached: Tokens(usage.cached.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_of_what_went_by() {
        let mut tail = Vec::new();
        for n in 0..100_u32 {
            keep_tail(&mut tail, format!("{n:0100}").as_bytes());
        }
        assert_eq!(tail.len(), TAIL);
        assert!(tail.ends_with(b"099"));
        keep_tail(&mut tail, &vec![b'x'; 3 * TAIL]);
        assert_eq!(tail, vec![b'x'; TAIL]);
    }
}
