//! Which endpoint answers what.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, SERVER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use super::answer::Answer;
use super::embeddings::Embedding;
use super::errors::ApiError;
use super::live::{Job, Shared};
use super::prompt::{self, chat_prompt, token_id};
use super::request::{Generation, Kind, Limits, served};
use super::stream::StreamBody;
use super::{Fault, fields, json, metrics, text};
use crate::Rejection;

pub(super) type Body = Either<Full<Bytes>, StreamBody>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers one request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let given = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    let (given, made) = (given.map(str::to_owned), shared.make_id());
    let id = given.clone().unwrap_or_else(|| made[..16].to_owned());
    let mut response = match inject(&shared, &request).await {
        Some(response) => response,
        None => route(&shared, request, &id).await.unwrap_or_else(|error| refuse(&error)),
    };
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("uvicorn"));
    if let Ok(id) = HeaderValue::from_str(given.as_deref().unwrap_or(&made)) {
        headers.insert("x-request-id", id);
    }
    Ok(response)
}

/// Returns the answer of a test's fault, if one is set that concerns the request.
async fn inject(shared: &Shared, request: &Request<Incoming>) -> Option<Response<Body>> {
    let fault = *shared.fault.lock().expect("no holder of this lock panics");
    match fault {
        Fault::None => None,
        Fault::Hang => std::future::pending().await,
        _ if request.method() != Method::POST => None,
        Fault::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Some(refuse(&ApiError::injected(status)))
        }
        Fault::Garbage => Some(full(StatusCode::OK, JSON, "\u{1}}not json{")),
    }
}

