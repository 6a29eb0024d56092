//! What a request will need: prompt tokens, output tokens, time on a typical instance.
//!
//! Prompt tokens are exact for token ids, else bytes through a line learnt per model from the usage
//! that engines report (four bytes per token before the first). Output length is the mean of the
//! model's recent answers, moved towards the user's own as that user has more of them, and never
//! above `max_tokens`. Times come from the cost prior until real ones have been seen.

use std::time::Duration;

use sagellm_types::{Forecast, ModelId, Tokens, Usage, UserId};

use crate::line::rate;
use crate::picos::nanos;
use crate::users::Users;
use crate::{Batch, Line, LinearCost};

/// The size of a prompt, as far as it is known before an engine has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptSize {
    /// Token ids were given: exact.
    Tokens(u64),
    /// Bytes of text.
    Bytes(u64),
}

/// What an ended request teaches.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// The model that answered.
    pub model: ModelId,
    /// Who asked.
    pub user: Option<UserId>,
    /// The size of the prompt.
    pub prompt: PromptSize,
    /// What was forecast at its arrival.
    pub forecast: &'a Forecast,
    /// What the engine reported; a prompt of zero tokens counts as not reported.
    pub usage: Usage,
    /// Time from dispatch to the first token, if it was streamed.
    pub ttft: Option<Duration>,
    /// Mean time per output token after the first.
    pub tpot: Option<Duration>,
}

/// How wrong predictions were: of `(predicted − actual) / actual`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct PredictionError {
    /// Predictions compared.
    pub count: u64,
    /// Mean relative error; positive if predictions were too large.
    pub bias: f64,
    /// Mean absolute relative error.
    pub absolute: f64,
}

/// Sums of relative errors.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    count: u64,
    sum: f64,
    absolute: f64,
}

impl Errors {
    fn record(&mut self, predicted: Tokens, actual: Tokens) {
        let error = (predicted.as_f64() - actual.as_f64()) / actual.as_f64();
        self.count += 1;
        self.sum += error;
        self.absolute += error.abs();
    }

    fn mean(&self) -> PredictionError {
        let count = self.count.max(1) as f64;
        PredictionError {
            count: self.count,
            bias: self.sum / count,
            absolute: self.absolute / count,
        }
    }
}

/// Forecasts requests and learns from those that ended. Bounded memory, no clock.
#[derive(Clone, Debug)]
pub struct Forecaster {
    prior: LinearCost,
    models: Vec<Model>,
    untaught: Model,
    users: Users,
    prompt_errors: Errors,
    output_errors: Errors,
}

/// What was learnt about one model.
#[derive(Clone, Debug)]
struct Model {
    prompt: Line,
    ttft: Line,
    outputs: u32,
    output: f64,
    tpots: u32,
    /// Nanoseconds.
    tpot: f64,
    /// Nanoseconds: time to first token of an empty prompt and of each token more.
    ttft_prior: (f64, f64),
}

/// Tokens of English text are about four bytes.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Output tokens before anything was learnt.
const OUTPUT_PRIOR: f64 = 256.0;
/// Users remembered, over all models.
const USERS: usize = 16_384;
/// Models learnt apart; a table of names that is longer shares the last place.
const MODELS: usize = 4_096;
/// The batch that a typical request meets.
const TYPICAL: Batch = Batch { decode_sequences: 16, kv_tokens: 16_384, ..Batch::EMPTY };

impl Model {
    fn new(cost: &LinearCost) -> Self {
        let step = cost.step_time(&TYPICAL).as_nanos_f64();
        Self {
            prompt: Line::default(),
            ttft: Line::default(),
            outputs: 0,
            output: OUTPUT_PRIOR,
            tpots: 0,
            tpot: step,
            // A request meets a running step half-way, then shares its own with the batch.
            ttft_prior: (1.5 * step, cost.per_prefill_token.as_nanos_f64()),
        }
    }

    fn prompt_tokens(&self, size: PromptSize) -> u64 {
        match size {
            PromptSize::Tokens(tokens) => tokens,
            PromptSize::Bytes(bytes) => {
                let bytes = bytes as f64;
                let tokens = self.prompt.at(bytes).unwrap_or(bytes / BYTES_PER_TOKEN);
                // No tokenizer makes more than one token of a byte.
                round(tokens.clamp(1.0, bytes + 64.0))
            }
        }
    }
}

fn round(value: f64) -> u64 {
    (value + 0.5) as u64
}

/// Moves `mean` towards `value`: a plain mean at first, then an exponentially weighted one.
fn average(samples: &mut u32, mean: &mut f64, value: f64) {
    *samples = samples.saturating_add(1);
    *mean += (value - *mean) * rate(*samples);
}

