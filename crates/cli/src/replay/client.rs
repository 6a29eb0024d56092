//! One streamed request as its client sees it: when what came, in model time.
//!
//! Per chunk: one search for events and one addition to a small sketch; nothing is parsed, so that
//! one process can drive thousands of streams. The chat format's first event carries a role and no
//! token; it is not taken for the first token.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode};
use sagellm_api::{ApiError, Marks, Scanner, UsageChunk};
use sagellm_monitoring::Sketch;
use sagellm_types::clock::Clock;
use sagellm_types::{Ending, ExpireReason, FailureKind, RefuseReason, Timestamp, Tokens, Usage};
use tokio::time::timeout_at;

/// The server that is asked.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    client: Client,
    url: String,
    clock: Clock,
    timeout: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Shot {
    /// When it is due to be sent. Everything is measured from here.
    pub(crate) due: Timestamp,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) ending: Ending,
    /// When its first token came.
    pub(crate) first_token: Option<Timestamp>,
    /// When it ended.
    pub(crate) ended: Timestamp,
    /// Tokens, as the server reported them, else counted.
    pub(crate) usage: Usage,
    /// Gaps between its tokens.
    pub(crate) gaps: Sketch,
    /// What went wrong, in the server's words.
    pub(crate) error: Option<String>,
}

impl Target {
    /// Returns the server whose endpoint is at `url`; a request is given up `timeout` of model time
    /// after it was due.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub(crate) fn new(url: String, clock: Clock, timeout: Duration) -> reqwest::Result<Self> {
        let client = Client::builder()
            .http1_only()
            .no_proxy()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(usize::MAX)
            .pool_idle_timeout(Duration::from_secs(4))
            .build()?;
        Ok(Self { client, url, clock, timeout })
    }

    /// Sends a request and follows its answer to the end; `on_tokens` hears how many came.
    pub(crate) async fn send(&self, shot: Shot, mut on_tokens: impl FnMut(u32)) -> Outcome {
        let limit = self.clock.instant(shot.due + self.timeout);
        let mut stream = Stream::default();
        let followed = timeout_at(limit.into(), self.follow(shot, &mut stream, &mut on_tokens));
        let (ending, error) = match followed.await {
            Ok(ended) => ended,
            Err(_) => {
                (Ending::Failed(FailureKind::Timeout), Some("no end within the timeout".to_owned()))
            }
        };
        let usage = stream.usage.map_or_else(
            || Usage { output: Tokens(stream.tokens), ..Usage::default() },
            |usage| Usage {
                prompt: Tokens(usage.prompt),
                output: Tokens(usage.completion),
                cached: Tokens(usage.cached.unwrap_or(0)),
            },
        );
        Outcome {
            ending,
            first_token: stream.first_token,
            ended: self.clock.now(),
            usage,
            gaps: stream.gaps,
            error,
        }
    }

    async fn follow(
        &self,
        shot: Shot,
        stream: &mut Stream,
        on_tokens: &mut impl FnMut(u32),
    ) -> (Ending, Option<String>) {
        let request = self.client.post(&self.url).headers(shot.headers).body(shot.body);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failed(&error),
        };
        let status = response.status();
        if status != StatusCode::OK {
            let retry_after = retry_after(response.headers());
            let text = response.text().await.unwrap_or_default();
            return (
                ending_of(status, retry_after, &text),
                Some(format!("{status}: {}", brief(&text))),
            );
        }
        let mut scanner = Scanner::new(UsageChunk::Forward);
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let role = stream.first_token.is_none() && opens_a_role(&chunk);
                    let marks = scanner.feed(chunk).marks;
                    let tokens = stream.note(&marks, role, self.clock);
                    if tokens > 0 {
                        on_tokens(tokens);
                    }
                    if let Some(error) = marks.error {
                        return (Ending::Failed(FailureKind::Unavailable), Some(error.message));
                    }
                }
                Ok(None) if stream.done => return (Ending::Finished, None),
                Ok(None) => {
                    let error = "the stream ended without [DONE]".to_owned();
                    return (Ending::Failed(FailureKind::Reset), Some(error));
                }
                Err(error) => return failed(&error),
            }
        }
    }
}

/// What is known of a stream so far.
#[derive(Debug, Default)]
struct Stream {
    first_token: Option<Timestamp>,
    last_token: Timestamp,
    tokens: u64,
    usage: Option<sagellm_api::Usage>,
    gaps: Sketch,
    done: bool,
}

impl Stream {
    /// Notes what one chunk held, and returns how many tokens that were.
    fn note(&mut self, marks: &Marks, role: bool, clock: Clock) -> u32 {
        self.done |= marks.done;
        self.usage = marks.usage.or(self.usage);
        let tokens = marks.content.saturating_sub(u32::from(role));
        if tokens == 0 {
            return 0;
        }
        let now = clock.now();
        let gaps = match self.first_token {
            // Tokens that came with the first one have no gap that a client could see.
            None => {
                self.first_token = Some(now);
                0
            }
            Some(_) => tokens,
        };
        // The gaps of tokens that came together are their share of the time since the last one.
        for _ in 0..gaps {
            self.gaps.record(now.since(self.last_token) / gaps);
        }
        self.last_token = now;
        self.tokens += u64::from(tokens);
        tokens
    }
}

