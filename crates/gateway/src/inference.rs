//! The path of a request: body and headers in, turn awaited, engine called, answer out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use sagellm_api::{Patch, Peek, UsageChunk};
use sagellm_executor::headers::forwarded;
use sagellm_executor::{Call, CallKind, EngineError, Timeouts};
use sagellm_manager::{Line, NewRequest, Permit, PromptSize, Shell};
use sagellm_types::{Ending, PrefixHash, RequestType, UserId};

use crate::answer::{Answer, AnswerBody, from_engine};
use crate::attempt::{Begun, Outcome, Reading, Said, attempt};
use crate::config::UsageMode;
use crate::error::Refusal;
use crate::intent::{Intent, Labels, REQUEST_ID};
use crate::relay::{Format, Relay, convert};

/// Tells a client which instance answered.
const INSTANCE: HeaderName = HeaderName::from_static("x-sagellm-instance");

/// The longest answer to a call that is not scheduled.
const LONGEST_SMALL: usize = 64 << 20;

/// A client that takes longer than this to send its body is not going to.
const SLOWEST_BODY: Duration = Duration::from_secs(60);

/// A path that engines answer and that is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) path: &'static str,
    pub(crate) kind: RequestType,
    /// Whether its streams are OpenAI's chunks, whose usage can be asked for.
    pub(crate) chunks: bool,
}

/// What all requests share.
pub(crate) struct Inference {
    pub(crate) shell: Arc<Shell>,
    pub(crate) limits: Timeouts,
    pub(crate) body_limit: usize,
    pub(crate) usage: UsageMode,
    pub(crate) labels: Labels,
}

/// A request as it goes to engines.
struct Outgoing {
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Bytes,
    reading: Reading,
}

impl Inference {
    /// Answers a request that is scheduled.
    pub(crate) async fn answer(&self, endpoint: Endpoint, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let label = match self.labels.of(&head.headers) {
            Ok(label) => label,
            Err(refusal) => return refusal.into(),
        };
        let intent = Intent::read(&head.headers, Arc::clone(&label));
        let answer = match intent {
            Ok(intent) => self.run(endpoint, head.headers, body, intent).await,
            Err(refusal) => Err(refusal),
        };
        let mut answer = answer.unwrap_or_else(Answer::from);
        if let Ok(value) = HeaderValue::from_bytes(label.as_bytes()) {
            answer.headers_mut().insert(REQUEST_ID, value);
        }
        answer
    }

    /// Hands a small call to any instance of its model.
    pub(crate) async fn small(&self, path: &'static str, request: Request<Incoming>) -> Answer {
        match self.try_small(path, request).await {
            Ok(answer) => answer,
            Err(refusal) => refusal.into(),
        }
    }

    async fn try_small(
        &self,
        path: &'static str,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let (head, body) = request.into_parts();
        let body = self.read_body(&head.headers, body).await?;
        let peek = Peek::parse(&body).map_err(|error| Refusal::body(&error))?;
        let found = self.resolve(peek.model.as_deref())?;
        let patched = Patch::of(&peek).model(&found.name).apply();
        let call = Call {
            method: http::Method::POST,
            path: path.into(),
            headers: forwarded(&head.headers),
            body: patched.unwrap_or_else(|| body.clone()),
            limits: self.limits,
            kind: CallKind::Traffic,
        };
        let nobody = || Refusal::nobody_ready(&found.name);
        let first = self.shell.any_line(found.id, None).ok_or_else(nobody)?;
        let answer = small_call(&first, call.clone()).await;
        if answer.as_ref().is_ok_and(|answer| !answer.status().is_server_error()) {
            return answer;
        }
        // Nothing has gone to the client: another engine may do better.
        match self.shell.any_line(found.id, Some(first.id)).filter(|line| line.id != first.id) {
            Some(second) => small_call(&second, call).await,
            None => answer,
        }
    }

    async fn run(
        &self,
        endpoint: Endpoint,
        headers: HeaderMap,
        body: Incoming,
        intent: Intent,
    ) -> Result<Answer, Refusal> {
        let body = self.read_body(&headers, body).await?;
        let peek = Peek::parse(&body).map_err(|error| Refusal::body(&error))?;
        let found = self.resolve(peek.model.as_deref())?;
        let new = new_request(endpoint, &peek, &intent, &found, &self.shell);

        let mut patch = Patch::of(&peek).model(&found.name).without_kv_transfer_params();
        let inject = endpoint.chunks
            && peek.stream
            && !peek.include_usage
            && peek.usage_can_be_asked_for()
            && self.usage == UsageMode::Inject;
        if inject {
            patch = patch.include_usage();
        }
        let reading = match (endpoint.chunks, inject) {
            (true, true) => Reading::Events(UsageChunk::Withhold),
            (true, false) => Reading::Events(UsageChunk::Forward),
            (false, _) => Reading::Plain,
        };
        let patched = patch.apply();
        let mut headers = forwarded(&headers);
        if let Ok(value) = HeaderValue::from_bytes(intent.label.as_bytes()) {
            headers.insert(REQUEST_ID, value);
        }
        let outgoing =
            Outgoing { endpoint, headers, body: patched.unwrap_or_else(|| body.clone()), reading };
        self.execute(new, outgoing).await
    }

