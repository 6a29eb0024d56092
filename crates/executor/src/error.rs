//! Why a call came to nothing, sorted by what a scheduler can do about it.

use std::error::Error;
use std::io;

use http::StatusCode;
use sagellm_api::says_engine_died;
use sagellm_types::FailureKind;
use thiserror::Error as ThisError;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why there was no answer, or only part of one.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum EngineError {
    /// No connection could be made.
    #[error("cannot connect to the engine")]
    Connect(#[source] BoxError),
    /// The connection broke, or the answer ended too early.
    #[error("the engine's connection broke")]
    Reset(#[source] BoxError),
    /// It took too long.
    #[error("the engine took too long: {which}")]
    Timeout {
        /// Which part of the call.
        which: TimeoutKind,
    },
    /// What came was not HTTP.
    #[error("the engine's answer is not HTTP")]
    Garbage(#[source] BoxError),
    /// The answer is longer than was asked for.
    #[error("the engine's answer is longer than {limit} bytes")]
    TooLarge {
        /// Bytes that were allowed.
        limit: usize,
    },
    /// The call itself is no proper HTTP request: its path cannot be part of a URL.
    #[error("the path {path:?} cannot be asked for")]
    BadPath {
        /// The path.
        path: String,
    },
}

/// Which of the timeouts ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum TimeoutKind {
    /// Making the connection.
    #[error("no connection in time")]
    Connect,
    /// From the call to the first byte of the answer's body.
    #[error("no first token in time")]
    FirstToken,
    /// Between two pieces of the body.
    #[error("the stream fell silent")]
    Idle,
    /// From the call to the end of the answer.
    #[error("no end in time")]
    Total,
}

/// Why an engine cannot be called at all.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum SettingsError {
    /// Not an absolute URL of HTTP, or one with a query.
    #[error("{url:?} is not a base URL: expected http://host:port or http://host:port/path")]
    Url {
        /// What was given.
        url: String,
    },
    /// Engines are not called over TLS.
    #[error(
        "{url:?} needs TLS, which is not offered towards engines: name a proxy beside the engine that ends it, with http://"
    )]
    Tls {
        /// What was given.
        url: String,
    },
    /// Nothing here asks the driver.
    #[error(
        "gpu_metrics = \"nvml\": only `sagellm serve` asks the driver of its machine; expected the page of a DCGM exporter, such as \"http://host:9400/metrics\""
    )]
    NoDriver,
    /// The API key cannot be sent in a header.
    #[error("the API key holds a character that no HTTP header may hold")]
    ApiKey,
    /// The HTTP client could not be built.
    #[error("cannot build the HTTP client")]
    Client(#[source] BoxError),
}

impl EngineError {
    /// Returns the kind of failure, in the vocabulary of the control plane.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Connect(_) => FailureKind::Connect,
            Self::Reset(_) => FailureKind::Reset,
            Self::Timeout { .. } => FailureKind::Timeout,
            Self::Garbage(_) | Self::TooLarge { .. } => FailureKind::Garbage,
            Self::BadPath { .. } => FailureKind::Rejected,
        }
    }

    /// Sorts an error of the HTTP client by its causes.
    pub(crate) fn from_client(error: reqwest::Error) -> Self {
        // The URL is the engine's own; who logs this knows it.
        let error = error.without_url();
        if error.is_connect() {
            return if error.is_timeout() {
                Self::Timeout { which: TimeoutKind::Connect }
            } else {
                Self::Connect(error.into())
            };
        }
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(one) = cause {
            let garbage = one.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
                || one.downcast_ref::<io::Error>().is_some_and(|error| {
                    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
                });
            if garbage {
                return Self::Garbage(error.into());
            }
            cause = one.source();
        }
        Self::Reset(error.into())
    }
}

/// Returns the kind of failure that an answer reports, or `None` if it reports none.
///
/// A busy, starting or leaving engine (502, 503, 504) and a 500 that says that the engine died are
/// [`FailureKind::Unavailable`]: another engine may succeed. All other errors are the engine's own
/// judgement, which another engine would repeat. `body` may be the first piece only.
pub fn classify_status(status: StatusCode, body: &[u8]) -> Option<FailureKind> {
    match status.as_u16() {
        502..=504 => Some(FailureKind::Unavailable),
        code if says_engine_died(code, body) => Some(FailureKind::Unavailable),
        400.. => Some(FailureKind::Rejected),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, expected: Option<FailureKind>) {
        let status = StatusCode::from_u16(status).expect("a status");
        assert_eq!(classify_status(status, body.as_bytes()), expected, "{status} {body}");
    }

    #[test]
    fn only_what_another_engine_could_answer_is_unavailable() {
        check(200, "", None);
        check(307, "", None);
        check(400, "EngineCore encountered an issue", Some(FailureKind::Rejected));
        check(404, "", Some(FailureKind::Rejected));
        check(429, "", Some(FailureKind::Rejected));
        check(500, "Internal server error", Some(FailureKind::Rejected));
        check(500, "EngineCore encountered an issue.", Some(FailureKind::Unavailable));
        check(500, "cannot schedule new futures after shutdown", Some(FailureKind::Unavailable));
        check(502, "", Some(FailureKind::Unavailable));
        check(503, "engine is currently busy", Some(FailureKind::Unavailable));
        check(504, "", Some(FailureKind::Unavailable));
    }
}
