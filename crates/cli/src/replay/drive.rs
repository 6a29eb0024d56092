//! The open loop: each request is sent when it is due, whatever became of those before it.
//!
//! Latencies run from the time at which a request was *due*, so that a server which holds its
//! clients up cannot hide it (Tene's "coordinated omission"). How late the loop itself was is
//! measured and returned.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indexmap::IndexMap;
use reqwest::header::HeaderMap;
use sagellm_monitoring::{Sample, Sketch, Tally};
use sagellm_types::Timestamp;
use sagellm_types::clock::Clock;
use sagellm_workload::{Arrival, SloClass, Workload};
use tokio::task::JoinSet;

use super::body::{BodyWriter, Wish};
use super::client::{Outcome, Shot, Target};
use super::progress::{Counters, Progress};

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Driven {
    /// What clients saw.
    pub(crate) tally: Tally,
    /// How often each request ended, in the order of arrival; once is right.
    pub(crate) endings: Vec<u32>,
    /// How much later than due requests were sent.
    pub(crate) late: Sketch,
    /// What went wrong, in the server's words, and how often.
    pub(crate) errors: IndexMap<String, u64>,
    /// Whether it was stopped before its end.
    pub(crate) interrupted: bool,
    /// How long it took, on the machine's clock.
    pub(crate) wall: Duration,
}

impl Driven {
    /// Returns how many requests did not end exactly once.
    pub(crate) fn lost(&self) -> usize {
        self.endings.iter().filter(|&&times| times != 1).count()
    }
}

/// A run: what is sent whereto.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// What is sent when.
    pub(crate) workload: Arc<Workload>,
    /// Whereto.
    pub(crate) target: Target,
    /// How requests are written.
    pub(crate) bodies: BodyWriter,
    /// The key that is sent.
    pub(crate) api_key: Option<String>,
    /// The most that a request may cost, in US dollars, by the name of its class.
    pub(crate) budgets: BTreeMap<String, f64>,
    /// All times are in its model time.
    pub(crate) clock: Clock,
    /// When the first second of the workload begins.
    pub(crate) start: Timestamp,
}

impl Run {
    /// Sends every request and waits until all have ended; `stop` ends it at once, and gives up
    /// what is open.
    pub(crate) async fn drive(
        self: Arc<Self>,
        counters: Arc<Counters>,
        stop: impl Future<Output = ()>,
    ) -> Driven {
        let count = self.workload.arrivals.len();
        let driven = Arc::new(Mutex::new(Driven { endings: vec![0; count], ..Driven::default() }));
        let mut streams = JoinSet::new();
        let (mut late, mut sent) = (Sketch::default(), 0);
        let all = async {
            for index in 0..count {
                let shot = self.shot(index);
                tokio::time::sleep_until(self.clock.instant(shot.due).into()).await;
                while streams.try_join_next().is_some() {}
                late.record(self.clock.now().since(shot.due));
                counters.sent();
                sent = index + 1;
                let (run, counters, driven) =
                    (Arc::clone(&self), Arc::clone(&counters), Arc::clone(&driven));
                streams.spawn(async move {
                    let due = shot.due;
                    let outcome = run.target.send(shot, |tokens| counters.tokens(tokens)).await;
                    counters.ended(&outcome.ending);
                    let class = run.workload.class(&run.workload.arrivals[index]);
                    let mut driven = driven.lock().expect("no stream panics while it holds it");
                    driven.note(index, class, due, outcome);
                });
            }
            while streams.join_next().await.is_some() {}
        };
        let interrupted = tokio::select! { biased; () = stop => true, () = all => false };
        streams.shutdown().await;
        let mut driven =
            std::mem::take(&mut *driven.lock().expect("no stream panics while it holds it"));
        driven.endings.truncate(sent);
        driven.late = late;
        driven.interrupted = interrupted;
        driven.wall = self.clock.machine(self.clock.now().since(self.start));
        driven
    }

    /// Does the same until the user interrupts it; shows how it stands as `title` unless `quiet`,
    /// with what `more` adds.
    pub(crate) async fn drive_shown(
        self: Arc<Self>,
        title: &str,
        quiet: bool,
        more: impl Fn() -> String + Send + 'static,
    ) -> Driven {
        let (counters, total) = (Arc::new(Counters::default()), self.workload.arrivals.len());
        let shown =
            (!quiet).then(|| Progress::show(title, total, Arc::clone(&counters), self.clock, more));
        let driven = self.drive(counters, async {
            // Without a handler the process ends at once: nothing is lost but the report.
            let _ = tokio::signal::ctrl_c().await;
        });
        let driven = driven.await;
        drop(shown);
        driven
    }

