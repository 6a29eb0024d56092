//! All instances, their rosters and the ledger, kept consistent event by event.

use std::time::Duration;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::planted::{self, Bug};
use sagellm_types::{
    Attempt, Candidate, EngineState, ExecutionInstance, FailureKind, Incarnation, InstanceId,
    Places, RequestId, Timestamp, Tokens, Usage, Usd,
};

use crate::ledger::{GROWTH, Ledger};
use crate::roster::Roster;
use crate::{
    Charge, ChargeId, FleetConfig, Instance, Need, ProbeAnswer, ProbeTicket, RosterId, Transition,
};

/// Why an instance could not be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Its name is taken.
    #[error("instance id `{0}` is already registered; remove it first or choose another id")]
    Duplicate(String),
    /// A required fact is missing or absurd.
    #[error("instance `{instance}`: {reason}")]
    Invalid {
        /// The instance's name.
        instance: String,
        /// What is wrong and what is accepted.
        reason: String,
    },
}

/// All instances.
#[derive(Clone, Debug)]
pub struct Fleet {
    config: FleetConfig,
    slots: Vec<(u32, Option<Instance>)>,
    free: Vec<u32>,
    names: IndexMap<String, InstanceId, FxBuildHasher>,
    places: Places,
    rosters: Vec<Roster>,
    ledger: Ledger,
    lives: u32,
}

impl Fleet {
    /// Returns an empty fleet.
    pub fn new(config: FleetConfig) -> Self {
        Self {
            config,
            slots: Vec::new(),
            free: Vec::new(),
            names: IndexMap::default(),
            places: Places::default(),
            rosters: Vec::new(),
            ledger: Ledger::default(),
            lives: 0,
        }
    }

    /// Returns the settings.
    pub fn config(&self) -> &FleetConfig {
        &self.config
    }

    /// Registers an instance, which starts in `Starting`.
    ///
    /// # Errors
    /// [`RegisterError`] if its id is taken or a fact about it is absurd.
    pub fn register(
        &mut self,
        spec: ExecutionInstance,
        now: Timestamp,
    ) -> Result<InstanceId, RegisterError> {
        validate(&spec)?;
        if self.names.contains_key(&spec.instance_id) {
            return Err(RegisterError::Duplicate(spec.instance_id));
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let (generation, slot) = &mut self.slots[index as usize];
        let id = InstanceId::new(index, *generation);
        self.lives += 1;
        self.names.insert(spec.instance_id.clone(), id);
        self.places.insert(id, &spec);
        *slot = Some(Instance::new(id, spec, Incarnation(self.lives), &self.config, now));
        Ok(id)
    }

    /// Returns an instance that has not been removed.
    pub fn get(&self, id: InstanceId) -> Option<&Instance> {
        let (generation, slot) = self.slots.get(id.index())?;
        slot.as_ref().filter(|_| *generation == id.generation())
    }

    fn get_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        let (generation, slot) = self.slots.get_mut(id.index())?;
        slot.as_mut().filter(|_| *generation == id.generation())
    }

    /// Returns the instance called `name`.
    pub fn find(&self, name: &str) -> Option<InstanceId> {
        self.names.get(name).copied()
    }

