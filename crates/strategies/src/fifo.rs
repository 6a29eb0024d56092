//! First in, first out: simple and fair to requests.

use sagellm_types::{Request, Timestamp};

use crate::{Rank, SchedulingStrategy, Urgency};

/// Serves requests in the order of their arrival.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fifo;

impl SchedulingStrategy for Fifo {
    fn urgency(&self, request: &Request, _: Timestamp) -> Urgency {
        Urgency::fixed(Rank::at(request.arrival))
    }

    fn name(&self) -> &'static str {
        "fifo"
    }
}
