//! Whether prefill and decode of a request are split over different instances.
//!
//! A [`Placer`] answers [`Placement::Colocated`] (one instance runs the whole request, and the
//! phase says which roles may) or [`Placement::Split`]. It never picks the instances.
//!
//! ```
//! use sagellm_pd::{Placement, PhasePlacer, Placer, RolesOfModel};
//! use sagellm_types::{PdSeparationConfig, Phase, Request, Timestamp, Tokens};
//!
//! let config = PdSeparationConfig { enable_kv_cache_transfer: false, ..Default::default() };
//! let mut placer = PhasePlacer::new(config);
//! let roles = RolesOfModel { whole: 1, prefilling: 1, decoding: 2 };
//! let mut request = Request::example(0);
//! request.forecast.prompt = Tokens(4_000);
//! let placement = placer.place(&request, &roles, Timestamp::ZERO);
//! assert_eq!(placement, Placement::Colocated(Phase::Prefilling));
//! ```

mod phase;
mod placer;

pub use phase::phase;
pub use placer::{Colocated, HandOverNeeded, PhasePlacer, Placement, Placer, RolesOfModel};
