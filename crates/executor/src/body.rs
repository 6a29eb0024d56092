//! The body of an answer: bytes as they come.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::EngineError;

/// A source of bytes that may fail in the midst.
pub trait ByteStream: Send {
    /// Returns the next bytes, or `None` at a proper end. Is not asked again after an end or an error.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>>;
}

/// The body of an answer. Nothing is buffered: bytes that are not asked for stay in the engine's socket.
pub struct ReplyBody(Source);

enum Source {
    Ended,
    Whole(Bytes),
    Stream(Box<dyn ByteStream>),
}

impl ReplyBody {
    /// Returns a body that comes from `stream`.
    pub fn streaming(stream: impl ByteStream + 'static) -> Self {
        Self(Source::Stream(Box::new(stream)))
    }

    /// Returns the next bytes, or `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, EngineError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`ReplyBody::next`], for those who poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        let next = match &mut self.0 {
            Source::Ended => None,
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Source::Ended;
                (!bytes.is_empty()).then_some(Ok(bytes))
            }
            Source::Stream(stream) => {
                let Poll::Ready(next) = stream.poll_next(cx) else { return Poll::Pending };
                if !matches!(next, Some(Ok(_))) {
                    self.0 = Source::Ended;
                }
                next
            }
        };
        Poll::Ready(next)
    }

    /// Returns the whole body.
    ///
    /// # Errors
    /// As the stream's, and [`EngineError::TooLarge`] if it is longer than `limit` bytes.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, EngineError> {
        let Some(first) = self.next().await.transpose()? else { return Ok(Bytes::new()) };
        let mut length = first.len();
        let mut rest = BytesMut::new();
        while length <= limit {
            let Some(bytes) = self.next().await.transpose()? else {
                // Most error bodies and short answers come in one piece, which is handed on as it is.
                return Ok(if rest.is_empty() { first } else { rest.freeze() });
            };
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            length += bytes.len();
            rest.extend_from_slice(&bytes);
        }
        Err(EngineError::TooLarge { limit })
    }
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> Self {
        Self(Source::Whole(bytes))
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Ended => "ReplyBody(ended)",
            Source::Whole(_) => "ReplyBody(whole)",
            Source::Stream(_) => "ReplyBody(stream)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pieces(Vec<&'static str>);

    impl ByteStream for Pieces {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
            Poll::Ready(self.0.pop().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))))
        }
    }

    async fn check(body: ReplyBody, limit: usize, expected: Option<&str>) {
        let collected = body.collect(limit).await.ok();
        assert_eq!(collected.as_deref(), expected.map(str::as_bytes));
    }

    #[tokio::test]
    async fn a_body_is_collected_up_to_its_limit() {
        check(Bytes::from_static(b"abc").into(), 3, Some("abc")).await;
        check(Bytes::from_static(b"abcd").into(), 3, None).await;
        check(Bytes::new().into(), 0, Some("")).await;
        check(ReplyBody::streaming(Pieces(vec!["c", "b", "a"])), 3, Some("abc")).await;
        check(ReplyBody::streaming(Pieces(vec!["c", "b", "a"])), 2, None).await;
        check(ReplyBody::streaming(Pieces(vec![])), 2, Some("")).await;
    }

    #[tokio::test]
    async fn an_ended_body_stays_ended() {
        let mut body = ReplyBody::streaming(Pieces(vec!["a"]));
        assert!(body.next().await.is_some());
        assert!(body.next().await.is_none());
        assert!(body.next().await.is_none());
    }
}
