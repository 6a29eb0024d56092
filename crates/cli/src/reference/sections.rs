//! The tables of a settings file: which type configures each, and what its defaults are.

use std::sync::LazyLock;

use sagellm_gateway::GatewayConfig;
use sagellm_manager::Config;
use sagellm_routing::{AffinityConfig, LocalityConfig, RouterConfig, TopologyAwareConfig};
use sagellm_strategies::queue::FairnessConfig;
use sagellm_strategies::{
    AdaptiveConfig, CostOptimizedConfig, PriorityConfig, SloAwareConfig, StrategyConfig,
};
use sagellm_types::ExecutionInstance;
use sagellm_workload::{Arrivals, SloClass, WorkloadConfig};
use serde::Serialize;
use toml::{Table, Value};

use super::source::{self, Field};
use crate::demo::DemoConfig;

/// The sources of all settings types.
static SOURCES: LazyLock<String> = LazyLock::new(|| {
    [
        include_str!("../../../manager/src/config.rs"),
        include_str!("../../../gateway/src/config.rs"),
        include_str!("../../../executor/src/http_engine.rs"),
        include_str!("../../../executor/src/timeouts.rs"),
        include_str!("../../../executor/src/probe.rs"),
        include_str!("../../../fleet/src/config.rs"),
        include_str!("../../../strategies/src/queue/fairness.rs"),
        include_str!("../../../strategies/src/adaptive.rs"),
        include_str!("../../../strategies/src/cost_optimized.rs"),
        include_str!("../../../strategies/src/priority.rs"),
        include_str!("../../../strategies/src/slo_aware.rs"),
        include_str!("../../../routing/src/affinity.rs"),
        include_str!("../../../routing/src/locality.rs"),
        include_str!("../../../routing/src/topology_aware.rs"),
        include_str!("../../../types/src/instance.rs"),
        include_str!("../../../types/src/request.rs"),
        include_str!("../../../types/src/pd.rs"),
        include_str!("../../../workload/src/config.rs"),
        include_str!("../../../workload/src/class.rs"),
        include_str!("../demo/config.rs"),
    ]
    .join("\n")
});

/// Whether a table is on in the default file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It is part of the defaults.
    On,
    /// It is optional, or an alternative.
    Off,
}

/// One table of a settings file.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// Its dotted name; empty at the top.
    pub(super) path: &'static str,
    /// The type that configures it.
    kind: &'static str,
    /// Whether there may be several: `[[instance]]`.
    list: bool,
    pub(super) shown: Shown,
    pub(super) doc: String,
    /// The defaults.
    pub(super) value: Table,
}

/// One setting.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) doc: String,
    /// Its default in TOML; `None` is absent.
    pub(super) default: Option<String>,
    /// What is accepted, where that is a list of words.
    accepted: Vec<String>,
}

impl Entry {
    /// Returns its meaning and what is accepted.
    pub(super) fn text(&self) -> String {
        if self.accepted.is_empty() {
            return self.doc.clone();
        }
        format!("{} One of: {}.", self.doc, self.accepted.join(", "))
    }
}

impl Section {
    /// Returns the line that opens the table.
    pub(super) fn heading(&self) -> String {
        if self.list { format!("[[{}]]", self.path) } else { format!("[{}]", self.path) }
    }

    /// Returns its settings, without those that have a table of their own in `all`.
    pub(super) fn entries(&self, all: &[Self]) -> Vec<Entry> {
        let own = |field: &Field| {
            let path = format!("{}.{}", self.path, field.name);
            all.iter().any(|section| section.path == path.trim_start_matches('.'))
        };
        let entry = |field: Field| {
            let default = match (self.path, field.name.as_str()) {
                ("", "strategy") => Some(format!("\"{}\"", StrategyConfig::default().name())),
                ("", "router") => Some(format!("\"{}\"", RouterConfig::default().name())),
                (_, name) => self.value.get(name).map(Value::to_string),
            };
            let accepted = match field.kind.as_str() {
                "StrategyConfig" => StrategyConfig::NAMES.map(str::to_owned).to_vec(),
                "RouterConfig" => RouterConfig::NAMES.map(str::to_owned).to_vec(),
                kind => source::values(&SOURCES, kind).into_iter().map(|(name, _)| name).collect(),
            };
            Entry { name: field.name, doc: field.doc, default, accepted }
        };
        let fields = source::fields(&SOURCES, self.kind);
        fields.into_iter().filter(|field| !own(field)).map(entry).collect()
    }
}

/// Returns all tables, in the order of a settings file.
pub(super) fn sections() -> Vec<Section> {
    use Shown::{Off, On};
    let (core, gateway, demo) =
        (Config::default(), GatewayConfig::default(), DemoConfig::default());
    let one = |path, kind, shown, value: Table| {
        let doc = source::doc(&SOURCES, kind);
        Section { path, kind, list: false, shown, doc, value }
    };
    let many = |section: Section| Section { list: true, ..section };
    let instance = ExecutionInstance::new("vllm-1", "localhost", 8000, "llama-7b");
    let load =
        WorkloadConfig { classes: Vec::new(), ..WorkloadConfig::new(Arrivals::poisson(5.0), 60.0) };
    let engines = demo.engines.first().cloned().unwrap_or_default();
    vec![
        one("", "Config", On, table(&core)),
        one("gateway", "GatewayConfig", On, table(&gateway)),
        one("gateway.admin", "AdminConfig", On, table(&gateway.admin)),
        one("gateway.http", "HttpConfig", On, table(&gateway.http)),
        one("gateway.http.timeouts", "TimeoutsConfig", On, table(&gateway.http.timeouts)),
        one("gateway.probe", "ProbeConfig", On, table(&gateway.probe)),
        one("queue", "QueueConfig", On, table(&core.queue)),
        one("retry", "RetryConfig", On, table(&core.retry)),
        one("explain", "ExplainConfig", On, table(&core.explain)),
        one("models", "ModelsConfig", On, table(&core.models)),
        one("fleet", "FleetConfig", On, table(&core.fleet)),
        one("pd", "PdSeparationConfig", On, table(&core.pd)),
        one("fairness", "FairnessConfig", Off, table(&FairnessConfig::default())),
        one("strategy.priority", "PriorityConfig", Off, table(&PriorityConfig::default())),
        one("strategy.slo_aware", "SloAwareConfig", Off, table(&SloAwareConfig::default())),
        one(
            "strategy.cost_optimized",
            "CostOptimizedConfig",
            Off,
            table(&CostOptimizedConfig::default()),
        ),
        one("strategy.adaptive", "AdaptiveConfig", Off, table(&AdaptiveConfig::default())),
        one("router.affinity", "AffinityConfig", Off, table(&AffinityConfig::default())),
        one("router.locality", "LocalityConfig", Off, table(&LocalityConfig::default())),
        one(
            "router.topology_aware",
            "TopologyAwareConfig",
            Off,
            table(&TopologyAwareConfig::default()),
        ),
        many(one("instance", "ExecutionInstance", Off, table(&instance))),
        one("demo", "DemoConfig", Off, table(&demo)),
        many(one("demo.engines", "EngineGroup", Off, table(&engines))),
        one("demo.workload", "WorkloadConfig", Off, table(&load)),
        many(one("demo.workload.classes", "SloClass", Off, table(&SloClass::default()))),
    ]
}

fn table<T: Serialize>(value: &T) -> Table {
    Table::try_from(value).expect("settings are plain values")
}
