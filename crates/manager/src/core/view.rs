//! What readers see: counts, instances, pools, explanations. Copied under the lock, formatted
//! outside.

use sagellm_monitoring::Snapshot as Figures;
use sagellm_perf::PredictionError;
use sagellm_strategies::Pressure;
use sagellm_types::planted::{self, Bug};
use sagellm_types::{
    Ending, EngineState, ExecutionInstance, GpuSample, InstanceId, Load, Phase, RequestId,
    RequestStatus, RequestType, Timestamp, Usd,
};

use super::models::Offer;
use super::{ControlPlane, Explained, Explanation};

/// How many requests came in and how they ended.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Counts {
    /// Requests submitted.
    pub submitted: u64,
    /// Requests answered in full.
    pub finished: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests given up by their clients.
    pub cancelled: u64,
    /// Requests given up at their deadline.
    pub expired: u64,
    /// Requests not taken.
    pub refused: u64,
    /// Attempts tried again.
    pub retries: u64,
    /// Events of unknown attempts or earlier lives, dropped.
    pub stale: u64,
    /// Calls that were too small to be scheduled.
    pub small_calls: u64,
    /// Cost of attempts between being given up and being over.
    pub lingering_usd: Usd,
}

impl Counts {
    pub(super) fn end(&mut self, ending: &Ending) {
        match ending {
            Ending::Finished => self.finished += 1,
            Ending::Failed(_) => self.failed += 1,
            Ending::Cancelled => self.cancelled += 1,
            Ending::Expired(_) => self.expired += 1,
            Ending::Refused { .. } => {
                self.refused += 1 + u64::from(planted::is(Bug::RefusalCountedTwice));
            }
        }
    }

    /// Returns how many requests have ended.
    pub fn ended(&self) -> u64 {
        self.finished + self.failed + self.cancelled + self.expired + self.refused
    }
}

/// An instance as it stands.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// Its id.
    pub id: InstanceId,
    /// What its operator says of it.
    pub spec: ExecutionInstance,
    /// Where it stands.
    pub state: EngineState,
    /// How often it came to life.
    pub incarnation: u32,
    /// Its load.
    pub load: Load,
    /// Requests that others have given it.
    pub foreign_sequences: u32,
    /// Requests running at the engine, at the last probe.
    pub engine_running: Option<u32>,
    /// Requests waiting at the engine, at the last probe.
    pub engine_waiting: Option<u32>,
    /// Probes or attempts that failed in a row.
    pub failures: u32,
    /// When it was last probed.
    pub last_probe: Option<Timestamp>,
    /// Its GPUs, at the last sample.
    pub gpu: GpuSample,
    /// The models that it serves.
    pub models: Vec<String>,
}

/// A model and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelView {
    /// The name.
    pub name: String,
    /// What it stands for, if it is an alias.
    pub alias_of: Option<String>,
    /// The model that it adapts, if it is an adapter.
    pub parent: Option<String>,
    /// The longest context, in tokens, that every instance takes, if the engines say.
    pub max_model_len: Option<u64>,
    /// Instances that serve it and are ready.
    pub ready: u32,
}

/// A pool as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolView {
    /// Its model.
    pub model: String,
    /// Its request type.
    pub kind: RequestType,
    /// Its phase.
    pub phase: Phase,
    /// Requests waiting.
    pub waiting: usize,
    /// Instances that could run them.
    pub instances: usize,
    /// Of those, instances that are ready and have room.
    pub open: usize,
}

/// The control plane as it stands.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Timestamp,
    /// The strategy in use.
    pub strategy: &'static str,
    /// The strategy that decides at present: another one if the one in use chooses among others.
    pub active_strategy: &'static str,
    /// The router in use.
    pub router: &'static str,
    /// Requests so far.
    pub counts: Counts,
    /// Requests waiting.
    pub waiting: usize,
    /// Requests running.
    pub running: usize,
    /// How hard the fleet was pressed at the last look.
    pub pressure: Pressure,
    /// The instances.
    pub instances: Vec<InstanceView>,
    /// The pools.
    pub pools: Vec<PoolView>,
    /// How wrong forecasts of prompt tokens were, for prompts given as text.
    pub prompt_error: PredictionError,
    /// How wrong forecasts of output tokens were.
    pub output_error: PredictionError,
    /// What happened, summarised.
    pub figures: Figures,
}

impl ControlPlane {
    /// Returns the control plane as it stands.
    pub fn snapshot(&mut self, now: Timestamp) -> Snapshot {
        Snapshot {
            at: now,
            strategy: self.strategy.name(),
            active_strategy: self.strategy.acting_as(),
            router: self.router.name(),
            counts: self.counts,
            waiting: self.queue.len(),
            running: self.requests.len() - self.queue.len(),
            pressure: self.pressure(),
            instances: self.instances(),
            pools: self.pools(),
            prompt_error: self.forecaster.prompt_error(),
            output_error: self.forecaster.output_error(),
            figures: self.monitor.snapshot(now),
        }
    }

    /// Returns the names of the strategy and the router in use.
    pub fn policies(&self) -> (&'static str, &'static str) {
        (self.strategy.name(), self.router.name())
    }

