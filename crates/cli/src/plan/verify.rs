//! What becomes of plans under arrivals: a steady load has no bursts and no queue.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use sagellm_engine_model::Transfer;
use sagellm_parallelism::{Plan, Question, Seating};
use sagellm_perf::{Gpu, Layout, Picos};
use sagellm_simulator::study::Study;
use sagellm_simulator::{EngineSettings, Machine, Pool, Pools, Scenario, Served};
use sagellm_types::{Seed, Timestamp};
use sagellm_workload::{Arrivals, Length, Origin, SloClass, Source, Workload, WorkloadConfig};
use serde::Serialize;

use super::tables::{gpus, instances};

/// Requests of a run at the rate that a plan gives in the steady state.
const REQUESTS: f64 = 4_000.0;
/// Of the time of a run, the share after which requests are counted.
const WARM_UP: f64 = 0.1;
/// The share of requests that are to keep all limits.
const ON_TIME: f64 = 0.9;

/// What a plan gives under arrivals.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verified {
    /// The instances.
    plan: String,
    /// Requests per second in the steady state.
    steady_per_s: f64,
    /// The mean rate of the arrivals.
    per_s: f64,
    /// Share of requests that keep all limits; refused and unfinished ones do not.
    on_time: Option<f64>,
    /// Share of requests that were answered; the others are longer than engines take, or were refused.
    answered: f64,
    /// Times in milliseconds.
    ttft_ms: Spread,
    tpot_ms: Spread,
    e2e_ms: Spread,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Spread {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Which arrivals plans are tried on.
pub(super) struct Arriving {
    /// Arrivals as a trace has them; else at random.
    pub(super) trace: Option<Source>,
    /// The rate that is asked for; else the largest at which enough requests are on time.
    pub(super) per_s: Option<f64>,
    pub(super) seed: u64,
}

/// Runs a plan on arrivals.
///
/// # Errors
/// If its fleet cannot be simulated.
pub(super) fn verify(
    question: &Question<'_>,
    model: &str,
    plan: &Plan,
    arriving: &Arriving,
) -> Result<Verified> {
    let trial = Trial::new(question, model, plan, arriving)?;
    let at = |per_s: f64| trial.at(per_s, arriving.seed);
    if let Some(per_s) = arriving.per_s {
        return at(per_s);
    }
    let steady = plan.requests_per_s;
    let good = |tried: &Verified| tried.on_time.is_none_or(|share| share >= ON_TIME);
    let full = at(steady)?;
    if good(&full) {
        return Ok(full);
    }
    // The largest share of the steady rate that is good enough, to two parts in a hundred.
    let (mut low, mut high, mut best) = (0.0, 1.0, None);
    while high - low > 0.02 {
        let middle = 0.5 * (low + high);
        let tried = at(middle * steady)?;
        match good(&tried) {
            true => (low, best) = (middle, Some(tried)),
            false => high = middle,
        }
    }
    Ok(best.unwrap_or(full))
}

/// A plan, ready to be run.
struct Trial<'t> {
    plan: &'t Plan,
    source: Source,
    /// The rate of the source as it is.
    own: f64,
    fleet: Fleet,
    limits: SloClass,
}

enum Fleet {
    /// The control plane with its engines.
    Whole(Box<Study>),
    /// Prompts apart.
    Split(Box<Pools>),
}