impl Forecaster {
    /// Returns a forecaster that takes times from `prior` until it has seen real ones.
    pub fn new(prior: LinearCost) -> Self {
        Self {
            prior,
            models: Vec::new(),
            untaught: Model::new(&prior),
            users: Users::new(USERS),
            prompt_errors: Errors::default(),
            output_errors: Errors::default(),
        }
    }

    /// Sets the cost from which the times of `model` are taken until real ones have been seen.
    pub fn set_prior(&mut self, model: ModelId, cost: LinearCost) {
        let Model { tpots, tpot, ttft_prior, .. } = Model::new(&cost);
        let learnt = self.model_mut(model);
        learnt.ttft_prior = ttft_prior;
        if learnt.tpots == 0 {
            (learnt.tpots, learnt.tpot) = (tpots, tpot);
        }
    }

    /// Returns what a request of `user` to `model` will need, given its prompt's size and the most
    /// output tokens that it allows. Cost: O(1), no allocation.
    pub fn forecast(
        &self,
        model: ModelId,
        user: Option<UserId>,
        prompt: PromptSize,
        max_tokens: Option<u32>,
    ) -> Forecast {
        let learnt = self.models.get(place(model)).unwrap_or(&self.untaught);
        let prompt = learnt.prompt_tokens(prompt);
        let own = user.and_then(|user| self.users.get(model, user));
        let mean = match own {
            Some(own) => learnt.output + own.weight * (own.mean - learnt.output),
            None => learnt.output,
        };
        let output = round(mean).max(1).min(u64::from(max_tokens.unwrap_or(u32::MAX)));
        let (start, slope) = learnt.ttft_prior;
        let ttft = learnt.ttft.at(prompt as f64).unwrap_or(start + slope * prompt as f64);
        let service = ttft + learnt.tpot * output.saturating_sub(1) as f64;
        Forecast {
            prompt: Tokens(prompt),
            output: Tokens(output),
            ttft: Duration::from_nanos(ttft as u64),
            service: Duration::from_nanos(service as u64),
        }
    }

    /// Learns from a request that ended. Cost: O(1), no allocation once the tables have grown.
    pub fn learn(&mut self, lesson: &Lesson<'_>) {
        let Lesson { model, user, prompt, forecast, usage, ttft, tpot } = *lesson;
        if usage.prompt.0 > 0
            && let PromptSize::Bytes(bytes) = prompt
        {
            self.prompt_errors.record(forecast.prompt, usage.prompt);
            self.model_mut(model).prompt.learn(bytes as f64, usage.prompt.as_f64());
        }
        if usage.output.0 > 0 {
            self.output_errors.record(forecast.output, usage.output);
            let output = usage.output.as_f64();
            let learnt = self.model_mut(model);
            average(&mut learnt.outputs, &mut learnt.output, output);
            if let Some(user) = user {
                self.users.learn(model, user, output);
            }
        }
        let tokens = if usage.prompt.0 > 0 { usage.prompt } else { forecast.prompt };
        let learnt = self.model_mut(model);
        if let Some(ttft) = ttft {
            learnt.ttft.learn(tokens.as_f64(), nanos(ttft));
        }
        if let Some(tpot) = tpot {
            average(&mut learnt.tpots, &mut learnt.tpot, nanos(tpot));
        }
    }

    /// Returns how wrong forecasts of prompts given as text were.
    pub fn prompt_error(&self) -> PredictionError {
        self.prompt_errors.mean()
    }

    /// Returns how wrong forecasts of output lengths were.
    pub fn output_error(&self) -> PredictionError {
        self.output_errors.mean()
    }

    /// Returns how many users are remembered.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    fn model_mut(&mut self, model: ModelId) -> &mut Model {
        let place = place(model);
        if self.models.len() <= place {
            self.models.resize(place + 1, Model::new(&self.prior));
        }
        &mut self.models[place]
    }
}

