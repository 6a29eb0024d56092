//! Where a request's owner finds what the core has decided about it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sagellm_executor::Engine;
use sagellm_types::{Attempt, Ending, InstanceId};
use tokio::sync::Notify;

/// A decision about one request.
pub(super) enum Message {
    /// Start an attempt.
    Go { attempt: Attempt, instance: InstanceId, name: Arc<str>, engine: Arc<dyn Engine> },
    /// Give an attempt up; the request goes on.
    Abort(Attempt),
    /// The request has ended.
    End(Ending),
}

/// The mailbox of one request. Its owner is one task.
#[derive(Default)]
pub(super) struct Slot {
    messages: Mutex<VecDeque<Message>>,
    arrived: Notify,
}

impl Slot {
    pub(super) fn push(&self, message: Message) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
        self.arrived.notify_one();
    }

    pub(super) fn try_next(&self) -> Option<Message> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) async fn next(&self) -> Message {
        loop {
            if let Some(message) = self.try_next() {
                return message;
            }
            self.arrived.notified().await;
        }
    }

    /// Waits until the attempt is to be given up.
    pub(super) async fn aborted(&self, attempt: Attempt) {
        loop {
            {
                let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(place) =
                    messages.iter().position(|m| matches!(m, Message::Abort(a) if *a == attempt))
                {
                    messages.remove(place);
                    return;
                }
            }
            self.arrived.notified().await;
        }
    }
}
