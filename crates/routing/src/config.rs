//! Routers by name.

use sagellm_types::Seed;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Affinity, AffinityConfig, LeastConnections, LeastResponseTime, LoadBalanced, Locality,
    LocalityConfig, PowerOfTwo, Random, RoundRobin, Router, TopologyAware, TopologyAwareConfig,
    WeightedRoundRobin,
};

/// A router with its settings: `"load_balanced"`, or `{ affinity = { overload = 0.2 } }`.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", remote = "Self")]
pub enum RouterConfig {
    /// The least reserved work relative to capacity.
    #[default]
    LoadBalanced,
    /// The less loaded of two drawn at random.
    PowerOfTwo,
    /// Each in turn.
    RoundRobin,
    /// Drawn at random.
    Random,
    /// The same user or conversation to the same instance.
    Affinity(AffinityConfig),
    /// The same prompt prefix to the same instance.
    Locality(LocalityConfig),
    /// Where the same user or conversation was served, or near there.
    TopologyAware(TopologyAwareConfig),
    /// Each in turn, by weight.
    WeightedRoundRobin,
    /// The fewest requests.
    LeastConnections,
    /// The shortest recent latency.
    LeastResponseTime,
}

/// A router name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// Nobody knows it.
    #[error("unknown router `{name}`; known are: {}", RouterConfig::NAMES.join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
}

impl RouterConfig {
    /// The routers on offer.
    pub const NAMES: [&'static str; 10] = [
        "load_balanced",
        "power_of_two",
        "round_robin",
        "random",
        "affinity",
        "locality",
        "topology_aware",
        "weighted_round_robin",
        "least_connections",
        "least_response_time",
    ];

    /// Returns the router called `name` (in any case, `-` for `_`) with its default settings.
    ///
    /// # Errors
    /// [`RouterError`] names the routers on offer.
    pub fn parse(name: &str) -> Result<Self, RouterError> {
        let plain: String =
            name.chars().filter(|c| c.is_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
        Ok(match plain.as_str() {
            "loadbalanced" => Self::LoadBalanced,
            "poweroftwo" => Self::PowerOfTwo,
            "roundrobin" => Self::RoundRobin,
            "random" => Self::Random,
            "affinity" => Self::Affinity(AffinityConfig::default()),
            "locality" => Self::Locality(LocalityConfig::default()),
            "topologyaware" => Self::TopologyAware(TopologyAwareConfig::default()),
            "weightedroundrobin" | "weighted" => Self::WeightedRoundRobin,
            "leastconnections" => Self::LeastConnections,
            "leastresponsetime" => Self::LeastResponseTime,
            _ => return Err(RouterError::Unknown { name: name.to_owned() }),
        })
    }

    /// Returns the name in settings.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LoadBalanced => "load_balanced",
            Self::PowerOfTwo => "power_of_two",
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::Affinity(_) => "affinity",
            Self::Locality(_) => "locality",
            Self::TopologyAware(_) => "topology_aware",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastConnections => "least_connections",
            Self::LeastResponseTime => "least_response_time",
        }
    }

    /// Returns the router, drawing from the stream `router` of `seed`.
    pub fn build(&self, seed: Seed) -> Box<dyn Router> {
        let rng = seed.stream("router");
        match self {
            Self::LoadBalanced => Box::new(LoadBalanced),
            Self::PowerOfTwo => Box::new(PowerOfTwo::new(rng)),
            Self::RoundRobin => Box::new(RoundRobin::default()),
            Self::Random => Box::new(Random::new(rng)),
            Self::Affinity(config) => Box::new(Affinity::new(config)),
            Self::Locality(config) => Box::new(Locality::new(config)),
            Self::TopologyAware(config) => Box::new(TopologyAware::new(config)),
            Self::WeightedRoundRobin => Box::new(WeightedRoundRobin::default()),
            Self::LeastConnections => Box::new(LeastConnections),
            Self::LeastResponseTime => Box::new(LeastResponseTime),
        }
    }
}

impl Serialize for RouterConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for RouterConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = RouterConfig;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "the name of a router ({})", RouterConfig::NAMES.join(", "))?;
                f.write_str(" or a table of one with its settings")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<RouterConfig, E> {
                RouterConfig::parse(name).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RouterConfig, A::Error> {
                RouterConfig::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_name_builds_its_router() {
        for name in RouterConfig::NAMES {
            let config = RouterConfig::parse(name).expect("offered");
            assert_eq!((config.name(), config.build(Seed(0)).name()), (name, name));
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        let message = RouterConfig::parse("fastest").expect_err("unknown").to_string();
        assert!(
            message.starts_with("unknown router `fastest`; known are: load_balanced, power_of_two")
        );
    }
}
