//! The core under watch: after every event each rule is recomputed from outside.

use std::collections::BTreeMap;

use sagellm_fleet::{ProbeAnswer, ProbeTicket};
use sagellm_manager::{Command, ControlPlane, Event, NewRequest, Notice};
use sagellm_strategies::Switch;
use sagellm_types::{
    Attempt, Ending, EngineState, FailureKind, InstanceId, RequestId, Timestamp, Tokens, Usage,
};

/// One dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) at: Timestamp,
    pub(crate) attempt: Attempt,
    pub(crate) instance: InstanceId,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) asked: NewRequest,
    pub(crate) submitted: Timestamp,
    pub(crate) placed: Vec<Placed>,
    /// The attempt that the core counts on, if any.
    pub(crate) running: Option<Attempt>,
    pub(crate) first_token: Option<Timestamp>,
    pub(crate) ended: Option<(Timestamp, Ending)>,
    pub(crate) usage: Usage,
}

impl Record {
    /// Returns when it was first dispatched.
    pub(crate) fn dispatched(&self) -> Option<Timestamp> {
        self.placed.first().map(|placed| placed.at)
    }

    /// Returns how it ended.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ended.map(|(_, ending)| ending)
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.asked.objectives.e2e.map(|e2e| self.submitted + e2e)
    }
}

/// The core, and a book of what it did.
pub(crate) struct Watched {
    pub(crate) core: ControlPlane,
    pub(crate) book: BTreeMap<RequestId, Record>,
    /// All dispatches in their order.
    pub(crate) placed: Vec<Placed>,
    pub(crate) switches: Vec<(Timestamp, Switch)>,
    /// Every how many events the rules that cost O(everything) are recomputed.
    pub(crate) check_every: u64,
    events: u64,
    ended: u64,
}

impl Watched {
    pub(crate) fn new(core: ControlPlane) -> Self {
        Self {
            core,
            book: BTreeMap::new(),
            placed: Vec::new(),
            switches: Vec::new(),
            check_every: 1,
            events: 0,
            ended: 0,
        }
    }

    /// Submits a request and returns its id with what the core wants done.
    pub(crate) fn submit(
        &mut self,
        asked: NewRequest,
        now: Timestamp,
    ) -> (RequestId, Vec<Command>) {
        let holds = self.holds();
        let id = self.core.submit(asked.clone(), now);
        let record = Record {
            asked,
            submitted: now,
            placed: Vec::new(),
            running: None,
            first_token: None,
            ended: None,
            usage: Usage::default(),
        };
        assert!(self.book.insert(id, record).is_none(), "{id:?} is used twice");
        (id, self.collect(&holds, now))
    }

    /// Lets the core do something that ends nothing by itself.
    pub(crate) fn act(
        &mut self,
        now: Timestamp,
        action: impl FnOnce(&mut ControlPlane),
    ) -> Vec<Command> {
        let holds = self.holds();
        action(&mut self.core);
        self.collect(&holds, now)
    }

    pub(crate) fn first_token(&mut self, attempt: Attempt, now: Timestamp) -> Vec<Command> {
        if let Some(record) = self.current(attempt) {
            record.first_token.get_or_insert(now);
        }
        self.act(now, |core| {
            core.handle(Event::FirstToken(attempt), now);
        })
    }

    pub(crate) fn progress(
        &mut self,
        attempt: Attempt,
        output: u64,
        now: Timestamp,
    ) -> Vec<Command> {
        let output = Tokens(output);
        self.act(now, |core| {
            core.handle(Event::Progress { attempt, output }, now);
        })
    }

    /// An answer is complete; one of an attempt that the core has given up must change nothing.
    pub(crate) fn finished(
        &mut self,
        attempt: Attempt,
        usage: Usage,
        now: Timestamp,
    ) -> Vec<Command> {
        let current = self.current(attempt).is_some();
        let (before, holds) = (self.core.counts(), self.holds());
        self.core.handle(Event::Finished { attempt, usage, gaps: None }, now);
        let after = self.core.counts();
        assert_eq!(after.finished - before.finished, u64::from(current), "{attempt:?}");
        assert_eq!(after.stale - before.stale, u64::from(!current), "{attempt:?}");
        if current {
            self.book.get_mut(&attempt.request).expect("current").usage = usage;
            self.end(attempt.request, Ending::Finished, now);
        }
        self.collect(&holds, now)
    }

    /// An attempt failed; one that the core has given up must change nothing.
    pub(crate) fn failed(
        &mut self,
        attempt: Attempt,
        kind: FailureKind,
        begun: bool,
        now: Timestamp,
    ) -> Vec<Command> {
        let current = self.current(attempt).map(|record| record.running = None).is_some();
        let (stale, holds) = (self.core.counts().stale, self.holds());
        self.core.handle(Event::Failed { attempt, kind, begun }, now);
        assert_eq!(self.core.counts().stale - stale, u64::from(!current), "{attempt:?}");
        self.collect(&holds, now)
    }

