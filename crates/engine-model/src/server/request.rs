//! What a client asks for: from a body to the sequences to run, in the order in which vLLM checks.

use serde_json::{Map, Value};

use super::errors::ApiError;
use super::fields::Fields;
use super::prompt::{self, chat_prompt, fit, prompts, seed_of};
use super::sampling::Sampling;
use super::text::{self, Prompt, VOCABULARY, mix};
use super::tools::{self, tool_call};

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
    /// A call of a tool: its name, the JSON of its arguments, four bytes a token, and why the answer
    /// ends.
    Tool { name: String, arguments: String, finish: &'static str },
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
/// Most stop strings.
const MOST_STOPS: usize = 4;
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
        let prompt = fields.get("prompt").filter(|_| kind == Kind::Completion);
        fields.found(prompt.map(|prompt| prompt::check("prompt", prompt)).unwrap_or_default());
        let wanted = Wanted::read(kind, &mut fields);
        let tools = fields.list("tools").unwrap_or(&[]);
        let salt = fields.text("cache_salt").map_or(0, seed_of);
        fields.found(prompt::check_messages(messages.unwrap_or(&[])));
        fields.finish()?;

        let model = served(model, limits)?;
        let prompts = match (prompt, messages) {
            (Some(prompt), _) => prompts(prompt, limits, salt)?,
            (None, Some(messages)) => vec![chat_prompt(messages, tools, limits, salt)?],
            (None, None) => return Err(ApiError::bad_request("'NoneType' object is not iterable")),
        };
        for prompt in &prompts {
            let room = fit(prompt, wanted.max_tokens, limits.max_model_len)?;
            wanted.check(room, limits)?;
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
    // `-1` stands for all of the vocabulary, which is more than may be asked for.
    let number = |name: &str| given(name).and_then(Value::as_i64);
    let name = if kind == Kind::Chat { "top_logprobs" } else { "logprobs" };
    if let Some(alternatives) = number(name).filter(|n| *n < -1) {
        let message = format!("`{name}` must be a positive value or -1.");
        return Err(ApiError::parameter(&message, name, Some(&alternatives.to_string())));
    }
    if kind == Kind::Completion {
        return match given("prompt") {
            None => Err(no_prompt()),
            Some(Value::String(text)) if text.is_empty() => Err(no_prompt()),
            Some(_) => Ok(()),
        };
    }
    let asked = given("logprobs") == Some(&Value::Bool(true));
    if number("top_logprobs").is_some_and(|n| n != 0) && !asked {
        let message = "when using `top_logprobs`, `logprobs` must be set to true.";
        return Err(ApiError::parameter(message, "top_logprobs", None));
    }
    tools::check(body)
}

fn no_prompt() -> ApiError {
    let message = "Either prompt or prompt_embeds must be provided and non-empty.";
    ApiError::parameter(message, "prompt", None)
}

/// The sampling and output fields of a body.
struct Wanted {
    kind: Kind,
    n: u32,
    raw_n: i64,
    max_tokens: Option<i64>,
    /// By which of its two names the limit was given.
    limit_name: &'static str,
    min_tokens: i64,
    ignore_eos: bool,
    /// Fields of numbers that are checked and change nothing.
    sampling: Sampling,
    seed: u64,
    stop: Vec<String>,
    stream: bool,
    usage: StreamUsage,
    logprobs: Option<u32>,
    raw_logprobs: Option<i64>,
    priority: i64,
}

impl Wanted {
    fn read(kind: Kind, fields: &mut Fields<'_>) -> Self {
        let stream = fields.boolean("stream");
        let options = fields.object("stream_options");
        let mut option = |name: &str| {
            let value = options.and_then(|options| options.get(name)).filter(|v| !v.is_null());
            value.is_some_and(|v| fields.boolean_at(&format!("stream_options.{name}"), v))
        };
        let usage = match (option("include_usage"), option("continuous_usage_stats")) {
            (true, true) => StreamUsage::InEveryChunk,
            (true, false) => StreamUsage::AtEnd,
            (false, _) => StreamUsage::Never,
        };
        let limit = fields.integer("max_tokens");
        let newer = match kind {
            Kind::Chat => fields.integer("max_completion_tokens"),
            Kind::Completion => None,
        };
        let max_tokens = newer.or(limit);
        let limit_name = if newer.is_some() { "max_completion_tokens" } else { "max_tokens" };
        let raw_logprobs = match kind {
            Kind::Chat if fields.boolean("logprobs") => {
                Some(fields.integer("top_logprobs").unwrap_or(0))
            }
            Kind::Chat => None,
            Kind::Completion => fields.integer("logprobs"),
        };
        let raw_logprobs = raw_logprobs.map(|n| if n == -1 { i64::from(VOCABULARY) } else { n });
        let stop = fields.texts("stop", MOST_STOPS);
        let raw_n = fields.integer("n").unwrap_or(1);
        Self {
            kind,
            n: raw_n.clamp(0, 1_024) as u32,
            raw_n,
            max_tokens,
            limit_name,
            min_tokens: fields.integer("min_tokens").unwrap_or(0),
            ignore_eos: fields.boolean("ignore_eos"),
            sampling: Sampling::read(fields),
            seed: fields.integer("seed").map_or(0, |seed| mix(seed as u64 ^ 1)),
            stop: stop.into_iter().filter(|text| !text.is_empty()).collect(),
            stream,
            usage,
            logprobs: raw_logprobs.and_then(|n| u32::try_from(n.min(MOST_LOGPROBS)).ok()),
            raw_logprobs,
            priority: fields.integer("priority").unwrap_or(0),
        }
    }

    /// Checks the values of fields whose types are right; `room` is how many tokens the answer may
    /// have.
    fn check(&self, room: i64, limits: &Limits<'_>) -> Result<(), ApiError> {
        let most = i64::from(limits.max_model_len);
        if let Some(tokens) = self.max_tokens.filter(|tokens| *tokens > most) {
            let name = self.limit_name;
            let message = format!(
                "{name}={tokens} cannot be greater than max_model_len={most}. Please request fewer \
                 output tokens."
            );
            return Err(ApiError::parameter(&message, name, Some(&tokens.to_string())));
        }
        if self.raw_n < 1 {
            let message = format!("n must be at least 1, got {}.", self.raw_n);
            return Err(ApiError::bad_request(message));
        }
        self.sampling.check()?;
        if room < 1 {
            let message = format!("max_tokens must be at least 1, got {room}.");
            return Err(ApiError::parameter(&message, "max_tokens", Some(&room.to_string())));
        }
        if self.min_tokens < 0 {
            return Err(ApiError::bad_request(format!(
                "min_tokens must be greater than or equal to 0, got {}.",
                self.min_tokens
            )));
        }
        if self.min_tokens > room {
            return Err(ApiError::bad_request(format!(
                "min_tokens must be less than or equal to max_tokens={room}, got {}.",
                self.min_tokens
            )));
        }
        if let Some(asked) = self.raw_logprobs.filter(|asked| *asked > MOST_LOGPROBS) {
            let message = format!(
                "Requested sample logprobs of {asked}, which is greater than max allowed: \
                 {MOST_LOGPROBS}"
            );
            return Err(ApiError::parameter(&message, "logprobs", Some(&asked.to_string())));
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
        if let Some(Script::Tool { name, arguments, finish }) = tool {
            let tokens = (text::pieces(&arguments).count() as u32).clamp(1, room);
            let (shown, script) = (arguments.len(), Script::Tool { name, arguments, finish });
            return Choice { prompt: place, script, tokens, shown, finish, stop: None };
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