    /// Returns where the instances are.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Iterates over the instances, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.slots.iter().filter_map(|(_, slot)| slot.as_ref())
    }

    /// Iterates over the charges.
    pub fn charges(&self) -> impl Iterator<Item = &Charge> {
        self.ledger.iter()
    }

    /// Returns a charge that has not been released.
    pub fn charge(&self, id: ChargeId) -> Option<&Charge> {
        self.ledger.get(id)
    }

    // ---- rosters

    /// Adds an empty roster.
    pub fn add_roster(&mut self) -> RosterId {
        self.rosters.push(Roster::default());
        RosterId(self.rosters.len() as u32 - 1)
    }

    /// Puts an instance on a roster, once.
    pub fn enlist(&mut self, roster: RosterId, instance: InstanceId) {
        let Some(found) = self.get_mut(instance) else { return };
        if !found.rosters.contains(&roster) {
            found.rosters.push(roster);
            self.rosters[roster.0 as usize].enlist(instance);
            self.refresh(instance);
        }
    }

    /// Takes an instance off a roster.
    pub fn delist(&mut self, roster: RosterId, instance: InstanceId) {
        let Some(found) = self.get_mut(instance) else { return };
        found.rosters.retain(|on| *on != roster);
        self.rosters[roster.0 as usize].delist(instance);
    }

    /// Returns the instances on a roster that are ready and have room.
    pub fn open(&self, roster: RosterId) -> &[Candidate] {
        &self.rosters[roster.0 as usize].open
    }

    /// Appends the places in `open` of the `count` least loaded instances to `out`, the least first,
    /// if there are more than a policy can be shown. O(count × (count + log n)).
    pub fn least_loaded(&self, roster: RosterId, count: usize, out: &mut Vec<usize>) {
        self.rosters[roster.0 as usize].least_loaded(count, out);
    }

    /// Returns all instances on a roster.
    pub fn members(&self, roster: RosterId) -> &[InstanceId] {
        &self.rosters[roster.0 as usize].members
    }

    /// Returns the candidate of an instance on a roster, if it is ready and has room.
    pub fn find_open(&self, roster: RosterId, instance: InstanceId) -> Option<&Candidate> {
        self.rosters[roster.0 as usize].find(instance)
    }

    /// Returns the rosters of an instance.
    pub fn rosters_of(&self, instance: InstanceId) -> &[RosterId] {
        self.get(instance).map_or(&[], |found| &found.rosters)
    }

    /// Makes all rosters of an instance true. O(rosters of the instance).
    fn refresh(&mut self, id: InstanceId) {
        let (generation, slot) = &self.slots[id.index()];
        let Some(instance) = slot.as_ref().filter(|_| *generation == id.generation()) else {
            return;
        };
        let candidate = instance.candidate();
        for roster in &instance.rosters {
            self.rosters[roster.0 as usize].update(id, candidate);
        }
    }

    // ---- the ledger

    /// Reserves what `attempt` needs on `instance` and returns the charge.
    ///
    /// # Panics
    /// If the instance has been removed: a candidate is registered.
    pub fn reserve(
        &mut self,
        attempt: Attempt,
        instance: InstanceId,
        need: Need,
        now: Timestamp,
    ) -> ChargeId {
        let found = self.get_mut(instance).expect("a candidate is registered");
        found.meter_to(now);
        let meter = found.meter;
        found.sequences += 1;
        found.tokens += need.total();
        found.prefilling += need.prompt;
        found.prefilled = found.prefilled.add(need.prompt.as_f64(), now);
        found.promise(need.tpot);
        let Need { prompt, output, tpot } = need;
        let begun = false;
        let charge = Charge { attempt, instance, prompt, output, tpot, begun, since: now, meter };
        let charge = self.ledger.open(charge);
        self.refresh(instance);
        charge
    }

    /// Learns that the prompt of a charge has been computed.
    pub fn begun(&mut self, id: ChargeId) {
        let Some(charge) = self.ledger.get_mut(id).filter(|charge| !charge.begun) else { return };
        charge.begun = true;
        let (prompt, instance) = (charge.prompt, charge.instance);
        if let Some(found) = self.get_mut(instance) {
            if !planted::is(Bug::PrefillKept) {
                found.prefilling = found.prefilling.saturating_sub(prompt);
            }
            self.refresh(instance);
        }
    }

    /// Grows a charge whose output has passed its forecast, in steps.
    pub fn grow(&mut self, id: ChargeId, output: Tokens) {
        let Some(charge) = self.ledger.get(id) else { return };
        if output <= charge.output {
            return;
        }
        let steps = (output.0 - charge.output.0).div_ceil(GROWTH);
        self.resize(id, charge.prompt, charge.output + Tokens(steps * GROWTH));
    }

    /// Corrects a charge by what the engine reported.
    pub fn correct(&mut self, id: ChargeId, usage: &Usage) {
        let prompt = usage.prompt.saturating_sub(usage.cached);
        if let Some(charge) = self.ledger.get(id) {
            let output = charge.output.max(usage.output);
            self.resize(id, prompt, output);
        }
    }

    fn resize(&mut self, id: ChargeId, prompt: Tokens, output: Tokens) {
        let Some(charge) = self.ledger.get_mut(id) else { return };
        let (before, prompt_before) = (charge.tokens(), charge.prompt);
        (charge.prompt, charge.output) = (prompt, output);
        let (after, instance, begun) = (charge.tokens(), charge.instance, charge.begun);
        if let Some(found) = self.get_mut(instance) {
            if !begun {
                found.prefilling = (found.prefilling + prompt).saturating_sub(prompt_before);
            }
            if !planted::is(Bug::GrowthNotBooked) {
                found.tokens = (found.tokens + after).saturating_sub(before);
            }
            self.refresh(instance);
        }
    }

    /// Releases a charge, once: a second release finds nothing. Returns the charge and its cost, an
    /// equal share with whoever ran beside it of the instance's rent.
    pub fn release(&mut self, id: ChargeId, now: Timestamp) -> Option<(Charge, Usd)> {
        let charge = self.ledger.close(id)?;
        let Some(found) = self.get_mut(charge.instance) else { return Some((charge, Usd(0.0))) };
        found.meter_to(now);
        let cost = found.rent_per_second() * (found.meter - charge.meter);
        let full = found.sequences + found.foreign_sequences >= found.window.size();
        found.sequences -= 1;
        found.tokens = found.tokens.saturating_sub(charge.tokens());
        if !charge.begun {
            found.prefilling = found.prefilling.saturating_sub(charge.prompt);
        }
        found.forget_promise(charge.tpot);
        found.window.on_finish(full);
        self.refresh(charge.instance);
        Some((charge, Usd(cost)))
    }

    /// Learns how long an attempt took that ended well. Call before its charge is released: that
    /// makes the news seen.
    pub fn succeeded(&mut self, instance: InstanceId, took: Duration) {
        let Some(found) = self.get_mut(instance) else { return };
        found.failures = 0;
        found.latency =
            if found.latency.is_zero() { took } else { found.latency * 9 / 10 + took / 10 };
    }

    // ---- life

    /// Learns that an attempt has failed there, and why.
    pub fn failed(
        &mut self,
        instance: InstanceId,
        kind: FailureKind,
        now: Timestamp,
    ) -> Option<Transition> {
        let (threshold, quarantine) =
            (self.config.failure_threshold, Duration::from_millis(self.config.quarantine_ms));
        let found = self.get_mut(instance)?;
        if kind == FailureKind::Busy {
            let reserved = found.sequences;
            found.window.on_busy(reserved);
            self.refresh(instance);
            return None;
        }
        if !kind.blames_instance() {
            return None;
        }
        found.failures += 1;
        // Nobody listens: there is nothing to wait for.
        let certain = kind == FailureKind::Connect;
        if found.state == EngineState::Ready && (certain || found.failures >= threshold) {
            if !certain {
                found.quarantined_until = now + quarantine;
            }
            return Some(self.down(instance));
        }
        None
    }

    /// Notes that a probe goes out and returns what tells it from others; `None` if the instance is
    /// gone.
    pub fn probe_sent(&mut self, instance: InstanceId, now: Timestamp) -> Option<ProbeTicket> {
        let found = self.get_mut(instance)?;
        found.probes += 1;
        found.last_probe = Some(now);
        Some(ProbeTicket {
            incarnation: found.incarnation,
            number: found.probes,
            sequences: found.sequences,
            tokens: found.tokens,
        })
    }

    /// Returns whether a probe's answer is still of interest: same life, none newer answered.
    pub fn is_current(&self, instance: InstanceId, ticket: ProbeTicket) -> bool {
        self.get(instance).is_some_and(|found| {
            planted::is(Bug::StaleProbeBelieved)
                || found.incarnation == ticket.incarnation && ticket.number > found.answered
        })
    }

    /// Takes a probe's answer; a late one of another life is dropped.
    pub fn probe_answered(
        &mut self,
        instance: InstanceId,
        ticket: ProbeTicket,
        answer: &ProbeAnswer,
        now: Timestamp,
    ) -> Option<Transition> {
        if !self.is_current(instance, ticket) {
            return None;
        }
        let (threshold, slow_start) = (self.config.failure_threshold, self.config.slow_start);
        let found = self.get_mut(instance)?;
        found.answered = ticket.number;
        if !answer.healthy {
            found.failures += 1;
            let lost = found.state == EngineState::Ready && found.failures >= threshold;
            return lost.then(|| self.down(instance));
        }
        found.take_gauges(&ticket, answer);
        let transition = match found.state {
            EngineState::Starting | EngineState::Error if now >= found.quarantined_until => {
                if found.was_ready {
                    found.window.warm_up(slow_start);
                }
                (found.state, found.was_ready) = (EngineState::Ready, true);
                found.failures = 0;
                Some(Transition::Ready)
            }
            EngineState::Ready => {
                found.failures = 0;
                None
            }
            _ => None,
        };
        if transition == Some(Transition::Ready) {
            self.lives += 1;
            let life = Incarnation(self.lives);
            self.get_mut(instance)?.incarnation = life;
        }
        self.refresh(instance);
        transition
    }

    fn down(&mut self, instance: InstanceId) -> Transition {
        if let Some(found) = self.get_mut(instance) {
            found.state = EngineState::Error;
            (found.foreign_sequences, found.foreign_tokens) = (0, Tokens::ZERO);
            (found.engine_running, found.engine_waiting) = (None, None);
        }
        self.refresh(instance);
        Transition::Down
    }

    /// Stops giving it requests; it stops once it has finished what it has.
    pub fn drain(&mut self, instance: InstanceId) -> Option<Transition> {
        let found = self.get_mut(instance)?;
        found.state = EngineState::Draining;
        self.refresh(instance);
        self.drained(instance)
    }

    /// Returns `Stopped`, once, if a draining instance has nothing left to do.
    pub fn drained(&mut self, instance: InstanceId) -> Option<Transition> {
        let found = self.get_mut(instance)?;
        let done = found.state == EngineState::Draining && found.sequences == 0;
        done.then(|| {
            found.state = EngineState::Stopped;
            Transition::Stopped
        })
    }

    /// Forgets an instance; its charges remain until they are released.
    pub fn remove(&mut self, instance: InstanceId) -> Option<Instance> {
        self.get(instance)?;
        let (generation, slot) = &mut self.slots[instance.index()];
        let removed = slot.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(instance.index() as u32);
        self.names.swap_remove(&removed.spec.instance_id);
        self.places.remove(instance);
        for roster in &removed.rosters {
            let roster = &mut self.rosters[roster.0 as usize];
            roster.update(instance, None);
            roster.members.retain(|&member| member != instance);
        }
        Some(removed)
    }

    // ---- holds

    /// Keeps an instance free for `request`: nothing else is given to it.
    pub fn hold(&mut self, instance: InstanceId, request: RequestId) {
        if let Some(found) = self.get_mut(instance) {
            found.hold = Some(request);
            self.refresh(instance);
        }
    }

    /// Ends the hold on an instance.
    pub fn unhold(&mut self, instance: InstanceId) {
        if let Some(found) = self.get_mut(instance) {
            found.hold = None;
            self.refresh(instance);
        }
    }

    /// Recomputes every sum from scratch.
    ///
    /// # Errors
    /// A sentence that names the first sum that is wrong.
    pub fn check(&self) -> Result<(), String> {
        for instance in self.iter() {
            let charges = || self.charges().filter(|charge| charge.instance == instance.id);
            let (sequences, tokens) =
                (charges().count() as u32, charges().map(Charge::tokens).sum::<Tokens>());
            if (sequences, tokens) != (instance.sequences, instance.tokens) {
                return Err(format!(
                    "{:?}: ledger says {sequences} sequences and {tokens:?}, instance says {} and {:?}",
                    instance.id, instance.sequences, instance.tokens
                ));
            }
            let prefilling = charges().filter(|c| !c.begun).map(|c| c.prompt).sum::<Tokens>();
            let strictest = charges().filter_map(|charge| charge.tpot).min();
            let load = instance.load();
            if (prefilling, strictest) != (load.prefilling, load.strictest_tpot) {
                return Err(format!(
                    "{:?}: ledger says {prefilling:?} to prefill and {strictest:?} promised, instance says {:?} and {:?}",
                    instance.id, load.prefilling, load.strictest_tpot
                ));
            }
            for roster in &instance.rosters {
                let listed = self.rosters[roster.0 as usize].find(instance.id).copied();
                if listed != instance.candidate() {
                    return Err(format!("{:?} is listed as {listed:?}", instance.id));
                }
            }
        }
        Ok(())
    }
}

