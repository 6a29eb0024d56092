//! The waiting queue alone: the same six requests, ordered by four strategies.
//!
//! `cargo run --example schedule_only`. Nothing but `sagellm-strategies` and `sagellm-types` is
//! needed: strategies answer questions, and the queue keeps the order.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use sagellm_strategies::queue::Queue;
use sagellm_strategies::{NotOffered, StrategyConfig};
use sagellm_types::{Objectives, Request, RequestPriority, Timestamp};

/// Name, priority, arrival in milliseconds, wanted time to first token in milliseconds.
const REQUESTS: [(&str, RequestPriority, u64, Option<u64>); 6] = [
    ("report", RequestPriority::Background, 0, None),
    ("batch", RequestPriority::Low, 10, Some(60_000)),
    ("chat", RequestPriority::Normal, 20, Some(2_000)),
    ("search", RequestPriority::Normal, 30, Some(500)),
    ("agent", RequestPriority::High, 40, None),
    ("alarm", RequestPriority::Critical, 50, Some(5_000)),
];

fn main() -> Result<(), NotOffered> {
    for name in ["fifo", "priority", "slo_aware", "cost_optimized"] {
        println!("{name:14} {}", order(name)?.join(" "));
    }
    Ok(())
}

/// Returns the names in the order in which the strategy called `name` lets them go.
fn order(name: &str) -> Result<Vec<&'static str>, NotOffered> {
    let strategy = StrategyConfig::parse(name)?.build();
    let requests: Vec<Request> = (0..).zip(REQUESTS).map(request).collect();
    let mut queue = Queue::new(None);
    let pool = queue.add_pool();
    for request in &requests {
        queue.push(pool, request, strategy.urgency(request, request.arrival));
    }
    let now = Timestamp::from_millis(60);
    let mut order = Vec::new();
    // A rank may have an end; the queue asks again then, and only at the head.
    while let Some(head) = queue.head(pool, now, |id| strategy.urgency(&requests[id.index()], now))
    {
        queue.remove(head.request);
        order.push(REQUESTS[head.request.index()].0);
    }
    Ok(order)
}

fn request(
    (i, (_, priority, arrival, ttft)): (u32, (&str, RequestPriority, u64, Option<u64>)),
) -> Request {
    Request {
        priority,
        arrival: Timestamp::from_millis(arrival),
        objectives: Objectives { ttft: ttft.map(Duration::from_millis), ..Objectives::NONE },
        ..Request::example(i)
    }
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn arrival_level_or_slack_decides() {
        let check = |name: &str, expected: &str| {
            assert_eq!(order(name).expect("a known name").join(" "), expected);
        };
        check("fifo", "report batch chat search agent alarm");
        check("priority", "alarm agent chat search batch report");
        check("slo_aware", "search chat alarm report agent batch");
    }
}
