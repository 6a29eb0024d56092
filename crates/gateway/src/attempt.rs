//! One call of one engine, up to the point where something may go to the client.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use sagellm_api::{Fed, Scanner, UsageChunk, says_engine_died};
use sagellm_executor::headers::strip_hop_by_hop;
use sagellm_executor::{Call, EngineError, Reply, ReplyBody, classify_status};
use sagellm_manager::Permit;
use sagellm_types::FailureKind;

/// What an engine did.
pub(crate) enum Outcome {
    /// It answered in full.
    Whole { status: StatusCode, headers: HeaderMap, body: Bytes },
    /// It has begun to answer.
    Begun { headers: HeaderMap, body: ReplyBody, stream: Begun },
    /// It failed; with its own words, if it had any.
    Failed(FailureKind, Option<Said>),
}

/// The beginning of a running answer.
pub(crate) enum Begun {
    /// Events, with what the first of them held.
    Events { scanner: Box<Scanner>, first: Fed },
    /// Anything else.
    Opaque { first: Bytes },
}

/// What an engine said about a request.
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// How the answer to a request is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As OpenAI's events.
    Events(UsageChunk),
    /// As one JSON value, or as a stream that is not OpenAI's.
    Plain,
}

/// An answer up to this size is read in full before it begins to go out: until then it can be tried
/// again elsewhere, and its usage is known.
const WHOLE: usize = 512 << 10;
/// An error longer than this is cut off by the limit of what is collected.
const LONGEST_ERROR: usize = 256 << 10;

/// Calls the permit's engine.
pub(crate) async fn attempt(permit: &Permit, call: Call, reading: Reading) -> Outcome {
    match try_attempt(permit, call, reading).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::debug!(
                instance = %permit.instance_name(),
                error = &error as &dyn std::error::Error,
                "attempt failed"
            );
            Outcome::Failed(error.kind(), None)
        }
    }
}

async fn try_attempt(
    permit: &Permit,
    call: Call,
    reading: Reading,
) -> Result<Outcome, EngineError> {
    let Reply { status, mut headers, mut body } = permit.engine().call(call).await?;
    strip_hop_by_hop(&mut headers);
    if !status.is_success() {
        let body = body.collect(LONGEST_ERROR).await?;
        headers.remove(CONTENT_LENGTH);
        let said = Said { status, headers, body };
        let kind = classify_status(status, &said.body).unwrap_or(FailureKind::Garbage);
        return Ok(Outcome::Failed(kind, Some(said)));
    }
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let streams = kind.starts_with(b"text/event-stream");
    match reading {
        Reading::Events(usage_chunk) if streams => {
            headers.remove(CONTENT_LENGTH);
            begin_events(headers, body, usage_chunk).await
        }
        _ if streams => {
            headers.remove(CONTENT_LENGTH);
            let Some(first) = body.next().await.transpose()? else {
                return Ok(Outcome::Failed(FailureKind::Reset, None));
            };
            Ok(Outcome::Begun { headers, body, stream: Begun::Opaque { first } })
        }
        _ => gather(status, headers, body).await,
    }
}

/// Reads events until the first that holds something.
async fn begin_events(
    headers: HeaderMap,
    mut body: ReplyBody,
    usage_chunk: UsageChunk,
) -> Result<Outcome, EngineError> {
    let mut scanner = Box::new(Scanner::new(usage_chunk));
    let mut forward = BytesMut::new();
    loop {
        let Some(bytes) = body.next().await.transpose()? else {
            return Ok(Outcome::Failed(FailureKind::Reset, None));
        };
        if forward.is_empty() && !begins_like_events(&bytes) {
            return Ok(Outcome::Failed(FailureKind::Garbage, None));
        }
        let mut fed = scanner.feed(bytes);
        if let Some(error) = &fed.marks.error {
            // An engine that dies before the first token says so in an event, with status 200.
            let died = error.status >= 500 || says_engine_died(500, error.message.as_bytes());
            if died {
                return Ok(Outcome::Failed(FailureKind::Unavailable, None));
            }
        }
        let telling = fed.marks != sagellm_api::Marks::default();
        if !forward.is_empty() {
            forward.extend_from_slice(&fed.forward);
            fed.forward = forward.split().freeze();
        }
        // An engine that talks without end has begun, whatever it says.
        if telling || forward.len() + fed.forward.len() > WHOLE {
            return Ok(Outcome::Begun {
                headers,
                body,
                stream: Begun::Events { scanner, first: fed },
            });
        }
        forward.extend_from_slice(&fed.forward);
    }
}

/// Reads an answer in full, unless it is long.
async fn gather(
    status: StatusCode,
    headers: HeaderMap,
    mut body: ReplyBody,
) -> Result<Outcome, EngineError> {
    let Some(first) = body.next().await.transpose()? else {
        return Ok(Outcome::Whole { status, headers, body: Bytes::new() });
    };
    if !begins_like_json(&first, &headers) {
        return Ok(Outcome::Failed(FailureKind::Garbage, None));
    }
    let mut rest = BytesMut::new();
    loop {
        let Some(bytes) = body.next().await.transpose()? else {
            let body = if rest.is_empty() { first } else { rest.freeze() };
            return Ok(Outcome::Whole { status, headers, body });
        };
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&bytes);
        if rest.len() > WHOLE {
            let first = rest.freeze();
            return Ok(Outcome::Begun { headers, body, stream: Begun::Opaque { first } });
        }
    }
}

/// Returns whether a stream begins with a line that events may begin with.
fn begins_like_events(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    let known: [&[u8]; 5] = [b"data", b"event", b"id", b"retry", b":"];
    text.is_empty()
        || known.iter().any(|field| {
            let n = field.len().min(text.len());
            text[..n] == field[..n]
        })
}

/// Returns whether what calls itself JSON begins like it; other types are not looked at.
fn begins_like_json(bytes: &[u8], headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b"application/json"[..], |v| v.as_bytes());
    let text = bytes.trim_ascii_start();
    if !kind.starts_with(b"application/json") {
        return !kind.starts_with(b"text/html");
    }
    text.first().is_none_or(|first| b"{[\"-0123456789tfn".contains(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_told_from_events_and_json() {
        for good in ["data: {", "data", ": ping\n\n", "\n\ndata: x", "event: a"] {
            assert!(begins_like_events(good.as_bytes()), "{good}");
        }
        for bad in ["<html>", "{\"a\":1}", "hello"] {
            assert!(!begins_like_events(bad.as_bytes()), "{bad}");
        }
        let json = HeaderMap::new();
        assert!(begins_like_json(b" {\"a\":1}", &json) && !begins_like_json(b"<html>", &json));
    }
}
