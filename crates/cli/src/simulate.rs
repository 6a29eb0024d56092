//! `sagellm simulate`: a fleet in virtual time.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use sagellm_engine_model::{EngineConfig, Pace};
use sagellm_monitoring::render_text;
use sagellm_perf::{Calibration, Dtype, Gpu, Layout, Memory, ModelSpec, OperatorCost};
use sagellm_simulator::{Machine, simulate};
use sagellm_types::ExecutionInstance;
use sagellm_types::clock::Clock;
use sagellm_workload::{Arrival, Workload};

use crate::output;
use crate::replay::SourceArgs;
use crate::settings::{Environment, FleetArgs, Settings, SettingsArgs};

/// Run traffic on a fleet in virtual time
///
/// The control plane is the one that serves; engines are modelled from what was measured of their
/// GPUs (docs/ACCURACY.md says how well). An hour of a trace takes seconds, and the same seed gives
/// the same report on every machine.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sagellm simulate --model qwen3-32b --fleet 8xH200:tp2 --trace trace.jsonl --slo ttft=2s,tpot=25ms
  sagellm simulate --model llama-3.1-8b --fleet 4xA10G,2xA100 --rate 20 --duration 600 --strategy slo_aware")]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// The model: a name (qwen3-32b, llama-3.1-70b-fp8) or a config.json
    #[arg(long, value_name = "NAME|FILE")]
    model: String,
    /// The engines: NxGPU:tpT, several separated by commas; N instances of T GPUs each
    #[arg(long, value_name = "FLEET")]
    fleet: String,
    /// What all requests ask for: ttft=2s,tpot=25ms,e2e=60s
    #[arg(long, value_name = "LIMITS", conflicts_with = "mix")]
    slo: Option<String>,
    /// Tokens in a KV block
    #[arg(long, value_name = "TOKENS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    block_size: u32,
    /// Whether engines find the beginnings of prompts again
    #[arg(long, value_enum, default_value_t = Switch::On)]
    prefix_cache: Switch,
    /// Most requests in a step of an engine
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_num_seqs: u32,
    /// Most tokens computed in a step of an engine
    #[arg(long, value_name = "TOKENS", default_value_t = 8_192, value_parser = clap::value_parser!(u32).range(1..))]
    max_num_batched_tokens: u32,
    /// Longest context of an engine, in tokens [default: the model's]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    max_model_len: Option<u32>,
    /// Take every engine step by itself instead of leaping over equal ones: slower, the same report
    #[arg(long)]
    step: bool,
    /// Write the report as JSON; `-` prints it instead of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Runs the command.
///
/// # Errors
/// If the settings, the model, the fleet or the workload cannot be.
pub(crate) fn run(args: &SimulateArgs, environment: &Environment, quiet: bool) -> Result<()> {
    let settings = Settings::load(&args.settings, &FleetArgs::default(), environment)?;
    let model = model(&args.model)?;
    let machines = machines(args, &model)?;
    let mut workload = args.source.workload(settings.control_plane.seed)?;
    if let Some(slo) = &args.slo {
        set_objectives(&mut workload, slo)?;
    }
    let longest = machines.iter().map(|machine| machine.engine.max_model_len).max().unwrap_or(0);
    let too_long = |a: &&Arrival| a.prompt.0 + a.output.0 > u64::from(longest);
    let count = workload.arrivals.iter().filter(too_long).count();
    if count > 0 && !quiet {
        eprintln!(
            "{count} requests are longer than {longest} tokens and will fail: --max-prompt cuts them, --max-model-len lets engines take them"
        );
    }
    let bar = if quiet {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(workload.arrivals.len() as u64)
    };
    bar.set_style(
        ProgressStyle::with_template("{wide_bar} {pos}/{len} requests").expect("a good template"),
    );
    let clock = Clock::real();
    let begun = clock.now();
    let outcome = simulate(&settings.control_plane, &machines, &workload, |come| {
        bar.set_position(come as u64);
    })?;
    bar.finish_and_clear();
    output::report(&render_text(&outcome.report), &outcome.report, args.json.as_deref())?;
    if !quiet {
        let took = clock.now().since(begun).as_secs_f64();
        let model_s = outcome.report.model_s;
        eprintln!(
            "{took:.2} s for {model_s:.0} s of model time ({:.0}×): {} engine steps, {} calls of the core, {} preemptions{}",
            model_s / took.max(1e-9),
            outcome.steps,
            outcome.core_calls,
            outcome.preemptions,
            outcome.prefix_hit_rate.map_or_else(String::new, |rate| format!(
                ", {:.1} % of prompt tokens found in prefix caches",
                rate * 100.0
            )),
        );
    }
    if outcome.unfinished > 0 {
        bail!("{} requests have not ended", outcome.unfinished);
    }
    Ok(())
}

