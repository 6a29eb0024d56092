//! What of a Markdown text is prose, as against code.

/// The lines outside of fenced code, numbered from one.
pub(crate) fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().zip(1..).filter_map(move |(line, number)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((number, line))
    })
}

#[cfg(test)]
mod tests {
    use super::prose;

    #[test]
    fn fenced_code_is_no_prose() {
        let text = "one\n```sh\ncode\n```\nfive\n  ```\ncode\n  ```\n";
        assert_eq!(prose(text).collect::<Vec<_>>(), [(1, "one"), (5, "five")]);
    }
}