impl<'t> Trial<'t> {
    fn new(
        question: &Question<'_>,
        model: &str,
        plan: &'t Plan,
        arriving: &Arriving,
    ) -> Result<Self> {
        let ms = |limit: Option<f64>| limit.map(|limit| limit * 1e3);
        let limits = SloClass {
            name: "all".to_owned(),
            ttft_ms: ms(question.limits.ttft),
            tpot_ms: ms(question.limits.tpot),
            e2e_ms: ms(question.limits.e2e),
            ..SloClass::default()
        };
        let steady = plan.requests_per_s;
        let mut source = match &arriving.trace {
            Some(trace) => trace.clone(),
            None => {
                let tokens = |tokens: f64| Length::Constant { tokens: tokens as u64 };
                Source::new(Origin::Drawn(WorkloadConfig {
                    prompt: tokens(question.workload.prompt + question.workload.cached),
                    output: tokens(question.workload.output),
                    ..WorkloadConfig::new(Arrivals::poisson(steady), REQUESTS / steady)
                }))
            }
        };
        for class in source.classes_mut() {
            *class = SloClass { share: class.share, ..limits.clone() };
        }
        let own = source.mean_rate(&source.at(1.0, Seed(arriving.seed))?);
        if !(own.is_finite() && own > 0.0) {
            bail!("--verify: the requests of the trace come all at once, which is no rate");
        }
        let mut decode = Vec::new();
        for part in plan.each_type() {
            let (gpu, layout) = (&part.gpu, &part.layout);
            decode.extend(machines(question, model, part, gpu, layout, part.instances)?);
        }
        let fleet = match &plan.prefill {
            None => Fleet::Whole(Box::new(Study {
                machines: decode,
                intervals: Vec::new(),
                source: source.clone(),
                config: Default::default(),
                faults: Vec::new(),
                warm_up: Duration::ZERO,
                check: false,
            })),
            Some(prefill) => {
                let plan = Plan {
                    max_num_batched_tokens: prefill.max_num_batched_tokens,
                    requests: 256,
                    ..plan.clone()
                };
                let (gpu, layout) = (&prefill.gpu, &prefill.layout);
                let source = machines(question, model, &plan, gpu, layout, prefill.instances)?;
                let pool = |machines: Vec<Machine>| {
                    let engines = machines.len() as u32;
                    let machine = machines.into_iter().next().context("a plan has instances")?;
                    Ok::<_, anyhow::Error>(Pool {
                        engines,
                        config: machine.engine,
                        cost: machine.cost,
                    })
                };
                let decode = pool(decode)?;
                let tokens = question.workload.prompt + question.workload.cached;
                let blocks = (tokens / f64::from(decode.config.block_size)).max(1.0);
                Fleet::Split(Box::new(Pools {
                    prefill: pool(source)?,
                    decode,
                    transfer: Transfer {
                        latency: Picos::ZERO,
                        per_block: Picos::from_secs_f64(prefill.transfer / blocks),
                    },
                }))
            }
        };
        Ok(Self { plan, source, own, fleet, limits })
    }

    fn at(&self, per_s: f64, seed: u64) -> Result<Verified> {
        let factor = per_s / self.own;
        let workload = self.source.at(factor, Seed(seed))?;
        if workload.arrivals.is_empty() {
            bail!("--verify: no request comes at {per_s:.3} per second");
        }
        let last = workload.arrivals.last().map_or(Timestamp::ZERO, |arrival| arrival.at);
        let warm_up = last.since(Timestamp::ZERO).mul_f64(WARM_UP);
        let mut verified = match &self.fleet {
            Fleet::Whole(study) => self.whole(study, &workload, warm_up, factor, seed)?,
            Fleet::Split(pools) => self.split(pools, &workload, warm_up),
        };
        verified.per_s = self.source.mean_rate(&workload);
        Ok(verified)
    }

    fn whole(
        &self,
        study: &Study,
        workload: &Workload,
        warm_up: Duration,
        rate: f64,
        seed: u64,
    ) -> Result<Verified> {
        let study = Study { warm_up, ..study.clone() };
        let cell = sagellm_simulator::study::Cell { rate, ..study.cell(seed) };
        let report = study.run_on(workload, &cell, |_| {})?.report;
        let spread =
            |times: &sagellm_monitoring::Distribution| Spread { p50: times.p50, p99: times.p99 };
        Ok(Verified {
            on_time: report.slo.attainment,
            answered: report.requests.finished as f64 / (report.requests.submitted as f64).max(1.0),
            ttft_ms: spread(&report.ttft_ms),
            tpot_ms: spread(&report.tpot_ms),
            e2e_ms: spread(&report.e2e_ms),
            ..self.empty()
        })
    }

