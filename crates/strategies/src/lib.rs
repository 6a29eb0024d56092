//! Which waiting request goes next, and which instances it may take.
//!
//! A [`SchedulingStrategy`] ranks requests; the [`queue`] keeps them in that order, whatever waits
//! in other pools. A strategy never picks an instance (that is a router's work) and never holds a
//! request: it answers questions.
//!
//! ```
//! use sagellm_strategies::{StrategyConfig, queue::Queue};
//! use sagellm_types::{Request, RequestPriority, Timestamp};
//!
//! let strategy = StrategyConfig::parse("priority").expect("a known name").build();
//! let mut queue = Queue::new(None);
//! let pool = queue.add_pool();
//! let normal = Request::example(0);
//! let critical = Request { priority: RequestPriority::Critical, ..Request::example(1) };
//! for request in [normal, critical] {
//!     queue.push(pool, &request, strategy.urgency(&request, Timestamp::ZERO));
//! }
//! let head = queue.head(pool, Timestamp::ZERO, |_| unreachable!("ranks are fixed"));
//! assert_eq!(head.expect("two wait").request, critical.id);
//! ```

mod adaptive;
mod config;
mod cost_optimized;
mod fifo;
mod priority;
pub mod queue;
mod slo_aware;
mod strain;
mod strategy;

pub use adaptive::{Adaptive, AdaptiveConfig};
pub use config::{NotOffered, StrategyConfig, UnknownStrategy};
pub use cost_optimized::{CostOptimized, CostOptimizedConfig};
pub use fifo::Fifo;
pub use priority::{Priority, PriorityConfig};
pub use slo_aware::{SloAware, SloAwareConfig};
pub use strategy::{
    Admission, Narrowing, Observation, Pressure, Rank, SchedulingStrategy, Switch, Urgency,
};