    /// Returns request number `index` of the workload.
    fn shot(&self, index: usize) -> Shot {
        let arrival = &self.workload.arrivals[index];
        let (prompt, output) = (small(arrival.prompt.0), small(arrival.output.0));
        Shot {
            due: self.start + arrival.at.since(Timestamp::ZERO),
            headers: self.headers(self.workload.class(arrival), arrival),
            body: self.bodies.write(index, prompt, output, &arrival.blocks),
        }
    }

    /// Returns the headers of one request of a class.
    fn headers(&self, class: &SloClass, arrival: &Arrival) -> HeaderMap {
        let user = arrival.user.map(|user| format!("{}-{user}", class.name));
        Wish {
            priority: class.priority,
            objectives: class.objectives(),
            user: user.as_deref(),
            cost_budget: self.budgets.get(&class.name).copied(),
            api_key: self.api_key.as_deref(),
        }
        .headers()
    }
}

impl Driven {
    fn note(&mut self, index: usize, class: &SloClass, due: Timestamp, outcome: Outcome) {
        self.endings[index] += 1;
        let sample = Sample {
            due,
            ending: outcome.ending,
            wait: None,
            first_token: outcome.first_token,
            ended: outcome.ended,
            usage: outcome.usage,
            objectives: class.objectives(),
            cost: None,
            gaps: &outcome.gaps,
        };
        self.tally.record(&class.name, &sample);
        if let Some(error) = outcome.error {
            *self.errors.entry(error).or_default() += 1;
        }
    }
}

fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Returns a sentence about how late the loop was, if that spoils the figures.
pub(crate) fn lateness(late: &Sketch, clock: Clock) -> Option<String> {
    /// On the machine's clock. A timer of the runtime is up to a millisecond late by itself.
    const BEARABLE: Duration = Duration::from_millis(20);
    let p99 = late.quantile(0.99)?;
    (clock.machine(p99) > BEARABLE).then(|| {
        format!(
            "requests were sent late by {:.0} ms at the 99th percentile: this machine is too slow for the load, and latencies count it",
            p99.as_secs_f64() * 1e3
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Endpoint, PromptStyle};
    use sagellm_types::{Seed, Tokens};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
        data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: [DONE]\n\n";
    /// How long the server takes over every answer.
    const SLOW: Duration = Duration::from_millis(200);

    /// Returns a run of five requests, 10 ms apart, against a slow server.
    async fn run() -> Arc<Run> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/v1/completions", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    assert!(stream.read(&mut [0; 4096]).await.expect("a request") > 0);
                    tokio::time::sleep(SLOW).await;
                    stream.write_all(ANSWER.as_bytes()).await.expect("the client reads");
                });
            }
        });
        let clock = Clock::real();
        let arrival = |i: u64| Arrival {
            at: Timestamp::from_millis(10 * i),
            prompt: Tokens(3),
            output: Tokens(1),
            ..Arrival::default()
        };
        Arc::new(Run {
            workload: Arc::new(Workload::new((0..5).map(arrival).collect())),
            target: Target::new(url, clock, Duration::from_secs(10)).expect("a client"),
            bodies: BodyWriter {
                endpoint: Endpoint::Completions,
                style: PromptStyle::Text,
                model: "m".to_owned(),
                ignore_eos: true,
                seed: Seed(0),
            },
            api_key: None,
            budgets: BTreeMap::new(),
            clock,
            start: clock.now(),
        })
    }

    #[tokio::test]
    async fn a_slow_server_does_not_slow_the_load() {
        let run = run().await;
        let counters = Arc::new(Counters::default());
        let driven = Arc::clone(&run).drive(counters, std::future::pending()).await;
        let took = run.clock.now().since(run.start);
        assert_eq!((driven.tally.count(), driven.lost()), (5, 0), "{:?}", driven.errors);
        assert!(took < SLOW * 4, "one after the other would take {:?}: {took:?}", SLOW * 5);
        let ttft = driven.tally.report().ttft_ms;
        assert!(ttft.p50.is_some_and(|ms| ms >= SLOW.as_secs_f64() * 990.0), "{ttft:?}");
    }

    #[tokio::test]
    async fn what_is_broken_off_is_not_counted_as_ended() {
        let run = run().await;
        let stop = tokio::time::sleep(Duration::from_millis(100));
        let driven = run.drive(Arc::default(), stop).await;
        assert_eq!((driven.tally.count(), driven.lost()), (0, 5));
    }
}
