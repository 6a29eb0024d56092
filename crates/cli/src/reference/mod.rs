//! Every setting with its meaning, default and accepted values, made from the code itself.

mod sections;
mod source;

use std::fmt::Write as _;

use sections::{Section, Shown, sections};

/// Returns a settings file with every setting at its default, each with its meaning.
pub(crate) fn default_file() -> String {
    let mut out = String::from(
        "# Settings of sagellm: every setting with its default. Lines that begin with `#` and a name\n\
         # are off, or alternatives. The environment wins over this file (SAGELLM_QUEUE__MAX_WAITING=10),\n\
         # and flags win over both (--set queue.max_waiting=10).\n\n",
    );
    let sections = sections();
    for section in &sections {
        section.write_file(&sections, &mut out);
    }
    out
}

/// Returns the reference of all settings as Markdown.
pub(crate) fn markdown() -> String {
    let mut out = String::new();
    let sections = sections();
    for section in &sections {
        section.write_markdown(&sections, &mut out);
    }
    out
}

impl Section {
    fn write_file(&self, all: &[Self], out: &mut String) {
        let off = if self.shown == Shown::Off { "# " } else { "" };
        if !self.path.is_empty() {
            let doc = if self.doc.is_empty() { String::new() } else { wrapped(&self.doc) };
            let _ = writeln!(out, "\n{doc}{off}{}", self.heading());
        }
        for entry in self.entries(all) {
            out.push_str(&wrapped(&entry.text()));
            match &entry.default {
                Some(value) => {
                    let _ = writeln!(out, "{off}{} = {value}", entry.name);
                }
                None => {
                    let _ = writeln!(out, "# {} =", entry.name);
                }
            }
        }
    }

    fn write_markdown(&self, all: &[Self], out: &mut String) {
        let heading = if self.path.is_empty() {
            "At the top".to_owned()
        } else {
            format!("`{}`", self.heading())
        };
        let _ = writeln!(out, "### {heading}\n");
        if !self.doc.is_empty() && !self.path.is_empty() {
            let _ = writeln!(out, "{}\n", self.doc);
        }
        let _ = writeln!(out, "| setting | default | meaning |\n|---|---|---|");
        for entry in self.entries(all) {
            let default = entry.default.as_ref().map_or("–".to_owned(), |v| format!("`{v}`"));
            let text = entry.text().replace('|', "\\|");
            let _ =
                writeln!(out, "| `{}` | {} | {text} |", entry.name, default.replace('|', "\\|"));
        }
        out.push('\n');
    }
}

/// Returns `text` as comment lines.
fn wrapped(text: &str) -> String {
    /// Characters in a line.
    const WIDTH: usize = 96;
    let mut out = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, SettingsError};

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(std::path::Path::new("default.toml"), text)
    }

    #[test]
    fn the_default_file_is_the_default() {
        let text = default_file();
        let settings = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(settings, Settings::default(), "{text}");
    }

    #[test]
    fn every_setting_has_a_meaning() {
        let sections = sections();
        for section in &sections {
            let entries = section.entries(&sections);
            let nested = sections.iter().any(|s| s.path.starts_with(&format!("{}.", section.path)));
            assert!(!entries.is_empty() || nested, "no field of [{}] was found", section.path);
            for entry in entries {
                assert!(!entry.doc.is_empty(), "{}.{} has no meaning", section.path, entry.name);
            }
        }
    }

    #[test]
    fn every_setting_that_has_a_default_is_in_the_reference() {
        let sections = sections();
        for section in &sections {
            let names: Vec<String> =
                section.entries(&sections).into_iter().map(|entry| entry.name).collect();
            for key in section.value.keys() {
                let path = format!("{}.{key}", section.path);
                let own = sections.iter().any(|s| s.path == path.trim_start_matches('.'));
                assert!(own || names.contains(key), "{path} is not in the reference");
            }
        }
    }

    #[test]
    fn alternatives_that_are_switched_on_are_accepted() {
        // Each alternative alone, below its parents: `#` removed from headings and settings.
        let sections = sections();
        let off = || sections.iter().filter(|section| section.shown == Shown::Off);
        for section in off() {
            let above = off().filter(|s| section.path.starts_with(&format!("{}.", s.path)));
            let mut text = String::new();
            above.chain([section]).for_each(|section| section.write_file(&sections, &mut text));
            let on = text.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| {
                let name = line.split(" = ").next().unwrap_or_default();
                line.starts_with('[') || (line.contains(" = ") && !name.contains(' '))
            });
            let text = on.collect::<Vec<_>>().join("\n");
            parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }
}
