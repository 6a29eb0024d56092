//! The async handle for applications that embed the control plane.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;
use sagellm_executor::{
    Call, EngineError, HttpConfig, ProbeConfig, SettingsError, Timeouts, classify_status,
};
use sagellm_monitoring::Span;
use sagellm_perf::PromptSize;
use sagellm_types::clock::Clock;
use sagellm_types::{
    Ending, ExecutionInstance, FailureKind, InstanceId, Objectives, PerformanceMetrics, PrefixHash,
    RequestMetadata, RequestStatus, RequestType, SchedulingMetrics, Tokens, Usage, Usd, UserId,
};
use tokio::task::AbortHandle;

use super::shell::{HttpEngines, Shell, ShellError};
use super::ticket::{Permit, Ticket};
use crate::{Config, ConfigError, NewRequest};

/// What an application gets for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The engine's answer, as JSON.
    pub body: Bytes,
    /// Tokens, as the engine reported them.
    pub usage: Usage,
    /// The instance that answered.
    pub instance: Arc<str>,
}

impl Output {
    /// Returns the generated text: of the first choice, chat or completion.
    pub fn text(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        let choice = body.get("choices")?.get(0)?;
        let text = choice.get("text").or_else(|| choice.get("message")?.get("content"))?;
        Some(text.as_str()?.to_owned())
    }
}

/// Why a request has no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError {
    /// Its id is in use.
    #[error("request id `{0}` is still active; wait for its end or choose another id")]
    Duplicate(String),
    /// It says nothing that could be run.
    #[error("request `{id}`: {reason}")]
    Invalid {
        /// Its id.
        id: String,
        /// What is wrong and what is accepted.
        reason: String,
    },
    /// The engine refused or failed it.
    #[error("engine returned status {status}: {body}")]
    Engine {
        /// HTTP status.
        status: u16,
        /// The engine's words.
        body: String,
    },
    /// It ended otherwise.
    #[error("request ended: {0}")]
    Ended(String),
}

/// Where a request of an application stands.
struct Job {
    status: RequestStatus,
    id: Option<sagellm_types::RequestId>,
    output: Option<Result<Output, ManagerError>>,
    task: Option<AbortHandle>,
}

/// Ended requests whose output is kept for whoever asks.
const KEPT: usize = 4_096;

/// The control plane for applications that embed it: register instances, submit requests, read
/// metrics.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use sagellm_manager::{Config, ControlPlaneManager};
/// use sagellm_types::{ExecutionInstance, RequestMetadata};
///
/// let manager = ControlPlaneManager::start(&Config::default())?;
/// manager.register_instance(ExecutionInstance::new("vllm-1", "localhost", 8000, "llama-7b"))?;
/// let request = RequestMetadata {
///     prompt: Some("Explain quantum computing in simple terms.".into()),
///     model_name: Some("llama-7b".into()),
///     slo_deadline_ms: Some(1000.0),
///     ..RequestMetadata::new("req-001")
/// };
/// let output = manager.process_request(request).await?;
/// println!("{}", output.text().unwrap_or_default());
/// manager.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct ControlPlaneManager {
    shell: Arc<Shell>,
    jobs: Arc<Mutex<IndexMap<String, Job>>>,
    limits: Timeouts,
}

/// Why a manager could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The HTTP client could not be built.
    #[error(transparent)]
    Client(#[from] SettingsError),
}

