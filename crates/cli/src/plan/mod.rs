//! `sagellm plan`: how to lay a model over GPUs.

mod deploy;
mod machines;
mod page;
mod tables;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use sagellm_parallelism::{
    Answer, Demand, EngineLimits, Limits, Links, Objective, Question, Split, Workload, plan,
};
use sagellm_perf::{Gpu, Layout};
use sagellm_simulator::model;
use sagellm_topology::Topology;
use sagellm_types::ParallelismType;
use sagellm_workload::{Origin, Shape, SloClass, Source, read_trace_file};
use serde::Serialize;

use crate::output;
use crate::simulate::{progress, set_objectives};
use machines::Machines;
use verify::{Arriving, Verified, verify};

/// Lay a model over GPUs, under limits and a price
///
/// Every layout that vLLM would load (tensor, pipeline, data and expert parallelism, and several at once;
/// within a machine or over whole ones) and that fits into memory, at numbers of requests that keep the limits.
/// Times are those of a steady load: docs/PLANNING.md says what that leaves out.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sagellm plan --model qwen3-32b --gpus 8xH200 --isl 4000 --osl 500 --slo ttft=1s,tpot=30ms
  sagellm plan --model deepseek-v3 --gpus 16xH200 --isl 2000 --osl 500 --objective throughput
  sagellm plan --model llama-3.1-70b-fp8 --gpus 8xH100,8xA100 --isl 1000 --osl 200 --objective cost
  sagellm plan --model qwen3-32b --gpus 64xH200 --isl 4000 --osl 500 --slo tpot=30ms --rate 20
  sagellm plan --model qwen3-32b --gpus 8xH200 --isl 4000 --osl 500 --slo ttft=1s,tpot=30ms --verify
  sagellm plan --model qwen3-32b --topology cluster.toml --isl 4000 --osl 500 --slo tpot=30ms
  sagellm plan --model ./config.json --gpus 4xL40S --isl 1000 --osl 200 --explain
  sagellm plan --model qwen3-32b --gpus 8xH200 --isl 4000 --osl 500 --slo tpot=30ms --emit deployment")]
