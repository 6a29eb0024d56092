//! Traces of real traffic.
//!
//! A trace is read whole: arrivals begin at 0 and are in order of time. Lines are counted from 1.

mod azure;
mod mooncake;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use sagellm_types::{Seed, Timestamp};

use crate::error::TraceError;
use crate::workload::{Arrival, Workload};

/// The format of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// Azure's LLM inference traces: CSV with `TIMESTAMP,ContextTokens,GeneratedTokens`.
    Azure,
    /// Mooncake's traces: a JSON object a line with `timestamp` (ms), `input_length`,
    /// `output_length` and `hash_ids` of blocks of 512 tokens.
    Mooncake,
}

impl TraceFormat {
    /// Returns the format of a file by its name: `.jsonl` and `.json` are Mooncake's, all else is
    /// Azure's.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "json") => Self::Mooncake,
            _ => Self::Azure,
        }
    }
}

/// Reads a trace, as a workload of one plain class.
///
/// # Errors
/// If a line is not as the format says, if time goes back, if nothing arrives.
///
/// ```
/// use sagellm_workload::{TraceFormat, read_trace};
///
/// let csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
///            2023-11-16 18:15:46.6805900,374,44\n\
///            2023-11-16 18:15:50.9951690,396,109\n";
/// let workload = read_trace(TraceFormat::Azure, csv.as_bytes()).expect("two requests");
/// assert_eq!(workload.arrivals[1].at.as_nanos(), 4_314_579_000);
/// ```
pub fn read_trace(format: TraceFormat, input: impl BufRead) -> Result<Workload, TraceError> {
    let arrivals = match format {
        TraceFormat::Azure => read_lines(input, azure::Reader::default())?,
        TraceFormat::Mooncake => read_lines(input, mooncake::Reader)?,
    };
    if arrivals.is_empty() { Err(TraceError::Empty) } else { Ok(Workload::new(arrivals)) }
}

/// Reads a trace from a file, in the format that its name says.
///
/// # Errors
/// As [`read_trace`], and if the file cannot be opened; the error names the file.
pub fn read_trace_file(path: &Path) -> Result<Workload, TraceError> {
    let open = |source| TraceError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    read_trace(TraceFormat::of(path), BufReader::new(file))
        .map_err(|source| TraceError::File { path: path.to_owned(), source: Box::new(source) })
}

/// Returns the workload with each arrival moved later by a random part of `tick`, in order of time
/// again. Mooncake's conversation trace stands on ticks of 3 s, which makes bursts that were none.
pub fn jitter(mut workload: Workload, tick: Duration, seed: Seed) -> Workload {
    let mut rng = seed.stream("workload.jitter");
    for arrival in &mut workload.arrivals {
        arrival.at += Duration::from_secs_f64(tick.as_secs_f64() * rng.unit());
    }
    workload.arrivals.sort_by_key(|arrival| arrival.at);
    workload
}

/// What a line of a trace holds.
enum Line {
    /// A request, with its time in nanoseconds after any origin.
    Request(i128, Arrival),
    /// A heading.
    Heading,
}

/// What a line should have been, and what it was.
struct Unexpected {
    expected: &'static str,
    found: String,
}

impl Unexpected {
    fn new(expected: &'static str, found: impl Into<String>) -> Self {
        let mut found: String = found.into();
        // A line may be very long; its beginning tells enough.
        if let Some((end, _)) = found.char_indices().nth(80) {
            found.truncate(end);
            found.push('…');
        }
        Self { expected, found }
    }
}

/// Reads one line of a format; empty lines are skipped before.
trait LineReader {
    fn read(&mut self, line: &str) -> Result<Line, Unexpected>;
}

fn read_lines(
    input: impl BufRead,
    mut reader: impl LineReader,
) -> Result<Vec<Arrival>, TraceError> {
    let mut arrivals = Vec::new();
    let mut origin = None;
    let mut last = i128::MIN;
    for (number, text) in (1..).zip(input.lines()) {
        let text = text.map_err(|source| TraceError::Read { line: number, source })?;
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let line = reader.read(text).and_then(|line| match line {
            Line::Request(at, _) if at < last => {
                let found = format!("{:.6} s earlier", (last - at) as f64 * 1e-9);
                Err(Unexpected::new("a time that is not before that of the line above", found))
            }
            line => Ok(line),
        });
        let line = line.map_err(|Unexpected { expected, found }| TraceError::Line {
            line: number,
            expected,
            found,
        })?;
        if let Line::Request(at, arrival) = line {
            last = at;
            let nanos = u64::try_from(at - *origin.get_or_insert(at)).unwrap_or(u64::MAX);
            arrivals.push(Arrival { at: Timestamp::from_nanos(nanos), ..arrival });
        }
    }
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jittered_workload_keeps_its_requests_and_is_in_order() {
        let arrival = |i: u64| Arrival {
            at: Timestamp::from_secs(i / 10 * 3),
            prompt: sagellm_types::Tokens(i),
            ..Arrival::default()
        };
        let before = Workload::new((0..100).map(arrival).collect());
        let after = jitter(before.clone(), Duration::from_secs(3), Seed(1));
        assert!(after.arrivals.is_sorted_by_key(|arrival| arrival.at));
        for arrival in &after.arrivals {
            let was = before.arrivals[arrival.prompt.0 as usize].at;
            assert!(arrival.at >= was && arrival.at.since(was) < Duration::from_secs(3));
        }
        assert!(after.shape().expect("100").gap_cv < before.shape().expect("100").gap_cv);
    }
}