fn model(name: &str) -> Result<ModelSpec> {
    if name.ends_with(".json") {
        let text = std::fs::read_to_string(name)
            .with_context(|| format!("cannot read the model {name}"))?;
        return Ok(ModelSpec::from_config_json(name, &text)?);
    }
    Ok(ModelSpec::named(name)?)
}

fn machines(args: &SimulateArgs, model: &ModelSpec) -> Result<Vec<Machine>> {
    let mut machines = Vec::new();
    for part in args.fleet.split(',') {
        let (count, gpu, tensor) = group(part.trim())?;
        let layout = Layout::tensor(tensor);
        let heads = model.heads;
        if !heads.is_multiple_of(tensor) {
            bail!(
                "--fleet {part}: {tensor} GPUs do not divide the {heads} heads of {}",
                model.name
            );
        }
        let memory = Memory::of(model, gpu, layout, Dtype::Bf16, args.max_num_batched_tokens);
        let kv_tokens =
            memory.kv_tokens(model, gpu, layout).with_context(|| format!("--fleet {part}"))?;
        let engine = EngineConfig {
            block_size: args.block_size,
            num_blocks: u32::try_from(kv_tokens / u64::from(args.block_size)).unwrap_or(u32::MAX),
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens,
            max_model_len: args.max_model_len.unwrap_or(model.max_context),
            enable_prefix_caching: args.prefix_cache == Switch::On,
            pace: if args.step { Pace::Step } else { Pace::Leap },
            ..EngineConfig::default()
        };
        for _ in 0..count {
            let name = format!("{}-{}", gpu.name.to_ascii_lowercase(), machines.len());
            let mut spec = ExecutionInstance::new(name, "simulated", 1, &model.name);
            spec.gpu_type = Some(gpu.name.clone());
            spec.gpu_count = tensor;
            spec.gpu_memory_gb = gpu.memory() * 1e-9;
            spec.price_per_gpu_hour = gpu.price_per_hour.0;
            spec.max_concurrent_requests = args.max_num_seqs;
            spec.kv_cache_tokens = Some(engine.kv_tokens());
            let cost = OperatorCost::new(model, gpu, layout, Calibration::of(gpu));
            machines.push(Machine { spec, engine, cost: cost.into() });
        }
    }
    Ok(machines)
}

/// Reads `NxGPU:tpT`; without `:tpT` an instance has one GPU.
fn group(text: &str) -> Result<(u32, &'static Gpu, u32)> {
    let wrong = || format!("--fleet `{text}`: expected NxGPU:tpT, such as 8xH200:tp2");
    let (count, rest) = text.split_once(['x', 'X']).with_context(wrong)?;
    let (gpu, tensor) = match rest.split_once(':') {
        Some((gpu, layout)) => (gpu, layout.strip_prefix("tp").with_context(wrong)?),
        None => (rest, "1"),
    };
    let number = |text: &str| text.parse().ok().filter(|n| (1..=100_000).contains(n));
    let count = number(count).with_context(wrong)?;
    let tensor = number(tensor).with_context(wrong)?;
    Ok((count, Gpu::named(gpu)?, tensor))
}

/// Gives every class these objectives.
fn set_objectives(workload: &mut Workload, text: &str) -> Result<()> {
    for part in text.split(',') {
        let wrong = || {
            format!("--slo `{part}`: expected ttft=TIME, tpot=TIME or e2e=TIME, TIME as 2s or 25ms")
        };
        let (name, time) = part.trim().split_once('=').with_context(wrong)?;
        let millis = Some(millis(time).with_context(wrong)?);
        for class in &mut workload.classes {
            match name {
                "ttft" => class.ttft_ms = millis,
                "tpot" | "itl" => class.tpot_ms = millis,
                "e2e" => class.e2e_ms = millis,
                _ => bail!(wrong()),
            }
        }
    }
    Ok(())
}

fn millis(text: &str) -> Option<f64> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1.0),
        None => (text.strip_suffix('s')?, 1e3),
    };
    let millis = number.trim().parse::<f64>().ok()? * unit;
    let within = Duration::try_from_secs_f64(millis / 1e3).is_ok_and(|time| !time.is_zero());
    within.then_some(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleets_and_limits_are_read_or_refused_with_what_is_expected() {
        let (count, gpu, tensor) = group("8xH200:tp2").expect("as documented");
        assert_eq!((count, gpu.name.as_str(), tensor), (8, "H200", 2));
        assert_eq!(group("4xa10g").expect("one GPU").2, 1);
        for wrong in ["8", "0xH100", "8xH100:pp2", "xH100", "8xV100"] {
            let error = group(wrong).expect_err(wrong).to_string();
            assert!(error.contains("expected") || error.contains("unknown GPU"), "{error}");
        }
        assert_eq!(
            (millis("25ms"), millis("2s"), millis("0s"), millis("2")),
            (Some(25.0), Some(2_000.0), None, None)
        );
    }
}
