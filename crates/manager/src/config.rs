//! Settings of the control plane, composed from those of its rooms.

use indexmap::IndexMap;
use sagellm_fleet::FleetConfig;
use sagellm_routing::RouterConfig;
use sagellm_strategies::queue::FairnessConfig;
use sagellm_strategies::{CostOptimizedConfig, StrategyConfig};
use sagellm_types::{PdSeparationConfig, Seed};
use serde::{Deserialize, Serialize};

/// Settings of the control plane.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which waiting request goes next: a name, or a table with settings.
    pub strategy: StrategyConfig,
    /// Which instance takes it: a name, or a table with settings.
    pub router: RouterConfig,
    /// Fairness between users; absent is off.
    pub fairness: Option<FairnessConfig>,
    /// The queue.
    pub queue: QueueConfig,
    /// Second tries of failed attempts.
    pub retry: RetryConfig,
    /// The explanations that are kept.
    pub explain: ExplainConfig,
    /// Names of models.
    pub models: ModelsConfig,
    /// The fleet.
    pub fleet: FleetConfig,
    /// Prefill/decode separation.
    pub pd: PdSeparationConfig,
    /// The one number from which all randomness is drawn.
    pub seed: Seed,
}

/// Settings of the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Most requests that wait; more are refused with 429.
    pub max_waiting: usize,
    /// Longest wait of a request without a deadline, in milliseconds; longer ends with 504.
    pub max_wait_ms: u64,
    /// How many requests behind a head that fits nowhere may be tried.
    pub backfill: usize,
    /// How long a head that fits nowhere may be passed before an instance is kept free for it, in
    /// milliseconds; half of its slack if that is less.
    pub patience_ms: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { max_waiting: 100_000, max_wait_ms: 600_000, backfill: 8, patience_ms: 2_000 }
    }
}

/// Settings of second tries. An attempt is tried again only before its first byte has gone out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Second tries of one request.
    pub max: u16,
    /// Share of all requests that may be tried again. Attempts that never reached an engine
    /// (connection refused) do not count.
    pub budget: f64,
    /// Second tries that are allowed before the share counts.
    pub burst: u32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { max: 1, budget: 0.1, burst: 100 }
    }
}

/// Settings of explanations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExplainConfig {
    /// For how many of the last requests the decision is kept; 0 keeps none.
    pub keep: usize,
}

impl Default for ExplainConfig {
    fn default() -> Self {
        Self { keep: 4_096 }
    }
}

/// Names of models.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsConfig {
    /// Other names of served models; `*` stands for every name that nobody serves.
    pub aliases: IndexMap<String, String>,
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// Returns what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting, its value and what is accepted.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.fleet.validate().map_err(ConfigError)?;
        let within = |name: &str, value: f64, least: f64, most: f64| {
            if value >= least && value <= most {
                Ok(())
            } else {
                Err(ConfigError(format!("{name} = {value}: must be from {least} to {most}")))
            }
        };
        within("retry.budget", self.retry.budget, 0.0, 1.0)?;
        let slack = |name: &str, config: &CostOptimizedConfig| within(name, config.slack, 0.0, 1e3);
        match &self.strategy {
            StrategyConfig::CostOptimized(cost) => slack("strategy.cost_optimized.slack", cost)?,
            StrategyConfig::Adaptive(adaptive) => {
                slack("strategy.adaptive.cost_optimized.slack", &adaptive.cost_optimized)?;
                for (name, share) in [
                    ("calm_fill", adaptive.calm_fill),
                    ("calm_missed", adaptive.calm_missed),
                    ("overload_late", adaptive.overload_late),
                    ("hysteresis", adaptive.hysteresis),
                ] {
                    within(&format!("strategy.adaptive.{name}"), share, 0.0, 1.0)?;
                }
            }
            _ => {}
        }
        match &self.router {
            RouterConfig::Affinity(affinity) => {
                within("router.affinity.overload", affinity.overload, 0.0, 1.0)?;
            }
            RouterConfig::Locality(locality) => {
                within("router.locality.bound", locality.bound, 1.0, 1e6)?;
            }
            RouterConfig::TopologyAware(near) => {
                within("router.topology_aware.overload", near.overload, 0.0, 1.0)?;
            }
            _ => {}
        }
        if self.queue.max_waiting == 0 {
            return Err(ConfigError("queue.max_waiting = 0: must be at least 1".into()));
        }
        for (alias, target) in &self.models.aliases {
            if self.models.aliases.contains_key(target) {
                return Err(ConfigError(format!(
                    "models.aliases.\"{alias}\" = \"{target}\": an alias must name a served model, not another alias"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_routing::TopologyAwareConfig;
    use sagellm_strategies::AdaptiveConfig;

    fn wrong(config: Config) -> String {
        config.validate().expect_err("absurd").to_string()
    }

    #[test]
    fn absurd_settings_of_policies_are_named() {
        assert_eq!(Config::default().validate(), Ok(()));
        let cost = CostOptimizedConfig { slack: -5.0, ..CostOptimizedConfig::default() };
        let strategy = StrategyConfig::CostOptimized(cost);
        let message = wrong(Config { strategy, ..Config::default() });
        assert!(message.starts_with("strategy.cost_optimized.slack = -5"), "{message}");
        let near = TopologyAwareConfig { overload: 1.5, ..TopologyAwareConfig::default() };
        let router = RouterConfig::TopologyAware(near);
        let message = wrong(Config { router, ..Config::default() });
        assert!(message.starts_with("router.topology_aware.overload = 1.5"), "{message}");
        let adaptive = AdaptiveConfig { hysteresis: 9.0, ..AdaptiveConfig::default() };
        let strategy = StrategyConfig::Adaptive(adaptive);
        let message = wrong(Config { strategy, ..Config::default() });
        assert!(message.starts_with("strategy.adaptive.hysteresis = 9"), "{message}");
    }
}
