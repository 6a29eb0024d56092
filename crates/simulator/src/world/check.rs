//! What must hold after every event, recomputed from scratch, and what a run has come across.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sagellm_manager::Dispatch;
use sagellm_types::{
    Attempt, Ending, EngineState, ExpireReason, Incarnation, InstanceId, Timestamp,
};

use super::{Later, SimulationError, World};

/// What a checked run has come across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Coverage {
    /// An engine took blocks back from a running sequence.
    pub preemption: bool,
    /// A waiting request was given up at its deadline, or had waited too long.
    pub expiry: bool,
    /// A client left while its request waited.
    pub cancel_waiting: bool,
    /// A client left before its first token.
    pub cancel_prefill: bool,
    /// A client left in the midst of its stream.
    pub cancel_stream: bool,
    /// An engine died in the midst of a stream.
    pub crash_mid_stream: bool,
    /// An engine was drained while it was computing.
    pub drain: bool,
    /// All ranks were asked for anew while requests waited.
    pub rekey: bool,
    /// A request waited that fitted nowhere, although there was room.
    pub blocked: bool,
    /// An engine was kept free for a request.
    pub hold: bool,
    /// An attempt was made again elsewhere.
    pub retry: bool,
}

impl Coverage {
    /// Returns the names of what can be come across, and whether it was.
    pub fn list(&self) -> [(&'static str, bool); 11] {
        [
            ("preemption", self.preemption),
            ("expiry", self.expiry),
            ("cancel while waiting", self.cancel_waiting),
            ("cancel before the first token", self.cancel_prefill),
            ("cancel in the stream", self.cancel_stream),
            ("crash in the stream", self.crash_mid_stream),
            ("drain", self.drain),
            ("re-key", self.rekey),
            ("blocked pool", self.blocked),
            ("hold", self.hold),
            ("second try", self.retry),
        ]
    }

    pub(super) fn ended(&mut self, ending: &Ending) {
        self.expiry |=
            matches!(ending, Ending::Expired(ExpireReason::Deadline | ExpireReason::QueueTimeout));
    }
}

/// What a checked run remembers.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) coverage: Coverage,
    pub(super) broken: Option<SimulationError>,
    last: Timestamp,
    /// A dispatch to an instance that takes nothing, unless it is taken back, and what is wrong.
    misplaced: Option<(Attempt, String)>,
    /// The last probe of each instance that was answered.
    answered: BTreeMap<InstanceId, u64>,
    /// Attempts that were given up, and when: their charges stay for a while.
    given_up: BTreeMap<Attempt, Timestamp>,
}

/// The core releases the charge of an attempt that was given up within this.
const LINGER: Duration = Duration::from_millis(101);

