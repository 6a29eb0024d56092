//! The end of a request: booked once, and learnt from.

use sagellm_monitoring::AttemptEnding;
use sagellm_perf::{Lesson, Observed};
use sagellm_strategies::Observation;
use sagellm_types::{Completion, Ending, Request, Timestamp, Tokens, Usage, Usd};

use super::ControlPlane;
use super::requests::{Live, Try};

impl ControlPlane {
    /// Ends a request that has no attempt.
    pub(super) fn finish_request(
        &mut self,
        request: &Request,
        live: Option<&Live>,
        ending: Ending,
        now: Timestamp,
    ) {
        let completion = Completion {
            request: *request,
            ending,
            dispatched: None,
            first_token: None,
            ended: now,
            usage: Usage::default(),
            cost: live.map_or(Usd(0.0), |live| live.cost),
        };
        self.account(live, &completion, None, now);
    }

    /// Ends a request whose last attempt is over.
    pub(super) fn close(
        &mut self,
        live: &Live,
        running: Option<&Try>,
        completion: &Completion,
        ending: AttemptEnding,
        now: Timestamp,
    ) {
        if let Some(running) = running {
            let output = completion.usage.output;
            self.monitor.attempt_ended(running.instance, running.dispatched, ending, output, now);
            if let Some(fairness) = self.queue.fairness() {
                let used = match completion.ending {
                    Ending::Finished => fairness.used(&completion.usage),
                    // Nobody says what was computed: its prompt at least, if it got a token.
                    _ => {
                        let prompt = match running.first_token {
                            Some(_) => live.request.forecast.prompt,
                            None => Tokens(0),
                        };
                        let usage = Usage { prompt, ..completion.usage };
                        live.charged.min(fairness.used(&usage))
                    }
                };
                self.queue.settle(live.pool, live.request.user, live.charged, used);
            }
        }
        self.account(Some(live), completion, running, now);
    }

    /// The one place where a request ends.
    pub(super) fn account(
        &mut self,
        live: Option<&Live>,
        completion: &Completion,
        running: Option<&Try>,
        now: Timestamp,
    ) {
        self.counts.end(&completion.ending);
        if let Some(number) = live.and_then(|live| live.explained) {
            self.explanations.ended(number, completion.request.id, completion.ending.name());
        }
        self.monitor.ended(
            completion,
            running.and_then(|running| running.estimate.as_ref()),
            running.map(|running| running.instance),
        );
        self.gauge.ended(completion);
        self.strategy.observe(Observation::Ended(completion), now);
    }

    /// Compares what was predicted with what happened.
    pub(super) fn learn(&mut self, live: &Live, running: &Try, completion: &Completion) {
        let ttft = running.first_token.map(|first| first.since(running.dispatched));
        let tpot = completion.tpot().filter(|_| completion.usage.output.0 > 1);
        let usage = completion.usage;
        self.forecaster.learn(&Lesson {
            model: live.request.model,
            user: live.request.user,
            prompt: live.prompt,
            forecast: &live.request.forecast,
            usage,
            ttft,
            tpot,
        });
        let known = if usage.prompt.0 > 0 { usage.prompt } else { live.request.forecast.prompt };
        self.predictor.observe(
            running.instance,
            &Observed {
                prompt: known.saturating_sub(usage.cached),
                output: usage.output,
                met: running.met,
                dispatched: running.dispatched,
                ttft,
                tpot,
            },
        );
    }
}
