//! The command line of `sagellm simulate`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use sagellm_manager::{RouterConfig, StrategyConfig};
use sagellm_simulator::study::Target;
use sagellm_workload::SloClass;

use crate::replay::SourceArgs;
use crate::settings::SettingsArgs;

/// Run traffic on a fleet in virtual time
///
/// The control plane is the one that serves; engines are modelled from what was measured of their
/// GPUs (docs/ACCURACY.md says how well). An hour of a trace takes seconds, and the same seed gives
/// the same report on every machine.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sagellm simulate examples/scenarios/mix3.toml --html mix3.html
  sagellm simulate --model qwen3-32b --fleet 8xH200:tp2 --trace trace.jsonl --slo ttft=2s,tpot=25ms
  sagellm simulate examples/scenarios/mix3.toml --compare strategy=fifo,slo_aware,adaptive
  sagellm simulate examples/scenarios/mix3.toml --find goodput --strategy slo_aware
  sagellm simulate examples/scenarios/mix3.toml --find fleet --fleet 16xH100:tp2,16xA100:tp4

Flags change what a scenario says.")]
pub(crate) struct SimulateArgs {
    /// Scenario file (TOML): model, fleet, engines, policies, traffic, faults
    #[arg(value_name = "SCENARIO", conflicts_with = "config")]
    pub(super) scenario: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// The model: a name (qwen3-32b, llama-3.1-70b-fp8) or a config.json
    #[arg(long, value_name = "NAME|FILE")]
    pub(super) model: Option<String>,
    /// The engines: NxGPU:tpT, several separated by commas; N instances of T GPUs each
    #[arg(long, value_name = "FLEET")]
    pub(super) fleet: Option<String>,
    /// What all requests ask for: ttft=2s,tpot=25ms,e2e=60s
    #[arg(long, value_name = "LIMITS", conflicts_with = "mix")]
    pub(super) slo: Option<String>,
    /// Tokens in a KV block [default: 16]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) block_size: Option<u32>,
    /// Whether engines find the beginnings of prompts again [default: on]
    #[arg(long, value_enum)]
    pub(super) prefix_cache: Option<Switch>,
    /// Most requests in a step of an engine [default: 256]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_num_seqs: Option<u32>,
    /// Most tokens computed in a step of an engine [default: 8192]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_num_batched_tokens: Option<u32>,
    /// Longest context of an engine, in tokens [default: the model's]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_model_len: Option<u32>,
    /// Serve requests of the first so many seconds without counting them
    #[arg(long, value_name = "SECONDS")]
    pub(super) warm_up: Option<f64>,
    /// Take every engine step by itself instead of leaping over equal ones: slower, the same report
    #[arg(long)]
    pub(super) step: bool,
    /// Recompute every invariant from scratch after every event: much slower
    #[arg(long)]
    pub(super) check: bool,
    /// Compare policies on all cores: strategy=fifo,slo_aware router=load_balanced,affinity; with
    /// --find goodput, by that
    #[arg(long, value_name = "AXIS=NAMES", num_args = 1..=2)]
    pub(super) compare: Vec<Axis>,
    /// Seek the largest rate, or the cheapest fleet, at which every class is on time
    #[arg(long, value_enum)]
    pub(super) find: Option<Find>,
    /// The share of every class that must be on time for --find
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = share, requires = "find")]
    pub(super) attainment: f64,
    /// How many seeds --compare and --find run, from --seed on [default: 5]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) seeds: Option<u64>,
    /// Write the report as JSON; `-` prints it instead of the tables
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write a page with charts: one file, no network
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Write a row per class, or per pair of policies, as CSV
    #[arg(long, value_name = "FILE")]
    pub(super) csv: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// What is sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Find {
    /// The largest mean rate at which every class is on time often enough
    Goodput,
    /// The cheapest fleet that keeps the scenario's rate; each part of --fleet is an alternative,
    /// its count the most
    Fleet,
}

/// Policies of one kind that are compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Axis {
    Strategies(Vec<StrategyConfig>),
    Routers(Vec<RouterConfig>),
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected strategy=NAME,NAME or router=NAME,NAME, `all` for all names; a scenario file comes before --compare";
        let (axis, names) = text.split_once('=').ok_or(expected)?;
        let names = |all: &[&'static str]| -> Vec<String> {
            match names {
                "all" => all.iter().map(|&name| name.to_owned()).collect(),
                names => names.split(',').map(|name| name.trim().to_owned()).collect(),
            }
        };
        match axis {
            "strategy" => {
                let names = names(&StrategyConfig::NAMES);
                let parsed = names.iter().map(|name| StrategyConfig::parse(name));
                parsed.collect::<Result<_, _>>().map(Self::Strategies).map_err(|e| e.to_string())
            }
            "router" => {
                let names = names(&RouterConfig::NAMES);
                let parsed = names.iter().map(|name| RouterConfig::parse(name));
                parsed.collect::<Result<_, _>>().map(Self::Routers).map_err(|e| e.to_string())
            }
            _ => Err(expected.to_owned()),
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "expected a share, such as 0.9".to_owned())?;
    if share > 0.0 && share <= 1.0 {
        Ok(share)
    } else {
        Err("expected a share above 0, at most 1".into())
    }
}

impl SimulateArgs {
    pub(super) fn target(&self) -> Target {
        Target { attainment: self.attainment, ..Target::default() }
    }
}

/// Gives every class these objectives.
pub(crate) fn set_objectives(classes: &mut [SloClass], text: &str) -> Result<()> {
    let mut known: Vec<&str> = Vec::new();
    for part in text.split(',') {
        let wrong = || {
            format!("--slo `{part}`: expected ttft=TIME, tpot=TIME or e2e=TIME, TIME as 2s or 25ms")
        };
        let (name, time) = part.trim().split_once('=').with_context(wrong)?;
        let millis = Some(millis(time).with_context(wrong)?);
        if known.contains(&name) {
            bail!("--slo: {name} is there twice");
        }
        known.push(name);
        for class in &mut *classes {
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
    fn limits_and_axes_are_read_or_refused_with_what_is_expected() {
        assert_eq!(
            (millis("25ms"), millis("2s"), millis("0s"), millis("2")),
            (Some(25.0), Some(2_000.0), None, None)
        );
        let error = set_objectives(&mut [SloClass::default()], "ttft=2").expect_err("no unit");
        assert!(error.to_string().contains("TIME as 2s or 25ms"), "{error}");
        let error = set_objectives(&mut [SloClass::default()], "ttft=2s,ttft=1s").expect_err("two");
        assert!(error.to_string().contains("ttft is there twice"), "{error}");
        assert!(matches!("strategy=all".parse(), Ok(Axis::Strategies(all)) if all.len() == 5));
        let unknown = "strategy=fastest".parse::<Axis>().expect_err("unknown");
        assert!(unknown.contains("known are: fifo"), "{unknown}");
        assert!("policy=fifo".parse::<Axis>().expect_err("no axis").contains("expected strategy="));
    }
}
