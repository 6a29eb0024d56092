//! Tables that people read: aligned columns, numbers with their units' usual precision.

use std::fmt::Write as _;

/// A table whose first column is aligned to the left and whose other columns to the right.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Appends the table to `out`, with two spaces between columns and none at the ends of lines.
    pub(crate) fn write(&self, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match column {
                    0 => write!(line, "{cell:<width$}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

/// Returns a whole number with its thousands set apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns a figure with about four digits, or a dash if it is unknown.
pub(crate) fn figure(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(v) if v < 9.995 => format!("{v:.2}"),
        Some(v) if v < 999.95 => format!("{v:.1}"),
        Some(v) => count(v.round() as u64),
    }
}

/// Returns a share as a percentage, or a dash if it is unknown.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// Returns an amount of money, with more digits if it is small.
pub(crate) fn usd(amount: Option<f64>) -> String {
    match amount {
        None => "–".to_owned(),
        Some(amount) if amount < 1.0 => format!("${amount:.4}"),
        Some(amount) => format!("${amount:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_unknown_ones_are_dashes() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        let shown = [Some(0.0), Some(9.99), Some(10.0), Some(999.9), Some(12345.6), None];
        assert_eq!(shown.map(figure), ["0.00", "9.99", "10.0", "999.9", "12,346", "–"]);
        assert_eq!((percent(Some(0.964)), percent(None)), ("96.4 %".into(), "–".into()));
        assert_eq!((usd(Some(0.01234)), usd(Some(12.3))), ("$0.0123".into(), "$12.30".into()));
    }

    #[test]
    fn columns_are_aligned_by_characters_not_bytes() {
        let mut table = Table::default();
        table.row(["käse", "1"]);
        table.row(["a", "–"]);
        let mut out = String::new();
        table.write(&mut out);
        assert_eq!(out, "käse  1\na     –\n");
    }
}