impl ControlPlaneManager {
    /// Starts a control plane that calls engines over HTTP. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If a setting cannot be, or the HTTP client cannot be built.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        config.validate()?;
        let (http, clock) = (HttpConfig::default(), Clock::real());
        let engines = HttpEngines::new(&http, clock)?;
        let shell = Shell::start(config, clock, Box::new(engines), ProbeConfig::default());
        Ok(Self::over(shell, &http))
    }

    /// Uses a control plane that runs already.
    pub fn over(shell: Arc<Shell>, http: &HttpConfig) -> Self {
        Self { shell, jobs: Arc::default(), limits: Timeouts::from(&http.timeouts) }
    }

    /// Registers an instance; it takes requests once it answers its probes.
    ///
    /// # Errors
    /// [`ShellError`] if it is not taken or cannot be called.
    pub fn register_instance(&self, spec: ExecutionInstance) -> Result<InstanceId, ShellError> {
        self.shell.register(spec)
    }

    /// Removes an instance; returns whether it was registered.
    pub fn unregister_instance(&self, name: &str) -> bool {
        let found = self.shell.read(|core, _| core.fleet().find(name));
        found.is_some_and(|id| self.shell.remove(id).is_some())
    }

    /// Takes a request in and returns its id; the output is kept for `output`.
    ///
    /// # Errors
    /// [`ManagerError`] if the id is still active or the request says nothing that could be run.
    pub fn submit_request(&self, request: RequestMetadata) -> Result<String, ManagerError> {
        let prepared = Prepared::new(&self.shell, &request)?;
        let name = request.request_id;
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.get(&name).is_some_and(|job| job.output.is_none()) {
            return Err(ManagerError::Duplicate(name));
        }
        let ticket = self.shell.submit(prepared.new.clone());
        let job =
            Job { status: RequestStatus::Queued, id: Some(ticket.id()), output: None, task: None };
        jobs.shift_remove(&name);
        jobs.insert(name.clone(), job);
        let (table, limits, own) = (Arc::clone(&self.jobs), self.limits, name.clone());
        let id = ticket.id();
        let task = tokio::spawn(async move {
            let output = prepared.run(ticket, limits).await;
            let mut jobs = table.lock().unwrap_or_else(PoisonError::into_inner);
            // It may have been cancelled in this moment, and its name given to another.
            let still = |job: &&mut Job| job.id == Some(id) && job.output.is_none();
            if let Some(job) = jobs.get_mut(&own).filter(still) {
                job.status = match &output {
                    Ok(_) => RequestStatus::Completed,
                    Err(_) => RequestStatus::Failed,
                };
                job.output = Some(output);
            }
            forget_oldest(&mut jobs);
        });
        if let Some(job) = jobs.get_mut(&name) {
            job.task = Some(task.abort_handle());
        }
        Ok(name)
    }

    /// Runs a request to its end and returns the output.
    ///
    /// # Errors
    /// [`ManagerError`] says why there is none.
    pub async fn process_request(&self, request: RequestMetadata) -> Result<Output, ManagerError> {
        let prepared = Prepared::new(&self.shell, &request)?;
        let ticket = self.shell.submit(prepared.new.clone());
        prepared.run(ticket, self.limits).await
    }

    /// Returns where a submitted request stands; `None` if it is unknown or long gone.
    pub fn request_status(&self, id: &str) -> Option<RequestStatus> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job = jobs.get(id)?;
        if job.output.is_some() || job.status == RequestStatus::Cancelled {
            return Some(job.status);
        }
        let inside = job.id?;
        Some(self.shell.read(|core, _| core.status(inside)).unwrap_or(job.status))
    }

    /// Returns the output of a submitted request once it has ended.
    pub fn output(&self, id: &str) -> Option<Result<Output, ManagerError>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.output.clone()
    }

    /// Cancels a submitted request, waiting or running; returns whether it was still active.
    pub fn cancel_request(&self, id: &str) -> bool {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(job) = jobs.get_mut(id).filter(|job| job.output.is_none()) else { return false };
        job.status = RequestStatus::Cancelled;
        job.output = Some(Err(ManagerError::Ended(Ending::Cancelled.name().to_owned())));
        if let Some(task) = job.task.take() {
            // The task owns the ticket or the permit: ending it cancels the request.
            task.abort();
        }
        true
    }

    /// Returns what happened to requests since the start.
    pub fn metrics(&self) -> PerformanceMetrics {
        self.shell.snapshot().figures.performance(Span::Start)
    }

    /// Returns how well the scheduler decides, since the start.
    pub fn scheduling_metrics(&self) -> SchedulingMetrics {
        self.shell.snapshot().figures.scheduling(Span::Start)
    }

    /// Returns the control plane beneath.
    pub fn shell(&self) -> &Arc<Shell> {
        &self.shell
    }

    /// Refuses new requests and waits until those accepted have ended.
    pub async fn stop(&self) {
        self.shell.stop();
        while self.shell.read(|core, _| core.counts().submitted != core.counts().ended()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Drops the oldest ended jobs beyond [`KEPT`].
fn forget_oldest(jobs: &mut IndexMap<String, Job>) {
    while jobs.len() > KEPT {
        let Some(oldest) = jobs.values().position(|job| job.output.is_some()) else { return };
        jobs.shift_remove_index(oldest);
    }
}

/// A request as it goes to an engine.
struct Prepared {
    new: NewRequest,
    path: &'static str,
    body: Bytes,
}

impl Prepared {
    fn new(shell: &Shell, request: &RequestMetadata) -> Result<Self, ManagerError> {
        let invalid = |reason: &str| ManagerError::Invalid {
            id: request.request_id.clone(),
            reason: reason.to_owned(),
        };
        if request.request_id.trim().is_empty() {
            return Err(invalid("request_id must not be empty"));
        }
        for (name, millis) in [
            ("slo_deadline_ms", request.slo_deadline_ms),
            ("ttft_slo_ms", request.ttft_slo_ms),
            ("tbt_slo_ms", request.tbt_slo_ms),
        ] {
            if millis.is_some_and(|ms| !(ms > 0.0 && ms.is_finite())) {
                return Err(invalid(&format!("{name} must be above 0")));
            }
        }
        if request.max_tokens == Some(0) {
            return Err(invalid("max_tokens must be at least 1"));
        }
        if request.temperature.is_nan() || request.temperature < 0.0 {
            return Err(invalid("temperature must not be negative"));
        }
        if !(0.0..=1.0).contains(&request.top_p) {
            return Err(invalid("top_p must be from 0 to 1"));
        }
        let kind = request.effective_type();
        let named = request.effective_model_name();
        let resolved = shell.read(|core, _| match named {
            Some(name) => core.models().resolve(name),
            None => core.models().only(),
        });
        let model = resolved.as_ref().map_or(named.unwrap_or_default(), |found| &*found.name);
        let (path, body) = match (kind, &request.prompt, &request.embedding_texts) {
            (RequestType::Embedding, _, Some(texts)) => {
                let input =
                    serde_json::json!({"model": model, "input": texts, "encoding_format": "float"});
                ("/v1/embeddings", input)
            }
            (RequestType::Embedding, ..) => return Err(invalid("an embedding needs texts")),
            (_, None, _) => return Err(invalid("a prompt is needed")),
            (RequestType::LlmChat, Some(prompt), _) => {
                let messages = serde_json::json!([{"role": "user", "content": prompt}]);
                ("/v1/chat/completions", generation(request, model, "messages", messages))
            }
            (RequestType::LlmGenerate, Some(prompt), _) => {
                let prompt = serde_json::Value::from(prompt.as_str());
                ("/v1/completions", generation(request, model, "prompt", prompt))
            }
        };
        let text = request.prompt.as_deref().unwrap_or_default();
        let bytes = match &request.embedding_texts {
            Some(texts) if kind == RequestType::Embedding => texts.iter().map(String::len).sum(),
            _ => text.len(),
        };
        let millis = |ms: Option<f64>| ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
        let preferred = request
            .preferred_instance_id
            .as_deref()
            .and_then(|name| shell.read(|core, _| core.fleet().find(name)));
        let new = NewRequest {
            label: Some(request.request_id.as_str().into()),
            kind,
            model: resolved.as_ref().map(|found| found.id),
            user: request.user_id.as_deref().map(UserId::of),
            priority: request.priority,
            objectives: Objectives {
                ttft: millis(request.ttft_slo_ms),
                tpot: millis(request.tbt_slo_ms),
                e2e: millis(request.slo_deadline_ms),
            },
            cost_budget: request.cost_budget.map(Usd),
            session: None,
            prefix: (!text.is_empty())
                .then(|| PrefixHash::of(&text.as_bytes()[..text.len().min(1024)])),
            prompt: PromptSize::Bytes(bytes as u64),
            max_tokens: request.max_tokens,
            preferred,
        };
        let body = serde_json::to_vec(&body).expect("a JSON value is always JSON").into();
        Ok(Self { new, path, body })
    }

    /// Waits for the request's turn and calls engines until one has answered.
    async fn run(self, mut ticket: Ticket, limits: Timeouts) -> Result<Output, ManagerError> {
        loop {
            let permit =
                ticket.permit().await.map_err(|ending| ManagerError::Ended(describe(&ending)))?;
            let answer = tokio::select! {
                answer = self.call(&permit, limits) => answer,
                () = permit.aborted() => {
                    ticket = permit.abandon();
                    continue;
                }
            };
            match answer {
                Ok((status, body)) => match classify_status(status, &body) {
                    None if !status.is_success() => ticket = permit.fail(FailureKind::Garbage),
                    None => {
                        let usage = usage(&body);
                        let instance = Arc::clone(permit.instance_name());
                        permit.finish(usage, None);
                        return Ok(Output { body, usage, instance });
                    }
                    Some(FailureKind::Rejected) => {
                        permit.fail_begun(FailureKind::Rejected);
                        let body = String::from_utf8_lossy(&body).into_owned();
                        return Err(ManagerError::Engine { status: status.as_u16(), body });
                    }
                    Some(kind) => ticket = permit.fail(kind),
                },
                Err(error) => ticket = permit.fail(error.kind()),
            }
        }
    }

    async fn call(
        &self,
        permit: &Permit,
        limits: Timeouts,
    ) -> Result<(http::StatusCode, Bytes), EngineError> {
        /// An answer longer than this is not one to a request.
        const LONGEST: usize = 64 << 20;
        let call = Call::post(self.path, self.body.clone(), limits);
        let reply = permit.engine().call(call).await?;
        let status = reply.status;
        Ok((status, reply.body.collect(LONGEST).await?))
    }
}

/// Returns the body of a request for generated text.
fn generation(
    request: &RequestMetadata,
    model: &str,
    input: &str,
    value: serde_json::Value,
) -> serde_json::Value {
    let mut body = serde_json::json!({
        "model": model,
        "temperature": request.temperature,
        "top_p": request.top_p,
    });
    body[input] = value;
    if let Some(max_tokens) = request.max_tokens {
        body["max_tokens"] = max_tokens.into();
    }
    if let Some(user) = &request.user_id {
        body["user"] = user.as_str().into();
    }
    body
}

/// Returns the usage in an answer.
fn usage(body: &[u8]) -> Usage {
    let found = sagellm_api::Usage::find(body).unwrap_or_default();
    Usage {
        prompt: Tokens(found.prompt),
        output: Tokens(found.completion),
        cached: Tokens(found.cached.unwrap_or(0)),
    }
}

/// Returns how a request ended, in words.
fn describe(ending: &Ending) -> String {
    match ending {
        Ending::Failed(kind) => format!("failed ({})", kind.name()),
        Ending::Expired(reason) => format!("expired ({})", reason.name()),
        Ending::Refused { reason, .. } => format!("refused ({})", reason.name()),
        other => other.name().to_owned(),
    }
}
