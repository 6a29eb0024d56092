//! Which path is answered by whom.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use sagellm_types::RequestType;

use crate::admin::{self, Guard};
use crate::answer::Answer;
use crate::error::Refusal;
use crate::inference::{Endpoint, Inference};
use crate::intent::REQUEST_ID;
use crate::pages;

/// The paths that engines answer and that are scheduled.
const ENDPOINTS: [Endpoint; 9] = [
    Endpoint { path: "/v1/chat/completions", kind: RequestType::LlmChat, chunks: true },
    Endpoint { path: "/v1/completions", kind: RequestType::LlmGenerate, chunks: true },
    Endpoint { path: "/v1/embeddings", kind: RequestType::Embedding, chunks: false },
    Endpoint { path: "/v1/responses", kind: RequestType::LlmChat, chunks: false },
    Endpoint { path: "/v1/messages", kind: RequestType::LlmChat, chunks: false },
    Endpoint { path: "/v1/rerank", kind: RequestType::Embedding, chunks: false },
    Endpoint { path: "/v1/score", kind: RequestType::Embedding, chunks: false },
    Endpoint { path: "/classify", kind: RequestType::Embedding, chunks: false },
    Endpoint { path: "/pooling", kind: RequestType::Embedding, chunks: false },
];
/// The paths that any instance answers at once.
const SMALL: [&str; 3] = ["/tokenize", "/detokenize", "/v1/messages/count_tokens"];
/// The paths that are read.
const PAGES: [&str; 6] = ["/health", "/ping", "/ready", "/version", "/v1/models", "/metrics"];
/// Longest body of an admin call.
const ADMIN_BODY: usize = 1 << 20;

/// What a listener offers.
#[derive(Clone)]
pub(crate) struct Routes {
    pub(crate) inference: Arc<Inference>,
    pub(crate) guard: Arc<Guard>,
    /// Whether clients connect here, or operators only.
    pub(crate) public: bool,
    /// Whether the admin API is here.
    pub(crate) admin: bool,
}

impl Routes {
    /// Answers a request.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let given = request.headers().get(REQUEST_ID).cloned();
        let mut answer = self.route(request).await.unwrap_or_else(Answer::from);
        // Pages and refusals have a name too: clients show it where something went wrong.
        if !answer.headers().contains_key(REQUEST_ID) {
            let made = || HeaderValue::from_str(&self.inference.labels.next()).ok();
            if let Some(name) = given.or_else(made) {
                answer.headers_mut().insert(REQUEST_ID, name);
            }
        }
        Ok(answer)
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let path = request.uri().path();
        if let Some(rest) = path.strip_prefix("/admin/").filter(|_| self.admin) {
            let rest = rest.to_owned();
            return self.admin(&rest, request).await;
        }
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        if read {
            return self.page(path).unwrap_or_else(|| Err(self.wrong(&request)));
        }
        if self.public && request.method() == Method::POST {
            if let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) {
                return Ok(self.inference.answer(*endpoint, request).await);
            }
            if let Some(small) = SMALL.iter().find(|small| **small == path) {
                return Ok(self.inference.small(small, request).await);
            }
        }
        Err(self.wrong(&request))
    }

    fn page(&self, path: &str) -> Option<Result<Answer, Refusal>> {
        let shell = &self.inference.shell;
        Some(match path {
            "/health" | "/ping" => Ok(pages::health(shell)),
            "/ready" => Ok(pages::ready(shell)),
            "/version" => Ok(pages::version()),
            "/v1/models" => Ok(pages::models(shell)),
            "/metrics" => Ok(pages::metrics(shell)),
            _ => pages::model(shell, path.strip_prefix("/v1/models/")?),
        })
    }

    /// Returns why a path and method are not answered.
    fn wrong(&self, request: &Request<Incoming>) -> Refusal {
        let (path, method) = (request.uri().path(), request.method());
        if PAGES.contains(&path) || path.starts_with("/v1/models/") {
            return Refusal::method(method, path, "GET, HEAD");
        }
        let posted = SMALL.contains(&path) || ENDPOINTS.iter().any(|e| e.path == path);
        if posted && self.public {
            Refusal::method(method, path, "POST")
        } else {
            Refusal::not_found(path)
        }
    }

    async fn admin(&self, path: &str, request: Request<Incoming>) -> Result<Answer, Refusal> {
        self.guard.check(request.headers())?;
        let (head, body) = request.into_parts();
        let body: Bytes = Limited::new(body, ADMIN_BODY)
            .collect()
            .await
            .map_err(|_| Refusal::too_large(ADMIN_BODY))?
            .to_bytes();
        let query = head.uri.query().unwrap_or_default();
        admin::answer(&self.inference.shell, &head.method, path, query, &body)
    }
}
