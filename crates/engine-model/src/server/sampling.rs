//! The sampling fields of a request: read and checked, and of no effect on words that are drawn
//! from a hash.

use super::errors::ApiError;
use super::fields::Fields;

/// The sampling fields that were given.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sampling {
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
}

impl Sampling {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            presence_penalty: fields.float("presence_penalty"),
            frequency_penalty: fields.float("frequency_penalty"),
            repetition_penalty: fields.float("repetition_penalty"),
            temperature: fields.float("temperature"),
            top_p: fields.float("top_p"),
            top_k: fields.integer("top_k"),
            min_p: fields.float("min_p"),
        }
    }

    /// Checks the values, in vLLM's order.
    ///
    /// # Errors
    /// As vLLM words them: some name the parameter, some do not.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let within = |name: &str, value: Option<f64>| match value {
            Some(value) if !(-2.0..=2.0).contains(&value) => {
                Err(ApiError::bad_request(format!("{name} must be in [-2, 2], got {value:?}.")))
            }
            _ => Ok(()),
        };
        within("presence_penalty", self.presence_penalty)?;
        within("frequency_penalty", self.frequency_penalty)?;
        if let Some(value) = self.repetition_penalty.filter(|value| *value <= 0.0) {
            let message = format!("repetition_penalty must be greater than zero, got {value:?}.");
            return Err(ApiError::bad_request(message));
        }
        let named = |name: &str, value: f64, rule: &str| {
            let message = format!("{name} must be {rule}, got {value:?}.");
            Err(ApiError::parameter(&message, name, Some(&format!("{value:?}"))))
        };
        if let Some(value) = self.temperature.filter(|value| *value < 0.0) {
            return named("temperature", value, "non-negative");
        }
        if let Some(value) = self.top_p.filter(|value| !(0.0 < *value && *value <= 1.0)) {
            return named("top_p", value, "in (0, 1]");
        }
        if let Some(value) = self.top_k.filter(|value| *value < -1) {
            let message = format!("top_k must be 0 (disable), or at least 1, got {value}.");
            return Err(ApiError::bad_request(message));
        }
        match self.min_p.filter(|value| !(0.0..=1.0).contains(value)) {
            Some(value) => {
                Err(ApiError::bad_request(format!("min_p must be in [0, 1], got {value:?}.")))
            }
            None => Ok(()),
        }
    }
}