    /// Returns how many requests came in and how they ended.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the instances as they stand.
    pub fn instances(&self) -> Vec<InstanceView> {
        let view = |found: &sagellm_fleet::Instance| InstanceView {
            id: found.id,
            spec: found.spec.clone(),
            state: found.state,
            incarnation: found.incarnation.0,
            load: found.load(),
            foreign_sequences: found.foreign_sequences,
            engine_running: found.engine_running,
            engine_waiting: found.engine_waiting,
            failures: found.failures,
            last_probe: found.last_probe,
            gpu: self.monitor.gpu_of(found.id),
            models: self
                .pools
                .served_by(found.id)
                .iter()
                .map(|&model| self.models.name(model).to_owned())
                .collect(),
        };
        self.fleet.iter().map(view).collect()
    }

    /// Returns the names that requests may use, aliases too.
    pub fn model_views(&self) -> Vec<ModelView> {
        let ready = |model| {
            let able = self.fleet.iter().filter(|found| {
                found.state == EngineState::Ready && self.pools.serves(found.id, model)
            });
            able.count() as u32
        };
        let view = |id, alias: Option<&str>| {
            let Offer { name, parent, max_model_len } = self.models.offer(id);
            let (name, alias_of) = match alias {
                Some(alias) => (alias.to_owned(), Some(name)),
                None => (name, None),
            };
            ModelView { name, alias_of, parent, max_model_len, ready: ready(id) }
        };
        let served = self.models.iter().map(|(id, _)| view(id, None));
        let aliases = self
            .models
            .aliases()
            .filter_map(|(alias, target)| Some(view(self.models.served(target)?, Some(alias))));
        served.chain(aliases).collect()
    }

    /// Returns how hard the fleet was pressed at the last look.
    pub fn pressure(&self) -> Pressure {
        self.gauge.seen()
    }

    /// Returns the decisions on requests called `label`, the newest first. O(decisions kept).
    pub fn explain(&self, label: &str) -> Vec<Explained> {
        self.explanations.find(label).into_iter().map(|found| self.named(found)).collect()
    }

    /// Returns the last `count` decisions, the newest first.
    pub fn last_decisions(&self, count: usize) -> Vec<Explained> {
        self.explanations.last(count).into_iter().map(|found| self.named(found)).collect()
    }

    fn named(&self, decision: Explanation) -> Explained {
        let considered = std::iter::once(&decision.winner).chain(&decision.others);
        let name = |id| Some(self.fleet.get(id)?.spec.instance_id.clone());
        Explained {
            model: self.models.name(decision.model).to_owned(),
            instances: considered.map(|c| name(c.instance)).collect(),
            decision,
        }
    }

    /// Returns where a request stands, or `None` once it has ended.
    pub fn status(&self, id: RequestId) -> Option<RequestStatus> {
        let live = self.requests.get(id)?;
        Some(match live.running {
            None => RequestStatus::Queued,
            Some(running) if running.first_token.is_none() => RequestStatus::Scheduled,
            Some(_) => RequestStatus::Running,
        })
    }

    /// Recomputes every invariant from scratch. O(everything): for tests and simulations.
    ///
    /// # Errors
    /// A sentence that names the first invariant that does not hold.
    pub fn check(&self) -> Result<(), String> {
        self.fleet.check()?;
        let Counts { submitted, .. } = self.counts;
        let (ended, live) = (self.counts.ended(), self.requests.len() as u64);
        if submitted != ended + live {
            return Err(format!("{submitted} submitted ≠ {ended} ended + {live} live"));
        }
        let running = self.requests.iter().filter(|live| live.running.is_some()).count();
        if self.requests.len() != running + self.queue.len() {
            return Err(format!(
                "{} live ≠ {running} running + {} waiting",
                self.requests.len(),
                self.queue.len()
            ));
        }
        for live in self.requests.iter() {
            let id = live.request.id;
            match live.running {
                None if !self.queue.contains(id) => return Err(format!("{id:?} is nowhere")),
                Some(_) if self.queue.contains(id) => {
                    return Err(format!("{id:?} is in two places"));
                }
                Some(running) if self.fleet.charge(running.charge).is_none() => {
                    return Err(format!("{id:?} runs without a charge"));
                }
                _ => {}
            }
            if let Some(hold) = live.hold
                && self.fleet.get(hold).and_then(|found| found.hold) != Some(id)
            {
                return Err(format!("{id:?} holds {hold:?}, which does not know"));
            }
        }
        for (id, rank, valid_until) in self.queue.ranks() {
            let Some(live) = self.requests.get(id) else { continue };
            let asked = self.strategy.urgency(&live.request, live.request.arrival);
            // A rank may have grown less urgent since; never more urgent than the first answer.
            if valid_until == Timestamp::MAX
                && asked.valid_until == Timestamp::MAX
                && rank != asked.rank
            {
                return Err(format!(
                    "{id:?} waits with {rank:?}, its strategy says {:?}",
                    asked.rank
                ));
            }
        }
        for found in self.fleet.iter() {
            if let Some(holder) = found.hold
                && self.requests.get(holder).and_then(|live| live.hold) != Some(found.id)
            {
                return Err(format!("{:?} is kept for {holder:?}, which does not know", found.id));
            }
        }
        Ok(())
    }

    /// Returns how many requests wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Returns the pools of waiting requests.
    pub fn pools(&self) -> Vec<PoolView> {
        let view = |(pool, (model, kind, phase))| {
            let roster = self.pools.roster(pool);
            PoolView {
                model: self.models.name(model).to_owned(),
                kind,
                phase,
                waiting: self.queue.pool_len(pool),
                instances: self.fleet.members(roster).len(),
                open: self.fleet.open(roster).len(),
            }
        };
        self.pools.iter().map(view).collect()
    }
}
