//! What the source says of a settings type: the doc comment of each field and value.
//!
//! A knob has one definition, one default and one doc comment, beside the code that it configures.
//! The reference and the default file are made of those comments, so they cannot disagree with the
//! code. Read line by line: sources are formatted by rustfmt, and a test covers every type.

/// A field of a settings struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) doc: String,
    /// Its type, without `Option`.
    pub(super) kind: String,
}

/// Returns the fields of the struct called `name` in `source`, in order.
pub(super) fn fields(source: &str, name: &str) -> Vec<Field> {
    items(source, "struct", name)
        .into_iter()
        .filter_map(|(doc, line)| {
            let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub "))?;
            let (name, kind) = line.trim_end_matches(',').split_once(": ")?;
            let kind = kind.strip_prefix("Option<").map_or(kind, |k| k.trim_end_matches('>'));
            Some(Field { name: name.to_owned(), doc, kind: kind.to_owned() })
        })
        .collect()
}

/// Returns the first sentences of the doc comment of the struct called `name`.
pub(super) fn doc(source: &str, name: &str) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let head = lines.iter().position(|line| is_head(line, "struct", name));
    let Some(at) = head else { return String::new() };
    let above = lines[..at].iter().rev().take_while(|line| !line.trim().is_empty());
    let mut docs: Vec<&str> =
        above.filter_map(|line| line.trim().strip_prefix("///")).map(str::trim).collect();
    docs.reverse();
    docs.split(|line| line.is_empty()).next().unwrap_or_default().join(" ")
}

/// Returns the names and docs of the values of the enum called `name`, if it is a plain one.
pub(super) fn values(source: &str, name: &str) -> Vec<(String, String)> {
    let variants = items(source, "enum", name);
    if variants.iter().any(|(_, line)| line.contains(['(', '{'])) {
        return Vec::new();
    }
    let plain = variants.into_iter().map(|(doc, line)| (snake(line.trim_end_matches(',')), doc));
    plain.collect()
}

/// Returns the members of an item, each with its doc comment.
fn items(source: &str, keyword: &str, name: &str) -> Vec<(String, String)> {
    let inside = source.lines().skip_while(|line| !is_head(line, keyword, name)).skip(1);
    let mut found = Vec::new();
    let mut doc: Vec<&str> = Vec::new();
    for line in inside.take_while(|line| *line != "}") {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if !line.starts_with("#[") && line.ends_with(',') {
            found.push((doc.join(" "), line.to_owned()));
            doc.clear();
        }
    }
    found
}

fn is_head(line: &str, keyword: &str, name: &str) -> bool {
    let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub "));
    line.is_some_and(|line| line == format!("{keyword} {name} {{"))
}

/// Returns a variant's name as serde writes it.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
/// Settings of x.
///
/// More of it.
#[derive(Debug)]
pub struct X {
    /// How many,
    /// at most.
    #[serde(default)]
    pub many: Option<u32>,
    /// How.
    pub how: How,
}

/// How.
pub enum How {
    /// One way.
    #[default]
    OneWay,
    /// Another.
    Other,
}
";

    #[test]
    fn fields_come_with_their_docs_and_types() {
        let found = fields(SOURCE, "X");
        let shown: Vec<_> = found.iter().map(|f| (&*f.name, &*f.doc, &*f.kind)).collect();
        assert_eq!(shown, [("many", "How many, at most.", "u32"), ("how", "How.", "How")]);
        assert_eq!(doc(SOURCE, "X"), "Settings of x.");
    }

    #[test]
    fn values_are_named_as_in_files() {
        let found = values(SOURCE, "How");
        let expected = [("one_way", "One way."), ("other", "Another.")];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn what_is_not_there_is_empty() {
        assert!(fields(SOURCE, "Y").is_empty() && values(SOURCE, "X").is_empty());
    }
}
