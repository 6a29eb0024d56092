//! Strategies by name.

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Adaptive, AdaptiveConfig, CostOptimized, CostOptimizedConfig, Fifo, Priority, PriorityConfig,
    SchedulingStrategy, SloAware, SloAwareConfig,
};

/// A strategy with its settings: `"fifo"`, or `{ priority = { horizon_ms = 5000 } }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", remote = "Self")]
pub enum StrategyConfig {
    /// First in, first out.
    Fifo,
    /// Five levels with ageing.
    Priority(PriorityConfig),
    /// Earliest latest-start first.
    SloAware(SloAwareConfig),
    /// The cheapest instance that is good enough.
    CostOptimized(CostOptimizedConfig),
    /// Chooses among the others from pressure.
    Adaptive(AdaptiveConfig),
}

impl Default for StrategyConfig {
    fn default() -> Self {
        Self::Adaptive(AdaptiveConfig::default())
    }
}

impl Serialize for StrategyConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for StrategyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = StrategyConfig;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "the name of a strategy ({})", StrategyConfig::NAMES.join(", "))?;
                f.write_str(" or a table of one with its settings")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<StrategyConfig, E> {
                StrategyConfig::parse(name).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StrategyConfig, A::Error> {
                StrategyConfig::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

/// A strategy name that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scheduling strategy `{name}`; known are: {}", StrategyConfig::NAMES.join(", "))]
#[non_exhaustive]
pub struct UnknownStrategy {
    /// The name.
    pub name: String,
}

/// A strategy that is known by name and not offered yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotOffered {
    /// Nobody knows it.
    #[error(transparent)]
    Unknown(#[from] UnknownStrategy),
    /// It is known and comes later.
    #[error("scheduling strategy `{name}` is known, not offered yet; offered are: {}", StrategyConfig::NAMES.join(", "))]
    Later {
        /// The name.
        name: String,
    },
}

impl StrategyConfig {
    /// The strategies on offer.
    pub const NAMES: [&'static str; 5] =
        ["fifo", "priority", "slo_aware", "cost_optimized", "adaptive"];

    /// Strategies that users know from elsewhere and that come later.
    pub const LATER: [&'static str; 2] = ["aegaeon", "hybrid"];

    /// Returns the strategy called `name` (in any case, `-` for `_`) with its default settings.
    ///
    /// # Errors
    /// [`NotOffered`] names the strategies on offer.
    pub fn parse(name: &str) -> Result<Self, NotOffered> {
        let plain: String =
            name.chars().filter(|c| c.is_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
        Ok(match plain.as_str() {
            "fifo" => Self::Fifo,
            "priority" => Self::Priority(PriorityConfig::default()),
            "sloaware" => Self::SloAware(SloAwareConfig::default()),
            "costoptimized" => Self::CostOptimized(CostOptimizedConfig::default()),
            "adaptive" => Self::Adaptive(AdaptiveConfig::default()),
            later if Self::LATER.contains(&later) => {
                return Err(NotOffered::Later { name: name.to_owned() });
            }
            _ => return Err(UnknownStrategy { name: name.to_owned() }.into()),
        })
    }

    /// Returns the name in settings.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Priority(_) => "priority",
            Self::SloAware(_) => "slo_aware",
            Self::CostOptimized(_) => "cost_optimized",
            Self::Adaptive(_) => "adaptive",
        }
    }

    /// Returns the strategy.
    pub fn build(&self) -> Box<dyn SchedulingStrategy> {
        match self {
            Self::Fifo => Box::new(Fifo),
            Self::Priority(config) => Box::new(Priority::new(config)),
            Self::SloAware(config) => Box::new(SloAware::new(config)),
            Self::CostOptimized(config) => Box::new(CostOptimized::new(config)),
            Self::Adaptive(config) => Box::new(Adaptive::new(config)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_name_builds_its_strategy() {
        for name in StrategyConfig::NAMES {
            let config = StrategyConfig::parse(name).expect("offered");
            assert_eq!((config.name(), config.build().name()), (name, name));
        }
        assert_eq!(StrategyConfig::parse("SLO-Aware").map(|c| c.name()), Ok("slo_aware"));
        assert_eq!(StrategyConfig::parse("CostOptimized").map(|c| c.name()), Ok("cost_optimized"));
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        let message = StrategyConfig::parse("fastest").expect_err("unknown").to_string();
        assert_eq!(
            message,
            "unknown scheduling strategy `fastest`; known are: fifo, priority, slo_aware, cost_optimized, adaptive"
        );
        for later in StrategyConfig::LATER {
            let message = StrategyConfig::parse(later).expect_err("later").to_string();
            assert!(message.contains("known, not offered yet"), "{message}");
        }
    }

    #[test]
    fn settings_reject_fields_that_do_not_exist() {
        let parsed: Result<StrategyConfig, _> =
            serde_json::from_str(r#"{"priority":{"horizn_ms":1}}"#);
        assert!(parsed.expect_err("a typo").to_string().contains("horizn_ms"));
        let bare: StrategyConfig = serde_json::from_str(r#""priority""#).expect("a name");
        assert_eq!(bare, StrategyConfig::Priority(PriorityConfig::default()));
        let unknown = serde_json::from_str::<StrategyConfig>(r#""fastest""#).expect_err("unknown");
        assert!(unknown.to_string().contains("known are: fifo"), "{unknown}");
    }
}
