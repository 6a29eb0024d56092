//! What a client asks for: from a body to the sequences to run, in the order in which vLLM checks.

use serde_json::{Map, Value};

use super::errors::ApiError;
use super::fields::Fields;
use super::prompt::{chat_prompt, fit, prompts, seed_of};
use super::text::{self, Prompt, mix};
use super::tools::tool_call;

/// Which endpoint was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
}

/// What the server knows that a request is checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits<'a> {
    /// The first is the name of the model, the others its aliases.
    pub(super) models: &'a [String],
    pub(super) max_model_len: u32,
    pub(super) block_size: u32,
    pub(super) seed: u64,
}

/// What is said token by token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Words drawn from a seed.
    Words(u64),
    /// A call of a tool: its name, and the JSON of its arguments, four bytes a token.
    Tool { name: String, arguments: String },
}

/// One answer of a request.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// Which of the request's prompts it answers.
    pub(super) prompt: usize,
    pub(super) script: Script,
    /// Output tokens.
    pub(super) tokens: u32,
    /// Bytes of text that are shown: fewer than the tokens have when a stop string was met.
    pub(super) shown: usize,
    pub(super) finish: &'static str,
    pub(super) stop: Option<String>,
}

/// How usage is reported in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamUsage {
    Never,
    AtEnd,
    InEveryChunk,
}

/// A request to generate, checked.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) kind: Kind,
    pub(super) model: String,
    pub(super) prompts: Vec<Prompt>,
    pub(super) choices: Vec<Choice>,
    pub(super) stream: bool,
    pub(super) usage: StreamUsage,
    /// Alternatives to report with each token's probability, if that is asked for.
    pub(super) logprobs: Option<u32>,
    pub(super) priority: i64,
}

/// Most alternatives per token.
const MOST_LOGPROBS: i64 = 20;
/// Output tokens of a completion that does not say.
const COMPLETION_TOKENS: u32 = 16;
/// Output tokens of a chat answer that ends by itself.
const NATURAL: std::ops::Range<u32> = 16..256;

impl Generation {
    /// Returns what `body` asks for.
    ///
    /// # Errors
    /// As vLLM words them.
    pub(super) fn parse(
        kind: Kind,
        body: &Map<String, Value>,
        limits: &Limits<'_>,
    ) -> Result<Self, ApiError> {
        check_first(kind, body)?;
        let mut fields = Fields::new(body);
        if kind == Kind::Chat {
            fields.require("messages");
        }
        let model = fields.text("model");
        let messages = if kind == Kind::Chat { fields.list("messages") } else { None };
        let wanted = Wanted::read(kind, &mut fields);
        let tools = fields.list("tools").unwrap_or(&[]);
        let salt = fields.text("cache_salt").map_or(0, seed_of);
        fields.finish()?;

        let model = served(model, limits)?;
        let mut prompts = match messages {
            Some(messages) => vec![chat_prompt(messages, tools, limits, salt)?],
            None => prompts(body.get("prompt"), limits, salt)?,
        };
        wanted.check(limits)?;
        for prompt in &mut prompts {
            fit(prompt, wanted.max_tokens, limits.max_model_len)?;
        }
        let tool = tool_call(body, tools, messages.unwrap_or(&[]));
        let mut choices = Vec::with_capacity(prompts.len() * wanted.n as usize);
        for (place, prompt) in prompts.iter().enumerate() {
            for n in 0..wanted.n {
                choices.push(wanted.choice(place, prompt, n, tool.clone(), limits));
            }
        }
        let Wanted { stream, usage, logprobs, priority, .. } = wanted;
        let model = model.to_owned();
        Ok(Self { kind, model, prompts, choices, stream, usage, logprobs, priority })
    }
}

/// Returns the name under which a model is served.
///
/// # Errors
/// If it is not.
pub(super) fn served<'a>(model: Option<&'a str>, limits: &Limits<'a>) -> Result<&'a str, ApiError> {
    let Some(model) = model else { return Ok(&limits.models[0]) };
    if limits.models.iter().any(|name| name == model) {
        Ok(model)
    } else {
        Err(ApiError::no_model(model, &limits.models.join(", ")))
    }
}

