//! What starts a plan: command lines of engines, the gateway's settings, compose and Kubernetes files.

mod command;
mod manifests;
mod place;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sagellm_parallelism::{Plan, Question};
use sagellm_perf::{Dtype, Gpu, Layout, ModelSpec};
use sagellm_types::ExecutionInstance;

use super::machines::Machines;
use command::Engines;
use place::{Seat, Seated};

/// What engines load and are told besides.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    /// The model as it was named.
    pub(super) model: &'a str,
    /// What engines load instead of what the model's name says.
    pub(super) weights: Option<&'a str>,
    /// The port of the first engine of each machine.
    pub(super) port: u16,
    /// Further words for `vllm serve`.
    pub(super) extra: Vec<String>,
}

/// Ports that are not for engines: the gateway's, and that on which ranks find each other.
const TAKEN: [u16; 2] = [8_080, command::RANKS_PORT];

/// Refuses what could not be written, before anything else is done.
///
/// # Errors
/// If the folder holds something, or the plan cannot be served.
pub(super) fn refuse(folder: &Path, plan: &Plan) -> Result<()> {
    if plan.prefill.is_some() {
        bail!(
            "--emit: the best plan computes prompts apart, and `sagellm serve` does not hand keys and \
             values over yet; --split never plans without"
        );
    }
    for part in plan.each_type() {
        if !Gpu::named(&part.gpu)?.cuda {
            bail!(
                "--emit: {} is not NVIDIA's, and what is written here starts on CUDA alone",
                part.gpu
            );
        }
    }
    let holds = |folder: &Path| folder.read_dir().is_ok_and(|mut files| files.next().is_some());
    if folder.exists() && (!folder.is_dir() || holds(folder)) {
        bail!("--emit: {} is there already: expected a new or an empty folder", folder.display());
    }
    Ok(())
}

