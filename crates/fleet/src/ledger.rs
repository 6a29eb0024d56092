//! The ledger: what is reserved, by whom, where.
//!
//! A charge belongs to an attempt: one sequence, and uncached prompt + forecast output tokens. It
//! grows in steps when the output passes the forecast, is corrected by reported usage, and is
//! released once, when the attempt is known to be over at the engine.

use std::time::Duration;

use sagellm_types::{Attempt, InstanceId, Timestamp, Tokens};

/// What a request needs of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Need {
    /// Uncached prompt tokens.
    pub prompt: Tokens,
    /// Forecast output tokens.
    pub output: Tokens,
    /// The time per output token that it asks for.
    pub tpot: Option<Duration>,
}

impl Need {
    /// Returns the KV tokens at the end of the request.
    pub fn total(&self) -> Tokens {
        self.prompt + self.output
    }
}

/// A charge's place in the ledger, with a generation: a charge that is gone is never met again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChargeId {
    index: u32,
    generation: u32,
}

/// A reservation on an instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Charge {
    /// Who it is for.
    pub attempt: Attempt,
    /// Where.
    pub instance: InstanceId,
    /// Prompt tokens reserved.
    pub prompt: Tokens,
    /// Output tokens reserved.
    pub output: Tokens,
    /// The time per output token that it asks for.
    pub tpot: Option<Duration>,
    /// Whether its prompt has been computed.
    pub begun: bool,
    /// Since when.
    pub since: Timestamp,
    /// The instance's cost meter when it began.
    pub(crate) meter: f64,
}

impl Charge {
    /// Returns the KV tokens reserved.
    pub fn tokens(&self) -> Tokens {
        self.prompt + self.output
    }
}

/// A forecast that has been passed grows by this many tokens at a time: few enough to keep other
/// requests out only as long as needed, many enough not to be paid per token.
pub(crate) const GROWTH: u64 = 128;

/// All charges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    slots: Vec<(u32, Option<Charge>)>,
    free: Vec<u32>,
}

impl Ledger {
    pub(crate) fn open(&mut self, charge: Charge) -> ChargeId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let (generation, slot) = &mut self.slots[index as usize];
        *slot = Some(charge);
        ChargeId { index, generation: *generation }
    }

    pub(crate) fn get(&self, id: ChargeId) -> Option<&Charge> {
        let (generation, slot) = self.slots.get(id.index as usize)?;
        slot.as_ref().filter(|_| *generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: ChargeId) -> Option<&mut Charge> {
        let (generation, slot) = self.slots.get_mut(id.index as usize)?;
        slot.as_mut().filter(|_| *generation == id.generation)
    }

    pub(crate) fn close(&mut self, id: ChargeId) -> Option<Charge> {
        self.get(id)?;
        let (generation, slot) = &mut self.slots[id.index as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(id.index);
        slot.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Charge> {
        self.slots.iter().filter_map(|(_, slot)| slot.as_ref())
    }
}