    /// Waits for the request's turn and calls engines until one has begun to answer.
    async fn execute(&self, new: NewRequest, outgoing: Outgoing) -> Result<Answer, Refusal> {
        let mut ticket = self.shell.submit(new);
        let mut said: Option<Said> = None;
        loop {
            let permit = match ticket.permit().await {
                Ok(permit) => permit,
                // The engine's own words tell a client more than ours.
                Err(Ending::Failed(_)) if said.is_some() => {
                    let Said { status, headers, body } = said.expect("just seen");
                    return Ok(from_engine(status, headers, body));
                }
                Err(ending) => return Err(Refusal::ending(&ending)),
            };
            let outcome = tokio::select! {
                outcome = attempt(&permit, outgoing.call(self.limits), outgoing.reading) => outcome,
                () = permit.aborted() => {
                    ticket = permit.abandon();
                    continue;
                }
            };
            match outcome {
                Outcome::Failed(kind, words) => {
                    said = words;
                    ticket = permit.fail(kind);
                }
                Outcome::Whole { status, headers, body } => {
                    let usage = sagellm_api::Usage::find(&body).map(convert);
                    let mut answer = from_engine(status, headers, body);
                    if let Ok(value) = HeaderValue::from_str(permit.instance_name()) {
                        answer.headers_mut().insert(INSTANCE, value);
                    }
                    permit.finish(usage.unwrap_or_default(), None);
                    return Ok(answer);
                }
                Outcome::Begun { headers, body, stream } => {
                    // What is told here is what makes the answer begin: from now on it cannot be
                    // given to another instance.
                    if !permit.first_token() {
                        ticket = permit.abandon();
                        continue;
                    }
                    return Ok(begin(permit, headers, body, stream, self.shell.clock()));
                }
            }
        }
    }

    /// Returns the model that a request names, or the only one if it names none.
    fn resolve(&self, name: Option<&str>) -> Result<sagellm_manager::Resolved, Refusal> {
        let found = self.shell.read(|core, _| match name {
            Some(name) => core.models().resolve(name),
            None => core.models().only(),
        });
        found.ok_or_else(|| {
            let views = self.shell.read(|core, _| core.model_views());
            let served: Vec<String> = views.into_iter().map(|view| view.name).collect();
            Refusal::unknown_model(name.unwrap_or_default(), &served)
        })
    }

    async fn read_body(&self, headers: &HeaderMap, body: Incoming) -> Result<Bytes, Refusal> {
        let limit = self.body_limit;
        let length =
            headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: usize| length > limit) {
            return Err(Refusal::too_large(limit));
        }
        if let Some(kind) = headers.get(CONTENT_TYPE)
            && !kind.as_bytes().to_ascii_lowercase().starts_with(b"application/json")
        {
            return Err(Refusal::media_type());
        }
        match tokio::time::timeout(SLOWEST_BODY, Limited::new(body, limit).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::too_large(limit)),
            Ok(Err(_)) => Err(Refusal::incomplete()),
            Err(_) => Err(Refusal::slow_body()),
        }
    }
}

/// Calls one engine and reads its answer in full.
async fn small_call(line: &Line, call: Call) -> Result<Answer, Refusal> {
    let failed = |error: EngineError| Refusal::ending(&Ending::Failed(error.kind()));
    let mut reply = line.engine.call(call).await.map_err(failed)?;
    sagellm_executor::headers::strip_hop_by_hop(&mut reply.headers);
    let body = reply.body.collect(LONGEST_SMALL).await.map_err(failed)?;
    let mut answer = from_engine(reply.status, reply.headers, body);
    if let Ok(value) = HeaderValue::from_str(&line.name) {
        answer.headers_mut().insert(INSTANCE, value);
    }
    Ok(answer)
}

impl Outgoing {
    fn call(&self, limits: Timeouts) -> Call {
        Call {
            method: http::Method::POST,
            path: self.endpoint.path.into(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            limits,
            kind: CallKind::Traffic,
        }
    }
}

/// Returns the request as the control plane sees it.
fn new_request(
    endpoint: Endpoint,
    peek: &Peek<'_>,
    intent: &Intent,
    found: &sagellm_manager::Resolved,
    shell: &Shell,
) -> NewRequest {
    let answers = peek.n.unwrap_or(1).clamp(1, 1024).saturating_mul(peek.prompts.max(1));
    let max_tokens =
        peek.max_tokens.map(|each| u32::try_from(each.saturating_mul(answers)).unwrap_or(u32::MAX));
    let preferred =
        intent.preferred.as_deref().and_then(|name| shell.read(|core, _| core.fleet().find(name)));
    NewRequest {
        label: Some(Arc::clone(&intent.label)),
        kind: endpoint.kind,
        model: Some(found.id),
        user: intent.user.or_else(|| peek.user.as_deref().map(UserId::of)),
        priority: intent.priority,
        objectives: intent.objectives,
        cost_budget: intent.cost_budget,
        session: intent.session,
        prefix: (!peek.prefix().is_empty()).then(|| PrefixHash::of(peek.prefix())),
        prompt: match peek.prompt {
            Some(sagellm_api::PromptSize::Tokens(tokens)) => PromptSize::Tokens(tokens),
            Some(sagellm_api::PromptSize::Bytes(bytes)) => PromptSize::Bytes(bytes),
            None => PromptSize::Bytes(0),
        },
        max_tokens,
        preferred,
    }
}

/// Returns a running answer.
fn begin(
    permit: Permit,
    headers: HeaderMap,
    body: sagellm_executor::ReplyBody,
    stream: Begun,
    clock: sagellm_types::clock::Clock,
) -> Answer {
    let (format, first, marks) = match stream {
        Begun::Events { scanner, first } => (Format::Events(scanner), first.forward, first.marks),
        Begun::Opaque { first } => (Format::opaque(&first), first, sagellm_api::Marks::default()),
    };
    let name = Arc::clone(permit.instance_name());
    let relay = Relay::new(permit, body, format, clock, first, &marks);
    let mut answer = Response::new(AnswerBody::Relay(Box::new(relay)));
    *answer.headers_mut() = headers;
    if let Ok(value) = HeaderValue::from_str(&name) {
        answer.headers_mut().insert(INSTANCE, value);
    }
    answer
}