/// Returns whether a chunk holds the event that only names the role.
fn opens_a_role(chunk: &[u8]) -> bool {
    let has = |needle: &[u8]| chunk.windows(needle.len()).any(|window| window == needle);
    has(b"\"role\":\"assistant\"") && (has(b"\"content\":\"\"") || has(b"\"content\":null"))
}

/// Returns what a status other than 200 means for a client.
fn ending_of(status: StatusCode, retry_after: Option<Duration>, text: &str) -> Ending {
    let kind = ApiError::parse(status.as_u16(), text.as_bytes()).map(|error| error.kind);
    match (status, kind.as_deref()) {
        (StatusCode::TOO_MANY_REQUESTS, _) => {
            Ending::Refused { reason: RefuseReason::QueueFull, retry_after }
        }
        (_, Some("deadline_exceeded")) => Ending::Expired(ExpireReason::Deadline),
        (_, Some("queue_timeout")) => Ending::Expired(ExpireReason::QueueTimeout),
        (StatusCode::GATEWAY_TIMEOUT, _) => Ending::Failed(FailureKind::Timeout),
        (StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE, _) => {
            Ending::Failed(FailureKind::Unavailable)
        }
        _ => Ending::Failed(FailureKind::Rejected),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn failed(error: &reqwest::Error) -> (Ending, Option<String>) {
    let kind = if error.is_connect() { FailureKind::Connect } else { FailureKind::Reset };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    (Ending::Failed(kind), Some(text))
}

/// Returns the beginning of an error's text, on one line.
fn brief(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const HEAD: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

    /// Answers one request with `pieces`, some time apart, and returns what became of it.
    async fn answered(pieces: &'static [&'static str]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/v1/completions", listener.local_addr().expect("bound"));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.expect("the client reads");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let clock = Clock::real();
        let target = Target::new(url, clock, Duration::from_millis(500)).expect("a client");
        let shot = Shot { due: clock.now(), headers: HeaderMap::new(), body: Bytes::from("{}") };
        let mut heard = 0;
        let outcome = target.send(shot, |tokens| heard += u64::from(tokens)).await;
        server.await.expect("the server is sound");
        assert_eq!(outcome.first_token.is_some(), heard > 0);
        outcome
    }

    #[tokio::test]
    async fn a_whole_stream_is_measured_token_by_token() {
        let outcome = answered(&[
            HEAD,
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"c\"}}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
        ])
        .await;
        assert_eq!((outcome.ending, outcome.error), (Ending::Finished, None));
        assert_eq!((outcome.usage.prompt, outcome.usage.output), (Tokens(9), Tokens(3)));
        assert_eq!(outcome.gaps.count(), 2, "two tokens came after the first");
        let first = outcome.first_token.expect("tokens came");
        assert!(outcome.ended.since(first) >= Duration::from_millis(30));
        let gap = outcome.gaps.max().expect("two");
        assert!(gap >= Duration::from_millis(8), "they share the time: {gap:?}");
    }

    #[tokio::test]
    async fn tokens_are_counted_where_no_usage_comes() {
        let outcome = answered(&[
            HEAD,
            "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"choices\":[{\"text\":\"b\"}]}\n\n",
            "data: [DONE]\n\n",
        ])
        .await;
        assert_eq!((outcome.ending, outcome.usage.output), (Ending::Finished, Tokens(2)));
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_well_has_failed() {
        const TOKEN: &str = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
        let broken = answered(&[HEAD, TOKEN]).await;
        assert_eq!(broken.ending, Ending::Failed(FailureKind::Reset));
        let told =
            answered(&[HEAD, "data: {\"error\":{\"message\":\"boom\",\"type\":\"x\"}}\n\n"]).await;
        assert_eq!(told.ending, Ending::Failed(FailureKind::Unavailable));
        assert_eq!(told.error.as_deref(), Some("boom"));
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let outcome = tokio::time::timeout(Duration::from_secs(5), async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("bound"));
            let clock = Clock::real();
            let target = Target::new(url, clock, Duration::from_millis(50)).expect("a client");
            let shot = Shot { due: clock.now(), headers: HeaderMap::new(), body: Bytes::new() };
            target.send(shot, |_| {}).await
        });
        let outcome = outcome.await.expect("given up in time");
        assert_eq!(outcome.ending, Ending::Failed(FailureKind::Timeout));
    }

    #[test]
    fn refusals_and_expiries_are_told_from_failures() {
        let check = |status: u16, kind: &str, expected: &str| {
            let body = format!(r#"{{"error":{{"message":"m","type":"{kind}"}}}}"#);
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(ending_of(status, None, &body).name(), expected, "{status} {kind}");
        };
        check(429, "rate_limit_error", "refused");
        check(504, "deadline_exceeded", "expired");
        check(504, "queue_timeout", "expired");
        check(504, "engine_error", "failed");
        check(503, "service_unavailable_error", "failed");
        check(400, "BadRequestError", "failed");
    }
}