async fn route(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let (head, body) = request.into_parts();
    let get = head.method == Method::GET;
    let post = head.method == Method::POST;
    match head.uri.path() {
        "/health" if get => Ok(health(shared)),
        "/ping" if get || post => Ok(health(shared)),
        "/version" if get => Ok(json_answer(r#"{"version":"0.32.0"}"#)),
        "/load" if get => {
            let load = shared.in_flight.load(Ordering::Relaxed);
            Ok(json_answer(format!(r#"{{"server_load":{load}}}"#)))
        }
        "/v1/models" if get => Ok(json_answer(models(shared))),
        // An application of its own: it alone answers HEAD.
        "/metrics" if get || head.method == Method::HEAD => Ok(metrics_page(shared)),
        "/reset_prefix_cache" if post => {
            shared.reset_prefix_cache();
            Ok(full(StatusCode::OK, JSON, Bytes::new()))
        }
        "/v1/chat/completions" if post => {
            let body = read(&head.headers, body).await?;
            generate(shared, Kind::Chat, &head.headers, &body, id).await
        }
        "/v1/completions" if post => {
            let body = read(&head.headers, body).await?;
            generate(shared, Kind::Completion, &head.headers, &body, id).await
        }
        "/v1/embeddings" if post => embed(shared, &read(&head.headers, body).await?, id).await,
        "/tokenize" if post => tokenize(shared, &read(&head.headers, body).await?),
        "/detokenize" if post => detokenize(shared, &read(&head.headers, body).await?),
        "/health" | "/version" | "/load" | "/v1/models" | "/metrics" => Ok(not_allowed("GET")),
        "/ping" => Ok(not_allowed("GET, POST")),
        "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/embeddings"
        | "/tokenize"
        | "/detokenize"
        | "/reset_prefix_cache" => Ok(not_allowed("POST")),
        _ => Ok(full(StatusCode::NOT_FOUND, JSON, r#"{"detail":"Not Found"}"#)),
    }
}

fn full(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn json_answer(body: impl Into<Bytes>) -> Response<Body> {
    full(StatusCode::OK, JSON, body)
}

fn refuse(error: &ApiError) -> Response<Body> {
    full(error.status, JSON, error.body())
}

fn not_allowed(allow: &'static str) -> Response<Body> {
    let mut response =
        full(StatusCode::METHOD_NOT_ALLOWED, JSON, r#"{"detail":"Method Not Allowed"}"#);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn health(shared: &Shared) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    if !shared.healthy.load(Ordering::Relaxed) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn models(shared: &Shared) -> Vec<u8> {
    let mut out = br#"{"object":"list","data":["#.to_vec();
    for (place, model) in shared.models.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend(br#"{"id":"#);
        json::string(&mut out, model);
        let created = shared.unix_seconds();
        out.extend(
            format!(r#","object":"model","created":{created},"owned_by":"vllm","root":"#).bytes(),
        );
        json::string(&mut out, &shared.models[0]);
        let most = shared.max_model_len();
        out.extend(
            format!(
                r#","parent":null,"max_model_len":{most},"permission":[{{"id":"modelperm-{:016x}","object":"model_permission","created":{created},"allow_create_engine":false,"allow_sampling":true,"allow_logprobs":true,"allow_search_indices":false,"allow_view":true,"allow_fine_tuning":false,"organization":"*","group":null,"is_blocking":false}}]}}"#,
                text::mix(place as u64 + 1)
            )
            .bytes(),
        );
    }
    out.extend(b"]}");
    out
}

fn metrics_page(shared: &Shared) -> Response<Body> {
    let page = shared.read(|gauges, stats| {
        metrics::page(&shared.models[0], &shared.config.engine, gauges, stats)
    });
    let kind = HeaderValue::from_static("text/plain; version=1.0.0; charset=utf-8");
    full(StatusCode::OK, kind, page)
}

/// Reads a JSON body.
async fn read(headers: &HeaderMap, body: Incoming) -> Result<Map<String, Value>, ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let finding = "Unsupported Media Type: Only 'application/json' is allowed".to_owned();
        return Err(ApiError::invalid(&[finding], None));
    }
    let body = body.collect().await.map_err(|_| ApiError::bad_request("the body broke off"))?;
    fields::parse(&body.to_bytes())
}

/// Returns the refusal of a data-parallel rank that this engine does not have.
fn check_rank(headers: &HeaderMap) -> Result<(), ApiError> {
    let rank = headers.get("x-data-parallel-rank").and_then(|rank| rank.to_str().ok());
    // A rank that is no number is ignored, as the real one does.
    match rank.and_then(|rank| rank.trim().parse::<i64>().ok()) {
        Some(rank) if rank != 0 => {
            Err(ApiError::bad_request(format!("data_parallel_rank {rank} is out of range [0, 1).")))
        }
        _ => Ok(()),
    }
}

async fn generate(
    shared: &Arc<Shared>,
    kind: Kind,
    headers: &HeaderMap,
    body: &Map<String, Value>,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let mut generation = Generation::parse(kind, body, &shared.limits())?;
    check_rank(headers)?;
    let mut jobs = Vec::with_capacity(generation.choices.len());
    for choice in &generation.choices {
        let prompt = &generation.prompts[choice.prompt];
        jobs.push(Job {
            prompt_tokens: prompt.tokens,
            output_tokens: choice.tokens,
            prefix_blocks: prompt.blocks.clone(),
            priority: generation.priority,
            finish: choice.finish,
        });
    }
    generation.prompts.iter_mut().for_each(|prompt| prompt.blocks = Vec::new());
    let ticket = shared.submit(jobs).map_err(|rejection| rejected(&rejection))?;
    let stream = generation.stream;
    let answer = Answer::new(generation, id, shared.unix_seconds());
    if !stream {
        let reach = ticket.finished().await;
        return Ok(json_answer(answer.body(&reach)));
    }
    let mut response = Response::new(Either::Right(StreamBody::new(answer, ticket)));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

async fn embed(
    shared: &Arc<Shared>,
    body: &Map<String, Value>,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let embedding = Embedding::parse(body, &shared.limits())?;
    let job = |input: &text::Prompt| Job {
        prompt_tokens: input.tokens,
        output_tokens: 0,
        prefix_blocks: Vec::new(),
        priority: 0,
        finish: "stop",
    };
    let jobs = embedding.inputs.iter().map(job).collect();
    let ticket = shared.submit(jobs).map_err(|rejection| rejected(&rejection))?;
    ticket.finished().await;
    Ok(json_answer(embedding.body(id, shared.unix_seconds())))
}

fn rejected(rejection: &Rejection) -> ApiError {
    match rejection {
        Rejection::QueueFull { .. } => ApiError::busy(),
        other => ApiError::bad_request(other.to_string()),
    }
}

fn tokenize(shared: &Shared, body: &Map<String, Value>) -> Result<Response<Body>, ApiError> {
    let mut fields = fields::Fields::new(body);
    let (model, strings) = (fields.text("model"), fields.boolean("return_token_strs"));
    let prompt = body.get("prompt").and_then(Value::as_str);
    let messages = body.get("messages").and_then(Value::as_array);
    if prompt.is_none() && messages.is_none() {
        // The validator tells why it is neither of the two kinds of requests.
        fields.require("prompt");
        fields.text("prompt");
        fields.require("messages");
        fields.list("messages");
    }
    let messages = messages.map(Vec::as_slice);
    fields.found(prompt::check_messages(messages.unwrap_or(&[])));
    fields.finish()?;
    let limits = shared.limits();
    served(model, &limits)?;
    let said;
    let (count, text) = match (prompt, messages) {
        (Some(prompt), _) => (text::pieces(prompt).count(), prompt),
        (None, messages) => {
            let messages = messages.unwrap_or(&[]);
            let counted = chat_prompt(messages, &[], &limits, 0)?;
            let contents = messages.iter().filter_map(|m| m.get("content")?.as_str());
            said = contents.collect::<Vec<_>>().join("");
            (counted.tokens as usize, said.as_str())
        }
    };
    let ids: Vec<String> = text::pieces(text).map(|piece| text::id_of(piece).to_string()).collect();
    // What a template adds has ids of its own, at the end.
    let padding = (ids.len()..count).map(|place| format!(",{}", place % 3));
    let mut out =
        format!(r#"{{"count":{count},"max_model_len":{},"tokens":["#, limits.max_model_len);
    out.push_str(&ids.join(","));
    let padding: String = padding.collect();
    out.push_str(if ids.is_empty() { padding.trim_start_matches(',') } else { &padding });
    out.push_str(r#"],"token_strs":"#);
    let mut out = out.into_bytes();
    if strings {
        out.push(b'[');
        for (place, piece) in text::pieces(text).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            json::string(&mut out, piece);
        }
        out.extend(b"]}");
    } else {
        out.extend(b"null}");
    }
    Ok(json_answer(out))
}

fn detokenize(shared: &Shared, body: &Map<String, Value>) -> Result<Response<Body>, ApiError> {
    let mut fields = fields::Fields::new(body);
    fields.require("tokens");
    let (tokens, model) = (fields.list("tokens").unwrap_or(&[]), fields.text("model"));
    fields.found(prompt::check_ids("tokens", tokens));
    fields.finish()?;
    served(model, &shared.limits())?;
    let mut out = br#"{"prompt":""#.to_vec();
    // An id that is out of vocabulary has no text, as with the real one.
    for id in tokens.iter().filter_map(|token| token_id(token).ok()) {
        out.extend(text::word(id));
    }
    out.extend(br#""}"#);
    Ok(json_answer(out))
}

impl Shared {
    pub(super) fn limits(&self) -> Limits<'_> {
        Limits {
            models: &self.models,
            max_model_len: self.max_model_len(),
            block_size: self.config.engine.block_size,
            seed: self.config.seed.0,
        }
    }

    fn max_model_len(&self) -> u32 {
        self.config.engine.max_model_len
    }

    /// Returns the time of day at which model time is now, in seconds since 1970.
    fn unix_seconds(&self) -> u64 {
        self.config.epoch + self.clock.now().as_nanos() / 1_000_000_000
    }

    /// Returns 32 hexadecimal digits that no other request of this server gets.
    fn make_id(&self) -> String {
        let n = u64::from(self.requests.fetch_add(1, Ordering::Relaxed));
        let first = text::mix(n ^ text::mix(self.config.seed.0 ^ 0x5EED));
        format!("{first:016x}{:016x}", text::mix(!first))
    }
}
