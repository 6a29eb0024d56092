//! The router alone: which of three instances takes the next request.
//!
//! `cargo run --example route_only`. Nothing but `sagellm-routing` and `sagellm-types` is needed.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use sagellm_routing::{Router, RouterConfig, RouterError};
use sagellm_types::{
    Candidate, CandidateSet, EstimateCache, InstanceId, Load, NoEstimates, Request, Seed,
    Timestamp, Tokens, UserId, stable_hash,
};

/// What the caller knows of its fleet: names, and how much runs where.
const FLEET: [(&str, u32); 3] = [("vllm-1", 5), ("vllm-2", 1), ("vllm-3", 3)];

fn main() -> Result<(), RouterError> {
    for name in ["load_balanced", "power_of_two", "round_robin", "affinity", "locality"] {
        println!("{name:14} {}", picks(name)?.join(" "));
    }
    Ok(())
}

/// Returns the instances that the router called `name` picks for four requests of one user.
fn picks(name: &str) -> Result<Vec<&'static str>, RouterError> {
    let candidate = |(i, (name, sequences)): (usize, &(&str, u32))| Candidate {
        id: InstanceId::new(i as u32, 0),
        key: stable_hash(name.as_bytes(), 0),
        load: Load {
            sequences: *sequences,
            tokens: Tokens(u64::from(*sequences) * 1_000),
            window: 8,
            capacity: Tokens(10_000),
            ..Load::default()
        },
        cached_prefix: Tokens::ZERO,
    };
    let fleet: Vec<Candidate> = FLEET.iter().enumerate().map(candidate).collect();
    let request = Request { user: Some(UserId::of("ann")), ..Request::example(0) };
    let mut router = RouterConfig::parse(name)?.build(Seed(7));
    let picked = (0..4).map(|_| pick(router.as_mut(), &fleet, &request));
    Ok(picked.map(|id| FLEET[id.index()].0).collect())
}

/// Asks the router, after the caller's own rules: here, room for the request.
fn pick(router: &mut dyn Router, fleet: &[Candidate], request: &Request) -> InstanceId {
    let (need, mut cache) = (request.forecast.total(), EstimateCache::default());
    let now = Timestamp::ZERO;
    let allowed =
        CandidateSet::new(fleet, request, now, &NoEstimates, &mut cache, |c| c.load.fits(need));
    let candidates = allowed.offer().expect("one of the three has room");
    router.pick(request, candidates, now)
}

#[cfg(test)]
mod tests {
    use super::picks;

    #[test]
    fn load_decides_or_the_turn_or_the_user() {
        assert_eq!(picks("load_balanced"), Ok(vec!["vllm-2"; 4]));
        assert_eq!(picks("round_robin"), Ok(vec!["vllm-1", "vllm-2", "vllm-3", "vllm-1"]));
        for name in ["affinity", "locality"] {
            let picked = picks(name).expect("a known name");
            assert!(picked.iter().all(|instance| *instance == picked[0]), "{name}: {picked:?}");
        }
        assert!(picks("best").is_err());
    }
}
