//! The core with the real clock and real engines around it.

mod gpus;
mod manager;
mod shell;
mod slot;
mod ticket;

pub use manager::{ControlPlaneManager, ManagerError, Output};
pub use shell::{EngineFactory, HttpEngines, Line, Shell, ShellError};
pub use ticket::{Permit, Ticket};
