//! What goes into the core and what comes out.

use std::sync::Arc;

use sagellm_fleet::{ProbeAnswer, ProbeTicket};
use sagellm_monitoring::Sketch;
use sagellm_perf::PromptSize;
use sagellm_strategies::Switch;
use sagellm_types::{
    Attempt, Ending, EngineState, FailureKind, GpuSample, InstanceId, ModelId, Objectives,
    PrefixHash, RequestId, RequestPriority, RequestType, SessionId, Tokens, Usage, Usd, UserId,
};

use super::models::Offer;

/// A request as the edge states it: names already turned into ids.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// The client's name for it; a label that need not be unique.
    pub label: Option<Arc<str>>,
    /// What it asks for.
    pub kind: RequestType,
    /// The model, resolved; `None` if nobody serves it.
    pub model: Option<ModelId>,
    /// Who asks.
    pub user: Option<UserId>,
    /// How urgent it is.
    pub priority: RequestPriority,
    /// The latencies it asks for.
    pub objectives: Objectives,
    /// The most that it may cost.
    pub cost_budget: Option<Usd>,
    /// The conversation to which it belongs.
    pub session: Option<SessionId>,
    /// The leading part of its prompt.
    pub prefix: Option<PrefixHash>,
    /// The size of its prompt.
    pub prompt: PromptSize,
    /// The most output tokens that it allows.
    pub max_tokens: Option<u32>,
    /// The instance that wins when it may take the request.
    pub preferred: Option<InstanceId>,
}

impl Default for NewRequest {
    fn default() -> Self {
        Self {
            label: None,
            kind: RequestType::LlmChat,
            model: None,
            user: None,
            priority: RequestPriority::Normal,
            objectives: Objectives::NONE,
            cost_budget: None,
            session: None,
            prefix: None,
            prompt: PromptSize::Bytes(0),
            max_tokens: None,
            preferred: None,
        }
    }
}

/// What happened outside. Of an attempt the core hears at most: first token, one progress per 64
/// output tokens or 250 ms, and its end.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first token came.
    FirstToken(Attempt),
    /// So many output tokens have come.
    Progress {
        /// The attempt.
        attempt: Attempt,
        /// Output tokens so far.
        output: Tokens,
    },
    /// The answer is complete.
    Finished {
        /// The attempt.
        attempt: Attempt,
        /// Tokens, as reported or counted.
        usage: Usage,
        /// The gaps between its tokens.
        gaps: Option<Box<Sketch>>,
    },
    /// The attempt failed.
    Failed {
        /// The attempt.
        attempt: Attempt,
        /// Why.
        kind: FailureKind,
        /// Whether a byte of the answer has gone to the client: then it cannot be tried again.
        begun: bool,
    },
    /// The client went away.
    Cancelled(RequestId),
    /// A probe was answered, or was not (`healthy` is false).
    Probed {
        /// The instance.
        instance: InstanceId,
        /// Which probe.
        ticket: ProbeTicket,
        /// What it said.
        answer: ProbeAnswer,
        /// What it serves, if that was asked for and told.
        models: Option<Vec<Offer>>,
    },
    /// The GPUs of an instance were sampled.
    GpusSampled {
        /// The instance.
        instance: InstanceId,
        /// What is known of them now.
        sample: GpuSample,
    },
}

/// An attempt that starts now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// The attempt.
    pub attempt: Attempt,
    /// Where.
    pub instance: InstanceId,
}

/// What the shell has to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Start an attempt.
    Dispatch(Dispatch),
    /// Give an attempt up: its instance is taken for dead. The request goes on.
    Abort(Attempt),
    /// Tell whoever waits for the request that it has ended otherwise than by its own doing.
    End {
        /// The request.
        request: RequestId,
        /// How it ended.
        ending: Ending,
    },
    /// Probe an instance.
    Probe {
        /// The instance.
        instance: InstanceId,
        /// Which probe; goes back with the answer.
        ticket: ProbeTicket,
    },
    /// Something that operators want to know.
    Notice(Notice),
}

/// Something that operators want to know.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An instance changed its state.
    Instance {
        /// Its name.
        name: Arc<str>,
        /// Where it stands now.
        state: EngineState,
        /// Why.
        reason: &'static str,
    },
    /// The strategy changed its mind.
    Switched(Switch),
}
