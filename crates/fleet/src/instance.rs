//! One engine: its life, its load and what its probes said.

use std::time::Duration;

use sagellm_types::planted::{self, Bug};
use sagellm_types::{
    Candidate, EngineState, ExecutionInstance, Incarnation, InstanceId, Load, Ratio, Recent,
    RequestId, Timestamp, Tokens, stable_hash,
};

use crate::{FleetConfig, RosterId, Window};

/// Tells one probe of one life from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTicket {
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
    /// Own sequences when it was sent.
    pub(crate) sequences: u32,
    /// Own KV tokens when it was sent.
    pub(crate) tokens: Tokens,
}

/// What an engine answered to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct ProbeAnswer {
    /// Whether `/health` said so.
    pub healthy: bool,
    /// Requests running and waiting at the engine, if it says.
    pub requests: Option<(u32, u32)>,
    /// Used share of its KV cache, if it says.
    pub kv_usage: Option<Ratio>,
    /// Size of its KV cache, if it says.
    pub kv_tokens: Option<Tokens>,
}

impl ProbeAnswer {
    /// Returns the answer of an engine that is well and says nothing else.
    pub fn healthy() -> Self {
        Self { healthy: true, ..Self::default() }
    }
}

/// A change in an instance's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It takes requests from now on.
    Ready,
    /// It does not answer.
    Down,
    /// It has finished what it had while draining.
    Stopped,
}

/// One engine.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// A stable hash of its name.
    pub key: u64,
    /// What its operator says of it.
    pub spec: ExecutionInstance,
    /// Where it stands.
    pub state: EngineState,
    /// How often it came to life.
    pub incarnation: Incarnation,
    /// Requests reserved.
    pub sequences: u32,
    /// KV tokens reserved.
    pub tokens: Tokens,
    /// Prompt tokens of requests that have no first token yet.
    pub prefilling: Tokens,
    /// Prompt tokens that it was given of late.
    pub prefilled: Recent,
    /// Requests that others have given it.
    pub foreign_sequences: u32,
    /// KV tokens that others occupy.
    pub foreign_tokens: Tokens,
    /// Size of its KV cache; `None` until it is known.
    pub kv_tokens: Option<Tokens>,
    /// Requests waiting at the engine, at the last probe.
    pub engine_waiting: Option<u32>,
    /// Requests running at the engine, at the last probe.
    pub engine_running: Option<u32>,
    /// Recent mean time from dispatch to end.
    pub latency: Duration,
    /// Probes or attempts that failed in a row.
    pub failures: u32,
    /// When it was last probed.
    pub last_probe: Option<Timestamp>,
    /// The request for which it is kept free.
    pub hold: Option<RequestId>,
    /// The times per output token that its requests ask for, the strictest first, and how many ask.
    pub(crate) promises: Vec<(Duration, u32)>,
    pub(crate) window: Window,
    pub(crate) rosters: Vec<RosterId>,
    pub(crate) probes: u64,
    pub(crate) answered: u64,
    pub(crate) quarantined_until: Timestamp,
    pub(crate) was_ready: bool,
    /// Integral of 1 / sequences over busy time, in seconds: each running request pays its share.
    pub(crate) meter: f64,
    pub(crate) metered: Timestamp,
    pub(crate) busy: Duration,
    pub(crate) fill: f64,
}

/// The KV capacity assumed when an engine does not tell: no bound but the window.
const UNKNOWN_CAPACITY: u64 = 1 << 40;

impl Instance {
    pub(crate) fn new(
        id: InstanceId,
        spec: ExecutionInstance,
        incarnation: Incarnation,
        config: &FleetConfig,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            key: stable_hash(spec.instance_id.as_bytes(), 0),
            state: EngineState::Starting,
            incarnation,
            sequences: 0,
            tokens: Tokens::ZERO,
            prefilling: Tokens::ZERO,
            prefilled: Recent::default(),
            foreign_sequences: 0,
            foreign_tokens: Tokens::ZERO,
            kv_tokens: spec.kv_cache_tokens.map(Tokens),
            engine_waiting: None,
            engine_running: None,
            latency: Duration::ZERO,
            failures: 0,
            last_probe: None,
            hold: None,
            promises: Vec::new(),
            window: Window::new(config.window, spec.max_concurrent_requests),
            rosters: Vec::new(),
            probes: 0,
            answered: 0,
            quarantined_until: Timestamp::ZERO,
            was_ready: false,
            meter: 0.0,
            metered: now,
            busy: Duration::ZERO,
            fill: config.fill,
            spec,
        }
    }

    /// Returns how many requests it takes at once.
    pub fn window(&self) -> u32 {
        self.window.size()
    }

    /// Returns how long it has had at least one request.
    pub fn busy(&self, now: Timestamp) -> Duration {
        if self.sequences > 0 { self.busy + now.since(self.metered) } else { self.busy }
    }

    /// Returns the KV tokens that may be reserved.
    pub fn capacity(&self) -> Tokens {
        self.kv_tokens
            .map_or(Tokens(UNKNOWN_CAPACITY), |kv| Tokens((kv.as_f64() * self.fill) as u64))
    }

    /// Returns its load: own charges and foreign load together.
    pub fn load(&self) -> Load {
        Load {
            sequences: self.sequences + self.foreign_sequences,
            tokens: self.tokens + self.foreign_tokens,
            window: self.window.size(),
            capacity: self.capacity(),
            prefilling: self.prefilling,
            prefilled: self.prefilled,
            strictest_tpot: self.promises.first().map(|promise| promise.0),
            latency: self.latency,
            weight: self.spec.weight,
        }
    }

    /// Returns it as a candidate if it takes requests and has room for at least one.
    pub(crate) fn candidate(&self) -> Option<Candidate> {
        let load = self.load();
        let ready = self.state == EngineState::Ready
            || (self.state == EngineState::Draining && planted::is(Bug::OfferedWhileDraining));
        (ready && self.hold.is_none() && load.fits(Tokens(1))).then_some(Candidate {
            id: self.id,
            key: self.key,
            load,
            cached_prefix: Tokens::ZERO,
        })
    }

    /// Notes that a request there asks for `tpot`.
    pub(crate) fn promise(&mut self, tpot: Option<Duration>) {
        let Some(tpot) = tpot else { return };
        match self.promises.binary_search_by_key(&tpot, |promise| promise.0) {
            Ok(place) => self.promises[place].1 += 1,
            Err(place) => self.promises.insert(place, (tpot, 1)),
        }
    }

    /// Notes that a request that asked for `tpot` is gone.
    pub(crate) fn forget_promise(&mut self, tpot: Option<Duration>) {
        let Some(tpot) = tpot.filter(|_| !planted::is(Bug::PromiseKept)) else { return };
        if let Ok(place) = self.promises.binary_search_by_key(&tpot, |promise| promise.0) {
            self.promises[place].1 -= 1;
            if self.promises[place].1 == 0 {
                self.promises.remove(place);
            }
        }
    }

    /// Moves the cost meter to `now`, at the number of requests so far. Call before it changes.
    pub(crate) fn meter_to(&mut self, now: Timestamp) {
        let elapsed = now.since(self.metered);
        if self.sequences > 0 {
            self.meter += elapsed.as_secs_f64() / f64::from(self.sequences);
            self.busy += elapsed;
        }
        self.metered = self.metered.max(now);
    }
}
