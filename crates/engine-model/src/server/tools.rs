//! Tool calls: when to answer with one, and with which arguments; as a server that was started with
//! `--enable-auto-tool-choice`.

use serde_json::{Map, Value};

use super::errors::ApiError;
use super::request::Script;

/// Checks that tools and the choice of one fit each other.
///
/// # Errors
/// As vLLM words them.
pub(super) fn check(body: &Map<String, Value>) -> Result<(), ApiError> {
    let given = |name: &str| body.get(name).filter(|value| !value.is_null());
    let refuse = |message: &str, param: &str| Err(ApiError::parameter(message, param, None));
    let tools = given("tools").and_then(Value::as_array);
    if tools.is_some_and(Vec::is_empty) {
        let message = "`tools` must not be an empty array. Either provide at least one tool or omit \
                       the field entirely.";
        return refuse(message, "tools");
    }
    let Some(choice) = given("tool_choice").filter(|choice| *choice != "none") else {
        return Ok(());
    };
    let Some(tools) = tools else {
        return refuse("When using `tool_choice`, `tools` must be set.", "tool_choice");
    };
    match choice {
        Value::String(choice) if choice == "auto" || choice == "required" => Ok(()),
        Value::String(choice) => {
            let message = format!(
                "Invalid value for `tool_choice`: {choice}! Only named tools, \"none\", \"auto\" or \
                 \"required\" are supported."
            );
            refuse(&message, "tool_choice")
        }
        named if tools.iter().any(|tool| name_of(tool) == name_of(named)) => Ok(()),
        _ => {
            let message =
                "The tool specified in `tool_choice` does not match any of the specified `tools`";
            refuse(message, "tool_choice")
        }
    }
}

fn name_of(tool: &Value) -> Option<&str> {
    tool.get("function")?.get("name")?.as_str()
}

/// Returns the call that answers the request, if it asks for one: `tool_choice` demands it, or the
/// last message names a tool and `tool_choice` leaves it open.
pub(super) fn tool_call(
    body: &Map<String, Value>,
    tools: &[Value],
    messages: &[Value],
) -> Option<Script> {
    let mut finish = "tool_calls";
    let tool = match body.get("tool_choice") {
        Some(Value::String(choice)) if choice == "none" => return None,
        Some(Value::String(choice)) if choice == "required" => tools.first()?,
        Some(named @ Value::Object(_)) => {
            // Whoever names the tool knows that it is called.
            finish = "stop";
            tools.iter().find(|tool| name_of(tool) == name_of(named))?
        }
        _ => {
            let said = messages.last()?.get("content")?.to_string();
            tools.iter().find(|tool| name_of(tool).is_some_and(|name| said.contains(name)))?
        }
    };
    let parameters = tool.get("function")?.get("parameters").unwrap_or(&Value::Null);
    let (name, arguments) = (name_of(tool)?.to_owned(), example(parameters, 0).to_string());
    Some(Script::Tool { name, arguments, finish })
}

/// Returns a value that satisfies a JSON schema, as far as it is made of types and properties.
fn example(schema: &Value, depth: u32) -> Value {
    if let Some(first) = schema.get("enum").and_then(|values| values.get(0)) {
        return first.clone();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => Value::from("example"),
        Some("integer" | "number") => Value::from(1),
        Some("boolean") => Value::from(true),
        Some("array") if depth < 8 => {
            Value::from(vec![example(schema.get("items").unwrap_or(&Value::Null), depth + 1)])
        }
        Some("array") => Value::from(Vec::<Value>::new()),
        _ => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let properties = properties.filter(|_| depth < 8).into_iter().flatten();
            properties.map(|(name, schema)| (name.clone(), example(schema, depth + 1))).collect()
        }
    }
}
