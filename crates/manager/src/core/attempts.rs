//! What becomes of attempts: a first token, an end, a second try, a client that leaves.

use sagellm_fleet::ChargeId;
use sagellm_monitoring::{AttemptEnding, Sketch};
use sagellm_strategies::queue::PoolId;
use sagellm_types::planted::{self, Bug};
use sagellm_types::{
    Attempt, Completion, Ending, ExpireReason, FailureKind, InstanceId, RequestId, Timestamp,
    Tokens, Usage, Usd,
};

use super::requests::Try;
use super::timers::Timer;
use super::{Command, ControlPlane, LINGER};

impl ControlPlane {
    pub(super) fn attempt(&mut self, attempt: Attempt) -> Option<&mut Try> {
        self.requests.get_mut(attempt.request)?.attempt(attempt)
    }

    pub(super) fn stale(&mut self, now: Timestamp) {
        self.counts.stale += 1;
        self.monitor.stale(now);
    }

    pub(super) fn first_token(&mut self, attempt: Attempt, now: Timestamp) {
        let Some(live) = self.requests.get_mut(attempt.request) else { return self.stale(now) };
        let request = live.request;
        match live.attempt(attempt) {
            Some(running) if running.first_token.is_none() => {
                running.first_token = Some(now);
                let charge = running.charge;
                self.fleet.begun(charge);
            }
            _ => return self.stale(now),
        }
        self.monitor.first_token(&request, now);
    }

    pub(super) fn finished(
        &mut self,
        attempt: Attempt,
        usage: Usage,
        gaps: Option<Box<Sketch>>,
        now: Timestamp,
    ) {
        let Some(running) = self.attempt(attempt).copied() else { return self.stale(now) };
        let removed = self.requests.remove(attempt.request);
        let live = removed.as_ref().expect("an attempt's request is live");
        self.fleet.succeeded(running.instance, now.since(running.dispatched));
        let cost = live.cost + self.fleet.release(running.charge, now).map_or(Usd(0.0), |r| r.1);
        if let Some(gaps) = &gaps {
            self.monitor.gaps(gaps, now);
        }
        let completion = Completion {
            request: live.request,
            ending: Ending::Finished,
            dispatched: Some(running.dispatched),
            first_token: running.first_token,
            ended: now,
            usage,
            cost,
        };
        self.learn(live, &running, &completion);
        self.close(live, Some(&running), &completion, AttemptEnding::Finished, now);
        self.after_release(running.instance, now);
    }

    pub(super) fn failed(
        &mut self,
        attempt: Attempt,
        kind: FailureKind,
        begun: bool,
        now: Timestamp,
    ) {
        let Some(running) = self.attempt(attempt).copied() else { return self.stale(now) };
        let released = match planted::is(Bug::ChargeNotReleased) {
            true => None,
            false => self.fleet.release(running.charge, now),
        };
        let cost = released.map(|(_, cost)| cost);
        let live = self.requests.get_mut(attempt.request).expect("an attempt's request is live");
        live.cost += cost.unwrap_or_default();
        let begun = begun || running.first_token.is_some();
        let transition = self.fleet.failed(running.instance, kind, now);
        self.retry_or_end(attempt.request, running, kind, begun, now);
        if let Some(transition) = transition {
            self.transition(running.instance, transition, "its attempts fail", now);
        } else if kind.blames_instance() {
            self.send_probe_soon(running.instance, now);
        }
        self.after_release(running.instance, now);
    }

    /// Tries the request again elsewhere, or ends it. Its running attempt is over.
    pub(super) fn retry_or_end(
        &mut self,
        id: RequestId,
        running: Try,
        kind: FailureKind,
        begun: bool,
        now: Timestamp,
    ) {
        if !begun && self.may_retry(id, running.instance, kind, now) {
            let live = self.requests.get_mut(id).expect("may_retry found it");
            live.running = None;
            match kind {
                FailureKind::Connect => live.refusals += 1,
                _ => live.retries += 1,
            }
            live.failed_on.push(running.instance);
            let (user, pool, charged) = (live.request.user, live.pool, live.charged);
            live.charged = 0;
            self.queue.settle(pool, user, charged, 0);
            let ending = AttemptEnding::Failed(kind);
            self.monitor.attempt_ended(
                running.instance,
                running.dispatched,
                ending,
                Tokens(0),
                now,
            );
            self.monitor.retried(now);
            self.counts.retries += 1;
            self.enqueue(id, now);
            self.dispatch(pool, now);
            return;
        }
        let live = self.requests.remove(id).expect("a failed attempt's request is live");
        let completion = Completion {
            request: live.request,
            ending: Ending::Failed(kind),
            dispatched: Some(running.dispatched),
            first_token: running.first_token,
            ended: now,
            usage: Usage { output: running.output, ..Usage::default() },
            cost: live.cost,
        };
        self.close(&live, Some(&running), &completion, AttemptEnding::Failed(kind), now);
        self.commands.push_back(Command::End { request: id, ending: completion.ending });
        if planted::is(Bug::EndedTwice) {
            self.commands.push_back(Command::End { request: id, ending: completion.ending });
        }
    }

