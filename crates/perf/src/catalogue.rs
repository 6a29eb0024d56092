//! Models and GPUs by name: the data files, read once.

use std::sync::LazyLock;

use serde::Deserialize;
use thiserror::Error;

use crate::{Gpu, ModelSpec};

/// A name that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown {kind} `{name}`; {hint}")]
pub struct UnknownName {
    kind: &'static str,
    name: String,
    hint: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    model: Vec<ModelSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gpus {
    gpu: Vec<Gpu>,
}

static MODELS: LazyLock<Vec<ModelSpec>> = LazyLock::new(|| {
    let text = include_str!("../data/models.toml");
    toml::from_str::<Models>(text).expect("a test reads the file").model
});

static GPUS: LazyLock<Vec<Gpu>> = LazyLock::new(|| {
    let text = include_str!("../data/gpus.toml");
    toml::from_str::<Gpus>(text).expect("a test reads the file").gpu
});

/// Returns the models of the catalogue.
pub fn models() -> &'static [ModelSpec] {
    &MODELS
}

/// Returns the GPUs of the catalogue.
pub fn gpus() -> &'static [Gpu] {
    &GPUS
}

/// Returns whether all `words` occur in `name`; a number is not part of a longer one ("3b",
/// "13b"; "h100", "h1000").
pub(crate) fn means(words: &[String], name: &str) -> bool {
    let occurs = |word: &String| {
        let number = word.starts_with(|c: char| c.is_ascii_digit());
        let goes_on = word.ends_with(|c: char| c.is_ascii_digit());
        name.match_indices(word.as_str()).any(|(at, _)| {
            let (before, after) = (&name[..at], &name[at + word.len()..]);
            let longer = (number && before.ends_with(|c: char| c.is_ascii_digit() || c == '.'))
                || (!number && before.ends_with(|c: char| c.is_ascii_alphabetic()))
                || (goes_on && after.starts_with(|c: char| c.is_ascii_digit()));
            !longer
        })
    };
    words.iter().all(occurs)
}

/// Returns why `name` is not known, with the known names nearest to it.
pub(crate) fn unknown<'a>(
    kind: &'static str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> UnknownName {
    let wanted = name.to_ascii_lowercase();
    let wanted = wanted.rsplit('/').next().unwrap_or_default();
    let mut near: Vec<(usize, &str)> =
        known.map(|known| (distance(wanted, &known.to_ascii_lowercase()), known)).collect();
    near.sort();
    let names: Vec<&str> = near.iter().take(4).map(|(_, name)| *name).collect();
    let hint = format!("the nearest of {} known are: {}", near.len(), names.join(", "));
    UnknownName { kind, name: name.to_owned(), hint }
}

/// Returns how many characters have to be changed, added or left out between `a` and `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_part_of_a_longer_one() {
        let words = ["llama".to_owned(), "3b".to_owned()];
        assert!(means(&words, "llama-3.2-3b-instruct"));
        assert!(!means(&words, "llama-13b") && !means(&words, "llama-3.3b"));
    }

    #[test]
    fn the_files_are_read_and_name_their_sources() {
        assert!(models().len() >= 25 && gpus().len() >= 13);
        for model in models() {
            assert!(model.source.contains("config.json"), "{}", model.name);
            assert_eq!(ModelSpec::find(&model.name).map(|found| &found.name), Some(&model.name));
        }
        for gpu in gpus() {
            assert!(!gpu.source.is_empty(), "{}", gpu.name);
            assert_eq!(Gpu::find(&gpu.name).map(|found| &found.name), Some(&gpu.name));
        }
    }

    #[test]
    fn an_unknown_name_gets_the_nearest() {
        let error = ModelSpec::named("qwen3-33b").expect_err("there is none").to_string();
        assert!(error.starts_with("unknown model `qwen3-33b`; the nearest"), "{error}");
        assert!(error.contains("qwen3-32b"), "{error}");
        assert!(Gpu::named("H1000").expect_err("there is none").to_string().contains("H100"));
        assert!(Gpu::named("V100").expect_err("old").to_string().contains("H100"));
    }
}