    pub(crate) fn cancelled(&mut self, request: RequestId, now: Timestamp) -> Vec<Command> {
        let (before, holds) = (self.core.counts().cancelled, self.holds());
        self.core.handle(Event::Cancelled(request), now);
        if self.core.counts().cancelled > before {
            self.end(request, Ending::Cancelled, now);
        }
        let commands = self.collect(&holds, now);
        // It may have come too late: then its request has ended otherwise.
        assert!(self.book[&request].ended.is_some(), "{request:?} goes on after its cancellation");
        commands
    }

    pub(crate) fn probed(
        &mut self,
        instance: InstanceId,
        ticket: ProbeTicket,
        answer: ProbeAnswer,
        now: Timestamp,
    ) -> Vec<Command> {
        let event = Event::Probed { instance, ticket, answer, models: None };
        self.act(now, |core| {
            core.handle(event, now);
        })
    }

    /// Returns the record of an attempt's request if the core still counts on that attempt.
    fn current(&mut self, attempt: Attempt) -> Option<&mut Record> {
        self.book
            .get_mut(&attempt.request)
            .filter(|record| record.running == Some(attempt) && record.ended.is_none())
    }

    /// Returns how many requests have not ended.
    pub(crate) fn open(&self) -> usize {
        self.book.len() - self.ended as usize
    }

    /// Returns the charges of attempts that run or linger.
    pub(crate) fn charges(&self) -> usize {
        self.core.fleet().charges().count()
    }

    fn holds(&self) -> BTreeMap<InstanceId, RequestId> {
        self.core.fleet().iter().filter_map(|found| Some((found.id, found.hold?))).collect()
    }

    fn end(&mut self, request: RequestId, ending: Ending, now: Timestamp) {
        let record = self.book.get_mut(&request).expect("only submitted requests end");
        assert!(record.ended.is_none(), "{request:?} ends twice: {:?}, {ending:?}", record.ended);
        (record.ended, record.running) = (Some((now, ending)), None);
        self.ended += 1;
    }

    /// Takes the commands over into the book and checks every rule.
    fn collect(&mut self, holds: &BTreeMap<InstanceId, RequestId>, now: Timestamp) -> Vec<Command> {
        let commands: Vec<Command> = std::iter::from_fn(|| self.core.poll_command()).collect();
        for command in &commands {
            match command {
                Command::Dispatch(dispatch) => {
                    let (attempt, instance) = (dispatch.attempt, dispatch.instance);
                    self.check_dispatch(Placed { at: now, attempt, instance }, holds);
                }
                Command::Abort(attempt) => {
                    let record = self.book.get_mut(&attempt.request).expect("submitted");
                    assert_eq!(record.first_token, None, "{attempt:?} had begun");
                    assert_eq!(record.running.take(), Some(*attempt), "aborted once");
                }
                Command::End { request, ending } => self.end(*request, *ending, now),
                Command::Notice(Notice::Switched(switch)) => {
                    self.switches.push((now, switch.clone()));
                }
                Command::Notice(_) | Command::Probe { .. } => {}
            }
        }
        self.check();
        commands
    }

    fn check_dispatch(&mut self, placed: Placed, holds: &BTreeMap<InstanceId, RequestId>) {
        let Placed { at, attempt, instance } = placed;
        let found = self.core.fleet().get(instance).expect("dispatched to a registered instance");
        assert_eq!(found.state, EngineState::Ready, "{attempt:?} went to {instance:?}");
        let load = found.load();
        assert!(load.sequences <= load.window, "{attempt:?} went beyond the window: {load:?}");
        let alone = load.sequences == 1;
        assert!(alone || load.tokens <= load.capacity, "{attempt:?} went beyond KV: {load:?}");
        // A hold that stood before the event and stands after it was there at the dispatch.
        let holder = holds.get(&instance).copied().filter(|&holder| found.hold == Some(holder));
        assert_eq!(holder, None, "{attempt:?} took {instance:?}");
        let record = self.book.get_mut(&attempt.request).expect("only submitted requests run");
        assert!(record.ended.is_none(), "{attempt:?} was dispatched after its end");
        assert_eq!(record.running, None, "{attempt:?} runs beside another attempt");
        assert_eq!(usize::from(attempt.n), record.placed.len(), "attempts are counted");
        assert!(record.first_token.is_none(), "{attempt:?} was begun before");
        assert!(record.deadline().is_none_or(|deadline| at < deadline), "{attempt:?} is too late");
        record.running = Some(attempt);
        record.placed.push(placed);
        self.placed.push(placed);
    }

    fn check(&mut self) {
        self.events += 1;
        if !self.events.is_multiple_of(self.check_every) {
            return;
        }
        self.core.check().unwrap_or_else(|broken| panic!("{broken}"));
        let counts = self.core.counts();
        assert_eq!((counts.submitted, counts.ended()), (self.book.len() as u64, self.ended));
    }
}
