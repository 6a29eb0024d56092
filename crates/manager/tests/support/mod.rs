//! Drives the real core in virtual time and watches it: [`Watched`] checks every rule after every
//! event, [`World`] adds modelled engines, clients and faults.

mod watched;
mod world;

pub(crate) use watched::{Placed, Record, Watched};
pub(crate) use world::{Ask, Machine, World, ask};

use sagellm_types::Timestamp;

/// Returns the point `ms` milliseconds after the start.
pub(crate) fn ms(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// Returns the value below which the share `q` of `values` lies.
pub(crate) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q) as usize]
}
