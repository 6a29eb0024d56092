//! The requests that have not ended.

use std::sync::Arc;

use sagellm_fleet::ChargeId;
use sagellm_perf::PromptSize;
use sagellm_strategies::queue::PoolId;
use sagellm_types::{
    Attempt, Estimate, InstanceId, Load, Request, RequestId, Timestamp, Tokens, Usd,
};

/// The attempt that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Try {
    pub(super) n: u16,
    pub(super) instance: InstanceId,
    pub(super) charge: ChargeId,
    pub(super) dispatched: Timestamp,
    pub(super) first_token: Option<Timestamp>,
    pub(super) output: Tokens,
    pub(super) estimate: Option<Estimate>,
    /// The load that it met, without its own.
    pub(super) met: Load,
}

/// A request that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) request: Request,
    pub(super) label: Option<Arc<str>>,
    pub(super) prompt: PromptSize,
    pub(super) pool: PoolId,
    pub(super) tries: u16,
    /// Attempts that failed at an engine and were tried again.
    pub(super) retries: u16,
    /// Attempts that never reached an engine.
    pub(super) refusals: u16,
    pub(super) running: Option<Try>,
    /// What fairness has charged its user so far.
    pub(super) charged: u64,
    /// Where it has failed.
    pub(super) failed_on: Vec<InstanceId>,
    /// What its failed attempts have cost.
    pub(super) cost: Usd,
    /// Since when it stood at the head of its pool and fitted nowhere.
    pub(super) stuck_since: Option<Timestamp>,
    /// The number of its last decision among the explanations.
    pub(super) explained: Option<u64>,
    /// The instance that is kept free for it.
    pub(super) hold: Option<InstanceId>,
}

impl Live {
    /// Returns its running attempt if it is this one.
    pub(super) fn attempt(&mut self, attempt: Attempt) -> Option<&mut Try> {
        self.running.as_mut().filter(|running| running.n == attempt.n)
    }
}

/// The table of requests that have not ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    slots: Vec<(u32, Option<Live>)>,
    free: Vec<u32>,
    len: usize,
}

impl Requests {
    /// Returns the id that the next request will have.
    pub(super) fn next_id(&mut self) -> RequestId {
        let index = match self.free.last() {
            Some(&index) => index,
            None => {
                self.slots.push((0, None));
                self.free.push(self.slots.len() as u32 - 1);
                self.slots.len() as u32 - 1
            }
        };
        RequestId::new(index, self.slots[index as usize].0)
    }

    /// Adds a request under the id that `next_id` gave.
    pub(super) fn insert(&mut self, live: Live) {
        let index = self.free.pop().expect("next_id was called");
        debug_assert_eq!(index as usize, live.request.id.index());
        self.slots[index as usize].1 = Some(live);
        self.len += 1;
    }

    /// Uses up an id for a request that ends at once.
    pub(super) fn skip(&mut self, id: RequestId) {
        self.slots[id.index()].0 = id.generation().wrapping_add(1);
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Live> {
        let (generation, slot) = self.slots.get(id.index())?;
        slot.as_ref().filter(|_| *generation == id.generation())
    }

    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut Live> {
        let (generation, slot) = self.slots.get_mut(id.index())?;
        slot.as_mut().filter(|_| *generation == id.generation())
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Live> {
        self.get(id)?;
        let (generation, slot) = &mut self.slots[id.index()];
        *generation = generation.wrapping_add(1);
        self.free.push(id.index() as u32);
        self.len -= 1;
        slot.take()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Live> {
        self.slots.iter().filter_map(|(_, slot)| slot.as_ref())
    }
}
