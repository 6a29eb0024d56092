//! What routing needs to know of a request body, in one pass and without a tree.
//!
//! Reads chat, completion, embedding and tokenize bodies alike. What an engine would judge is left to
//! the engine: a body is refused here only if it is not one JSON object, or if a field that decides
//! where and how it runs has the wrong type. Like Python's parser, the last of duplicate members counts.

mod fields;

use std::borrow::Cow;
use std::ops::Range;

use fields::Found;
use thiserror::Error;

use crate::ApiError;
use crate::error::kind;
use crate::json::{Fault, MAX_DEPTH, Reader};
use crate::prompt::PromptSize;

/// What a request body says about how to run it. Borrows the body.
#[derive(Clone, Debug)]
pub struct Peek<'a> {
    /// The model's name; `None` if absent or null.
    pub model: Option<Cow<'a, str>>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the client asked for usage at the end of its stream.
    pub include_usage: bool,
    /// Whether the client asked for usage in every chunk.
    pub continuous_usage: bool,
    /// The most tokens to generate per answer: `max_completion_tokens`, else `max_tokens`.
    pub max_tokens: Option<u64>,
    /// Answers per prompt.
    pub n: Option<u64>,
    /// The end user, as the client names it; `None` also if it is not a string.
    pub user: Option<Cow<'a, str>>,
    /// The size of all prompts together; `None` if there is none.
    pub prompt: Option<PromptSize>,
    /// Prompts or texts to embed; a conversation is one.
    pub prompts: u64,
    prefix: Range<usize>,
    pub(crate) body: &'a [u8],
    pub(crate) spans: Spans,
}

/// Where in the body the patchable things are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    /// Just behind the opening brace.
    pub(crate) inside: usize,
    /// Members that stay if KV transfer parameters go.
    pub(crate) kept: usize,
    /// Members at the top that hold KV transfer parameters.
    pub(crate) removed: usize,
    /// The value of `model`, if it is a string.
    pub(crate) model: Option<Range<usize>>,
    pub(crate) stream_options: StreamOptions,
    /// KV transfer parameters, commas included; ordered, not overlapping.
    pub(crate) kv_transfer: Vec<Range<usize>>,
}

/// What `stream_options` holds, as far as a patch must know.
#[derive(Clone, Debug, Default)]
pub(crate) enum StreamOptions {
    #[default]
    Absent,
    Null(Range<usize>),
    /// An object without `include_usage`.
    Object {
        inside: usize,
        empty: bool,
    },
    /// The value of `include_usage`.
    Usage(Range<usize>),
    /// Not an object: the engine's to judge.
    Other,
}

/// Why a body cannot be routed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeekError {
    /// It is not one JSON object.
    #[error("malformed JSON at byte {offset}: expected {expected}")]
    Malformed {
        /// Bytes before the fault.
        offset: usize,
        /// What the grammar asks for there.
        expected: &'static str,
    },
    /// It is nested deeper than any request needs.
    #[error("JSON nested deeper than {MAX_DEPTH} levels at byte {offset}")]
    TooDeep {
        /// Bytes before the bracket that is one too many.
        offset: usize,
    },
    /// A field that routing depends on has the wrong type.
    #[error("{field} must be {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
    /// A count is below zero.
    #[error("{field} must not be negative")]
    Negative {
        /// The field's name.
        field: &'static str,
    },
}

impl PeekError {
    /// Returns the answer that a client gets: 400, shaped as vLLM shapes it.
    pub fn to_api_error(&self) -> ApiError {
        let param = match self {
            Self::Malformed { offset, .. } | Self::TooDeep { offset } => format!("body.{offset}"),
            Self::Field { field, .. } => format!("body.{field}"),
            Self::Negative { field } => (*field).to_owned(),
        };
        let kind = match self {
            Self::Negative { .. } => kind::BAD_REQUEST,
            _ => kind::BAD_BODY,
        };
        ApiError::new(400, kind, self.to_string()).with_param(param)
    }
}

impl From<Fault> for PeekError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Expected { offset, what } => Self::Malformed { offset, expected: what },
            Fault::TooDeep { offset } => Self::TooDeep { offset },
        }
    }
}

impl<'a> Peek<'a> {
    /// Reads `body`. Costs about one pass of `memchr` over it.
    ///
    /// # Errors
    /// If it is not one well-formed JSON object, or a field read here has the wrong type.
    pub fn parse(body: &'a [u8]) -> Result<Self, PeekError> {
        let mut reader = Reader::new(body);
        let mut found = Found::default();
        if reader.peek() != Some(b'{') {
            return Err(reader.expected("an object").into());
        }
        found.spans.inside = reader.at() + 1;
        let members = reader.members(|reader, name| found.read(reader, name))?;
        reader.end()?;
        found.finish(body, members)
    }

