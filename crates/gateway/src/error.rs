//! Every error that the gateway itself gives, in OpenAI's shape. What engines say of a request is
//! handed on as it is and is not here.

use std::time::Duration;

use http::StatusCode;
use http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use sagellm_api::{ApiError, PeekError};
use sagellm_types::{Ending, ExpireReason, FailureKind, RefuseReason};

use crate::answer::{Answer, whole};

/// Milliseconds to wait, which OpenAI's own clients prefer to whole seconds.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Something that the gateway tells a client instead of an answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    error: Box<ApiError>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl Refusal {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            error: Box::new(ApiError::new(status, kind, message)),
            retry_after: None,
            allow: None,
        }
    }

    fn param(mut self, param: &str) -> Self {
        self.error = Box::new(self.error.with_param(param));
        self
    }

    /// A body that cannot be routed.
    pub(crate) fn body(error: &PeekError) -> Self {
        Self { error: Box::new(error.to_api_error()), retry_after: None, allow: None }
    }

    /// A body over the limit.
    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the request body is longer than {limit} bytes");
        Self::new(413, "invalid_request_error", message)
    }

    /// A body that did not come in full.
    pub(crate) fn incomplete() -> Self {
        Self::new(400, "invalid_request_error", "the request body ended early")
    }

    /// A body that did not come in time.
    pub(crate) fn slow_body() -> Self {
        Self::new(408, "invalid_request_error", "the request body did not come in time")
    }

    /// A body that is not JSON by its own words.
    pub(crate) fn media_type() -> Self {
        let message = "Unsupported Media Type: only `application/json` is accepted";
        Self::new(400, "Bad Request", message)
    }

    /// A header that says something that cannot be.
    pub(crate) fn header(name: &str, value: &str, accepted: &str) -> Self {
        let message = format!("header {name}: `{value}` is not accepted; accepted is {accepted}");
        Self::new(400, "invalid_request_error", message).param(name)
    }

    /// A model that nobody serves.
    pub(crate) fn unknown_model(name: &str, served: &[String]) -> Self {
        let message = match (name, served) {
            ("", []) => "no model is served yet: no instance has said what it serves".to_owned(),
            ("", _) => format!("`model` is needed; served are: {}", served.join(", ")),
            (_, []) => format!("The model `{name}` does not exist: no model is served yet."),
            _ => format!("The model `{name}` does not exist. Served are: {}.", served.join(", ")),
        };
        let status = if name.is_empty() && !served.is_empty() { 400 } else { 404 };
        Self::new(status, "NotFoundError", message).param("model")
    }

    /// No instance that could answer a small call.
    pub(crate) fn nobody_ready(model: &str) -> Self {
        let message = format!("no instance that serves `{model}` is ready");
        Self::new(503, "service_unavailable_error", message)
    }

    /// A path that does not exist.
    pub(crate) fn not_found(path: &str) -> Self {
        Self::new(404, "NotFoundError", format!("there is nothing at `{path}`"))
    }

    /// A method that a path does not take.
    pub(crate) fn method(method: &http::Method, path: &str, allow: &'static str) -> Self {
        let message = format!("`{path}` does not take {method}; accepted is {allow}");
        let refusal = Self::new(405, "invalid_request_error", message);
        Self { allow: Some(allow), ..refusal }
    }

    /// Somebody without the right to.
    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(403, "permission_error", message)
    }

    /// Something asked of the admin API that cannot be.
    pub(crate) fn admin(status: u16, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    /// A request that ended without an answer.
    pub(crate) fn ending(ending: &Ending) -> Self {
        match *ending {
            Ending::Refused { reason, retry_after } => Self::refused(reason, retry_after),
            Ending::Expired(ExpireReason::Deadline) => {
                let message =
                    "the request's end-to-end deadline passed while it waited for an instance";
                Self::new(504, "deadline_exceeded", message)
            }
            Ending::Expired(ExpireReason::QueueTimeout) => {
                let message = "the request waited longer than any may (queue.max_wait_ms)";
                Self::new(504, "queue_timeout", message)
            }
            Ending::Failed(kind) => Self::failed(kind),
            Ending::Finished | Ending::Cancelled => {
                Self::new(500, "internal_error", "the request ended without an answer")
            }
        }
    }

    fn refused(reason: RefuseReason, retry_after: Option<Duration>) -> Self {
        let refusal = match reason {
            RefuseReason::QueueFull => Self::new(
                429,
                "rate_limit_error",
                "as many requests wait as may (queue.max_waiting)",
            ),
            RefuseReason::Hopeless => {
                let message = "the request would miss its deadline now; it is predicted to be on time after the time given";
                Self::new(429, "rate_limit_error", message)
            }
            RefuseReason::UnknownModel => {
                Self::new(404, "NotFoundError", "no registered instance serves the model")
                    .param("model")
            }
            RefuseReason::UnsupportedType => {
                let message = "no registered instance of the model takes requests of this type";
                Self::new(400, "invalid_request_error", message).param("model")
            }
            RefuseReason::Stopping => {
                Self::new(503, "service_unavailable_error", "the gateway is going down")
            }
        };
        Self { retry_after, ..refusal }
    }

    /// An attempt that failed and could not be tried again.
    fn failed(kind: FailureKind) -> Self {
        let (status, message) = match kind {
            FailureKind::Connect => (502, "no connection to the engine"),
            FailureKind::Reset => (502, "the engine's connection broke before it answered"),
            FailureKind::Garbage => (502, "the engine's answer could not be understood"),
            FailureKind::InstanceDown => (502, "the engine went down before it answered"),
            FailureKind::Timeout => (504, "the engine did not answer in time"),
            FailureKind::Unavailable => (503, "the engine is not available"),
            FailureKind::Busy => (503, "all engines are busy"),
            FailureKind::Rejected => (502, "the engine rejected the request"),
        };
        Self::new(status, "engine_error", message)
    }

    /// Returns the event that tells the reader of a stream that it broke.
    pub(crate) fn event(kind: FailureKind) -> bytes::Bytes {
        let failed = Self::failed(kind);
        let message =
            format!("the answer broke off ({}): what came so far is incomplete", kind.name());
        let body = ApiError { message, ..*failed.error }.to_json();
        // The blank line ends an event that was cut in the middle.
        [&b"\n\ndata: "[..], &body, b"\n\n"].concat().into()
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.error.status)
            .expect("the gateway gives statuses that exist");
        let mut answer = whole(status, "application/json", refusal.error.to_json());
        if let Some(allow) = refusal.allow {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(after) = refusal.retry_after {
            let secs = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs.max(1)));
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
            answer.headers_mut().insert(RETRY_AFTER_MS, HeaderValue::from(millis));
        }
        answer
    }
}
