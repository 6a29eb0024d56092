//! Stable 64-bit keys of names and prompts: the same on every machine and in every run.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3;

/// Returns a stable 64-bit hash of `bytes` under `seed` (xxh3).
pub fn stable_hash(bytes: &[u8], seed: u64) -> u64 {
    xxh3::xxh3_64_with_seed(bytes, seed)
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the key of `bytes`.
            pub fn of(bytes: impl AsRef<[u8]>) -> Self {
                Self(stable_hash(bytes.as_ref(), 0))
            }
        }
    };
}

key! {
    /// A user, by a stable hash of the name: nothing has to be kept for a user who is idle.
    UserId
}
key! {
    /// A conversation whose requests profit from the same instance, by a stable hash of its name.
    SessionId
}
key! {
    /// The leading part of a prompt, by a stable hash of its bytes.
    PrefixHash
}
