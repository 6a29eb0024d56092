//! Tool calls: when to answer with one, and with which arguments.

use serde_json::{Map, Value};

use super::request::Script;

/// Returns the call that answers the request, if it asks for one: `tool_choice` demands it, or the
/// last message names a tool and `tool_choice` leaves it open.
pub(super) fn tool_call(
    body: &Map<String, Value>,
    tools: &[Value],
    messages: &[Value],
) -> Option<Script> {
    let name_of = |tool: &'_ Value| Some(tool.get("function")?.get("name")?.as_str()?.to_owned());
    let tool = match body.get("tool_choice") {
        Some(Value::String(choice)) if choice == "none" => return None,
        Some(Value::String(choice)) if choice == "required" => tools.first()?,
        Some(named @ Value::Object(_)) => {
            let name = name_of(named)?;
            tools.iter().find(|tool| name_of(tool).as_ref() == Some(&name))?
        }
        _ => {
            let said = messages.last()?.get("content")?.to_string();
            tools.iter().find(|tool| name_of(tool).is_some_and(|name| said.contains(&name)))?
        }
    };
    let parameters = tool.get("function")?.get("parameters").unwrap_or(&Value::Null);
    Some(Script::Tool { name: name_of(tool)?, arguments: example(parameters, 0).to_string() })
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
