//! Prompts in every form in which clients send them, and whether they fit.

use serde_json::Value;

use super::errors::ApiError;
use super::fields::{finding, integer, missing};
use super::request::Limits;
use super::text::{Prompt, VOCABULARY};

/// Characters of the longest token that a tokenizer might have; this one's have four.
const LONGEST_TOKEN: usize = 32;

/// Returns how many tokens may be put out after a prompt: what is asked for, or what there is room
/// for if that is less or nothing is asked for.
///
/// # Errors
/// If the prompt alone is longer than the model's context.
pub(super) fn fit(prompt: &Prompt, max_tokens: Option<i64>, most: u32) -> Result<i64, ApiError> {
    if prompt.tokens > most {
        // Text is cut one token behind what fits, so that a huge one is not counted to its end.
        let (tokens, at_least) =
            if prompt.text { (most + 1, "at least ") } else { (prompt.tokens, "") };
        let message = format!(
            "This model's maximum context length is {most} tokens. However, your prompt contains \
             {at_least}{tokens} input tokens, which exceeds this limit even without any output \
             tokens. Please reduce the length of the input prompt."
        );
        return Err(ApiError::parameter(&message, "input_tokens", Some(&tokens.to_string())));
    }
    let room = i64::from(most - prompt.tokens);
    Ok(max_tokens.map_or(room, |tokens| tokens.min(room)))
}

/// Checks that a text of so many characters can fit, before its tokens are counted.
///
/// # Errors
/// If not even the longest tokens would make it fit.
fn check_length(characters: usize, limits: &Limits<'_>) -> Result<(), ApiError> {
    let most = limits.max_model_len as usize * LONGEST_TOKEN;
    if characters <= most {
        return Ok(());
    }
    let message = format!(
        "This model's maximum context length is {0} tokens. However, your prompt contains \
         {characters} characters (more than {most} characters, which is the upper bound for {0} \
         input tokens). Please reduce the length of the input prompt.",
        limits.max_model_len
    );
    Err(ApiError::parameter(&message, "input_text", Some(&characters.to_string())))
}

/// Returns the number that stands for a text given as a seed or salt.
pub(super) fn seed_of(text: &str) -> u64 {
    sagellm_types::stable_hash(text.as_bytes(), 0)
}

/// Returns what the validator finds wrong with a prompt: places below the body, and what it says.
///
/// A prompt is a list of ids, a list of lists of ids, a text, or a list of texts; where it is none
/// of them, the validator tells why it is not the first, the second, and so on.
pub(super) fn check(name: &str, value: &Value) -> Vec<(String, String)> {
    let no_list = |place: &str, value: &Value| fault(place, "list_type", "a valid list", value);
    let no_text = |place: &str, value: &Value| fault(place, "string_type", "a valid string", value);
    let Value::Array(items) = value else {
        let list = || no_list(name, value);
        let faults = || vec![list(), list(), no_text(name, value), list()];
        return if value.is_string() { Vec::new() } else { faults() };
    };
    // Each form that holds makes the others of no interest; what is wrong with them can be long.
    let flat = check_ids(name, items);
    if flat.is_empty() || items.iter().all(Value::is_string) {
        return Vec::new();
    }
    let places = || items.iter().enumerate().map(|(n, item)| (format!("{name}.{n}"), item));
    let nested: Vec<_> = places()
        .flat_map(|(place, item)| match item {
            Value::Array(inner) => check_ids(&place, inner),
            other => vec![no_list(&place, other)],
        })
        .collect();
    if nested.is_empty() {
        return Vec::new();
    }
    let texts = places().filter(|(_, item)| !item.is_string());
    let texts: Vec<_> = texts.map(|(place, item)| no_text(&place, item)).collect();
    flat.into_iter().chain(nested).chain([no_text(name, value)]).chain(texts).collect()
}

/// Returns what the validator finds wrong with a list of token ids.
pub(super) fn check_ids(name: &str, items: &[Value]) -> Vec<(String, String)> {
    let check = |(n, item): (usize, &Value)| {
        let place = || format!("{name}.{n}");
        match integer(item) {
            Ok(id) if id >= 0 => None,
            Ok(_) => {
                let expected = "greater than or equal to 0";
                let (place, said) = fault(&place(), "greater_than_equal", expected, item);
                Some((place, said.replace("'}", "', 'ctx': {'ge': 0}}")))
            }
            Err((kind, expected)) => Some(fault(&place(), kind, expected, item)),
        }
    };
    items.iter().enumerate().filter_map(check).collect()
}

