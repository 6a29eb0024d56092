//! What a client says beside the body: who it is, how urgent, by when, at what cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use sagellm_types::{Objectives, RequestPriority, SessionId, Usd, UserId};

use crate::error::Refusal;

/// What the headers of a request say.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    /// The client's name for the request, or one that was made for it.
    pub(crate) label: Arc<str>,
    pub(crate) user: Option<UserId>,
    pub(crate) priority: RequestPriority,
    pub(crate) objectives: Objectives,
    pub(crate) cost_budget: Option<Usd>,
    pub(crate) session: Option<SessionId>,
    pub(crate) preferred: Option<String>,
}

/// The header that names a request, on the way in and out.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// Headers that tie a conversation to an instance, the strongest first.
const SESSION: [&str; 3] = ["x-session-affinity", "x-session-id", "x-correlation-id"];
/// A longer label is refused: it is kept for every explained request.
const LONGEST_LABEL: usize = 256;

impl Intent {
    /// Reads the headers of the request called `label`.
    ///
    /// # Errors
    /// A refusal that names the header, its value and what is accepted.
    pub(crate) fn read(headers: &HeaderMap, label: Arc<str>) -> Result<Self, Refusal> {
        let text = |name: &'static str| {
            let value = headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()));
            value.transpose().map_err(|_| Refusal::header(name, "?", "UTF-8"))
        };
        let priority = match text("x-request-priority")? {
            None => RequestPriority::Normal,
            Some(value) => RequestPriority::parse(value).ok_or_else(|| {
                let accepted = "critical, high, normal, low or background, or 0 to 4";
                Refusal::header("X-Request-Priority", value, accepted)
            })?,
        };
        let mut session = None;
        for name in SESSION {
            session = session.or(text(name)?);
        }
        Ok(Self {
            label,
            user: text("x-user-id")?.map(UserId::of),
            priority,
            objectives: Objectives {
                ttft: millis(headers, "X-SLO-TTFT-Ms")?,
                tpot: millis(headers, "X-SLO-TPOT-Ms")?,
                e2e: millis(headers, "X-SLO-Deadline-Ms")?,
            },
            cost_budget: number(headers, "X-Cost-Budget-USD")?.map(Usd),
            session: session.map(SessionId::of),
            preferred: text("x-preferred-instance")?.map(str::to_owned),
        })
    }
}

fn millis(headers: &HeaderMap, name: &str) -> Result<Option<Duration>, Refusal> {
    Ok(number(headers, name)?.map(|ms| Duration::from_secs_f64(ms / 1e3)))
}

/// Returns a header's number, above 0 and small enough to mean something.
fn number(headers: &HeaderMap, name: &str) -> Result<Option<f64>, Refusal> {
    /// A hundred years in milliseconds: more is a mistake.
    const MOST: f64 = 3.2e12;
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?");
    match text.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number < MOST => Ok(Some(number)),
        _ => Err(Refusal::header(name, text, "a number above 0 and below 3.2e12")),
    }
}

/// Makes names for requests whose clients gave none.
#[derive(Debug)]
pub(crate) struct Labels {
    run: u64,
    next: AtomicU64,
}

impl Labels {
    /// Returns a maker whose names differ from those of other processes.
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let run = RandomState::new().build_hasher().finish();
        Self { run, next: AtomicU64::new(0) }
    }

    /// Returns the name of a request: its client's, else a new one.
    ///
    /// # Errors
    /// A refusal if its client's is no text or too long.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Result<Arc<str>, Refusal> {
        let Some(value) = headers.get(REQUEST_ID).filter(|value| !value.is_empty()) else {
            return Ok(self.next());
        };
        match std::str::from_utf8(value.as_bytes()) {
            Ok(label) if label.chars().count() <= LONGEST_LABEL => Ok(label.into()),
            Ok(_) => Err(Refusal::header("X-Request-ID", "…", "up to 256 characters")),
            Err(_) => Err(Refusal::header("X-Request-ID", "?", "UTF-8")),
        }
    }

    /// Returns a name that no other request of this process gets.
    pub(crate) fn next(&self) -> Arc<str> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", self.run.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn read(headers: &[(&'static str, &'static str)]) -> Result<Intent, Refusal> {
        let pair =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let headers = headers.iter().map(pair).collect();
        Intent::read(&headers, Labels::new().of(&headers)?)
    }

    #[test]
    fn the_benchmark_contract_is_understood() {
        let intent = read(&[
            ("x-request-id", "bench-7"),
            ("x-request-priority", "HIGH"),
            ("x-slo-deadline-ms", "1500"),
            ("x-session-affinity", "s"),
            ("x-correlation-id", "c"),
        ])
        .expect("all well");
        assert_eq!((&*intent.label, intent.priority), ("bench-7", RequestPriority::High));
        assert_eq!(intent.objectives.e2e, Some(Duration::from_millis(1500)));
        assert_eq!(intent.session, Some(SessionId::of("s")));
    }

    #[test]
    fn absurd_headers_are_refused_with_what_is_accepted() {
        for (name, value) in [
            ("x-request-priority", "urgent"),
            ("x-slo-deadline-ms", "-5"),
            ("x-slo-ttft-ms", "soon"),
            ("x-cost-budget-usd", "NaN"),
            ("x-slo-ttft-ms", "1e300"),
        ] {
            let refusal = read(&[(name, value)]).expect_err(name);
            let text = format!("{refusal:?}");
            assert!(text.contains(value) && text.contains("accepted"), "{text}");
        }
    }

    #[test]
    fn names_in_any_script_are_read_and_bytes_that_are_no_text_refused() {
        let intent = |bytes: &'static [u8]| {
            let value = HeaderValue::from_bytes(bytes).expect("a header");
            let headers = [(HeaderName::from_static("x-user-id"), value)].into_iter().collect();
            Intent::read(&headers, Labels::new().of(&headers)?)
        };
        let user = "\u{738b}\u{82b3}";
        assert_eq!(intent(user.as_bytes()).expect("UTF-8").user, Some(UserId::of(user)));
        assert!(format!("{:?}", intent(b"\xff").expect_err("no text")).contains("UTF-8"));
    }

    #[test]
    fn made_labels_differ() {
        let labels = Labels::new();
        assert_ne!(labels.next(), labels.next());
    }
}