    fn may_retry(
        &mut self,
        id: RequestId,
        instance: InstanceId,
        kind: FailureKind,
        now: Timestamp,
    ) -> bool {
        let Some(live) = self.requests.get(id) else { return false };
        if live.request.deadline().is_some_and(|deadline| deadline <= now) {
            return false;
        }
        // An attempt that never reached an engine costs nothing to try again, but not for ever.
        let free = kind == FailureKind::Connect;
        let most = self.config.retry.max;
        let spent =
            if free { live.refusals >= most.saturating_mul(4) } else { live.retries >= most };
        if !kind.retryable() || spent {
            return false;
        }
        let elsewhere = self.elsewhere(live.pool, &live.failed_on, instance);
        if !elsewhere && !free {
            return false;
        }
        if !free {
            if self.retry_tokens < 1.0 {
                return false;
            }
            self.retry_tokens -= 1.0;
        }
        true
    }

    pub(super) fn cancelled(&mut self, id: RequestId, now: Timestamp) {
        let Some(live) = self.requests.get(id) else { return self.stale(now) };
        let running = live.running;
        if running.is_none() && !planted::is(Bug::CancelledStaysWaiting) {
            self.dequeue(id, now);
        }
        let live = self.requests.remove(id).expect("it was there");
        let completion = Completion {
            request: live.request,
            ending: Ending::Cancelled,
            dispatched: running.map(|running| running.dispatched),
            first_token: running.and_then(|running| running.first_token),
            ended: now,
            usage: Usage { output: running.map_or(Tokens(0), |r| r.output), ..Usage::default() },
            cost: live.cost,
        };
        if let Some(running) = running
            && !planted::is(Bug::LingeringChargeKept)
        {
            self.timers.set(now + LINGER, Timer::Release(running.charge));
        }
        let (pool, hold) = (live.pool, live.hold);
        self.close(&live, running.as_ref(), &completion, AttemptEnding::Abandoned, now);
        self.end_hold(hold, now);
        if running.is_none() {
            // Who stood behind it may fit where it did not.
            self.dispatch(pool, now);
        }
    }

    /// Gives up the waiting requests whose deadline has come: all of them, before what they held
    /// goes to others.
    pub(super) fn expire(&mut self, now: Timestamp) {
        if self.timers.any_expired(now) {
            self.expire_all(now);
        }
    }

    #[cold]
    fn expire_all(&mut self, now: Timestamp) {
        let mut freed = Vec::new();
        while let Some(request) = self.timers.expired(now) {
            freed.extend(self.expired(request, now));
        }
        for (pool, hold) in freed {
            self.end_hold(hold, now);
            self.dispatch(pool, now);
        }
    }

    /// Ends a waiting request whose time is up; returns its pool and what was kept free for it.
    pub(super) fn expired(
        &mut self,
        id: RequestId,
        now: Timestamp,
    ) -> Option<(PoolId, Option<InstanceId>)> {
        if !self.queue.remove(id) {
            return None;
        }
        self.monitor.queue_length(self.queue.len() as u64, now);
        let live = self.requests.remove(id).expect("a waiting request is live");
        let on_deadline = live.request.deadline().is_some_and(|deadline| deadline <= now);
        let reason = if on_deadline { ExpireReason::Deadline } else { ExpireReason::QueueTimeout };
        let ending = Ending::Expired(reason);
        self.finish_request(&live.request, Some(&live), ending, now);
        if !planted::is(Bug::ExpiryNotTold) {
            self.commands.push_back(Command::End { request: id, ending });
        }
        Some((live.pool, live.hold))
    }

    /// Releases the charge of an attempt that was given up.
    pub(super) fn release(&mut self, charge: ChargeId, now: Timestamp) {
        if let Some((charge, cost)) = self.fleet.release(charge, now) {
            self.counts.lingering_usd += cost;
            self.after_release(charge.instance, now);
        }
    }
}
