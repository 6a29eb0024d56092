//! How far predictions are from what was measured on real engines.

mod closed_loop;
mod decisions;
mod fit;
mod report;
mod rows;
mod splits;

pub use closed_loop::{Predicted, Replay, Unsupported};
pub use decisions::{Decision, Decisions, Repeats, decide};
pub use fit::{Fit, calibrations};
pub use report::{Accuracy, Figures, Group, Knee, SplitName};
pub use rows::{Measured, RowError, parse};
pub use splits::evaluate;
