//! Azure's LLM inference traces (Patel et al., Splitwise, 2024): CSV with a heading.

use sagellm_types::Tokens;

use super::{Line, LineReader, Unexpected};
use crate::workload::Arrival;

const HEADING: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// Reads the lines; the first one is the heading.
#[derive(Default)]
pub(super) struct Reader {
    begun: bool,
}

impl LineReader for Reader {
    fn read(&mut self, line: &str) -> Result<Line, Unexpected> {
        if !std::mem::replace(&mut self.begun, true) {
            let heading = line.trim_start_matches('\u{feff}');
            return if heading == HEADING {
                Ok(Line::Heading)
            } else {
                Err(Unexpected::new("the heading TIMESTAMP,ContextTokens,GeneratedTokens", line))
            };
        }
        let fields: Vec<&str> = line.split(',').collect();
        let [time, prompt, output] = fields[..] else {
            return Err(Unexpected::new("three fields with commas between", line));
        };
        let at = parse_time(time)
            .ok_or_else(|| Unexpected::new("a time like 2023-11-16 18:15:46.6805900", time))?;
        let count = |field: &str| {
            let parsed = field.trim().parse().map(Tokens);
            parsed.map_err(|_| Unexpected::new("a whole number of tokens", field))
        };
        let (prompt, output) = (count(prompt)?, count(output)?);
        Ok(Line::Request(at, Arrival { prompt, output, ..Arrival::default() }))
    }
}

/// Returns the nanoseconds since 1970 of `2023-11-16 18:15:46.6805900`, read as UTC.
fn parse_time(text: &str) -> Option<i128> {
    let (date, time) = text.trim().split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(whole);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(whole);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let sound = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && fraction.len() <= 9;
    if !sound {
        return None;
    }
    let nanos = whole(fraction)? * 10i64.pow(9 - fraction.len() as u32);
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

fn whole(digits: &str) -> Option<i64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && digits.len() <= 9).then(|| digits.parse().ok())?
}

/// Returns the days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TraceFormat, read_trace};

    fn check(rows: &str, message: &str) {
        let csv = format!("{HEADING}\r\n{rows}");
        let error = read_trace(TraceFormat::Azure, csv.as_bytes()).expect_err("a faulty trace");
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn times_are_exact_across_midnight_and_leap_days() {
        assert_eq!(parse_time("1970-01-02 00:00:01.5"), Some(86_401_500_000_000));
        let (before, after) =
            (parse_time("2024-02-28 23:59:59.9999999"), parse_time("2024-03-01 00:00:00"));
        assert_eq!(after.zip(before).map(|(a, b)| a - b), Some(86_400_000_000_100));
    }

    #[test]
    fn an_error_names_the_line_and_what_was_expected() {
        let row = "2023-11-16 18:15:46.6805900,374,44\r\n";
        check("", "the trace is empty: expected at least one request");
        check(
            &format!("{row}2023-11-16 18:15:50.9,12\n"),
            "line 3: expected three fields with commas between, found 2023-11-16 18:15:50.9,12",
        );
        check(
            &format!("{row}yesterday,12,13\n"),
            "line 3: expected a time like 2023-11-16 18:15:46.6805900, found yesterday",
        );
        check(
            &format!("{row}\n2023-11-16 18:15:50.9,-4,13\n"),
            "line 4: expected a whole number of tokens, found -4",
        );
        check(
            &format!("{row}2023-11-16 18:15:46.1805900,374,44\n"),
            "line 3: expected a time that is not before that of the line above, found 0.500000 s earlier",
        );
    }

    #[test]
    fn another_heading_is_another_format() {
        let error = read_trace(TraceFormat::Azure, "a,b,c\n".as_bytes()).expect_err("no heading");
        assert!(error.to_string().starts_with("line 1: expected the heading TIMESTAMP,"));
    }
}
