//! What one event of a stream holds.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use super::Marks;
use crate::usage::value_of;
use crate::{ApiError, Usage};

static CHOICES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"choices\""));

/// Notes what an event holds and returns whether it is the one that holds usage alone.
pub(super) fn inspect(event: &[u8], marks: &mut Marks) -> bool {
    let Some(data) = data_of(event) else { return false };
    if data.starts_with(b"[DONE]") {
        marks.done = true;
        return false;
    }
    let choices = choices_of(data);
    let usage = Usage::find_in_event(data);
    match choices {
        Some(Choices::Some) => marks.content += 1,
        Some(Choices::None) => {}
        None => {
            if let Some(error) = error_of(data) {
                marks.error = Some(Box::new(error));
            }
        }
    }
    marks.usage = usage.or(marks.usage);
    usage.is_some() && choices == Some(Choices::None)
}

/// Returns what follows the first `data:` of an event.
fn data_of(event: &[u8]) -> Option<&[u8]> {
    let at = if event.starts_with(b"data:") { 0 } else { memmem::find(event, b"\ndata:")? + 1 };
    let data = &event[at + b"data:".len()..];
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choices {
    Some,
    None,
}

/// Returns whether the list of choices is empty, or `None` if there is no list.
fn choices_of(data: &[u8]) -> Option<Choices> {
    let mut from = 0;
    loop {
        let name = from + CHOICES.find(&data[from..])?;
        from = name + "\"choices\"".len();
        // As every engine writes it, else with white space.
        let list = if data[from..].starts_with(b":[") { from + 1 } else { value_of(data, from)? };
        if data[list] == b'[' {
            let first = data[list + 1..].iter().find(|byte| !byte.is_ascii_whitespace())?;
            return Some(if *first == b']' { Choices::None } else { Choices::Some });
        }
    }
}

/// Returns the error that an event without choices reports.
fn error_of(data: &[u8]) -> Option<ApiError> {
    // Cheap to rule out: both known shapes have the word.
    memmem::find(data, b"\"error\"")?;
    ApiError::parse(200, data.trim_ascii_end())
}