    /// Returns the first bytes of the prompt or of the messages as they are written, at most 1,024:
    /// equal for requests whose prompts begin alike.
    pub fn prefix(&self) -> &'a [u8] {
        &self.body[self.prefix.clone()]
    }

    /// Returns whether usage can be asked for in the client's place: not where it said something of
    /// its own that only the engine can judge.
    pub fn usage_can_be_asked_for(&self) -> bool {
        !matches!(self.spans.stream_options, StreamOptions::Other)
    }

    /// Returns whether a client sent KV transfer parameters, which no engine must see.
    pub fn has_kv_transfer_params(&self) -> bool {
        !self.spans.kv_transfer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peek(body: &str) -> Peek<'_> {
        Peek::parse(body.as_bytes()).expect(body)
    }

    fn check_wrong(body: &str, expected_field: &str) {
        match Peek::parse(body.as_bytes()) {
            Err(PeekError::Field { field, .. } | PeekError::Negative { field }) => {
                assert_eq!(field, expected_field, "{body}");
            }
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn a_chat_body_is_read() {
        let body = r#"{"messages":[{"role":"user","content":"hello"}],"model":"m","stream":true,
            "stream_options":{"include_usage":true,"continuous_usage_stats":true},
            "max_tokens":5,"max_completion_tokens":7,"n":2,"user":"\u4f60","tools":[{"a":1}],
            "logit_bias":{"1":[-1.5e3,null]}}"#;
        let peek = peek(body);
        assert_eq!(peek.model.as_deref(), Some("m"));
        assert!(peek.stream && peek.include_usage && peek.continuous_usage);
        assert_eq!((peek.max_tokens, peek.n, peek.prompts), (Some(7), Some(2), 1));
        assert_eq!(peek.user.as_deref(), Some("你"));
        assert_eq!(peek.prompt, Some(PromptSize::Bytes(5 + 9)));
        assert_eq!(peek.prefix(), br#"{"role":"user","content":"hello"}"#);
        assert!(!peek.has_kv_transfer_params());
    }

    #[test]
    fn an_empty_object_says_nothing() {
        let peek = peek(" {} ");
        assert_eq!((peek.model, peek.stream, peek.max_tokens), (None, false, None));
        assert_eq!((peek.prompt, peek.prompts, peek.body), (None, 0, &b" {} "[..]));
    }

    #[test]
    fn the_last_of_duplicates_counts_and_escaped_names_are_names() {
        let peek = peek(r#"{"model":"a","mod\u0065l":"b","kv_transfer_param\u0073":{}}"#);
        assert_eq!(peek.model.as_deref(), Some("b"));
        assert!(peek.has_kv_transfer_params());
    }

    #[test]
    fn the_prefix_is_bounded() {
        let body = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(5000));
        assert_eq!(peek(&body).prefix().len(), PREFIX_LENGTH);
        const PREFIX_LENGTH: usize = 1024;
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        check_wrong(r#"{"model":7}"#, "model");
        check_wrong(r#"{"model":"\ud800"}"#, "model");
        check_wrong(r#"{"stream":"perhaps"}"#, "stream");
        check_wrong(r#"{"max_tokens":-1}"#, "max_tokens");
        check_wrong(r#"{"max_tokens":1.5}"#, "max_tokens");
        check_wrong(r#"{"max_completion_tokens":"many"}"#, "max_completion_tokens");
        check_wrong(r#"{"n":[1]}"#, "n");
    }

    #[test]
    fn a_client_is_told_as_vllm_would_tell_it() {
        let check = |body: &str, kind: &str, param: &str| {
            let error = Peek::parse(body.as_bytes()).expect_err(body).to_api_error();
            let told = (error.status, &*error.kind, error.param.as_deref());
            assert_eq!(told, (400, kind, Some(param)), "{body}");
        };
        check(r#"{"model":"tiny","prompt":"#, "Bad Request", "body.25");
        check(r#"{"stream":"perhaps"}"#, "Bad Request", "body.stream");
        check(r#"{"max_tokens":-1}"#, "BadRequestError", "max_tokens");
    }

    #[test]
    fn what_the_engine_judges_is_left_to_it() {
        let peek = peek(
            r#"{"model":null,"stream":null,"max_tokens":16.0,"user":7,"messages":"x",
            "stream_options":3,"prompt":null,"n":null,"temperature":"hot"}"#,
        );
        assert_eq!((peek.model, peek.max_tokens, peek.user), (None, Some(16), None));
        for (flag, streams) in [("\"Yes\"", true), ("1", true), ("\"off\"", false), ("0", false)] {
            let body = format!(r#"{{"stream":{flag}}}"#);
            assert_eq!(Peek::parse(body.as_bytes()).expect("as pydantic reads it").stream, streams);
        }
        let quoted = r#"{"max_tokens":" 2 "}"#;
        assert_eq!(
            Peek::parse(quoted.as_bytes()).expect("as pydantic reads it").max_tokens,
            Some(2)
        );
    }

    #[test]
    fn malformed_json_is_named_before_a_wrong_field() {
        let error = Peek::parse(br#"{"model":7,"prompt":"#).expect_err("it ends too early");
        assert_eq!(error, PeekError::Malformed { offset: 20, expected: "a value" });
        let answer = error.to_api_error();
        assert_eq!((answer.status, answer.param.as_deref()), (400, Some("body.20")));
    }
}
