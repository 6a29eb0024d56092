//! Which engines there are, how they live, and what is reserved on them.
//!
//! This crate answers "may this request go there now?" and keeps the answer true: every reservation
//! is a charge that is released exactly once. It never chooses an instance and never talks to one.
//!
//! ```
//! use sagellm_fleet::{Fleet, FleetConfig, Need, ProbeAnswer};
//! use sagellm_types::{Attempt, ExecutionInstance, RequestId, Timestamp, Tokens};
//!
//! let mut fleet = Fleet::new(FleetConfig::default());
//! let now = Timestamp::ZERO;
//! let spec = ExecutionInstance::new("vllm-1", "localhost", 8000, "llama-7b");
//! let instance = fleet.register(spec, now).expect("a new name");
//! let roster = fleet.add_roster();
//! fleet.enlist(roster, instance);
//! assert!(fleet.open(roster).is_empty(), "nothing goes to an instance that is not known to live");
//!
//! let probe = fleet.probe_sent(instance, now).expect("registered");
//! fleet.probe_answered(instance, probe, &ProbeAnswer::healthy(), now);
//! assert_eq!(fleet.open(roster).len(), 1);
//!
//! let attempt = Attempt { request: RequestId::new(0, 0), n: 0 };
//! let need = Need { prompt: Tokens(100), output: Tokens(50), tpot: None };
//! let charge = fleet.reserve(attempt, instance, need, now);
//! assert_eq!(fleet.open(roster)[0].load.tokens, Tokens(150));
//! fleet.release(charge, now);
//! assert_eq!(fleet.open(roster)[0].load.tokens, Tokens(0));
//! ```

mod config;
mod fleet;
mod instance;
mod ledger;
mod roster;
mod tournament;
mod window;

pub use config::{FleetConfig, WindowLimit};
pub use fleet::{Fleet, RegisterError};
pub use instance::{Instance, ProbeAnswer, ProbeTicket, Transition};
pub use ledger::{Charge, ChargeId, Need};
pub use roster::RosterId;
pub use window::Window;
