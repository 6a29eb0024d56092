//! Fields of a request body: present, of the right type, or told as the validator tells it.
//!
//! vLLM validates with pydantic, which takes numbers in strings and whole floats for integers, and
//! reports every field that is wrong; so does this.

use serde_json::{Map, Value};

use super::errors::{ApiError, shown};
use super::json;

/// A body under validation: reads fields and gathers what is wrong with them.
pub(super) struct Fields<'a> {
    body: &'a Map<String, Value>,
    findings: Vec<String>,
    first: Option<String>,
}

/// Returns the object that `bytes` hold.
///
/// # Errors
/// If they are not JSON, or not an object.
pub(super) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ApiError::bad_request("There was an error parsing the body"))?;
    if text.is_empty() {
        return Err(no_body());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(body)) => Ok(body),
        Ok(Value::Null) => Err(no_body()),
        Ok(other) => {
            let finding = finding("body", NO_OBJECT.0, NO_OBJECT.1, &other);
            Err(ApiError::invalid(&[finding], Some("body".to_owned())))
        }
        Err(_) => {
            let (at, why) = json::fault(text);
            let finding = format!(
                "{{'type': 'json_invalid', 'loc': 'body.{at}', 'msg': 'JSON decode error', \
                 'input': '<dict of 0 items>', 'ctx': {{'error': '{}'}}}}",
                why.replace('\'', "\\'")
            );
            Err(ApiError::invalid(&[finding], Some(format!("body.{at}"))))
        }
    }
}

/// The complaint of the validator where it wants an object of its own kind: what it calls it, and
/// what the input should be.
const NO_OBJECT: (&str, &str) =
    ("model_attributes_type", "a valid dictionary or object to extract fields from");

fn no_body() -> ApiError {
    let finding =
        "{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}".to_owned();
    ApiError::invalid(&[finding], Some("body".to_owned()))
}

/// Returns what the validator says of a `value` at the place `at`.
pub(super) fn finding(at: &str, kind: &str, expected: &str, value: &Value) -> String {
    format!(
        "{{'type': '{kind}', 'loc': '{at}', 'msg': 'Input should be {expected}', 'input': {}}}",
        shown(value)
    )
}

/// Returns what the validator says of `name` that is not in the object at the place `at`.
pub(super) fn missing(at: &str, name: &str, object: &Map<String, Value>) -> String {
    format!(
        "{{'type': 'missing', 'loc': '{at}.{name}', 'msg': 'Field required', 'input': '<dict of {} \
         items>'}}",
        object.len()
    )
}

