//! Which headers pass between client and engine.
//!
//! Towards the engine only those that it can use pass: what a client says to the control plane (its
//! priority, its deadlines) is no engine's business, and `Host` or `Content-Length` belong to a
//! connection. From the engine everything passes but what belongs to the connection (RFC 9110, 7.6.1).

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// The request headers that are forwarded; the first only to engines without a key of their own.
pub const FORWARDED: [HeaderName; 14] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::USER_AGENT,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-session-affinity"),
    HeaderName::from_static("x-data-parallel-rank"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
];

/// Returns the headers of a client's request that an engine is to see.
pub fn forwarded(incoming: &HeaderMap) -> HeaderMap {
    let mut outgoing = HeaderMap::with_capacity(8);
    for (name, value) in incoming {
        if FORWARDED.contains(name) {
            outgoing.append(name.clone(), value.clone());
        }
    }
    outgoing
}

/// Takes out the headers of an answer that belong to its connection. What is left is the client's;
/// who changes the body must also take out `Content-Length`.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(connection) = headers.remove(header::CONNECTION) {
        for name in named_by(&connection) {
            headers.remove(name);
        }
    }
    for name in [
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

fn named_by(connection: &HeaderValue) -> Vec<HeaderName> {
    let names = connection.to_str().unwrap_or_default().split(',');
    names.filter_map(|name| name.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn an_engine_sees_what_it_can_use() {
        let incoming = map(&[
            ("host", "gateway"),
            ("content-length", "5"),
            ("authorization", "Bearer x"),
            ("x-request-id", "r1"),
            ("x-request-priority", "HIGH"),
            ("traceparent", "00-1"),
            ("connection", "keep-alive"),
        ]);
        let expected =
            map(&[("authorization", "Bearer x"), ("x-request-id", "r1"), ("traceparent", "00-1")]);
        assert_eq!(forwarded(&incoming), expected);
    }

    #[test]
    fn what_belongs_to_the_connection_stays_there() {
        let mut headers = map(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-type", "text/event-stream"),
            ("x-request-id", "r1"),
        ]);
        strip_hop_by_hop(&mut headers);
        let expected = map(&[("content-type", "text/event-stream"), ("x-request-id", "r1")]);
        assert_eq!(headers, expected);
    }
}