/// Checks what vLLM checks before the types of fields.
fn check_first(kind: Kind, body: &Map<String, Value>) -> Result<(), ApiError> {
    let given = |name: &str| body.get(name).filter(|value| !value.is_null());
    if given("stream_options").is_some() && given("stream") != Some(&Value::Bool(true)) {
        let message = "Stream options can only be defined when `stream=True`.";
        return Err(ApiError::parameter(message, "stream_options", None));
    }
    if given("cache_salt").is_some_and(|salt| salt.as_str() == Some("")) {
        let message = "Parameter 'cache_salt' must be a non-empty string if provided.";
        return Err(ApiError::parameter(message, "cache_salt", None));
    }
    let empty = match given("prompt") {
        None => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    if kind == Kind::Completion && empty {
        let message = "Either prompt or prompt_embeds must be provided and non-empty.";
        return Err(ApiError::parameter(message, "prompt", None));
    }
    Ok(())
}

/// The sampling and output fields of a body.
struct Wanted {
    kind: Kind,
    n: u32,
    raw_n: i64,
    max_tokens: Option<i64>,
    min_tokens: i64,
    ignore_eos: bool,
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: u64,
    stop: Vec<String>,
    stream: bool,
    usage: StreamUsage,
    logprobs: Option<u32>,
    raw_logprobs: i64,
    priority: i64,
}

impl Wanted {
    fn read(kind: Kind, fields: &mut Fields<'_>) -> Self {
        let stream = fields.boolean("stream");
        let options = fields.object("stream_options");
        let option = |name: &str| options.and_then(|o| o.get(name)) == Some(&Value::Bool(true));
        let usage = match (option("include_usage"), option("continuous_usage_stats")) {
            (true, true) => StreamUsage::InEveryChunk,
            (true, false) => StreamUsage::AtEnd,
            (false, _) => StreamUsage::Never,
        };
        let limit = fields.integer("max_tokens");
        let max_tokens = match kind {
            Kind::Chat => fields.integer("max_completion_tokens").or(limit),
            Kind::Completion => limit,
        };
        let raw_logprobs = match kind {
            Kind::Chat if fields.boolean("logprobs") => fields.integer("top_logprobs").unwrap_or(0),
            Kind::Chat => -1,
            Kind::Completion => fields.integer("logprobs").unwrap_or(-1),
        };
        let stop = match fields.get("stop") {
            Some(Value::String(text)) => vec![text.clone()],
            Some(_) => {
                let texts = fields.list("stop").unwrap_or(&[]).iter();
                texts.filter_map(Value::as_str).map(str::to_owned).collect()
            }
            None => Vec::new(),
        };
        let raw_n = fields.integer("n").unwrap_or(1);
        Self {
            kind,
            n: raw_n.clamp(0, 1_024) as u32,
            raw_n,
            max_tokens,
            min_tokens: fields.integer("min_tokens").unwrap_or(0),
            ignore_eos: fields.boolean("ignore_eos"),
            temperature: fields.float("temperature"),
            top_p: fields.float("top_p"),
            seed: fields.integer("seed").map_or(0, |seed| mix(seed as u64 ^ 1)),
            stop: stop.into_iter().filter(|text| !text.is_empty()).collect(),
            stream,
            usage,
            logprobs: u32::try_from(raw_logprobs.min(MOST_LOGPROBS)).ok(),
            raw_logprobs,
            priority: fields.integer("priority").unwrap_or(0),
        }
    }

    /// Checks the values of fields whose types are right.
    fn check(&self, limits: &Limits<'_>) -> Result<(), ApiError> {
        if let Some(tokens) = self.max_tokens {
            let shown = tokens.to_string();
            let refuse =
                |message: String| Err(ApiError::parameter(&message, "max_tokens", Some(&shown)));
            if tokens < 1 {
                return refuse(format!("max_tokens must be at least 1, got {tokens}."));
            }
            if tokens > i64::from(limits.max_model_len) {
                return refuse(format!(
                    "max_tokens={tokens} cannot be greater than max_model_len={}. Please request \
                     fewer output tokens.",
                    limits.max_model_len
                ));
            }
            if self.min_tokens > tokens {
                return Err(ApiError::parameter(
                    &format!(
                        "min_tokens must be less than or equal to max_tokens={tokens}, got {}.",
                        self.min_tokens
                    ),
                    "min_tokens",
                    Some(&self.min_tokens.to_string()),
                ));
            }
        }
        if self.raw_n < 1 {
            let message = format!("n must be at least 1, got {}.", self.raw_n);
            return Err(ApiError::bad_request(message));
        }
        if self.temperature.is_some_and(|t| t < 0.0) {
            let value = format!("{:?}", self.temperature.unwrap_or_default());
            let message = format!("temperature must be non-negative, got {value}.");
            return Err(ApiError::parameter(&message, "temperature", Some(&value)));
        }
        if self.top_p.is_some_and(|p| !(0.0 < p && p <= 1.0)) {
            let value = format!("{:?}", self.top_p.unwrap_or_default());
            let message = format!("top_p must be in (0, 1], got {value}.");
            return Err(ApiError::parameter(&message, "top_p", Some(&value)));
        }
        if self.raw_logprobs > MOST_LOGPROBS {
            let name = if self.kind == Kind::Chat { "top_logprobs" } else { "logprobs" };
            return Err(ApiError::parameter(
                &format!(
                    "Requested sample logprobs of {}, which is greater than max allowed: \
                     {MOST_LOGPROBS}",
                    self.raw_logprobs
                ),
                name,
                Some(&self.raw_logprobs.to_string()),
            ));
        }
        Ok(())
    }

    /// Returns the `n`-th answer to a prompt that has been checked.
    fn choice(
        &self,
        place: usize,
        prompt: &Prompt,
        n: u32,
        tool: Option<Script>,
        limits: &Limits<'_>,
    ) -> Choice {
        let room = limits.max_model_len - prompt.tokens;
        let most = self.max_tokens.map_or(room, |tokens| room.min(tokens as u32));
        if let Some(Script::Tool { name, arguments }) = tool {
            let tokens = (text::pieces(&arguments).count() as u32).clamp(1, room);
            let (shown, script) = (arguments.len(), Script::Tool { name, arguments });
            return Choice {
                prompt: place,
                script,
                tokens,
                shown,
                finish: "tool_calls",
                stop: None,
            };
        }
        let seed = mix(prompt.hash ^ self.seed ^ mix(limits.seed) ^ u64::from(n) << 56);
        let natural = NATURAL.start + seed as u32 % (NATURAL.end - NATURAL.start);
        // Like a model that hardly ever ends by itself: who says how much gets as much.
        let (tokens, finish) = match (self.max_tokens, self.kind) {
            (Some(_), _) => (most, "length"),
            (None, Kind::Completion) => (room.min(COMPLETION_TOKENS), "length"),
            (None, Kind::Chat) if self.ignore_eos => (room, "length"),
            (None, Kind::Chat) if natural.max(self.min_tokens as u32) < room => {
                (natural.max(self.min_tokens as u32), "stop")
            }
            (None, Kind::Chat) => (room, "length"),
        };
        let shown = tokens as usize * 4;
        let mut choice = Choice {
            prompt: place,
            script: Script::Words(seed),
            tokens,
            shown,
            finish,
            stop: None,
        };
        self.cut(&mut choice);
        choice
    }

    /// Ends an answer of words where it first contains one of the stop strings.
    fn cut(&self, choice: &mut Choice) {
        let Script::Words(seed) = choice.script else { return };
        if self.stop.is_empty() {
            return;
        }
        let text: Vec<u8> =
            (0..choice.tokens).flat_map(|i| text::word(text::generated(seed, i))).collect();
        let text = std::str::from_utf8(&text).expect("words are ASCII");
        // vLLM looks for stop strings once it has `min_tokens`.
        let from = (self.min_tokens.max(0) as usize * 4).min(text.len());
        let found =
            self.stop.iter().filter_map(|stop| Some((from + text[from..].find(stop)?, stop)));
        if let Some((at, stop)) = found.min_by_key(|(at, stop)| at + stop.len()) {
            choice.tokens = (at + stop.len()).div_ceil(4) as u32;
            choice.shown = at;
            (choice.finish, choice.stop) = ("stop", Some(stop.clone()));
        }
    }
}
