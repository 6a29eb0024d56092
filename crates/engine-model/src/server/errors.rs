//! Refusals, byte for byte as vLLM 0.32 words them.

use http::StatusCode;
use serde_json::Value;

use super::json;

/// More findings than this are only counted.
const MOST_FINDINGS: usize = 10;

/// A refusal: a status and an error body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
}

impl ApiError {
    /// A value that the engine refuses, without naming a parameter.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError", message.into(), None)
    }

    /// A value that the engine refuses: the parameter, and if it is to be shown, its value.
    pub(super) fn parameter(message: &str, param: &str, value: Option<&str>) -> Self {
        let value = value.map(|value| format!(", value={value}")).unwrap_or_default();
        let message = format!("{message} (parameter={param}{value})");
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError", message, Some(param.to_owned()))
    }

    /// A body of the wrong shape; `findings` is what the validator says, one a line.
    pub(super) fn invalid(findings: &[String], param: Option<String>) -> Self {
        let count = findings.len();
        let plural = if count == 1 { "" } else { "s" };
        let shown = findings[..count.min(MOST_FINDINGS)].join("\n  ");
        let mut message = format!("{count} validation error{plural}:\n  {shown}");
        if count > MOST_FINDINGS {
            message.push_str(&format!("\n  ...and {} more errors", count - MOST_FINDINGS));
        }
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", message, param)
    }

    pub(super) fn no_model(model: &str, served: &str) -> Self {
        let message = format!("The model `{model}` does not exist. Valid aliases: {served}.");
        Self::new(StatusCode::NOT_FOUND, "NotFoundError", message, Some("model".to_owned()))
    }

    pub(super) fn busy() -> Self {
        let message = "The engine is currently busy. Please retry later.".to_owned();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", message, None)
    }

    /// What a test wants to see fail.
    pub(super) fn injected(status: StatusCode) -> Self {
        let (kind, message) = match status.as_u16() {
            503 => return Self::busy(),
            500 => (
                "InternalServerError",
                "EngineCore encountered an issue. See stack trace (above) for the root cause.",
            ),
            _ => (status.canonical_reason().unwrap_or("Error"), "injected failure"),
        };
        Self::new(status, kind, message.to_owned(), None)
    }

    fn new(status: StatusCode, kind: &'static str, message: String, param: Option<String>) -> Self {
        Self { status, message, kind, param }
    }

    /// Returns the body.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(160 + self.message.len());
        body.extend(br#"{"error":{"message":"#);
        json::string(&mut body, &self.message);
        body.extend(br#","type":"#);
        json::string(&mut body, self.kind);
        body.extend(br#","param":"#);
        match &self.param {
            Some(param) => json::string(&mut body, param),
            None => body.extend(b"null"),
        }
        body.extend(format!(",\"code\":{}}}}}", self.status.as_u16()).as_bytes());
        body
    }
}

/// Returns `value` as the validator shows an input.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "'None'".to_owned(),
        Value::Bool(true) => "'True'".to_owned(),
        Value::Bool(false) => "'False'".to_owned(),
        Value::Number(number) => format!("'{number}'"),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("'<list of {} items>'", items.len()),
        Value::Object(fields) => format!("'<dict of {} items>'", fields.len()),
    }
}

/// Returns `text` as Python's `repr` shows it, but for characters that cannot be printed.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for char in text.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            char if char == quote => out.extend(['\\', char]),
            char => out.push(char),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_those_of_the_real_server() {
        let check = |error: ApiError, expected: &str| {
            assert_eq!(String::from_utf8(error.body()).expect("UTF-8"), expected);
        };
        check(
            ApiError::no_model("nope", "tiny"),
            r#"{"error":{"message":"The model `nope` does not exist. Valid aliases: tiny.","type":"NotFoundError","param":"model","code":404}}"#,
        );
        check(
            ApiError::parameter("max_tokens must be at least 1, got -1.", "max_tokens", Some("-1")),
            r#"{"error":{"message":"max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)","type":"BadRequestError","param":"max_tokens","code":400}}"#,
        );
        check(
            ApiError::bad_request("n must be at least 1, got 0."),
            r#"{"error":{"message":"n must be at least 1, got 0.","type":"BadRequestError","param":null,"code":400}}"#,
        );
    }

    #[test]
    fn of_many_findings_ten_are_told() {
        let findings: Vec<String> = (0..12).map(|n| format!("finding {n}")).collect();
        let message = ApiError::invalid(&findings, None).message;
        assert!(message.starts_with("12 validation errors:\n  finding 0\n  finding 1\n"));
        assert!(message.ends_with("\n  finding 9\n  ...and 2 more errors"), "{message}");
        assert_eq!(
            ApiError::invalid(&findings[..1], None).message,
            "1 validation error:\n  finding 0"
        );
    }

    #[test]
    fn inputs_are_shown_as_python_shows_them() {
        let check = |json: &str, expected: &str| {
            assert_eq!(shown(&serde_json::from_str(json).expect("JSON")), expected);
        };
        check(r#""hot""#, "'hot'");
        check(r#""it's""#, "\"it's\"");
        check(r#"{"a":1}"#, "'<dict of 1 items>'");
        check("true", "'True'");
        check("7", "'7'");
        check("null", "'None'");
    }
}
