//! What is asked of an engine, and what it answers.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::{EngineError, ReplyBody, Timeouts};

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One request to one engine.
#[derive(Clone, Debug)]
pub struct Call {
    /// HTTP method.
    pub method: Method,
    /// Path behind the engine's base URL, with a leading slash; a query may follow.
    pub path: Cow<'static, str>,
    /// Headers to send, chosen by the caller; see [`crate::headers`].
    pub headers: HeaderMap,
    /// The body, sent as it is.
    pub body: Bytes,
    /// How long each part may take.
    pub limits: Timeouts,
    /// On whose behalf.
    pub kind: CallKind,
}

/// On whose behalf a call is made. The two never share a connection, so that a probe does not wait
/// behind traffic, nor traffic find its connections used up by probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// A client's request.
    Traffic,
    /// The control plane's own question.
    Probe,
}

/// What an engine answers, of any status.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers as they came; see [`crate::headers::strip_hop_by_hop`].
    pub headers: HeaderMap,
    /// The body, as it comes. Dropping it closes the connection.
    pub body: ReplyBody,
}

/// An inference engine, as far as the control plane talks to it.
///
/// A call ends in an answer of any status, or in an [`EngineError`] if there is none. Dropping the
/// future, or the reply's body before its end, must stop the engine's work on it.
///
/// ```
/// # use sagellm_executor::Engine;
/// fn dyn_safe(_: &dyn Engine) {}
/// ```
pub trait Engine: Send + Sync {
    /// Sends `call` and returns the head of the answer as soon as it comes.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, EngineError>>;
}

impl Call {
    /// Returns a client's POST of a JSON body.
    pub fn post(
        path: impl Into<Cow<'static, str>>,
        body: impl Into<Bytes>,
        limits: impl Into<Timeouts>,
    ) -> Self {
        let json = HeaderValue::from_static("application/json");
        Self {
            method: Method::POST,
            path: path.into(),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, json)]),
            body: body.into(),
            limits: limits.into(),
            kind: CallKind::Traffic,
        }
    }

    /// Returns the control plane's own GET.
    pub fn probe(path: impl Into<Cow<'static, str>>, limits: Timeouts) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            limits,
            kind: CallKind::Probe,
        }
    }
}
