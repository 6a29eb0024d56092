//! `sagellm replay`: open-loop load against any OpenAI server, and the report of what came back.

mod body;
mod client;
mod drive;
mod progress;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::Url;
use sagellm_api::ModelList;
use sagellm_monitoring::{Report, render_text};
use sagellm_types::clock::Clock;
use sagellm_types::{Seed, Timestamp};

pub(crate) use body::{BodyWriter, Endpoint, PromptStyle};
pub(crate) use client::Target;
pub(crate) use drive::{Driven, Run, lateness};
pub(crate) use source::SourceArgs;

use crate::output;
use crate::settings::Environment;

/// Load a server with requests at the times at which they are due, and report what clients saw.
///
/// The load is open: a request is sent when it is due, whether or not earlier ones have been
/// answered, and every latency counts from that time. A slow server cannot slow the load down and
/// so hide its own slowness.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sagellm replay --url http://127.0.0.1:8080 --rate 20 --duration 60 --ttft-slo 500
  sagellm replay --url http://127.0.0.1:8080 --mix --gaps gamma --cv 3 --requests 500
  sagellm replay --url http://127.0.0.1:8080 --trace AzureLLMInferenceTrace_conv.csv --rate-scale 2 \\
                 --endpoint completions --prompt tokens --json report.json

Exits with 1 if a request failed (rejected and expired ones are the server's right), with 130 if it
was interrupted.")]
pub(crate) struct ReplayArgs {
    /// The server, before /v1 [env: SAGELLM_URL] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The model; the first that the server serves when absent
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Sent as `Authorization: Bearer …`
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// What is asked
    #[arg(long, value_enum, default_value_t)]
    endpoint: Endpoint,
    /// How prompts are written
    #[arg(long = "prompt", value_enum, default_value_t)]
    style: PromptStyle,
    /// Let the model end its answers; without it engines that know `ignore_eos` go on to the wanted
    /// number of tokens
    #[arg(long)]
    natural_end: bool,
    #[command(flatten)]
    source: SourceArgs,
    /// The number from which arrivals, lengths and prompts are drawn
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Speed of the clock: arrivals come so many times as fast, and times are reported in the
    /// clock's seconds. For engines whose clock runs at the same speed
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speed: f64,
    /// Give a request up so many seconds after it was due
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    timeout: f64,
    /// Write the report as JSON; `-` prints it instead of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the load.
///
/// # Errors
/// If the server cannot be reached, the workload cannot be, or requests failed.
pub(crate) async fn run(args: ReplayArgs, environment: &Environment, quiet: bool) -> Result<()> {
    let seed = Seed(args.seed);
    if args.style == PromptStyle::Tokens && args.endpoint == Endpoint::Chat {
        bail!("--prompt tokens: a chat has no token ids; add --endpoint completions");
    }
    let workload = Arc::new(args.source.workload(seed)?);
    let clock = scaled(args.speed)?;
    let default = "http://127.0.0.1:8080";
    let base = args.url.as_deref().or(environment.get("SAGELLM_URL")).unwrap_or(default);
    let base = base.trim_end_matches('/').trim_end_matches("/v1");
    let url = Url::parse(&format!("{base}{}", args.endpoint.path()))
        .with_context(|| format!("`{base}` is no URL"))?;
    let timeout = Duration::try_from_secs_f64(args.timeout).context("--timeout is no time")?;
    let model = match args.model {
        Some(model) => model,
        None => first_model(base, args.api_key.as_deref()).await?,
    };
    raise_open_files();
    let ignore_eos = !args.natural_end;
    let (endpoint, style) = (args.endpoint, args.style);
    let run = Arc::new(Run {
        workload,
        target: Target::new(url.into(), clock, timeout)?,
        bodies: BodyWriter { endpoint, style, model, ignore_eos, seed },
        api_key: args.api_key,
        budgets: BTreeMap::new(),
        clock,
        start: soon(clock),
    });
    let driven = run.drive_shown("replay", quiet, String::new).await;
    let report = driven.tally.report().with_wall(driven.wall).with_seed(seed);
    output::report(&render_text(&report), &report, args.json.as_deref())?;
    complain(&driven, clock, quiet);
    judge(&report, &driven)
}

/// Returns the clock that runs `speed` times as fast as the machine's.
///
/// # Errors
/// If that is not a positive number.
pub(crate) fn scaled(speed: f64) -> Result<Clock> {
    if speed.is_finite() && speed > 0.0 {
        Ok(Clock::scaled(speed))
    } else {
        bail!("--speed {speed}: expected a positive number")
    }
}

/// Says what went wrong, the commonest first, and how late the load was.
pub(crate) fn complain(driven: &Driven, clock: Clock, quiet: bool) {
    let mut errors: Vec<(&String, &u64)> = driven.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (error, count) in errors.iter().take(5) {
        eprintln!("{count} × {error}");
    }
    if errors.len() > 5 {
        eprintln!("… and {} other errors", errors.len() - 5);
    }
    if let Some(late) = lateness(&driven.late, clock).filter(|_| !quiet) {
        eprintln!("{late}");
    }
}

fn judge(report: &Report, driven: &Driven) -> Result<()> {
    if driven.interrupted {
        return Err(output::Interrupted.into());
    }
    let lost = driven.lost();
    if lost > 0 {
        bail!("{lost} requests did not end exactly once");
    }
    match report.requests.failed {
        0 => Ok(()),
        failed => bail!("{failed} of {} requests failed", report.requests.submitted),
    }
}

/// Returns the first model that the server at `base` serves.
async fn first_model(base: &str, api_key: Option<&str>) -> Result<String> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let mut request = client.get(format!("{base}/v1/models"));
    if let Some(key) = api_key {
        request = request.bearer_auth(key);
    }
    let body = async { request.send().await?.error_for_status()?.bytes().await };
    let body = body.await.with_context(|| format!("cannot ask {base} for its models"))?;
    let list = ModelList::parse(&body)
        .with_context(|| format!("{base}/v1/models is no list of models"))?;
    let first = list.data.into_iter().next();
    first.map(|card| card.id).with_context(|| format!("{base} serves no model"))
}

/// Lets the process open as many files as it may: each stream is a connection.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Returns the point in time at which a run begins that is set up by then.
pub(crate) fn soon(clock: Clock) -> Timestamp {
    clock.now() + Duration::from_millis(100).mul_f64(clock.speed())
}