pub(crate) struct PlanArgs {
    /// The model: a name (qwen3-32b, llama-3.1-70b-fp8) or a config.json
    #[arg(long, value_name = "NAME|FILE")]
    model: String,
    /// The GPUs that there are: NxGPU, several types separated by commas
    #[arg(long, value_name = "GPUS", value_delimiter = ',', group = "machines")]
    gpus: Vec<String>,
    /// The machines that there are: a TOML file, docs/TOPOLOGY.md says how it is written
    #[arg(long, value_name = "FILE", group = "machines")]
    topology: Option<PathBuf>,
    /// This machine
    #[arg(long, group = "machines")]
    here: bool,
    /// Prompt tokens of a request; the mean of the trace when there is one
    #[arg(long, value_name = "TOKENS", required_unless_present = "trace")]
    isl: Option<f64>,
    /// Output tokens of a request, likewise
    #[arg(long, value_name = "TOKENS", required_unless_present = "trace")]
    osl: Option<f64>,
    /// A trace that says how long requests are and when they come: Azure CSV, or Mooncake JSONL by its
    /// ending .jsonl
    #[arg(long, value_name = "FILE", conflicts_with_all = ["isl", "osl", "cached"])]
    trace: Option<PathBuf>,
    /// Prompt tokens that are found in a prefix cache, of those
    #[arg(long, value_name = "TOKENS", default_value_t = 0.0)]
    cached: f64,
    /// What every request is to keep in the mean: ttft=1s,tpot=30ms,e2e=60s
    #[arg(long, value_name = "LIMITS")]
    slo: Option<String>,
    /// Requests per second that are to be served: how few GPUs are enough?
    #[arg(long, value_name = "PER_S")]
    rate: Option<f64>,
    /// US dollars per hour that all GPUs together may cost
    #[arg(long, value_name = "USD_PER_HOUR")]
    budget: Option<f64>,
    /// What is to be best: throughput (per GPU), latency, cost or goodput (of all GPUs)
    #[arg(long, value_name = "NAME", default_value = "goodput")]
    objective: Objective,
    /// Whether prompts may have instances of their own: never, also (whichever is better) or only
    #[arg(long, value_name = "WHEN", default_value = "never")]
    split: Split,
    /// Most tokens computed in a step of an engine; of several, the best is taken
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [2_048, 8_192, 16_384], value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_num_batched_tokens: Vec<u32>,
    /// Most requests in a step of an engine
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_num_seqs: u32,
    /// Longest context that must fit; at least that of a request
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    max_model_len: u32,
    /// Only layouts of one kind: tp, pp, dp, ep or hybrid
    #[arg(long, value_name = "KIND", value_parser = kind)]
    strategy: Option<ParallelismType>,
    /// Only this layout: tp4, tp2pp2, tp1dp8ep
    #[arg(long, value_name = "LAYOUT", conflicts_with = "strategy")]
    layout: Option<Layout>,
    /// How many layouts are shown
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Say of what times are made, how sure they are, and why other layouts were not taken
    #[arg(long)]
    explain: bool,
    /// Run the best plans on arrivals in the simulator: at --rate, else at the largest rate at which 90 %
    /// are on time
    #[arg(long, conflicts_with = "cached")]
    verify: bool,
    /// How many plans are run
    #[arg(long, value_name = "NUMBER", default_value_t = 3, requires = "verify", value_parser = clap::value_parser!(u16).range(1..))]
    verify_top: u16,
    /// The seed of the arrivals
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "verify")]
    seed: u64,
    /// Write into a folder what starts the best plan: a script per engine, the gateway's settings, a
    /// compose file and a Kubernetes manifest
    #[arg(long, value_name = "FOLDER")]
    emit: Option<PathBuf>,
    /// What engines load: a repository or a folder [default: the model's]
    #[arg(long, value_name = "NAME|FOLDER", requires = "emit")]
    weights: Option<String>,
    /// The port of the first engine of each machine; further ones take those that follow
    #[arg(long, value_name = "PORT", default_value_t = 8_000, requires = "emit", value_parser = clap::value_parser!(u16).range(1..=60_000))]
    engine_port: u16,
    /// A further word for `vllm serve` (repeatable)
    #[arg(long, value_name = "WORD", requires = "emit", allow_hyphen_values = true)]
    engine_arg: Vec<String>,
    /// Write the answer as a page with the Pareto chart
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the answer as JSON; `-` prints it instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If the question cannot be, or has no answer; with what would do.
pub(crate) fn run(args: &PlanArgs, quiet: bool) -> Result<()> {
    let spec = model(&args.model, Path::new("."))?;
    let machines = match &args.topology {
        Some(path) => Some(Machines::of(Topology::from_file(path)?)?),
        None if args.here => Some(Machines::of(crate::topo::here()?)?),
        None => None,
    };
    let gpus: Vec<(&Gpu, u32)> = match &machines {
        Some(machines) => machines.counts(),
        None => {
            let mut gpus: Vec<(&Gpu, u32)> = Vec::new();
            for text in &args.gpus {
                let (gpu, count) = group(text)?;
                match gpus.iter_mut().find(|(known, _)| known.name == gpu.name) {
                    Some((_, known)) => *known += count,
                    None => gpus.push((gpu, count)),
                }
            }
            gpus
        }
    };
    if gpus.is_empty() {
        bail!("expected --gpus, such as 8xH200, --topology or --here");
    }
    let trace = args.trace.as_deref().map(traced).transpose()?;
    let (isl, osl) = match &trace {
        Some((_, shape)) => (shape.mean_prompt, shape.mean_output.max(1.0)),
        None => (args.isl.unwrap_or(0.0), args.osl.unwrap_or(0.0)),
    };
    if !(args.cached == 0.0 || (0.0..isl).contains(&args.cached)) {
        bail!("--cached {}: expected less than the {isl} prompt tokens", args.cached);
    }
    let question = Question {
        model: &spec,
        gpus,
        workload: Workload { prompt: isl - args.cached, cached: args.cached, output: osl },
        limits: limits(args.slo.as_deref())?,
        objective: args.objective,
        engine: EngineLimits {
            max_num_batched_tokens: args.max_num_batched_tokens.clone(),
            max_model_len: args.max_model_len,
            max_num_seqs: args.max_num_seqs,
        },
        demand: Demand { requests_per_s: args.rate, usd_per_hour: args.budget },
        links: machines.as_ref().map(|machines| machines as &dyn Links),
        hint: args.strategy,
        layout: args.layout,
        split: args.split,
    };
    let answer = plan(&question)?;
    if let Some(folder) = &args.emit {
        deploy::refuse(folder, &answer.plans[0])?;
    }
    let mut text = tables::shown(args, &answer);
    let mut verified = Vec::new();
    if args.verify {
        let arriving =
            Arriving { trace: trace.map(|(source, _)| source), per_s: args.rate, seed: args.seed };
        let best = answer.plans.iter().take(usize::from(args.verify_top));
        let bar = progress(quiet, best.len() as u64, "plans simulated");
        for plan in best {
            verified.push(verify(&question, &args.model, plan, &arriving)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        text += &verify::shown(&verified, &arriving);
    }
    if let Some(folder) = &args.emit {
        let wanted = deploy::Wanted {
            model: &args.model,
            weights: args.weights.as_deref(),
            port: args.engine_port,
            extra: args.engine_arg.clone(),
        };
        let best = &answer.plans[0];
        text += &deploy::emit(folder, &question, best, &wanted, machines.as_ref())?;
    }
    if let Some(path) = &args.html {
        std::fs::write(path, page::of(args, &answer, &verified))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    output::report(&text, &Report { answer, verified }, args.json.as_deref())
}

/// What is written as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    answer: Answer,
    /// What the best plans give under arrivals, if they were tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    verified: Vec<Verified>,
}

/// Returns the requests of a trace, and how long they are in the mean.
fn traced(path: &Path) -> Result<(Source, Shape)> {
    let (arrivals, classes) = (read_trace_file(path)?, vec![SloClass::default()]);
    let shape = arrivals.shape().context("the trace has no request")?;
    Ok((Source::new(Origin::Trace { arrivals, classes, jitter: None }), shape))
}

fn group(text: &str) -> Result<(&'static Gpu, u32)> {
    let expected = || format!("--gpus `{text}`: expected NxGPU, such as 8xH200, of up to 4096");
    let (count, name) = text.trim().split_once(['x', 'X']).with_context(expected)?;
    let count: u32 = count.parse().ok().filter(|n| *n <= 4_096).with_context(expected)?;
    Ok((Gpu::named(name)?, count))
}

fn kind(text: &str) -> Result<ParallelismType, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| "expected tp, pp, dp, ep or hybrid".to_owned())
}

fn limits(slo: Option<&str>) -> Result<Limits> {
    let mut class = [SloClass::default()];
    if let Some(slo) = slo {
        set_objectives(&mut class, slo)?;
    }
    let [class] = class;
    let seconds = |ms: Option<f64>| ms.map(|ms| ms / 1e3);
    Ok(Limits {
        ttft: seconds(class.ttft_ms),
        tpot: seconds(class.tpot_ms),
        e2e: seconds(class.e2e_ms),
    })
}
