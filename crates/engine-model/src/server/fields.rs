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
    match serde_json::from_str(text) {
        Ok(Value::Object(body)) => Ok(body),
        Ok(other) => {
            let finding = format!(
                "{{'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid \
                 dictionary or object to extract fields from', 'input': {}}}",
                shown(&other)
            );
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
        let (kind, text) = match value {
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => return Some(integer),
                (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e18 => {
                    return Some(float as i64);
                }
                _ => ("int_from_float", "a valid integer, got a number with a fractional part"),
            },
            Value::String(text) => match text.trim().parse() {
                Ok(integer) => return Some(integer),
                Err(_) => ("int_parsing", "a valid integer, unable to parse string as an integer"),
            },
            Value::Bool(value) => return Some(i64::from(*value)),
            _ => ("int_type", "a valid integer"),
        };
        self.wrong(name, kind, text, value);
        None
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
        let Some(value) = self.get(name) else { return false };
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
            self.wrong(name, "dict_type", "a valid dictionary", value);
        }
        value.as_object()
    }

    /// Reports the field if it is not there.
    pub(super) fn require(&mut self, name: &str) {
        if !self.body.contains_key(name) {
            let finding = format!(
                "{{'type': 'missing', 'loc': 'body.{name}', 'msg': 'Field required', 'input': \
                 '<dict of {} items>'}}",
                self.body.len()
            );
            self.report(name, finding);
        }
    }

    fn wrong(&mut self, name: &str, kind: &str, expected: &str, value: &Value) {
        let finding = format!(
            "{{'type': '{kind}', 'loc': 'body.{name}', 'msg': 'Input should be {expected}', \
             'input': {}}}",
            shown(value)
        );
        self.report(name, finding);
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
