//! Of too many instances, those that a router wants to see.

use sagellm_types::{Candidate, InstanceId};

/// How many are shown.
const MOST: usize = 8;

/// Appends the few of `open` with the least keys, the least first; those without a key are left out.
/// O(open).
pub(crate) fn append_least<K: PartialOrd>(
    open: &[Candidate],
    out: &mut Vec<InstanceId>,
    key: impl Fn(&Candidate) -> Option<K>,
) {
    let mut best: Vec<(K, InstanceId)> = Vec::with_capacity(MOST + 1);
    for candidate in open {
        let Some(key) = key(candidate) else { continue };
        if best.len() < MOST || key < best[best.len() - 1].0 {
            let place = best.partition_point(|(other, _)| *other <= key);
            best.insert(place, (key, candidate.id));
            best.truncate(MOST);
        }
    }
    out.extend(best.into_iter().map(|(_, id)| id));
}
