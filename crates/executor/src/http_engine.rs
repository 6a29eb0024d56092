//! Engines over HTTP/1.1.
//!
//! One client serves the traffic of the whole fleet and another the probes, so that neither takes the
//! other's connections. Nothing is retried here, no redirect is followed and no proxy used: what an
//! engine says is what its caller sees.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING,
};
use http::{HeaderMap, Method};
use http_body::Body;
use reqwest::{Client, Request, Url, redirect};
use sagellm_types::clock::Clock;
use serde::{Deserialize, Serialize};

use crate::watch::Watch;
use crate::{
    BoxFuture, ByteStream, Call, CallKind, Engine, EngineError, Reply, ReplyBody, SettingsError,
    TimeoutsConfig,
};

/// The least time to make a connection, on the machine's clock: the kernel's handshake does not run
/// faster because model time does.
const LEAST_CONNECT: Duration = Duration::from_secs(1);

/// The settings of the HTTP clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// How long the parts of a call may take.
    pub timeouts: TimeoutsConfig,
    /// How long an unused connection is kept, in milliseconds of the machine's time. vLLM closes such a
    /// connection after 5 s, and a request sent at that moment fails.
    pub pool_idle_ms: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { timeouts: TimeoutsConfig::default(), pool_idle_ms: 4_000 }
    }
}

/// The HTTP clients that all engines of a fleet share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clients {
    traffic: Client,
    probes: Client,
    clock: Clock,
}

impl Clients {
    /// Builds both clients; their timeouts run on `clock`.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub fn new(config: &HttpConfig, clock: Clock) -> Result<Self, SettingsError> {
        let connect = clock.machine(Duration::from_millis(config.timeouts.connect_ms));
        let build = || {
            Client::builder()
                .http1_only()
                .no_proxy()
                .redirect(redirect::Policy::none())
                .tcp_nodelay(true)
                .connect_timeout(connect.max(LEAST_CONNECT))
                .pool_idle_timeout(Duration::from_millis(config.pool_idle_ms))
                .pool_max_idle_per_host(usize::MAX)
                .build()
                .map_err(|error| SettingsError::Client(error.into()))
        };
        Ok(Self { traffic: build()?, probes: build()?, clock })
    }
}

/// One engine at one base URL.
#[derive(Clone, Debug)]
pub struct HttpEngine {
    /// Without a slash at its end.
    base: String,
    authorization: Option<HeaderValue>,
    clients: Clients,
}

impl HttpEngine {
    /// Returns the engine at `base_url` (`http://host:port`, with a path if it has one). With an
    /// `api_key`, that is sent in place of the client's authorization.
    ///
    /// # Errors
    /// If `base_url` is not such a URL, or `api_key` cannot be sent.
    pub fn new(
        base_url: &str,
        api_key: Option<&str>,
        clients: &Clients,
    ) -> Result<Self, SettingsError> {
        let bad = || SettingsError::Url { url: base_url.to_owned() };
        let url = Url::parse(base_url).map_err(|_| bad())?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(SettingsError::Tls { url: base_url.to_owned() }),
            _ => return Err(bad()),
        }
        if !url.has_host() || url.query().is_some() || url.fragment().is_some() {
            return Err(bad());
        }
        let authorization = api_key
            .map(|key| {
                let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                    .map_err(|_| SettingsError::ApiKey)?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        let base = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { base, authorization, clients: clients.clone() })
    }

    /// Returns the base URL, without a slash at its end.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request, EngineError> {
        let bad = || EngineError::BadPath { path: path.to_owned() };
        if !path.starts_with('/') {
            return Err(bad());
        }
        let url = Url::parse(&[&self.base, path].concat()).map_err(|_| bad())?;
        // These are the connection's; a wrong one would break the next request on it.
        for name in [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION] {
            headers.remove(name);
        }
        if let Some(own) = &self.authorization {
            headers.insert(AUTHORIZATION, own.clone());
        }
        let bodiless = body.is_empty() && matches!(method, Method::GET | Method::HEAD);
        let mut request = Request::new(method, url);
        *request.headers_mut() = headers;
        if !bodiless {
            *request.body_mut() = Some(body.into());
        }
        Ok(request)
    }

    async fn send(&self, call: Call) -> Result<Reply, EngineError> {
        let Call { method, path, headers, body, limits, kind } = call;
        let request = self.request(method, &path, headers, body)?;
        let client = match kind {
            CallKind::Traffic => &self.clients.traffic,
            CallKind::Probe => &self.clients.probes,
        };
        let mut watch = Watch::start(self.clients.clock, limits);
        let mut answer = pin!(client.execute(request));
        let response = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(EngineError::from_client)),
            Poll::Pending => {
                watch.poll_expired(cx).map(|which| Err(EngineError::Timeout { which }))
            }
        })
        .await?;
        let (head, body) = http::Response::from(response).into_parts();
        let body = ReplyBody::streaming(HttpBody { body, watch });
        Ok(Reply { status: head.status, headers: head.headers, body })
    }
}

impl Engine for HttpEngine {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, EngineError>> {
        Box::pin(self.send(call))
    }
}

/// A body on its way, under watch.
struct HttpBody {
    body: reqwest::Body,
    watch: Watch,
}

impl ByteStream for HttpBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers say nothing that an engine's client asked for.
                    if let Ok(bytes) = frame.into_data() {
                        self.watch.progress();
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(EngineError::from_client(error))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let expired = self.watch.poll_expired(cx);
                    return expired.map(|which| Some(Err(EngineError::Timeout { which })));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> Clients {
        Clients::new(&HttpConfig::default(), Clock::real()).expect("the defaults are valid")
    }

    #[test]
    fn a_base_url_is_checked() {
        for good in ["http://localhost:8000", "http://10.0.0.1:1/", "http://[::1]:8/base/"] {
            let engine = HttpEngine::new(good, Some("key"), &clients()).expect(good);
            assert_eq!(engine.base_url(), good.trim_end_matches('/'));
        }
        for bad in ["", "localhost:8000", "ftp://x", "http://", "http://x/?a=b", "unix:/x"] {
            let refused = HttpEngine::new(bad, None, &clients());
            assert!(matches!(refused, Err(SettingsError::Url { .. })), "{bad}");
        }
        let refused = HttpEngine::new("http://x", Some("a\nb"), &clients());
        assert!(matches!(refused, Err(SettingsError::ApiKey)));
    }

    #[test]
    fn the_engines_own_key_replaces_the_clients() {
        let engine = HttpEngine::new("http://x/base/", Some("own"), &clients()).expect("a URL");
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, HeaderValue::from_static("Bearer client")),
            (CONTENT_LENGTH, HeaderValue::from_static("999")),
        ]);
        let request = engine
            .request(Method::POST, "/v1/models?a=b", headers, Bytes::new())
            .expect("a proper path");
        assert_eq!(request.url().as_str(), "http://x/base/v1/models?a=b");
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer own");
        assert!(!request.headers().contains_key(CONTENT_LENGTH));
        let bad = engine.request(Method::GET, "v1", HeaderMap::new(), Bytes::new());
        assert!(matches!(bad, Err(EngineError::BadPath { .. })));
    }
}
