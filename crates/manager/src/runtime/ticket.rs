//! A request's owner: first a ticket that waits, then a permit that may call an engine.
//!
//! Ownership is the protocol: whoever drops a ticket or a permit before its end has cancelled the
//! request.

use std::sync::Arc;

use sagellm_executor::Engine;
use sagellm_monitoring::Sketch;
use sagellm_types::{Attempt, Ending, FailureKind, InstanceId, RequestId, Tokens, Usage};

use super::shell::Shell;
use super::slot::{Message, Slot};
use crate::Event;

/// A request that waits for its turn. Dropping it cancels the request.
pub struct Ticket {
    shell: Arc<Shell>,
    id: RequestId,
    slot: Arc<Slot>,
    over: bool,
}

impl Ticket {
    pub(super) fn new(shell: Arc<Shell>, id: RequestId, slot: Arc<Slot>) -> Self {
        Self { shell, id, slot, over: false }
    }

    /// Returns the request's id inside the control plane.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Waits for the request's turn.
    ///
    /// # Errors
    /// How the request ended, if it ended otherwise.
    pub async fn permit(mut self) -> Result<Permit, Ending> {
        loop {
            match self.slot.next().await {
                Message::Go { attempt, instance, name, engine } => {
                    return Ok(Permit { ticket: self, attempt, instance, name, engine });
                }
                Message::Abort(_) => {}
                Message::End(ending) => {
                    self.close();
                    return Err(ending);
                }
            }
        }
    }

    fn close(&mut self) {
        self.over = true;
        self.shell.forget(self.id);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.over {
            self.shell.forget(self.id);
            self.shell.tell(Event::Cancelled(self.id));
        }
    }
}

/// The right to run one attempt on one engine. Dropping it cancels the request.
pub struct Permit {
    ticket: Ticket,
    attempt: Attempt,
    instance: InstanceId,
    name: Arc<str>,
    engine: Arc<dyn Engine>,
}

impl Permit {
    /// Returns the engine to call.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Returns the instance.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Returns the instance's name.
    pub fn instance_name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns which try this is: 0 is the first.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Waits until the core gives this attempt up, because its instance is taken for dead; then
    /// [`Permit::abandon`] it. Ends for no other reason, and never once the first token was told.
    pub async fn aborted(&self) {
        self.ticket.slot.aborted(self.attempt).await;
    }

    /// Tells that the first token came. Returns whether the attempt still counts: if not, its
    /// request has been given to another instance, and this one is to be abandoned.
    #[must_use = "an attempt that was given up must not answer"]
    pub fn first_token(&self) -> bool {
        self.ticket.shell.tell(Event::FirstToken(self.attempt))
    }

    /// Tells how many output tokens have come so far.
    pub fn progress(&self, output: Tokens) {
        self.ticket.shell.tell(Event::Progress { attempt: self.attempt, output });
    }

    /// Ends the request: the answer is complete.
    pub fn finish(mut self, usage: Usage, gaps: Option<Box<Sketch>>) {
        let taken = self.ticket.shell.tell(Event::Finished { attempt: self.attempt, usage, gaps });
        if taken {
            self.ticket.close();
        }
        // Else the core gave the attempt up in this very moment: the drop cancels what it began.
    }

    /// Tells that the attempt failed before a byte of the answer has gone out. The ticket brings
    /// another permit or the request's end.
    pub fn fail(self, kind: FailureKind) -> Ticket {
        self.ticket.shell.tell(Event::Failed { attempt: self.attempt, kind, begun: false });
        self.ticket
    }

    /// Ends the request: the attempt failed after a byte of the answer had gone out.
    pub fn fail_begun(mut self, kind: FailureKind) {
        let failed = Event::Failed { attempt: self.attempt, kind, begun: true };
        if self.ticket.shell.tell(failed) {
            self.ticket.close();
        }
    }

    /// Returns to waiting after the core has given the attempt up.
    pub fn abandon(self) -> Ticket {
        self.ticket
    }
}