fn fault(place: &str, kind: &str, expected: &str, value: &Value) -> (String, String) {
    (place.to_owned(), finding(&format!("body.{place}"), kind, expected, value))
}

/// Returns what the validator finds wrong with messages: of each wrong one, why it is not the first
/// of the kinds that a message may be of.
pub(super) fn check_messages(messages: &[Value]) -> Vec<(String, String)> {
    let check = |(n, message): (usize, &Value)| {
        let place = format!("messages.{n}.ChatCompletionDeveloperMessageParam");
        let at = format!("body.{place}");
        match message {
            Value::Object(fields) if fields.contains_key("role") => None,
            Value::Object(fields) => Some((format!("{place}.role"), missing(&at, "role", fields))),
            other => Some((place, finding(&at, "dict_type", "a valid dictionary", other))),
        }
    };
    messages.iter().enumerate().filter_map(check).collect()
}

/// Returns the prompts of a completion or an embedding, whose form has been checked.
///
/// # Errors
/// If there is none, one is empty, or an id is out of vocabulary.
pub(super) fn prompts(
    value: &Value,
    limits: &Limits<'_>,
    salt: u64,
) -> Result<Vec<Prompt>, ApiError> {
    let one = |value: &Value| -> Result<Prompt, ApiError> {
        let mut prompt = Prompt::new(limits.block_size, salt);
        match value {
            Value::Array(ids) => {
                for id in ids {
                    prompt.push(u64::from(token_id(id)?));
                }
            }
            text => {
                let text = text.as_str().unwrap_or_default();
                check_length(text.chars().count(), limits)?;
                prompt.push_text(text);
            }
        }
        if prompt.tokens == 0 {
            return Err(ApiError::bad_request("The decoder prompt cannot be empty"));
        }
        Ok(prompt)
    };
    match value {
        Value::Array(items) if items.is_empty() => {
            Err(ApiError::bad_request("You must pass at least one prompt"))
        }
        Value::Array(items) if items[0].is_array() || items.iter().all(Value::is_string) => {
            items.iter().map(one).collect()
        }
        value => Ok(vec![one(value)?]),
    }
}

/// Returns a token id.
///
/// # Errors
/// If it is not one of the vocabulary.
pub(super) fn token_id(value: &Value) -> Result<u32, ApiError> {
    let id = integer(value).ok().and_then(|id| u32::try_from(id).ok());
    id.filter(|id| *id < VOCABULARY)
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
    let texts = messages.iter().filter_map(|message| message.get("content")?.as_str());
    check_length(texts.map(|text| text.chars().count()).sum(), limits)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn places(json: &str) -> Vec<String> {
        let value = serde_json::from_str(json).expect("JSON");
        check("prompt", &value).into_iter().map(|(place, _)| place).collect()
    }

    #[test]
    fn every_form_of_a_prompt_is_taken() {
        for json in [r#""x""#, "[1,2]", "[[1],[2,3]]", r#"["x","y"]"#, "[]", "[[]]", r#"[1,"7"]"#] {
            assert_eq!(places(json), [""; 0], "{json}");
        }
    }

    #[test]
    fn what_is_no_prompt_is_told_for_each_form() {
        assert_eq!(places("7"), ["prompt"; 4]);
        assert_eq!(
            places(r#"[300,"x"]"#),
            ["prompt.1", "prompt.0", "prompt.1", "prompt", "prompt.0"]
        );
        assert_eq!(places("[[300,-1]]"), ["prompt.0", "prompt.0.1", "prompt", "prompt.0"]);
        let (_, said) = check("prompt", &serde_json::json!([-1])).remove(0);
        assert_eq!(
            said,
            "{'type': 'greater_than_equal', 'loc': 'body.prompt.0', 'msg': 'Input should be \
             greater than or equal to 0', 'input': '-1', 'ctx': {'ge': 0}}"
        );
    }
}