/// Returns `value` as an integer.
///
/// # Errors
/// What the validator calls the fault, and what the input should be.
pub(super) fn integer(value: &Value) -> Result<i64, (&'static str, &'static str)> {
    match value {
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(integer),
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e18 => Ok(float as i64),
            _ => Err(("int_from_float", "a valid integer, got a number with a fractional part")),
        },
        Value::String(text) => text
            .trim()
            .parse()
            .map_err(|_| ("int_parsing", "a valid integer, unable to parse string as an integer")),
        Value::Bool(value) => Ok(i64::from(*value)),
        _ => Err(("int_type", "a valid integer")),
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(body: &'a Map<String, Value>) -> Self {
        Self { body, findings: Vec::new(), first: None }
    }

    /// Returns the field unless it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.body.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn integer(&mut self, name: &str) -> Option<i64> {
        let value = self.get(name)?;
        match integer(value) {
            Ok(integer) => Some(integer),
            Err((kind, expected)) => {
                self.wrong(name, kind, expected, value);
                None
            }
        }
    }

    pub(super) fn float(&mut self, name: &str) -> Option<f64> {
        let value = self.get(name)?;
        let (kind, text) = match value {
            Value::Number(number) => return number.as_f64(),
            Value::String(text) => match text.trim().parse() {
                Ok(float) => return Some(float),
                Err(_) => ("float_parsing", "a valid number, unable to parse string as a number"),
            },
            Value::Bool(value) => return Some(f64::from(u8::from(*value))),
            _ => ("float_type", "a valid number"),
        };
        self.wrong(name, kind, text, value);
        None
    }

    pub(super) fn boolean(&mut self, name: &str) -> bool {
        self.get(name).is_some_and(|value| self.boolean_at(name, value))
    }

    /// Returns the boolean that `value` at the place `name` below the body is.
    pub(super) fn boolean_at(&mut self, name: &str, value: &Value) -> bool {
        let text = match value {
            Value::Bool(value) => return *value,
            Value::String(text) => text.to_ascii_lowercase(),
            Value::Number(number) => number.to_string(),
            _ => {
                self.wrong(name, "bool_type", "a valid boolean", value);
                return false;
            }
        };
        match text.as_str() {
            "true" | "1" | "on" | "yes" | "y" | "t" => true,
            "false" | "0" | "off" | "no" | "n" | "f" => false,
            _ => {
                let expected = "a valid boolean, unable to interpret input";
                self.wrong(name, "bool_parsing", expected, value);
                false
            }
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Option<&'a str> {
        let value = self.get(name)?;
        if value.as_str().is_none() {
            self.wrong(name, "string_type", "a valid string", value);
        }
        value.as_str()
    }

    pub(super) fn list(&mut self, name: &str) -> Option<&'a [Value]> {
        let value = self.get(name)?;
        if !value.is_array() {
            self.wrong(name, "list_type", "a valid list", value);
        }
        value.as_array().map(Vec::as_slice)
    }

    pub(super) fn object(&mut self, name: &str) -> Option<&'a Map<String, Value>> {
        let value = self.get(name)?;
        if !value.is_object() {
            self.wrong(name, NO_OBJECT.0, NO_OBJECT.1, value);
        }
        value.as_object()
    }

    /// Returns a text, or the texts of a list of at most `most`.
    pub(super) fn texts(&mut self, name: &str, most: usize) -> Vec<String> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let items = match value {
            Value::String(text) => return vec![text.clone()],
            Value::Array(items) => items,
            _ => {
                self.wrong(name, "string_type", "a valid string", value);
                self.wrong(name, "list_type", "a valid list", value);
                return Vec::new();
            }
        };
        let wrong: Vec<_> =
            items.iter().enumerate().filter(|(_, item)| !item.is_string()).collect();
        if !wrong.is_empty() {
            self.wrong(name, "string_type", "a valid string", value);
        }
        for (place, item) in &wrong {
            self.wrong(&format!("{name}.{place}"), "string_type", "a valid string", item);
        }
        if wrong.is_empty() && items.len() > most {
            self.wrong(name, "string_type", "a valid string", value);
            let count = items.len();
            let finding = format!(
                "{{'type': 'too_long', 'loc': 'body.{name}', 'msg': 'List should have at most {most} \
                 items after validation, not {count}', 'input': {}, 'ctx': {{'field_type': 'List', \
                 'max_length': {most}, 'actual_length': {count}}}}}",
                shown(value)
            );
            self.report(name, finding);
        }
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Takes over what was found elsewhere: places below the body, and what is said of them.
    pub(super) fn found(&mut self, findings: impl IntoIterator<Item = (String, String)>) {
        for (place, finding) in findings {
            self.report(&place, finding);
        }
    }

    /// Reports the field if it is not there.
    pub(super) fn require(&mut self, name: &str) {
        if !self.body.contains_key(name) {
            self.report(name, missing("body", name, self.body));
        }
    }

    fn wrong(&mut self, name: &str, kind: &str, expected: &str, value: &Value) {
        self.report(name, finding(&format!("body.{name}"), kind, expected, value));
    }

    fn report(&mut self, name: &str, finding: String) {
        self.findings.push(finding);
        self.first.get_or_insert_with(|| format!("body.{name}"));
    }

    /// Ends the validation.
    ///
    /// # Errors
    /// If any field was wrong.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        if self.findings.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(&self.findings, self.first))
        }
    }
}
