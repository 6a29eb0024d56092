//! Bugs that can be switched on, one at a time, to see whether the checks find them.
//!
//! Without the feature `planted` there are none: [`is`] is `false` for the compiler, and the code
//! behind it is left out. Nothing but the property runs switches the feature on.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The charge of an attempt that has failed is kept.
    ChargeNotReleased = 1,
    /// The charge of an attempt that was given up is kept.
    LingeringChargeKept,
    /// A failed request is ended twice.
    EndedTwice,
    /// An instance that is being drained is offered.
    OfferedWhileDraining,
    /// An answer to a probe of an earlier life is believed.
    StaleProbeBelieved,
    /// An engine counts one KV block too few for a sequence that grows.
    BlockTooFew,
    /// An engine keeps the blocks of a sequence that was aborted.
    BlocksKept,
    /// Ranks are not asked for anew when the strategy changes.
    RanksKept,
    /// A client that leaves while it waits stays in the queue.
    CancelledStaysWaiting,
    /// A charge that grows is not booked with its instance.
    GrowthNotBooked,
    /// An instance is kept free for a request that has gone elsewhere.
    HoldKept,
    /// The end of a request that has expired is not told.
    ExpiryNotTold,
    /// A prompt that has been computed counts as one to be computed.
    PrefillKept,
    /// A promise is kept after its request is gone.
    PromiseKept,
    /// A refused request is counted twice.
    RefusalCountedTwice,
}

impl Bug {
    /// All bugs.
    pub const ALL: [Self; 15] = [
        Self::ChargeNotReleased,
        Self::LingeringChargeKept,
        Self::EndedTwice,
        Self::OfferedWhileDraining,
        Self::StaleProbeBelieved,
        Self::BlockTooFew,
        Self::BlocksKept,
        Self::RanksKept,
        Self::CancelledStaysWaiting,
        Self::GrowthNotBooked,
        Self::HoldKept,
        Self::ExpiryNotTold,
        Self::PrefillKept,
        Self::PromiseKept,
        Self::RefusalCountedTwice,
    ];
}

#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants a bug in place of any other; none takes it out again.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::SeqCst);
    }

    /// Returns whether a bug is planted.
    pub fn is(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }
}

#[cfg(feature = "planted")]
pub use switch::{is, plant};

/// Returns whether a bug is planted: never, without the feature.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}