impl Instance {
    /// Returns its rent, in US dollars per second.
    pub fn rent_per_second(&self) -> f64 {
        self.spec.rent_per_second().0
    }

    /// Learns from the gauges of a good probe.
    fn take_gauges(&mut self, ticket: &ProbeTicket, answer: &ProbeAnswer) {
        if let Some(kv) = answer.kv_tokens {
            self.kv_tokens = Some(kv);
        }
        self.window.on_probe(answer.requests);
        let Some((running, waiting)) = answer.requests else { return };
        (self.engine_running, self.engine_waiting) = (Some(running), Some(waiting));
        // Attempts that began while the probe was under way may be in the gauge already, and are
        // not foreign: the larger of both counts is ours.
        let own = ticket.sequences.max(self.sequences);
        self.foreign_sequences = (running + waiting).saturating_sub(own);
        let used = match (answer.kv_usage, self.kv_tokens) {
            (Some(usage), Some(kv)) if self.foreign_sequences > 0 => {
                Tokens((usage.0.clamp(0.0, 1.0) * kv.as_f64()) as u64)
            }
            _ => Tokens::ZERO,
        };
        self.foreign_tokens = used.saturating_sub(ticket.tokens.max(self.tokens));
    }
}

fn validate(spec: &ExecutionInstance) -> Result<(), RegisterError> {
    let invalid =
        |reason: String| Err(RegisterError::Invalid { instance: spec.instance_id.clone(), reason });
    if spec.instance_id.trim().is_empty() {
        return invalid("instance_id must not be empty".into());
    }
    if spec.host.trim().is_empty() {
        return invalid("host must not be empty".into());
    }
    if spec.port == 0 {
        return invalid("port 0 is not a port; accepted are 1 to 65535".into());
    }
    if spec.max_concurrent_requests == 0 {
        return invalid("max_concurrent_requests must be at least 1".into());
    }
    if !(spec.weight.is_finite() && spec.weight > 0.0) {
        return invalid(format!("weight = {}: must be above 0", spec.weight));
    }
    if !(spec.price_per_gpu_hour.is_finite() && spec.price_per_gpu_hour >= 0.0) {
        return invalid(format!(
            "price_per_gpu_hour = {}: must not be negative",
            spec.price_per_gpu_hour
        ));
    }
    let (named, gpus) = (spec.gpu_ids.len(), spec.gpu_count);
    if named > 0 && named as u64 != u64::from(gpus) {
        return invalid(format!(
            "gpu_ids names {named} GPUs and gpu_count is {gpus}: they must agree"
        ));
    }
    if spec.kv_cache_tokens == Some(0) {
        return invalid(
            "kv_cache_tokens must be at least 1; leave it out to ask the engine".into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_gpus_are_named_as_there_are() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let spec = ExecutionInstance {
            gpu_ids: vec!["0".into(), "1".into()],
            ..ExecutionInstance::new("a", "h", 1, "m")
        };
        let refused = fleet.register(spec.clone(), Timestamp::ZERO).expect_err("one GPU");
        let message = "instance `a`: gpu_ids names 2 GPUs and gpu_count is 1: they must agree";
        assert_eq!(refused.to_string(), message);
        let two = ExecutionInstance { gpu_count: 2, ..spec };
        assert!(fleet.register(two, Timestamp::ZERO).is_ok());
    }
}
