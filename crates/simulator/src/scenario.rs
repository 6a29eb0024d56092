//! A scenario as people write it: a model, a fleet, its settings, traffic, and what goes wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sagellm_engine_model::{EngineConfig, Pace};
use sagellm_manager::Config;
use sagellm_monitoring::PredictionInterval;
use sagellm_perf::{
    Calibration, DoesNotFit, Dtype, Gpu, IllegalLayout, Interval, Layout, Memory, ModelSpec,
    OperatorCost, SpecError, UnknownName,
};
use sagellm_types::{ExecutionInstance, Tokens};
use sagellm_workload::{
    ConfigError, Origin, SloClass, Source, TraceError, WorkloadConfig, read_trace_file,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::study::Study;
use crate::{FaultRule, Machine};

/// A scenario.
///
/// ```
/// use sagellm_simulator::Scenario;
///
/// let scenario: Scenario = toml::from_str(r#"
///     model = "llama-3.1-8b"
///     fleet = "2xA100"
///     [workload]
///     duration_s = 60.0
///     arrivals = { rate = { shape = "constant", per_s = 8.0 } }
///     [[faults]]
///     kind = "crash"
///     instance = 1
///     at_s = 20.0
/// "#)?;
/// let study = scenario.prepare(".".as_ref())?;
/// let outcome = study.run(&study.cell(1), |_| {})?;
/// assert_eq!(outcome.unfinished, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The model: a name of the catalogue, or a `config.json` beside this file.
    pub model: String,
    /// The engines: `NxGPU:tpT`, several separated by commas; N instances of T GPUs each. Where the
    /// layout goes on with `ppP`, `dpD` or `ep`, an instance has stages, ranks, or spread experts.
    pub fleet: String,
    /// GPUs of a machine; as in the usual machine with these GPUs when absent. Instances fill machines
    /// in their order; those of one machine are NVLink peers if the GPUs have NVLink.
    #[serde(default)]
    pub gpus_per_machine: Option<u32>,
    /// Settings of the engines.
    #[serde(default)]
    pub engine: EngineSettings,
    /// Settings of the control plane, as in a settings file.
    #[serde(default)]
    pub control_plane: Config,
    /// Traffic that is drawn.
    #[serde(default)]
    pub workload: Option<WorkloadConfig>,
    /// Traffic of a trace.
    #[serde(default)]
    pub trace: Option<TraceSettings>,
    /// Requests that come in the first so many seconds are served and not counted.
    #[serde(default)]
    pub warm_up_s: f64,
    /// An engine answers for the first time, in seconds after its start.
    #[serde(default)]
    pub start_up_s: f64,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<FaultRule>,
}

/// Settings of all engines of a scenario, named as vLLM names them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Tokens in a KV block.
    pub block_size: u32,
    /// Whether engines find the beginnings of prompts again.
    pub enable_prefix_caching: bool,
    /// Most requests in a step.
    pub max_num_seqs: u32,
    /// Most tokens computed in a step.
    pub max_num_batched_tokens: u32,
    /// Longest context, in tokens; the model's when absent.
    pub max_model_len: Option<u32>,
    /// Whether every step is taken by itself instead of leaping over equal ones.
    pub step: bool,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            block_size: 16,
            enable_prefix_caching: true,
            max_num_seqs: 256,
            max_num_batched_tokens: 8_192,
            max_model_len: None,
            step: false,
        }
    }
}

/// A trace and what is made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceSettings {
    /// The file: Azure CSV, or Mooncake JSONL by its ending; from where the scenario stands.
    pub file: PathBuf,
    /// Only its first so many seconds.
    #[serde(default)]
    pub duration_s: Option<f64>,
    /// How many times its rate.
    #[serde(default = "one")]
    pub rate_scale: f64,
    /// Arrivals are spread over ticks of so many seconds.
    #[serde(default)]
    pub jitter_s: Option<f64>,
    /// Longer prompts are cut to so many tokens.
    #[serde(default)]
    pub max_prompt: Option<u64>,
    /// The classes that its requests get by share.
    #[serde(default)]
    pub classes: Vec<SloClass>,
}

const fn one() -> f64 {
    1.0
}

