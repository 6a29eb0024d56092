//! Small `Copy` ids. Names (client ids, URLs, models) live in tables at the edge.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! slot_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        ///
        /// An index with a generation: the index is used again after its owner has gone, the
        /// generation tells the two apart, so that a late event never meets a stranger.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            index: u32,
            generation: u32,
        }

        impl $name {
            /// Returns the id of slot `index` in its `generation`.
            pub const fn new(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }

            /// Returns the slot, for use as an array index.
            pub const fn index(self) -> usize {
                self.index as usize
            }

            /// Returns how often the slot was used before.
            pub const fn generation(self) -> u32 {
                self.generation
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.index)?;
                if self.generation > 0 { write!(f, ".{}", self.generation) } else { Ok(()) }
            }
        }
    };
}

slot_id! {
    /// A request inside the control plane.
    RequestId, "r"
}
slot_id! {
    /// A registered engine instance.
    InstanceId, "i"
}

/// A served model or adapter, by its place in the table of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub u32);

/// How often an instance came to life: grows at registration and at each Down → Ready, so that an
/// event of an earlier life can be told and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u32);

impl Incarnation {
    /// Returns the next life.
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// One try of one request on one instance. Retries, hedges and the two legs of a prefill/decode
/// hand-over are all attempts of the same request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    /// The request that is tried.
    pub request: RequestId,
    /// Which try: 0 is the first.
    pub n: u16,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.request, self.n)
    }
}
