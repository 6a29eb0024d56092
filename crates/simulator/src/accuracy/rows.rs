//! Measured runs: one row of a table each.

use serde::Deserialize;
use thiserror::Error;

/// One measured run of an engine under a closed loop, as the table has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Measured {
    /// The model's repository.
    pub model_path: String,
    /// The dtype of its weights: `fp8`, `fp4` or nothing for 16 bits.
    #[serde(default)]
    pub precision: String,
    /// The GPU, such as `h100_sxm`.
    pub system: String,
    /// The engine.
    pub backend: String,
    /// Its version, where it is known.
    #[serde(default)]
    pub backend_version: String,
    /// `agg`: prefill and decode on the same instance.
    pub mode: String,
    /// Nominal prompt tokens.
    pub isl: f64,
    /// Nominal output tokens.
    pub osl: f64,
    /// Clients, per rank of attention data parallelism.
    pub batch_size: f64,
    /// GPUs in tensor parallelism.
    pub tp_size: f64,
    /// Stages.
    #[serde(default)]
    pub pp_size: Option<f64>,
    /// Ranks of attention data parallelism.
    #[serde(default)]
    pub attention_dp_size: Option<f64>,
    /// GPUs over which each expert is cut.
    #[serde(default)]
    pub moe_tp_size: Option<f64>,
    /// GPUs over which experts are spread.
    #[serde(default)]
    pub moe_ep_size: Option<f64>,
    /// Mean time to first token.
    pub silicon_ttft_ms: f64,
    /// Mean time per output token after the first.
    pub silicon_tpot_ms: f64,
    /// The run's name.
    pub id: String,
}

/// A table that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RowError {
    /// A line does not hold what its columns say.
    #[error("{0}")]
    Table(String),
    /// A figure that cannot be.
    #[error("line {line}: {column} = {value}; expected a number above zero")]
    Figure {
        /// The line, from 1.
        line: usize,
        /// The column.
        column: &'static str,
        /// What stands there.
        value: String,
    },
    /// There is no row.
    #[error("the table has no rows; expected a header and one line per measured run")]
    Empty,
}

/// Reads a table of measured runs.
///
/// # Errors
/// The first line that cannot be used, with what is expected; an empty table.
pub fn parse(text: &str) -> Result<Vec<Measured>, RowError> {
    let mut rows = Vec::new();
    for (index, row) in csv::Reader::from_reader(text.as_bytes()).deserialize().enumerate() {
        let row: Measured = row.map_err(|error| RowError::Table(error.to_string()))?;
        let figures = [
            ("isl", row.isl),
            ("osl", row.osl),
            ("batch_size", row.batch_size),
            ("tp_size", row.tp_size),
            ("silicon_ttft_ms", row.silicon_ttft_ms),
            ("silicon_tpot_ms", row.silicon_tpot_ms),
        ];
        for (column, value) in figures {
            if !(value > 0.0 && value < 1e9) {
                return Err(RowError::Figure { line: index + 2, column, value: value.to_string() });
            }
        }
        rows.push(row);
    }
    if rows.is_empty() { Err(RowError::Empty) } else { Ok(rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "model_path,precision,system,backend,mode,isl,osl,batch_size,tp_size,silicon_ttft_ms,silicon_tpot_ms,id\n";

    #[test]
    fn a_broken_table_is_named_with_its_line() {
        let error = |text: &str| parse(&format!("{HEADER}{text}")).expect_err("broken").to_string();
        assert!(error("").contains("no rows"));
        assert!(error("m,,h100,vllm,agg,10,-5,1,1,1,1,x\n").starts_with("line 2: osl = -5"));
        assert!(error("m,,h100,vllm,agg,ten,5,1,1,1,1,x\n").contains("line: 2"));
        assert!(parse("a,b\n1,2\n").expect_err("no columns").to_string().contains("model_path"));
    }
}
