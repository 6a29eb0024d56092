//! Pools: requests that the same set of instances could run, and those instances.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_fleet::{Fleet, RosterId};
use sagellm_pd::RolesOfModel;
use sagellm_strategies::queue::{PoolId, Queue};
use sagellm_types::{ExecutionInstance, InstanceId, ModelId, Phase, RequestType, Timestamp};
use std::time::Duration;

/// What the requests of a pool have in common.
pub(super) type PoolKey = (ModelId, RequestType, Phase);

/// One pool. Its place here, in the queue and among the fleet's rosters is the same number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pool {
    /// Requests that its ready instances take at once.
    pub(super) slots: u32,
    /// Smoothed time between two dispatches while requests wait.
    pub(super) gap: Option<Duration>,
    pub(super) last_dispatch: Option<Timestamp>,
    /// When its strategy wants to be asked again.
    pub(super) wake: Option<Timestamp>,
}

/// All pools.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools {
    keys: IndexMap<PoolKey, Pool, FxBuildHasher>,
    /// Per instance slot, the models that it serves.
    served: Vec<Vec<ModelId>>,
    roles: Vec<RolesOfModel>,
}

impl Pools {
    /// Returns the pool of `key`; a new one lists all instances that could run its requests.
    pub(super) fn get_or_add(
        &mut self,
        key: PoolKey,
        queue: &mut Queue,
        fleet: &mut Fleet,
    ) -> PoolId {
        if let Some(place) = self.keys.get_index_of(&key) {
            return PoolId(place as u32);
        }
        let (pool, roster) = (queue.add_pool(), fleet.add_roster());
        debug_assert_eq!((pool.0, roster.0), (self.keys.len() as u32, self.keys.len() as u32));
        self.keys.insert(key, Pool::default());
        let able: Vec<InstanceId> = fleet
            .iter()
            .filter(|found| self.serves(found.id, key.0) && takes(&found.spec, key))
            .map(|found| found.id)
            .collect();
        able.into_iter().for_each(|instance| fleet.enlist(roster, instance));
        pool
    }

    /// Notes that an instance serves a model and puts it on the rosters of its pools; returns
    /// whether that is news.
    pub(super) fn serve(
        &mut self,
        instance: InstanceId,
        model: ModelId,
        fleet: &mut Fleet,
    ) -> bool {
        let index = instance.index();
        if index >= self.served.len() {
            self.served.resize(index + 1, Vec::new());
        }
        if self.served[index].contains(&model) {
            return false;
        }
        let Some(spec) = fleet.get(instance).map(|found| found.spec.clone()) else { return false };
        self.served[index].push(model);
        self.roles_mut(model).count(spec.instance_type);
        for (place, key) in self.keys.keys().enumerate() {
            if key.0 == model && takes(&spec, *key) {
                fleet.enlist(RosterId(place as u32), instance);
            }
        }
        true
    }

    /// Notes that an instance no longer serves a model, and takes it off the rosters of its pools.
    pub(super) fn unserve(&mut self, instance: InstanceId, model: ModelId, fleet: &mut Fleet) {
        if let Some(served) = self.served.get_mut(instance.index()) {
            served.retain(|served| *served != model);
        }
        for (place, _) in self.keys.keys().enumerate().filter(|(_, key)| key.0 == model) {
            fleet.delist(RosterId(place as u32), instance);
        }
        let mut roles = RolesOfModel::default();
        fleet
            .iter()
            .filter(|found| self.serves(found.id, model))
            .for_each(|found| roles.count(found.spec.instance_type));
        *self.roles_mut(model) = roles;
    }

    /// Forgets what a removed instance served.
    pub(super) fn forget(&mut self, instance: InstanceId, fleet: &Fleet) {
        if let Some(served) = self.served.get_mut(instance.index()) {
            served.clear();
        }
        self.roles.fill(RolesOfModel::default());
        for found in fleet.iter() {
            for model in self.served.get(found.id.index()).into_iter().flatten() {
                self.roles[model.0 as usize].count(found.spec.instance_type);
            }
        }
    }

    /// Returns whether an instance serves a model.
    pub(super) fn serves(&self, instance: InstanceId, model: ModelId) -> bool {
        self.served.get(instance.index()).is_some_and(|served| served.contains(&model))
    }

    /// Returns the models that an instance serves.
    pub(super) fn served_by(&self, instance: InstanceId) -> &[ModelId] {
        self.served.get(instance.index()).map_or(&[], Vec::as_slice)
    }

    /// Returns how many instances of each role serve a model.
    pub(super) fn roles(&self, model: ModelId) -> RolesOfModel {
        self.roles.get(model.0 as usize).copied().unwrap_or_default()
    }

    fn roles_mut(&mut self, model: ModelId) -> &mut RolesOfModel {
        let place = model.0 as usize;
        if place >= self.roles.len() {
            self.roles.resize(place + 1, RolesOfModel::default());
        }
        &mut self.roles[place]
    }

    /// Returns the roster of a pool.
    pub(super) fn roster(&self, pool: PoolId) -> RosterId {
        RosterId(pool.0)
    }

    pub(super) fn get(&self, pool: PoolId) -> &Pool {
        &self.keys[pool.0 as usize]
    }

    pub(super) fn get_mut(&mut self, pool: PoolId) -> &mut Pool {
        &mut self.keys[pool.0 as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PoolId, PoolKey)> {
        self.keys.keys().enumerate().map(|(place, &key)| (PoolId(place as u32), key))
    }
}

/// Returns whether an instance runs requests of a pool, its model apart.
fn takes(spec: &ExecutionInstance, (_, kind, phase): PoolKey) -> bool {
    spec.supports(kind) && (kind == RequestType::Embedding || spec.instance_type.takes_phase(phase))
}
