//! Properties: the reader agrees with `serde_json`, and a patch touches nothing but what it names.

use proptest::prelude::*;
use sagellm_api::{Patch, Peek, PeekError, PromptSize};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

/// Any JSON value, not deeper than five levels.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Eighths: exact in binary and in decimal, so that reading them back is no test of serde_json.
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        any::<String>().prop_map(Value::from),
        "[a-z\u{4f60}\u{1f600}\"\\\\\n]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("[a-z_\u{e9}\"]{0,8}", inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A request body whose members come in any order, among others of any kind.
fn body() -> impl Strategy<Value = Map<String, Value>> {
    let stream_options = prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!({"include_usage": false, "x": 1})),
        Just(json!({"continuous_usage_stats": true, "include_usage": true})),
        Just(json!({"y": {"include_usage": 1}})),
    ];
    let xargs = prop_oneof![
        Just(json!({"kv_transfer_params": "x"})),
        Just(json!({"a": 1, "kv_transfer_params": {}, "b": 2})),
        Just(json!({"a": 1})),
        Just(json!([1])),
    ];
    let named = (
        prop::option::of(any::<String>()),
        prop::option::of(stream_options),
        prop::option::of(value()),
        prop::option::of(xargs),
    );
    let others = prop::collection::vec(("x[a-z\\\\\"]{0,6}", value()), 0..5);
    (named, others, any::<prop::sample::Index>()).prop_map(|(named, others, turn)| {
        let (model, stream_options, kv, xargs) = named;
        let mut members: Vec<(String, Value)> = others;
        members.extend(model.map(|model| ("model".to_owned(), Value::from(model))));
        members.extend(stream_options.map(|value| ("stream_options".to_owned(), value)));
        members.extend(kv.map(|value| ("kv_transfer_params".to_owned(), value)));
        members.extend(xargs.map(|value| ("vllm_xargs".to_owned(), value)));
        if !members.is_empty() {
            let turn = turn.index(members.len());
            members.rotate_left(turn);
        }
        members.into_iter().collect()
    })
}

/// Writes JSON as compact, spaced or ASCII-only text.
fn write(body: &Map<String, Value>, style: u8) -> String {
    match style % 3 {
        0 => serde_json::to_string(body).expect("JSON"),
        1 => serde_json::to_string_pretty(body).expect("JSON"),
        _ => {
            let compact = serde_json::to_string(body).expect("JSON");
            let mut ascii = String::new();
            for character in compact.chars() {
                if character.is_ascii() {
                    ascii.push(character);
                } else {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        ascii.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
            ascii
        }
    }
}

/// What the body should mean once patched.
fn expected(mut body: Map<String, Value>, model: &str) -> Value {
    body.shift_remove("kv_transfer_params");
    if let Some(Value::Object(xargs)) = body.get_mut("vllm_xargs") {
        xargs.shift_remove("kv_transfer_params");
    }
    if let Some(name) = body.get_mut("model") {
        *name = model.into();
    }
    let options = body.entry("stream_options").or_insert(Value::Null);
    if options.is_null() {
        *options = json!({});
    }
    options["include_usage"] = true.into();
    Value::Object(body)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_object_is_read(body in body(), style: u8) {
        let text = write(&body, style);
        let peek = Peek::parse(text.as_bytes()).expect("well-formed");
        prop_assert_eq!(peek.model.as_deref(), body.get("model").and_then(Value::as_str));
    }

    #[test]
    fn damaged_bodies_are_refused_where_serde_refuses_them(
        body in body(), style: u8, at: prop::sample::Index, damage in prop::sample::select(&b"{}[],:\"\\ 019-.eutn\x01"[..]), cut: bool,
    ) {
        let mut text = write(&body, style).into_bytes();
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = damage }
        let ours = match Peek::parse(&text) {
            // A well-formed body all the same, which cannot be routed.
            Err(PeekError::Field { .. } | PeekError::Negative { .. }) => true,
            other => other.is_ok(),
        };
        let theirs = serde_json::from_slice::<IgnoredAny>(&text).is_ok()
            && text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        prop_assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn a_patch_means_what_it_says_and_nothing_else(body in body(), style: u8, name: String) {
        let text = write(&body, style);
        let peek = Peek::parse(text.as_bytes()).expect("well-formed");
        let patch = Patch::of(&peek).model(&name).include_usage().without_kv_transfer_params();
        let patched = patch.apply().map_or_else(|| text.clone().into_bytes(), |bytes| bytes.to_vec());
        let meaning: Value = serde_json::from_slice(&patched).expect("still well-formed");
        prop_assert_eq!(meaning, expected(body, &name));
    }

    #[test]
    fn an_insertion_leaves_every_byte_in_place(mut body in body(), style: u8) {
        body.shift_remove("stream_options");
        let text = write(&body, style);
        let peek = Peek::parse(text.as_bytes()).expect("well-formed");
        let patched = Patch::of(&peek).include_usage().apply().expect("usage is asked for");
        let comma = if body.is_empty() { "" } else { "," };
        let added = format!(r#""stream_options":{{"include_usage":true}}{comma}"#);
        let without = String::from_utf8(patched.to_vec()).expect("UTF-8").replacen(&added, "", 1);
        prop_assert_eq!(without, text);
    }

    #[test]
    fn a_new_name_leaves_every_byte_around_it(mut body in body(), old in "[a-z]{1,9}", style: u8) {
        body.insert("model".to_owned(), old.clone().into());
        let text = write(&body, style);
        let peek = Peek::parse(text.as_bytes()).expect("well-formed");
        let patched = Patch::of(&peek).model("\u{1f600}").apply().expect("renamed");
        let patched = String::from_utf8(patched.to_vec()).expect("UTF-8");
        let colon = if style % 3 == 1 { ": " } else { ":" };
        let member = |name: &str| format!("\"model\"{colon}\"{name}\"");
        prop_assert_eq!(text.replacen(&member(&old), &member("\u{1f600}"), 1), patched);
    }

    #[test]
    fn prompts_are_measured(texts in prop::collection::vec(any::<String>(), 1..4), tokens in prop::collection::vec(any::<u32>(), 1..50), style: u8) {
        let bytes: usize = texts.iter().map(String::len).sum();
        let count = texts.len() as u64;
        let measure = |field: &str, value: Value| {
            let body = Map::from_iter([(field.to_owned(), value)]);
            let text = write(&body, style);
            let peek = Peek::parse(text.as_bytes()).expect("well-formed");
            (peek.prompt, peek.prompts)
        };
        prop_assert_eq!(measure("input", json!(texts)), (Some(PromptSize::Bytes(bytes as u64)), count));
        let messages: Vec<Value> = texts.iter().map(|text| json!({"role": "user", "content": [{"type": "text", "text": text}]})).collect();
        prop_assert_eq!(measure("messages", json!(messages)), (Some(PromptSize::Bytes(bytes as u64)), 1));
        let lists = vec![tokens.clone(); 2];
        prop_assert_eq!(measure("prompt", json!(lists)), (Some(PromptSize::Tokens(2 * tokens.len() as u64)), 2));
        prop_assert_eq!(measure("prompt", json!(tokens)), (Some(PromptSize::Tokens(tokens.len() as u64)), 1));
    }
}
