//! Prompts in every form in which clients send them, and whether they fit.

use serde_json::Value;

use super::errors::ApiError;
use super::request::Limits;
use super::text::{Prompt, VOCABULARY};

/// Checks that a prompt and what is asked for fit the model's context.
pub(super) fn fit(prompt: &mut Prompt, max_tokens: Option<i64>, most: u32) -> Result<(), ApiError> {
    let output = max_tokens.unwrap_or(0).max(0) as u32;
    // Text is cut one token behind what fits, so that a huge one is not counted to its end.
    let counted = |room: u32| match prompt.text {
        true if prompt.tokens > room + 1 => (room + 1, "at least "),
        true => (prompt.tokens, "at least "),
        false => (prompt.tokens, ""),
    };
    let start = format!("This model's maximum context length is {most} tokens. However, ");
    let (message, tokens) = if prompt.tokens >= most && output == 0 || prompt.tokens > most {
        let (tokens, at_least) = counted(most);
        let message = format!(
            "{start}your prompt contains {at_least}{tokens} input tokens, which exceeds this limit \
             even without any output tokens. Please reduce the length of the input prompt."
        );
        (message, tokens)
    } else if prompt.tokens + output > most {
        let (tokens, at_least) = counted(most - output);
        let message = format!(
            "{start}you requested {output} output tokens and your prompt contains {at_least}{tokens} \
             input tokens, for a total of {at_least}{} tokens. Please reduce the length of the input \
             prompt or the number of requested output tokens.",
            tokens + output
        );
        (message, tokens)
    } else {
        return Ok(());
    };
    Err(ApiError::parameter(&message, "input_tokens", Some(&tokens.to_string())))
}

/// Returns the number that stands for a text given as a seed or salt.
pub(super) fn seed_of(text: &str) -> u64 {
    sagellm_types::stable_hash(text.as_bytes(), 0)
}

/// Returns the prompts of a completion or an embedding: text, token ids, or a list of either.
///
/// # Errors
/// If it is none of them, or an id is out of vocabulary.
pub(super) fn prompts(
    value: Option<&Value>,
    limits: &Limits<'_>,
    salt: u64,
) -> Result<Vec<Prompt>, ApiError> {
    let one = |value: &Value| -> Result<Prompt, ApiError> {
        let mut prompt = Prompt::new(limits.block_size, salt);
        match value {
            Value::String(text) => prompt.push_text(text),
            Value::Array(ids) => {
                for id in ids {
                    prompt.push(u64::from(token_id(id)?));
                }
            }
            _ => return Err(ApiError::bad_request("prompt must be a string or a list of tokens")),
        }
        if prompt.tokens == 0 {
            let message = "Either prompt or prompt_embeds must be provided and non-empty.";
            return Err(ApiError::parameter(message, "prompt", None));
        }
        Ok(prompt)
    };
    match value {
        Some(Value::Array(items)) if !items.first().is_some_and(Value::is_number) => {
            items.iter().map(one).collect()
        }
        Some(value) => Ok(vec![one(value)?]),
        None => Ok(Vec::new()),
    }
}

/// Returns a token id.
///
/// # Errors
/// If it is not one of the vocabulary.
pub(super) fn token_id(value: &Value) -> Result<u32, ApiError> {
    let id = value.as_u64().filter(|id| *id < u64::from(VOCABULARY));
    id.map(|id| id as u32)
        .ok_or_else(|| ApiError::bad_request(format!("Token id {value} is out of vocabulary")))
}

/// Returns the prompt that a chat template would make of `messages`.
///
/// # Errors
/// If there are none.
pub(super) fn chat_prompt(
    messages: &[Value],
    tools: &[Value],
    limits: &Limits<'_>,
    salt: u64,
) -> Result<Prompt, ApiError> {
    const START: u64 = 1 << 40;
    const END: u64 = 2 << 40;
    if messages.is_empty() {
        return Err(ApiError::bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message.",
        ));
    }
    let mut prompt = Prompt::new(limits.block_size, salt);
    for tool in tools {
        prompt.push_text(&tool.to_string());
    }
    for message in messages {
        prompt.push(START);
        prompt.push_text(message.get("role").and_then(Value::as_str).unwrap_or_default());
        match message.get("content") {
            Some(Value::String(text)) => prompt.push_text(text),
            Some(Value::Array(parts)) => {
                for part in parts {
                    let text = part.as_str().or_else(|| part.get("text")?.as_str());
                    prompt.push_text(text.unwrap_or("<image>"));
                }
            }
            _ => {}
        }
        if let Some(calls) = message.get("tool_calls").filter(|calls| !calls.is_null()) {
            prompt.push_text(&calls.to_string());
        }
        prompt.push(END);
    }
    prompt.push(START);
    prompt.push_text("assistant\n");
    prompt.text = true;
    Ok(prompt)
}
