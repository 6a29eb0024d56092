//! The list of models, as `/v1/models` has it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What `/v1/models` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// Always `list`.
    #[serde(default = "list")]
    pub object: String,
    /// One card per model, adapter or alias.
    pub data: Vec<ModelCard>,
}

/// One served model. Members that vLLM sends beyond these are not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The name to ask for.
    pub id: String,
    /// Always `model`.
    #[serde(default = "model")]
    pub object: String,
    /// Seconds since 1970; vLLM says the present.
    #[serde(default)]
    pub created: i64,
    /// Who offers it.
    #[serde(default)]
    pub owned_by: String,
    /// The path or the repository that it was loaded from; an adapter's own path for an adapter.
    #[serde(default)]
    pub root: Option<String>,
    /// The base model, if this is an adapter.
    #[serde(default)]
    pub parent: Option<String>,
    /// The longest context, in tokens.
    #[serde(default)]
    pub max_model_len: Option<u64>,
}

fn list() -> String {
    "list".to_owned()
}

fn model() -> String {
    "model".to_owned()
}

impl ModelList {
    /// Returns a list of `data`.
    pub fn new(data: Vec<ModelCard>) -> Self {
        Self { object: list(), data }
    }

    /// Reads what an engine answered; `None` if it is not such a list.
    pub fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Returns the list as JSON.
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).expect("strings and numbers are always JSON").into()
    }
}

impl ModelCard {
    /// Returns a card that says no more than who offers what.
    pub fn new(id: impl Into<String>, owned_by: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            object: model(),
            created: 0,
            owned_by: owned_by.into(),
            root: None,
            parent: None,
            max_model_len: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_vllms_is_read_with_its_adapters() {
        let body = br#"{"object":"list","data":[
            {"id":"tiny","object":"model","created":1795342500,"owned_by":"vllm","root":"/models/tiny",
             "parent":null,"max_model_len":2048,"permission":[{"id":"modelperm-1"}]},
            {"id":"tiny-lora","object":"model","created":1,"owned_by":"vllm","root":"/loras/a",
             "parent":"tiny","max_model_len":null}]}"#;
        let list = ModelList::parse(body).expect("a list");
        assert_eq!(list.data[0].max_model_len, Some(2048));
        assert_eq!(list.data[1].parent.as_deref(), Some("tiny"));
        assert_eq!(ModelList::parse(&list.to_json()), Some(list));
    }

    #[test]
    fn something_else_is_no_list() {
        assert_eq!(ModelList::parse(b"<html>"), None);
        assert_eq!(ModelList::parse(br#"{"detail":"Not Found"}"#), None);
    }
}