/// Writes into `folder` what starts a plan; returns what was written.
///
/// # Errors
/// If it cannot be started or written.
pub(super) fn emit(
    folder: &Path,
    question: &Question<'_>,
    plan: &Plan,
    wanted: &Wanted<'_>,
    machines: Option<&Machines>,
) -> Result<String> {
    let mut seated: Vec<Seated> = Vec::new();
    let mut engines: Vec<Engines<'_>> = Vec::new();
    for part in plan.each_type() {
        let layout: Layout = part.layout.parse()?;
        let own = place::seat(part, machines, wanted.port, (&seated, plan.types.is_empty()))?;
        let of_part = Engines {
            plan: part,
            layout,
            weights: weights(question.model, wanted)?,
            served: served(wanted.model)?,
            quantization: quantization(question.model, wanted)?,
            max_model_len: max_model_len(question, part, layout),
            mixed: !plan.types.is_empty(),
            extra: wanted.extra.clone(),
        };
        engines.extend(vec![of_part; own.len()]);
        seated.extend(own);
    }
    let started: Vec<(&Engines<'_>, &Seated)> = engines.iter().zip(&seated).collect();
    if let Some(taken) = seated.iter().find(|instance| TAKEN.contains(&instance.port)) {
        bail!(
            "--engine-port {}: {} would have port {}, which the gateway or the ranks of an engine take",
            wanted.port,
            taken.name,
            taken.port
        );
    }
    let mut files: Vec<(String, String)> = Vec::new();
    for (engines, instance) in &started {
        let head = &instance.seats[0].host;
        for part in 0..instance.seats.len() {
            let words = engines.words(&instance.seats, part, head, instance.port)?;
            let name = match instance.seats.len() {
                1 => format!("{}.sh", instance.name),
                _ => format!("{}-part-{part}.sh", instance.name),
            };
            files.push((name, command::script(instance, part, &words)));
        }
    }
    let listed: Vec<ExecutionInstance> = started
        .iter()
        .map(|(engines, instance)| {
            let at = (instance.seats[0].host.clone(), instance.port);
            registered(engines, instance, at, machines)
        })
        .collect::<Result<_>>()?;
    files.push(("sagellm.toml".to_owned(), settings(&listed)?));
    files.extend(manifests::compose(&started)?);
    let apart = manifests::types_apart(&started);
    if apart.is_ok() {
        files.push(manifests::kubernetes(&started, &listed)?);
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let mut text = format!("\nWritten to {}\n", folder.display());
    for (name, content) in &files {
        let path = folder.join(name);
        std::fs::write(&path, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let _ = writeln!(text, "  {name}");
    }
    if let Err(host) = apart {
        let _ = writeln!(
            text,
            "  no kubernetes.yaml: {host} has GPUs of several types, and a pod cannot ask for one of them"
        );
    }
    Ok(text)
}

/// Returns what engines load.
fn weights(model: &ModelSpec, wanted: &Wanted<'_>) -> Result<String> {
    if let Some(weights) = wanted.weights {
        // A folder is named from wherever the engine is started.
        return match Path::new(weights).is_dir() {
            true => Ok(std::path::absolute(weights)?.display().to_string()),
            false => Ok(weights.to_owned()),
        };
    }
    if wanted.model.ends_with(".json") {
        let path = std::path::absolute(wanted.model)?;
        let folder = path.parent().context("a config.json is in a folder")?;
        return Ok(folder.display().to_string());
    }
    let found = model.repository().map(str::to_owned);
    found.with_context(|| format!("--weights: what engines load for {} is not known", model.name))
}

/// Returns the name that clients ask for.
fn served(model: &str) -> Result<String> {
    if !model.ends_with(".json") {
        return Ok(model.to_owned());
    }
    let path = std::path::absolute(model)?;
    let folder = path.parent().and_then(Path::file_name);
    let folder = folder.context("a config.json is in a folder, whose name is the model's")?;
    Ok(folder.to_string_lossy().into_owned())
}

/// Returns how engines are to store weights that are published otherwise.
fn quantization(model: &ModelSpec, wanted: &Wanted<'_>) -> Result<Option<&'static str>> {
    let published = ModelSpec::find(wanted.model).map(|model| model.weights);
    match published {
        _ if wanted.weights.is_some() => Ok(None),
        Some(published) if published != model.weights => match model.weights {
            Dtype::Fp8 => Ok(Some("fp8")),
            _ => bail!(
                "--weights: name a repository whose weights are as `{}` says: engines make fp8 ones \
                 themselves, and no others",
                wanted.model
            ),
        },
        _ => Ok(None),
    }
}

/// Returns the longest context that engines allow: the model's, or half of what fits into a rank.
fn max_model_len(question: &Question<'_>, plan: &Plan, layout: Layout) -> u64 {
    let Question { model, workload, engine, .. } = question;
    let longest = workload.prompt + workload.cached + workload.output;
    if engine.max_model_len > 0 {
        return u64::from(engine.max_model_len).max(longest as u64);
    }
    let fits = plan.kv_tokens / u64::from(layout.data.max(1)) / 2;
    u64::from(model.max_context).min(fits).max(longest as u64)
}

/// Returns an instance as the control plane is told of it.
fn registered(
    engines: &Engines<'_>,
    instance: &Seated,
    (host, port): (String, u16),
    machines: Option<&Machines>,
) -> Result<ExecutionInstance> {
    let plan = engines.plan;
    let (gpu, seat): (_, &Seat) = (Gpu::named(&plan.gpu)?, &instance.seats[0]);
    let numa = seat.numa.as_ref().and_then(|nodes| {
        let first = *nodes.first()?;
        nodes.iter().all(|node| *node == first).then_some(first)
    });
    let rack = machines.and_then(|machines| {
        machines.topology().hosts().iter().find(|known| known.name == seat.host)?.rack.clone()
    });
    Ok(ExecutionInstance {
        gpu_type: Some(gpu.name.clone()),
        gpu_count: plan.gpus_per_instance,
        gpu_memory_gb: gpu.memory() / (1u64 << 30) as f64,
        price_per_gpu_hour: gpu.price_per_hour.0,
        tensor_parallel_size: engines.layout.tensor,
        pipeline_parallel_size: engines.layout.pipeline,
        data_parallel_size: engines.layout.data,
        max_concurrent_requests: plan.requests,
        // Those of other machines cannot be named here.
        gpu_ids: match instance.seats.len() {
            1 => seat.gpus.iter().map(u32::to_string).collect(),
            _ => Vec::new(),
        },
        machine_id: Some(seat.host.clone()),
        rack_id: rack,
        numa_node: numa,
        nvlink_peers: instance.peers.clone(),
        ..ExecutionInstance::new(&instance.name, host, port, &engines.served)
    })
}

/// Returns the settings of the gateway: what is not as it is without them.
fn settings(instances: &[ExecutionInstance]) -> Result<String> {
    let mut text =
        "# sagellm serve --config sagellm.toml\n\n[gateway]\nlisten = \"0.0.0.0:8080\"\n"
            .to_owned();
    for instance in instances {
        let usual = ExecutionInstance::new("", "", 1, "");
        let (all, usual) = (toml::Table::try_from(instance)?, toml::Table::try_from(&usual)?);
        let own: toml::Table =
            all.into_iter().filter(|(key, value)| usual.get(key) != Some(value)).collect();
        let _ = write!(text, "\n[[instance]]\n{}", toml::to_string(&own)?);
    }
    Ok(text)
}
