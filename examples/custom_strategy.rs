//! A strategy of one's own, driving the whole core: shortest answers first, but nobody is passed
//! by requests that came much later.
//!
//! `cargo run --example custom_strategy`. The core is a synchronous function of state, event and
//! time, so the example is the driver: it answers probes, lets requests arrive and end, and needs
//! neither engines nor a clock.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use sagellm_fleet::ProbeAnswer;
use sagellm_manager::{
    Command, Config, ControlPlane, Dispatch, Event, NewRequest, PromptSize, SchedulingStrategy,
};
use sagellm_strategies::{Fifo, Rank, Urgency};
use sagellm_types::{ExecutionInstance, Request, Timestamp, Usage};

/// Shortest first. The rank is a time, so age counts: a request is passed only by those that
/// arrive before its own arrival plus what its service is longer, at most a minute.
struct ShortestFirst;

impl SchedulingStrategy for ShortestFirst {
    fn urgency(&self, request: &Request, _: Timestamp) -> Urgency {
        let service = request.forecast.service.min(Duration::from_secs(60));
        Urgency::fixed(Rank::at(request.arrival + service))
    }

    fn name(&self) -> &'static str {
        "shortest_first"
    }
}

fn main() -> anyhow::Result<()> {
    println!("fifo            {}", order(Box::new(Fifo))?.join(" "));
    println!("shortest_first  {}", order(Box::new(ShortestFirst))?.join(" "));
    Ok(())
}

/// Returns the order in which one engine that takes one request at a time gets five requests.
fn order(strategy: Box<dyn SchedulingStrategy>) -> anyhow::Result<Vec<String>> {
    let mut core = ControlPlane::with_strategy(&Config::default(), strategy, Timestamp::ZERO);
    let engine = ExecutionInstance {
        max_concurrent_requests: 1,
        ..ExecutionInstance::new("vllm-1", "localhost", 8000, "llama-7b")
    };
    core.register(engine, Timestamp::ZERO)?;
    let model = core.models().resolve("llama-7b").map(|found| found.id);

    let mut now = Timestamp::ZERO;
    for (name, max_tokens) in [("a", 250), ("b", 30), ("c", 200), ("d", 5), ("e", 100)] {
        now += Duration::from_millis(10);
        let prompt = PromptSize::Tokens(100);
        let label = Some(name.into());
        core.submit(
            NewRequest {
                label,
                model,
                prompt,
                max_tokens: Some(max_tokens),
                ..NewRequest::default()
            },
            now,
        );
    }
    while let Some(dispatch) = next_dispatch(&mut core, now) {
        now += Duration::from_secs(1);
        let usage = Usage::default();
        core.handle(Event::Finished { attempt: dispatch.attempt, usage, gaps: None }, now);
    }
    // The core explains its last decisions, the newest first.
    let decisions = core.last_decisions(10).into_iter().rev();
    Ok(decisions.filter_map(|kept| Some(kept.decision.label?.to_string())).collect())
}

/// Does what the core wants until it wants a request dispatched; every probe is answered.
fn next_dispatch(core: &mut ControlPlane, now: Timestamp) -> Option<Dispatch> {
    while let Some(command) = core.poll_command() {
        match command {
            Command::Dispatch(dispatch) => return Some(dispatch),
            Command::Probe { instance, ticket, .. } => {
                let answer = ProbeAnswer::healthy();
                core.handle(Event::Probed { instance, ticket, answer, models: None }, now);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strategy_changes_the_order_of_the_core() {
        assert_eq!(order(Box::new(Fifo)).expect("one engine").join(" "), "a b c d e");
        assert_eq!(order(Box::new(ShortestFirst)).expect("one engine").join(" "), "d b e c a");
    }
}