fn place(model: ModelId) -> usize {
    (model.0 as usize).min(MODELS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::Seed;

    const MODEL: ModelId = ModelId(0);

    fn teach(f: &mut Forecaster, user: Option<u64>, prompt: PromptSize, usage: (u64, u64)) {
        let user = user.map(UserId);
        let forecast = f.forecast(MODEL, user, prompt, None);
        let usage =
            Usage { prompt: Tokens(usage.0), output: Tokens(usage.1), cached: Tokens::ZERO };
        f.learn(&Lesson {
            model: MODEL,
            user,
            prompt,
            forecast: &forecast,
            usage,
            ttft: None,
            tpot: None,
        });
    }

    /// Learns from 20 prompts of `bytes` per character and `chars` per token behind a template of
    /// `overhead` tokens, then checks the 21st.
    fn check_text(bytes: f64, chars: f64, overhead: f64, at_most: f64) {
        let mut f = Forecaster::new(LinearCost::TINY);
        let mut rng = Seed(3).stream("prompts");
        let mut prompt = || {
            let length = 40.0 + 4000.0 * rng.unit();
            let noise = 0.95 + 0.1 * rng.unit();
            ((length * bytes) as u64, (overhead + length / chars * noise) as u64)
        };
        for _ in 0..20 {
            let (size, tokens) = prompt();
            teach(&mut f, None, PromptSize::Bytes(size), (tokens, 10));
        }
        for _ in 0..50 {
            let (size, tokens) = prompt();
            let got = f.forecast(MODEL, None, PromptSize::Bytes(size), None).prompt.0 as f64;
            let error = (got - tokens as f64).abs() / (tokens as f64 + overhead);
            assert!(error < at_most, "{size} bytes are {tokens} tokens, not {got}");
        }
    }

    #[test]
    fn bytes_per_token_converge_in_twenty_requests_for_any_script() {
        check_text(3.0, 1.5, 0.0, 0.15);
        check_text(3.0, 1.0, 0.0, 0.15);
        check_text(1.0, 4.3, 20.0, 0.15);
        check_text(1.0, 2.5, 0.0, 0.15);
    }

    #[test]
    fn token_ids_are_exact() {
        let f = Forecaster::new(LinearCost::TINY);
        assert_eq!(f.forecast(MODEL, None, PromptSize::Tokens(77), None).prompt, Tokens(77));
    }

    #[test]
    fn nothing_learnt_means_256_tokens_or_what_is_allowed() {
        let f = Forecaster::new(LinearCost::TINY);
        let output = |max| f.forecast(MODEL, None, PromptSize::Bytes(9), max).output.0;
        assert_eq!((output(None), output(Some(1000)), output(Some(16))), (256, 256, 16));
    }

    #[test]
    fn a_user_is_believed_as_samples_come() {
        let mut f = Forecaster::new(LinearCost::TINY);
        for _ in 0..200 {
            teach(&mut f, None, PromptSize::Bytes(40), (10, 100));
        }
        let output = |f: &Forecaster| {
            f.forecast(MODEL, Some(UserId(1)), PromptSize::Bytes(40), None).output.0
        };
        assert_eq!(output(&f), 100);
        teach(&mut f, Some(1), PromptSize::Bytes(40), (10, 1000));
        let after_one = output(&f);
        assert!((200..400).contains(&after_one), "one answer is not enough: {after_one}");
        for _ in 0..30 {
            teach(&mut f, Some(1), PromptSize::Bytes(40), (10, 1000));
        }
        assert!(output(&f) > 850, "{}", output(&f));
    }

    #[test]
    fn users_are_bounded() {
        let mut f = Forecaster::new(LinearCost::TINY);
        for user in 0..40_000 {
            teach(&mut f, Some(user), PromptSize::Bytes(40), (10, 100));
        }
        assert_eq!(f.users(), USERS);
    }

    #[test]
    fn times_are_learnt_from_what_was_seen() {
        let mut f = Forecaster::new(LinearCost::TINY);
        let prior = f.forecast(MODEL, None, PromptSize::Tokens(1000), Some(11));
        assert!(prior.ttft > Duration::from_millis(20) && prior.service > prior.ttft);
        for i in 0..60_u64 {
            let prompt = 100 + 37 * i;
            let forecast = f.forecast(MODEL, None, PromptSize::Tokens(prompt), Some(11));
            let lesson = Lesson {
                model: MODEL,
                user: None,
                prompt: PromptSize::Tokens(prompt),
                forecast: &forecast,
                usage: Usage { prompt: Tokens(prompt), output: Tokens(11), cached: Tokens::ZERO },
                ttft: Some(Duration::from_millis(50) + Duration::from_micros(100) * prompt as u32),
                tpot: Some(Duration::from_millis(30)),
            };
            f.learn(&lesson);
        }
        let learnt = f.forecast(MODEL, None, PromptSize::Tokens(1000), Some(11));
        let near = |got: Duration, ms: f64| (got.as_secs_f64() * 1e3 / ms - 1.0).abs() < 0.1;
        assert!(near(learnt.ttft, 150.0), "{:?}", learnt.ttft);
        assert!(near(learnt.service, 150.0 + 300.0), "{:?}", learnt.service);
    }

    #[test]
    fn errors_are_kept_so_that_they_can_be_reported() {
        let mut f = Forecaster::new(LinearCost::TINY);
        // 400 bytes are forecast as 100 tokens, the answer as 256.
        teach(&mut f, None, PromptSize::Bytes(400), (200, 128));
        let (prompt, output) = (f.prompt_error(), f.output_error());
        assert_eq!(prompt, PredictionError { count: 1, bias: -0.5, absolute: 0.5 });
        assert_eq!(output, PredictionError { count: 1, bias: 1.0, absolute: 1.0 });
    }
}
