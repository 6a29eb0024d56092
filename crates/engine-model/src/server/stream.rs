//! The body of a streamed answer: formats a chunk for each token when the connection asks for more.
//!
//! The engine only counts tokens up; a client that stops reading therefore holds a number here,
//! not a growing buffer, and a client that goes drops the body and with it the sequences.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::answer::{Answer, Written};
use super::live::{Reach, Ticket};

pub(super) struct StreamBody {
    answer: Answer,
    ticket: Ticket,
    written: Vec<Written>,
    reach: Vec<Reach>,
    ended: bool,
}

/// Bytes after which a frame is handed over although more tokens are due.
const FRAME: usize = 64 * 1024;

impl StreamBody {
    pub(super) fn new(answer: Answer, ticket: Ticket) -> Self {
        let written = vec![Written::default(); answer.generation.choices.len()];
        Self { answer, ticket, written, reach: Vec::new(), ended: false }
    }

    /// Appends what is due and not yet written.
    fn write(&mut self, out: &mut Vec<u8>) {
        let mut all = true;
        for (index, written) in self.written.iter_mut().enumerate() {
            while written.tokens < self.reach[index].tokens && out.len() < FRAME {
                self.answer.chunks(out, index, written);
            }
            all &= self.reach[index].finished && written.tokens == self.reach[index].tokens;
        }
        if all {
            self.answer.end(out, &self.reach);
            self.ended = true;
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        this.ticket.progress.poll(&mut this.reach, context);
        let mut out = Vec::new();
        this.write(&mut out);
        if out.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(out)))))
        }
    }
}