    fn split(&self, pools: &Pools, workload: &Workload, warm_up: Duration) -> Verified {
        let counted = |at: Timestamp| at.since(Timestamp::ZERO) >= warm_up;
        let asked = workload.arrivals.iter().filter(|arrival| counted(arrival.at)).count();
        let served: Vec<Served> =
            pools.serve(workload).into_iter().filter(|served| counted(served.arrived)).collect();
        let within = |limit: Option<f64>, found: Option<f64>| {
            limit.is_none_or(|limit| found.is_none_or(|found| found * 1e3 <= limit))
        };
        let good = served.iter().filter(|served| {
            within(self.limits.ttft_ms, Some(served.ttft))
                && within(self.limits.tpot_ms, served.tpot)
                && within(self.limits.e2e_ms, Some(served.e2e))
        });
        let spread = |of: &dyn Fn(&Served) -> Option<f64>| {
            let mut times: Vec<f64> = served.iter().filter_map(of).collect();
            times.sort_by(f64::total_cmp);
            let at = |share: f64| {
                let last = times.len().checked_sub(1)?;
                Some(times[(share * last as f64) as usize] * 1e3)
            };
            Spread { p50: at(0.5), p99: at(0.99) }
        };
        Verified {
            on_time: self
                .limits
                .objectives()
                .any()
                .then(|| good.count() as f64 / asked.max(1) as f64),
            answered: served.len() as f64 / asked.max(1) as f64,
            ttft_ms: spread(&|served| Some(served.ttft)),
            tpot_ms: spread(&|served| served.tpot),
            e2e_ms: spread(&|served| Some(served.e2e)),
            ..self.empty()
        }
    }

    fn empty(&self) -> Verified {
        Verified {
            plan: format!("{} on {}", instances(self.plan), gpus(self.plan)),
            steady_per_s: self.plan.requests_per_s,
            per_s: 0.0,
            on_time: None,
            answered: 0.0,
            ttft_ms: Spread::default(),
            tpot_ms: Spread::default(),
            e2e_ms: Spread::default(),
        }
    }
}

/// Returns the engines of a plan in a layout, with the ways between GPUs that the question knows.
fn machines(
    question: &Question<'_>,
    model: &str,
    plan: &Plan,
    gpu: &str,
    layout: &str,
    count: u32,
) -> Result<Vec<Machine>> {
    let (gpu, parsed): (_, Layout) = (Gpu::named(gpu)?, layout.parse()?);
    let each = plan.requests.div_ceil(parsed.data);
    let engine = EngineSettings {
        max_num_batched_tokens: plan.max_num_batched_tokens,
        max_num_seqs: each,
        ..Default::default()
    };
    let fleet = format!("{count}x{}:{layout}", gpu.name);
    let scenario = Scenario::of(model, &fleet, engine);
    let mut machines = scenario.machines(&fleet, question.model)?;
    let known = question.links.map(|links| links.seatings(gpu, parsed.gpus())).unwrap_or_default();
    let enough = known.into_iter().find(|seating| seating.instances >= count);
    let usual = Seating { instances: count, machines: 1, ways: Vec::new() };
    let seating = enough.unwrap_or(usual);
    let cost = question.cost(gpu, parsed, &seating);
    for machine in &mut machines {
        machine.cost = cost.into();
        // Another type has machines of its own.
        let host = machine.spec.machine_id.take();
        machine.spec.machine_id = host.map(|host| format!("{}-{host}", gpu.name));
    }
    Ok(machines)
}

/// Returns the heads of a table, and a row for each plan.
pub(super) fn rows(verified: &[Verified]) -> Vec<Vec<String>> {
    let heads = [
        "",
        "steady req/s",
        "req/s",
        "answered",
        "on time",
        "TTFT P50 ms",
        "P99",
        "TPOT P50 ms",
        "P99",
        "E2E P99 s",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let figure = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    };
    for found in verified {
        rows.push(vec![
            found.plan.clone(),
            format!("{:.2}", found.steady_per_s),
            format!("{:.2}", found.per_s),
            format!("{:.1} %", found.answered * 100.0),
            found.on_time.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 1e2)),
            figure(found.ttft_ms.p50, 0),
            figure(found.ttft_ms.p99, 0),
            figure(found.tpot_ms.p50, 1),
            figure(found.tpot_ms.p99, 1),
            figure(found.e2e_ms.p99.map(|ms| ms / 1e3), 1),
        ]);
    }
    rows
}

/// Returns what was found.
pub(super) fn shown(verified: &[Verified], arriving: &Arriving) -> String {
    let what = if arriving.trace.is_some() { "as in the trace" } else { "at random (Poisson)" };
    let rate = match arriving.per_s {
        Some(per_s) => format!("at {per_s} per second"),
        None => "at the largest rate, up to the steady one, at which 90 % are on time".to_owned(),
    };
    format!(
        "\nSimulated: requests that come {what}, {rate}\n{}",
        crate::simulate::aligned(&rows(verified))
    )
}
