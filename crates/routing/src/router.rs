//! The contract between a router and whoever drives it.

use sagellm_types::{Candidate, Candidates, InstanceId, Places, Request, Timestamp};

/// Picks the instance that takes a request.
///
/// ```
/// use sagellm_routing::Router;
/// use sagellm_types::{Candidates, InstanceId, Request, Timestamp};
///
/// /// The instance with the most free KV tokens.
/// struct Roomiest;
///
/// impl Router for Roomiest {
///     fn pick(&mut self, _: &Request, candidates: Candidates<'_>, _: Timestamp) -> InstanceId {
///         candidates.least_by(|c| std::cmp::Reverse(c.load.capacity.saturating_sub(c.load.tokens))).id
///     }
/// }
/// # let _: Box<dyn Router> = Box::new(Roomiest);
/// ```
pub trait Router: Send {
    /// Returns one of `candidates`, which are never none.
    fn pick(&mut self, request: &Request, candidates: Candidates<'_>, now: Timestamp)
    -> InstanceId;

    /// Appends the instances of `open` that the router wants to see for `request` when there are
    /// too many to show all of them.
    fn favourites(
        &self,
        request: &Request,
        open: &[Candidate],
        places: &Places,
        out: &mut Vec<InstanceId>,
    ) {
        let _ = (request, open, places, out);
    }

    /// Returns the name under which decisions are explained.
    fn name(&self) -> &'static str {
        "custom"
    }
}

/// A router is used through a trait object.
const _: Option<&dyn Router> = None;
