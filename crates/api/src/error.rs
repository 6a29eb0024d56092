//! Errors as OpenAI's clients expect them and as engines send them.
//!
//! The envelope is `{"error":{"message","type","param","code"}}`; vLLM puts the status into `code`,
//! OpenAI a word. FastAPI's own answers (`{"detail":…}`, unknown path or method) and the envelope of
//! older engines (`{"object":"error",…}`) are read too.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Serialize};

/// The values of `type` that vLLM 0.32 sends.
pub(crate) mod kind {
    /// The body has no meaning as JSON or has a field of the wrong type.
    pub(crate) const BAD_BODY: &str = "Bad Request";
    /// The request asks for something impossible.
    pub(crate) const BAD_REQUEST: &str = "BadRequestError";
    /// For engines that send no type.
    pub(crate) const UNKNOWN: &str = "APIError";
}

/// Marks of a 500 that says that the engine is dying or gone, not that the request was bad.
///
/// Recorded from vLLM 0.32: the engine core killed in flight; a request during a graceful shutdown. The
/// others are of older versions' dead-engine errors.
const DYING: [&[u8]; 5] = [
    b"EngineCore encountered an issue",
    b"cannot schedule new futures",
    b"EngineDeadError",
    b"Background loop has errored already",
    b"Background loop is stopped",
];

/// An error answer: the status and what the envelope says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// For people.
    pub message: String,
    /// The envelope's `type`, such as `NotFoundError`.
    pub kind: Cow<'static, str>,
    /// The field at fault.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<ErrorCode>,
}

/// The envelope's `code`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ErrorCode {
    /// The HTTP status, as vLLM has it.
    Number(i64),
    /// A word, as OpenAI has it.
    Word(String),
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    error: Inner<'a>,
}

#[derive(Serialize, Deserialize)]
struct Inner<'a> {
    #[serde(default, borrow)]
    message: Cow<'a, str>,
    #[serde(default, rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    param: Option<String>,
    #[serde(default)]
    code: Option<ErrorCode>,
}

#[derive(Deserialize)]
struct Flat<'a> {
    object: Option<Cow<'a, str>>,
    detail: Option<serde_json::Value>,
    #[serde(flatten, borrow)]
    inner: Inner<'a>,
}

impl ApiError {
    /// Returns an error with the status as its code and no parameter.
    pub fn new(
        status: u16,
        kind: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            message: message.into(),
            kind: kind.into(),
            param: None,
            code: Some(ErrorCode::Number(status.into())),
        }
    }

    /// Names the field at fault.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Gives a word as the code.
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(ErrorCode::Word(code.into()));
        self
    }

    /// Returns the envelope as JSON.
    pub fn to_json(&self) -> Bytes {
        let envelope = Envelope {
            error: Inner {
                message: Cow::Borrowed(&self.message),
                kind: Some(Cow::Borrowed(&self.kind)),
                param: self.param.clone(),
                code: self.code.clone(),
            },
        };
        serde_json::to_vec(&envelope).expect("strings and numbers are always JSON").into()
    }

    /// Reads the body of an error answer, or of an error event in a stream. Returns `None` if it is in
    /// none of the known shapes.
    pub fn parse(status: u16, body: &[u8]) -> Option<Self> {
        let inner = if let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(body) {
            envelope.error
        } else {
            let flat: Flat<'_> = serde_json::from_slice(body).ok()?;
            match flat.detail {
                Some(serde_json::Value::String(detail)) => {
                    Inner { message: detail.into(), kind: None, param: None, code: None }
                }
                Some(detail) => Inner {
                    message: detail.to_string().into(),
                    kind: None,
                    param: None,
                    code: None,
                },
                None if flat.object.as_deref() == Some("error") => flat.inner,
                None => return None,
            }
        };
        Some(Self {
            status,
            message: inner.message.into_owned(),
            kind: inner.kind.map_or(Cow::Borrowed(kind::UNKNOWN), |kind| kind.into_owned().into()),
            param: inner.param,
            code: inner.code,
        })
    }
}

/// Returns whether an answer says that the engine itself is dying: another engine may well succeed.
pub fn says_engine_died(status: u16, body: &[u8]) -> bool {
    status == 500 && DYING.iter().any(|mark| memmem::find(body, mark).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_vllms_byte_for_byte() {
        let recorded = r#"{"error":{"message":"The model `nope` does not exist. Valid aliases: tiny.","type":"NotFoundError","param":"model","code":404}}"#;
        let error = ApiError::parse(404, recorded.as_bytes()).expect("the envelope");
        let ours = ApiError::new(
            404,
            "NotFoundError",
            "The model `nope` does not exist. Valid aliases: tiny.",
        )
        .with_param("model");
        assert_eq!(error, ours);
        assert_eq!(&ours.to_json()[..], recorded.as_bytes());
    }

    #[test]
    fn other_shapes_are_read_too() {
        let fastapi = ApiError::parse(405, br#"{"detail":"Method Not Allowed"}"#).expect("FastAPI");
        assert_eq!((fastapi.message.as_str(), fastapi.param), ("Method Not Allowed", None));
        let old = br#"{"object":"error","message":"no","type":"BadRequestError","code":"x"}"#;
        let old = ApiError::parse(400, old).expect("the older envelope");
        assert_eq!((old.message.as_str(), old.code), ("no", Some(ErrorCode::Word("x".into()))));
        assert_eq!(ApiError::parse(500, b"Internal Server Error"), None);
        assert_eq!(ApiError::parse(200, br#"{"object":"list"}"#), None);
    }

    #[test]
    fn only_a_500_with_a_mark_says_that_the_engine_died() {
        let dying = br#"{"error":{"message":"EngineCore encountered an issue. See stack trace"}}"#;
        assert!(says_engine_died(500, dying));
        assert!(says_engine_died(500, b"cannot schedule new futures after shutdown"));
        assert!(!says_engine_died(400, dying));
        assert!(!says_engine_died(500, br#"{"error":{"message":"bad logits"}}"#));
    }
}
