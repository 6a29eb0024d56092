//! Changes to a request body, byte by byte: what is not named stays as the client wrote it.
//!
//! Three changes exist: ask the engine for usage at the end of a stream, give the model the name that
//! the engine knows, and take out KV transfer parameters. Numbers, key order, unknown fields and white
//! space are never touched, because nothing is parsed and written again.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::Peek;
use crate::peek::StreamOptions;

/// Changes to the body that a [`Peek`] was taken of.
#[derive(Clone, Debug)]
pub struct Patch<'p> {
    peek: &'p Peek<'p>,
    model: Option<&'p str>,
    include_usage: bool,
    strip: bool,
}

impl<'p> Patch<'p> {
    /// Starts with no change.
    pub fn of(peek: &'p Peek<'p>) -> Self {
        Self { peek, model: None, include_usage: false, strip: false }
    }

    /// Gives the model another name. A body that names no model keeps naming none.
    pub fn model(mut self, name: &'p str) -> Self {
        self.model = (self.peek.model.as_deref() != Some(name)).then_some(name);
        self
    }

    /// Asks for usage at the end of the stream. `stream_options` that are not an object are left to
    /// the engine's judgement.
    pub fn include_usage(mut self) -> Self {
        self.include_usage = !self.peek.include_usage;
        self
    }

    /// Takes out KV transfer parameters, at the top and inside `vllm_xargs`.
    pub fn without_kv_transfer_params(mut self) -> Self {
        self.strip = self.peek.has_kv_transfer_params();
        self
    }

    /// Returns the changed body, or `None` if nothing changes. One copy.
    pub fn apply(&self) -> Option<Bytes> {
        let mut edits = Vec::new();
        self.edit_usage(&mut edits);
        if let (Some(name), Some(place)) = (self.model, &self.peek.spans.model) {
            let quoted = serde_json::to_string(name).expect("a string is always JSON");
            edits.push((place.clone(), quoted));
        }
        if self.strip {
            let removals = self.peek.spans.kv_transfer.iter();
            edits.extend(removals.map(|range| (range.clone(), String::new())));
        }
        if edits.is_empty() {
            return None;
        }
        // Stable: an insertion before a removal at the same place stays before it.
        edits.sort_by_key(|(range, _)| range.start);
        Some(rewrite(self.peek.body, &edits))
    }

    fn edit_usage(&self, edits: &mut Vec<(Range<usize>, String)>) {
        if !self.include_usage {
            return;
        }
        let spans = &self.peek.spans;
        match &spans.stream_options {
            StreamOptions::Absent => {
                let members = spans.kept + if self.strip { 0 } else { spans.removed };
                let comma = if members > 0 { "," } else { "" };
                let text = format!(r#""stream_options":{{"include_usage":true}}{comma}"#);
                edits.push((spans.inside..spans.inside, text));
            }
            StreamOptions::Null(place) => {
                edits.push((place.clone(), r#"{"include_usage":true}"#.to_owned()));
            }
            StreamOptions::Object { inside, empty } => {
                let comma = if *empty { "" } else { "," };
                edits.push((*inside..*inside, format!(r#""include_usage":true{comma}"#)));
            }
            StreamOptions::Usage(place) => edits.push((place.clone(), "true".to_owned())),
            StreamOptions::Other => {}
        }
    }
}

/// Returns `body` with each range replaced; ranges are ordered and do not overlap.
fn rewrite(body: &[u8], edits: &[(Range<usize>, String)]) -> Bytes {
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut patched = BytesMut::with_capacity(body.len() + added);
    let mut copied = 0;
    for (range, text) in edits {
        patched.extend_from_slice(&body[copied..range.start]);
        patched.extend_from_slice(text.as_bytes());
        copied = range.end;
    }
    patched.extend_from_slice(&body[copied..]);
    patched.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &str) {
        let peek = Peek::parse(body.as_bytes()).expect(body);
        let patch = Patch::of(&peek).include_usage().model("b").without_kv_transfer_params();
        let patched = patch.apply().expect("something changes");
        assert_eq!(std::str::from_utf8(&patched).expect("UTF-8"), expected);
    }

    #[test]
    fn usage_is_asked_for_wherever_stream_options_stand() {
        check(r#"{"a": 1}"#, r#"{"stream_options":{"include_usage":true},"a": 1}"#);
        check("{ }", r#"{"stream_options":{"include_usage":true} }"#);
        check(r#"{"stream_options":null}"#, r#"{"stream_options":{"include_usage":true}}"#);
        check(r#"{"stream_options": {} }"#, r#"{"stream_options": {"include_usage":true} }"#);
        check(
            r#"{"stream_options":{ "x":1}}"#,
            r#"{"stream_options":{"include_usage":true, "x":1}}"#,
        );
        check(
            r#"{"stream_options":{"include_usage" : false,"x":1}}"#,
            r#"{"stream_options":{"include_usage" : true,"x":1}}"#,
        );
    }

    #[test]
    fn kv_transfer_params_leave_no_comma_behind() {
        let usage = r#""stream_options":{"include_usage":true}"#;
        check(r#"{"kv_transfer_params":{"x":[1]}}"#, &format!("{{{usage}}}"));
        check(r#"{"kv_transfer_params":1,"a":2}"#, &format!(r#"{{{usage},"a":2}}"#));
        check(
            r#"{"vllm_xargs":{"a":1,"kv_transfer_params":"x"},"kv_transfer_params":{}}"#,
            &format!(r#"{{{usage},"vllm_xargs":{{"a":1}}}}"#),
        );
    }

    #[test]
    fn the_model_is_renamed_and_quoted() {
        check(
            r#"{"model" : "a","stream_options":{"include_usage":true}}"#,
            r#"{"model" : "b","stream_options":{"include_usage":true}}"#,
        );
        let peek = Peek::parse(br#"{"model":"a"}"#).expect("well-formed");
        let patched = Patch::of(&peek).model("a\"b").apply().expect("renamed");
        assert_eq!(&patched[..], br#"{"model":"a\"b"}"#);
    }

    #[test]
    fn nothing_to_change_changes_nothing() {
        let body = br#"{"model":"b","stream_options":{"include_usage":true}}"#;
        let peek = Peek::parse(body).expect("well-formed");
        let patch = Patch::of(&peek).include_usage().model("b").without_kv_transfer_params();
        assert_eq!(patch.apply(), None);
    }
}