impl World<'_> {
    pub(super) fn broken(&mut self, event: &str, what: String) {
        let at = self.now;
        if let Some(watch) = &mut self.watch
            && watch.broken.is_none()
        {
            let event = event.to_owned();
            watch.broken = Some(SimulationError::Broken { at, event, what });
        }
    }

    pub(super) fn cover(&mut self, note: impl FnOnce(&mut Coverage)) {
        if let Some(watch) = &mut self.watch {
            note(&mut watch.coverage);
        }
    }

    /// Notes that an attempt was given up.
    pub(super) fn gives_up(&mut self, attempt: Attempt) {
        let now = self.now;
        if let Some(watch) = &mut self.watch {
            watch.misplaced.take_if(|(misplaced, _)| *misplaced == attempt);
            watch.given_up.insert(attempt, now);
        }
    }

    /// Checks that an attempt goes to an instance that takes some.
    pub(super) fn verify_dispatch(&mut self, dispatch: &Dispatch) {
        if self.watch.is_none() {
            return;
        }
        self.cover(|coverage| coverage.retry |= dispatch.attempt.n > 0);
        let found = self.core.fleet().get(dispatch.instance);
        match found.map(|found| found.state) {
            Some(EngineState::Ready) => {}
            // It may have gone down after that decision, in the same event: then it is taken back.
            state => {
                if let Some(watch) = &mut self.watch {
                    let what = format!("it went to an instance that is {state:?}");
                    watch.misplaced = Some((dispatch.attempt, what));
                }
            }
        }
    }

    /// Checks, once all commands of an event are carried out, that none of its dispatches went where
    /// nothing may go.
    pub(super) fn verify_commands(&mut self) {
        if let Some((_, what)) = self.watch.as_mut().and_then(|watch| watch.misplaced.take()) {
            self.broken("a dispatch", what);
        }
    }

    /// Returns whether the core must believe the answer to a probe that was sent in this life of an
    /// instance: if that life goes on and no later probe was answered.
    pub(super) fn expects_probe(
        &mut self,
        instance: InstanceId,
        life: Incarnation,
        number: u64,
    ) -> bool {
        let lives = self.core.fleet().get(instance).is_some_and(|found| found.incarnation == life);
        let Some(watch) = &mut self.watch else { return lives };
        let last = watch.answered.entry(instance).or_default();
        let current = lives && number >= *last;
        if current {
            *last = number;
        }
        current
    }

    /// Recomputes everything from scratch.
    pub(super) fn verify(&mut self, event: &str) {
        if self.watch.as_ref().is_none_or(|watch| watch.broken.is_some()) {
            return;
        }
        if let Err(what) = self.sound() {
            self.broken(event, what);
        }
        let waits = self.core.pools().iter().any(|pool| pool.waiting > 0 && pool.open > 0);
        let holds = self.core.fleet().iter().any(|found| found.hold.is_some());
        self.cover(|coverage| {
            coverage.blocked |= waits;
            coverage.hold |= holds;
        });
        let now = self.now;
        if let Some(watch) = &mut self.watch {
            watch.last = now;
            watch.given_up.retain(|_, at| now.since(*at) <= LINGER);
        }
    }

    fn sound(&self) -> Result<(), String> {
        let Some(watch) = &self.watch else { return Ok(()) };
        if self.now < watch.last {
            return Err(format!("time went back from {:?}", watch.last));
        }
        self.core.check()?;
        let counts = self.core.counts();
        let ended = self.seen.iter().filter(|seen| seen.ended.is_some()).count() as u64;
        let submitted = self.seen.iter().filter(|seen| seen.id.is_some()).count() as u64;
        if submitted != counts.submitted {
            return Err(format!(
                "{submitted} were submitted, the core counts {}",
                counts.submitted
            ));
        }
        if ended < counts.ended() {
            return Err(format!("the core ended {} requests, clients saw {ended}", counts.ended()));
        }
        let failing = self.later.values().filter_map(|later| match later {
            Later::Failed { attempt, .. } => Some(*attempt),
            _ => None,
        });
        let running = self.hosts.iter().flat_map(|host| host.running.values());
        let known: BTreeSet<Attempt> = running
            .map(|running| running.attempt)
            .chain(failing)
            .chain(watch.given_up.keys().copied())
            .collect();
        for charge in self.core.fleet().charges() {
            if !known.contains(&charge.attempt) {
                let attempt = charge.attempt;
                return Err(format!("{attempt:?} is charged and runs nowhere"));
            }
        }
        for (number, host) in self.hosts.iter().enumerate() {
            host.engine.check().map_err(|what| format!("engine {number}: {what}"))?;
        }
        Ok(())
    }

    /// Checks that nothing is left once all requests have ended.
    pub(super) fn verify_end(&mut self) {
        if self.watch.is_none() {
            return;
        }
        if self.open > 0 {
            let what = format!("{} requests have not ended", self.open);
            return self.broken("the end", what);
        }
        self.now += 2 * LINGER;
        while self.core.poll_timeout().is_some_and(|at| at <= self.now) {
            self.core.handle_timeout(self.now);
            self.carry_out();
        }
        let left = self.core.fleet().charges().count();
        if left > 0 {
            self.broken("the end", format!("{left} charges are left"));
        }
        let counts = self.core.counts();
        if counts.ended() != counts.submitted {
            self.broken("the end", format!("the core's books are open: {counts:?}"));
        }
    }
}
