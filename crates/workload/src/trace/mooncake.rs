//! Mooncake's traces (Qin et al., FAST 2025): one JSON object a line.

use sagellm_types::Tokens;
use serde::Deserialize;

use super::{Line, LineReader, Unexpected};
use crate::workload::{Arrival, BLOCK};

const FIELDS: &str =
    "an object with timestamp, input_length, output_length and hash_ids, all whole numbers";

pub(super) struct Reader;

/// Further fields are other tools' business.
#[derive(Deserialize)]
struct Row {
    timestamp: u64,
    input_length: u64,
    output_length: u64,
    hash_ids: Vec<u64>,
}

impl LineReader for Reader {
    fn read(&mut self, line: &str) -> Result<Line, Unexpected> {
        let row: Row = serde_json::from_str(line)
            .map_err(|error| Unexpected::new(FIELDS, error.to_string()))?;
        let blocks = row.input_length.div_ceil(BLOCK);
        if row.hash_ids.len() as u64 != blocks {
            let found = format!("{} for {} tokens", row.hash_ids.len(), row.input_length);
            return Err(Unexpected::new("one hash id for each 512 tokens of input", found));
        }
        let arrival = Arrival {
            prompt: Tokens(row.input_length),
            output: Tokens(row.output_length),
            blocks: row.hash_ids,
            ..Arrival::default()
        };
        Ok(Line::Request(i128::from(row.timestamp) * 1_000_000, arrival))
    }
}

#[cfg(test)]
mod tests {
    use crate::{TraceFormat, read_trace};

    const ROW: &str =
        r#"{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 14]}"#;

    fn check(row: &str, message: &str) {
        let text = format!("{ROW}\n{row}\n");
        let error = read_trace(TraceFormat::Mooncake, text.as_bytes()).expect_err("a faulty trace");
        assert!(error.to_string().starts_with(message), "{error}");
    }

    #[test]
    fn the_first_request_arrives_at_zero() {
        let text = format!("{ROW}\n{}\n", ROW.replace("3000", "4500"));
        let workload = read_trace(TraceFormat::Mooncake, text.as_bytes()).expect("two requests");
        let times: Vec<u64> = workload.arrivals.iter().map(|a| a.at.as_nanos()).collect();
        assert_eq!(times, [0, 1_500_000_000]);
        assert_eq!(workload.arrivals[0].blocks, [0, 14]);
    }

    #[test]
    fn an_error_names_the_line_and_what_was_expected() {
        check("{", "line 2: expected an object with timestamp,");
        check(&ROW.replace("600", "-6"), "line 2: expected an object with timestamp,");
        check(
            &ROW.replace("600", "2000"),
            "line 2: expected one hash id for each 512 tokens of input, found 2 for 2000 tokens",
        );
        check(&ROW.replace("3000", "2999"), "line 2: expected a time that is not before");
    }
}