/// A scenario that cannot be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The fleet is not as it is written.
    #[error(
        "fleet `{part}`: expected NxGPU:tpT, such as 8xH200:tp2, where ppP, dpD and ep may follow: \
         2xH200:tp1dp8ep"
    )]
    Fleet {
        /// The part that is wrong.
        part: String,
    },
    /// A model or a GPU is not known.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// The GPUs of an instance cannot share the model.
    #[error("fleet `{part}`: {source}")]
    Layout {
        /// The part that is wrong.
        part: String,
        /// Why.
        source: IllegalLayout,
    },
    /// The model does not fit.
    #[error("fleet `{part}`: {source}")]
    DoesNotFit {
        /// The part that is wrong.
        part: String,
        /// What is lacking.
        source: DoesNotFit,
    },
    /// The model's file cannot be read.
    #[error("cannot read the model {path}: {source}")]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The model's file is no model.
    #[error(transparent)]
    Model(#[from] SpecError),
    /// The trace cannot be used.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The workload cannot be.
    #[error("workload: {0}")]
    Workload(#[from] ConfigError),
    /// The control plane's settings cannot be.
    #[error("control_plane: {0}")]
    Control(#[from] sagellm_manager::ConfigError),
    /// A figure cannot be.
    #[error("{field} = {found}: expected {expected}")]
    Figure {
        /// The field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// There is not exactly one kind of traffic.
    #[error("expected either [workload] or [trace]")]
    Traffic,
}

impl Scenario {
    /// Returns a scenario without traffic and faults.
    pub fn of(model: &str, fleet: &str, engine: EngineSettings) -> Self {
        Self {
            model: model.to_owned(),
            fleet: fleet.to_owned(),
            gpus_per_machine: None,
            engine,
            control_plane: Config::default(),
            workload: None,
            trace: None,
            warm_up_s: 0.0,
            start_up_s: 0.0,
            faults: Vec::new(),
        }
    }

    /// Returns the scenario ready to be run; files are sought in `folder`.
    ///
    /// # Errors
    /// [`ScenarioError`] names what cannot be.
    pub fn prepare(&self, folder: &Path) -> Result<Study, ScenarioError> {
        let origin = match (&self.workload, &self.trace) {
            (Some(drawn), None) => {
                drawn.validate()?;
                Source::new(Origin::Drawn(drawn.clone()))
            }
            (None, Some(trace)) => trace.source(folder)?,
            _ => return Err(ScenarioError::Traffic),
        };
        self.with_source(origin, folder)
    }

    /// Returns the scenario ready to be run on traffic from elsewhere.
    ///
    /// # Errors
    /// [`ScenarioError`] names what cannot be.
    pub fn with_source(&self, source: Source, folder: &Path) -> Result<Study, ScenarioError> {
        self.control_plane.validate()?;
        let model = model(&self.model, folder)?;
        let machines = self.machines(&self.fleet, &model)?;
        Ok(Study {
            machines,
            intervals: intervals(&self.fleet, &model)?,
            source,
            config: self.control_plane.clone(),
            faults: self.faults.clone(),
            warm_up: seconds("warm_up_s", self.warm_up_s)?,
            check: false,
        })
    }

    /// Returns the engines of a fleet such as `8xH200:tp2,4xL4`.
    ///
    /// # Errors
    /// [`ScenarioError`] names the part that cannot be.
    pub fn machines(&self, fleet: &str, model: &ModelSpec) -> Result<Vec<Machine>, ScenarioError> {
        self.engine.validate()?;
        let mut machines: Vec<Machine> = Vec::new();
        let mut hosts = 0;
        if self.gpus_per_machine == Some(0) {
            let expected = "at least 1";
            return Err(ScenarioError::Figure { field: "gpus_per_machine", expected, found: 0.0 });
        }
        let start_up = seconds("start_up_s", self.start_up_s)?;
        for part in fleet.split(',').map(str::trim) {
            let (count, gpu, layout) = group(part)?;
            let part = part.to_owned();
            layout
                .check(model)
                .map_err(|source| ScenarioError::Layout { part: part.clone(), source })?;
            let engine = self
                .engine
                .of(model, gpu, layout)
                .map_err(|source| ScenarioError::DoesNotFit { part, source })?;
            let first = machines.len();
            let cost = OperatorCost::new(model, gpu, layout, Calibration::of(gpu));
            for _ in 0..count {
                let name = format!("{}-{}", gpu.name.to_ascii_lowercase(), machines.len());
                let spec = ExecutionInstance {
                    gpu_type: Some(gpu.name.clone()),
                    gpu_count: layout.gpus(),
                    tensor_parallel_size: layout.tensor,
                    pipeline_parallel_size: layout.pipeline,
                    data_parallel_size: layout.data,
                    gpu_memory_gb: gpu.memory() * 1e-9,
                    price_per_gpu_hour: gpu.price_per_hour.0,
                    max_concurrent_requests: engine.max_num_seqs,
                    kv_cache_tokens: Some(engine.kv_tokens()),
                    ..ExecutionInstance::new(name, "simulated", 1, &model.name)
                };
                machines.push(Machine { spec, engine, cost: cost.into(), start_up });
            }
            let per_machine = self.gpus_per_machine.unwrap_or(gpu.node) / layout.gpus();
            let seated = &mut machines[first..];
            hosts += seat(seated, per_machine.max(1) as usize, hosts, gpu.link.is_some());
        }
        Ok(machines)
    }
}

impl EngineSettings {
    /// Checks that an engine can be so.
    fn validate(&self) -> Result<(), ScenarioError> {
        /// More than any engine is given.
        const MOST: u32 = 1 << 24;
        let wrong = |field, found: u32, expected| {
            Err(ScenarioError::Figure { field, expected, found: f64::from(found) })
        };
        let count = "a number from 1 to 16777216";
        if !(1..=4_096).contains(&self.block_size) {
            return wrong("engine.block_size", self.block_size, "a number from 1 to 4096");
        }
        for (field, value) in [
            ("engine.max_num_seqs", Some(self.max_num_seqs)),
            ("engine.max_num_batched_tokens", Some(self.max_num_batched_tokens)),
            ("engine.max_model_len", self.max_model_len),
        ] {
            if let Some(value) = value.filter(|value| !(1..=MOST).contains(value)) {
                return wrong(field, value, count);
            }
        }
        Ok(())
    }

    fn of(&self, model: &ModelSpec, gpu: &Gpu, layout: Layout) -> Result<EngineConfig, DoesNotFit> {
        let memory = Memory::of(model, gpu, layout, Dtype::Bf16, self.max_num_batched_tokens);
        let kv_tokens = memory.kv_tokens(model, gpu, layout)?;
        let (block_size, ranks) = (self.block_size.max(1), u64::from(layout.data));
        // Ranks are taken to be filled evenly; of one sequence, everything is on one rank. Each stage
        // has a batch of its own in it, so that a step, in which every sequence gets its token, has room
        // for as many of them.
        let times = |count: u32, by: u64| u32::try_from(u64::from(count) * by).unwrap_or(u32::MAX);
        let batches = ranks * u64::from(layout.pipeline);
        let of_one = u32::try_from(kv_tokens / ranks).unwrap_or(u32::MAX);
        Ok(EngineConfig {
            block_size,
            num_blocks: u32::try_from(kv_tokens / u64::from(block_size)).unwrap_or(u32::MAX),
            max_num_seqs: times(self.max_num_seqs, ranks),
            max_num_batched_tokens: times(self.max_num_batched_tokens, batches),
            long_prefill_token_threshold: match batches {
                1 => 0,
                _ => self.max_num_batched_tokens,
            },
            max_model_len: self.max_model_len.unwrap_or(model.max_context).min(of_one),
            enable_prefix_caching: self.enable_prefix_caching,
            pace: if self.step { Pace::Step } else { Pace::Leap },
            ..EngineConfig::default()
        })
    }
}

impl TraceSettings {
    fn source(&self, folder: &Path) -> Result<Source, ScenarioError> {
        let rate = self.rate_scale;
        if !(rate.is_finite() && rate > 0.0) {
            let expected = "a positive number";
            return Err(ScenarioError::Figure { field: "trace.rate_scale", expected, found: rate });
        }
        let part = |field, value: Option<f64>| value.map(|value| seconds(field, value)).transpose();
        let classes = match self.classes.is_empty() {
            true => vec![SloClass::default()],
            false => self.classes.clone(),
        };
        Ok(Source {
            duration: part("trace.duration_s", self.duration_s)?,
            rate_scale: rate,
            max_prompt: self.max_prompt.map_or(Tokens(u64::MAX), Tokens),
            ..Source::new(Origin::Trace {
                arrivals: read_trace_file(&folder.join(&self.file))?,
                classes,
                jitter: part("trace.jitter_s", self.jitter_s)?,
            })
        })
    }
}

/// Seats instances on machines, so many on each, which are numbered from `first` on; returns how many
/// machines that takes.
fn seat(instances: &mut [Machine], per_machine: usize, first: usize, nvlink: bool) -> usize {
    for (host, seated) in (first..).zip(instances.chunks_mut(per_machine)) {
        let names: Vec<String> = seated.iter().map(|one| one.spec.instance_id.clone()).collect();
        for one in seated {
            one.spec.machine_id = Some(format!("machine-{host}"));
            if nvlink {
                let others = names.iter().filter(|name| **name != one.spec.instance_id);
                one.spec.nvlink_peers = others.cloned().collect();
            }
        }
    }
    instances.len().div_ceil(per_machine)
}

/// Returns how far the step times of each part of a fleet may be off.
fn intervals(fleet: &str, model: &ModelSpec) -> Result<Vec<PredictionInterval>, ScenarioError> {
    let of = |part: &str| {
        let (_, gpu, layout) = group(part)?;
        let Interval { novelty, ttft, tpot, .. } = Interval::of(model, gpu, layout);
        let (engines, unmeasured) = (part.to_owned(), novelty.name().to_owned());
        Ok(PredictionInterval { engines, unmeasured, ttft, tpot })
    };
    fleet.split(',').map(str::trim).map(of).collect()
}

fn seconds(field: &'static str, value: f64) -> Result<Duration, ScenarioError> {
    /// Four months: more is a mistake, and would be waited for.
    const MOST: f64 = 1e7;
    match Duration::try_from_secs_f64(value) {
        Ok(time) if value <= MOST => Ok(time),
        _ => Err(ScenarioError::Figure {
            field,
            expected: "seconds from 0 to 10000000",
            found: value,
        }),
    }
}

/// Returns the model called `name`, or that of a file in `folder`.
///
/// # Errors
/// If it is not known, cannot be read or cannot be.
pub fn model(name: &str, folder: &Path) -> Result<ModelSpec, ScenarioError> {
    if name.ends_with(".json") {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ScenarioError::ModelFile { path, source })?;
        return Ok(ModelSpec::from_config_json(name, &text)?);
    }
    Ok(ModelSpec::named(name)?)
}

/// Reads `NxGPU:tpT`; without `:tpT` an instance has one GPU.
fn group(text: &str) -> Result<(u32, &'static Gpu, Layout), ScenarioError> {
    let parts = || {
        let (count, rest) = text.split_once(['x', 'X'])?;
        let (gpu, layout) = rest.split_once(':').unwrap_or((rest, "tp1"));
        let count = count.parse().ok().filter(|n| (1..=100_000).contains(n))?;
        Some((count, gpu, layout.parse().ok()?))
    };
    let (count, gpu, layout) =
        parts().ok_or_else(|| ScenarioError::Fleet { part: text.to_owned() })?;
    Ok((count, Gpu::named(gpu)?, layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_fill_machines_and_are_peers_where_there_is_nvlink() {
        let machines = |fleet: &str, gpus: Option<u32>| {
            let text = format!("model = \"llama-3.1-8b\"\nfleet = \"{fleet}\"");
            let scenario: Scenario = toml::from_str(&text).expect("a scenario");
            let scenario = Scenario { gpus_per_machine: gpus, ..scenario };
            let model = model("llama-3.1-8b", ".".as_ref()).expect("known");
            let machines = scenario.machines(fleet, &model).expect("it fits");
            let place = |machine: Machine| {
                let ExecutionInstance { machine_id, nvlink_peers, .. } = machine.spec;
                (machine_id.expect("all are seated"), nvlink_peers.join(" "))
            };
            machines.into_iter().map(place).collect::<Vec<_>>()
        };
        let place = |machine: &str, peers: &str| (machine.to_owned(), peers.to_owned());
        assert_eq!(
            machines("3xA100:tp4,1xL4", None),
            [
                place("machine-0", "a100-80gb-1"),
                place("machine-0", "a100-80gb-0"),
                place("machine-1", ""),
                place("machine-2", ""),
            ]
        );
        let apart = [place("machine-0", ""), place("machine-1", "")];
        assert_eq!(machines("2xA100:tp2", Some(2)), apart);
        assert_eq!(machines("2xA100:tp2", Some(1)), apart, "an instance of two machines");
        let together = [place("machine-0", ""), place("machine-0", "")];
        assert_eq!(machines("2xL40S", None), together, "over PCIe");
    }

    #[test]
    fn fleets_are_read_or_refused_with_what_is_expected() {
        let (count, gpu, layout) = group("8xH200:tp2").expect("as documented");
        assert_eq!((count, gpu.name.as_str(), layout), (8, "H200", Layout::tensor(2)));
        assert_eq!(group("4xa10g").expect("one GPU").2, Layout::tensor(1));
        assert_eq!(group("1xH200:tp1dp8ep").expect("as documented").2.gpus(), 8);
        for wrong in ["8", "0xH100", "8xH100:pp2", "xH100", "8xV100", "8xH100:tp2x"] {
            let error = group(wrong).expect_err(wrong).to_string();
            assert!(error.contains("expected") || error.contains("unknown GPU"), "{error}");
        }
    }
}
