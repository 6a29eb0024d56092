//! Routers that take turns.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{Candidates, InstanceId, ModelId, Request, Timestamp};

use crate::Router;

/// Gives each instance its turn, model by model; one that has no room is passed over.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    last: IndexMap<ModelId, InstanceId, FxBuildHasher>,
}

impl Router for RoundRobin {
    fn pick(&mut self, request: &Request, candidates: Candidates<'_>, _: Timestamp) -> InstanceId {
        let last = self.last.get(&request.model).copied();
        let next = candidates.least_by(|c| (last.is_some_and(|last| c.id <= last), c.id)).id;
        self.last.insert(request.model, next);
        next
    }

    fn name(&self) -> &'static str {
        "round_robin"
    }
}

/// Gives each instance turns in proportion to its weight, spread evenly (smooth weighted round
/// robin, as in nginx): every turn adds each weight to its instance's credit, the largest credit
/// goes, and pays for the round.
#[derive(Clone, Debug, Default)]
pub struct WeightedRoundRobin {
    credits: IndexMap<InstanceId, f64, FxBuildHasher>,
}

/// Credits of instances that are gone are dropped beyond this many.
const KEPT: usize = 4_096;

impl Router for WeightedRoundRobin {
    fn pick(&mut self, _: &Request, candidates: Candidates<'_>, _: Timestamp) -> InstanceId {
        if self.credits.len() > KEPT {
            self.credits.retain(|&id, _| candidates.find(id).is_some());
        }
        let mut round = 0.0;
        for choice in candidates.iter() {
            round += choice.load.weight;
            *self.credits.entry(choice.id).or_default() += choice.load.weight;
        }
        let next = candidates.least_by(|c| -self.credits[&c.id]).id;
        self.credits[&next] -= round;
        next
    }

    fn name(&self) -> &'static str {
        "weighted_round_robin"
    }
}
