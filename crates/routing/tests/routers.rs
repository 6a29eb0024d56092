//! What each router promises, over candidates as the control plane offers them.

use std::time::Duration;

use proptest::prelude::*;
use sagellm_routing::{AffinityConfig, LocalityConfig, Router, RouterConfig, TopologyAwareConfig};
use sagellm_types::{
    Candidate, CandidateSet, EstimateCache, ExecutionInstance, InstanceId, Load, NoEstimates,
    Places, PrefixHash, Request, Seed, SessionId, Timestamp, Tokens, UserId, stable_hash,
};

fn fleet(sequences: &[u32]) -> Vec<Candidate> {
    let candidate = |(index, &sequences): (usize, &u32)| Candidate {
        id: InstanceId::new(index as u32, 0),
        key: stable_hash(format!("vllm-{index}").as_bytes(), 0),
        load: Load {
            sequences,
            tokens: Tokens(u64::from(sequences) * 100),
            window: 100,
            capacity: Tokens(100_000),
            weight: 1.0,
            ..Load::default()
        },
        cached_prefix: Tokens::ZERO,
    };
    sequences.iter().enumerate().map(candidate).collect()
}

fn pick(router: &mut dyn Router, fleet: &[Candidate], request: &Request) -> usize {
    pick_at(router, fleet, &Places::new(), request)
}

fn pick_at(
    router: &mut dyn Router,
    fleet: &[Candidate],
    places: &Places,
    request: &Request,
) -> usize {
    let mut cache = EstimateCache::default();
    let set =
        CandidateSet::new(fleet, request, Timestamp::ZERO, &NoEstimates, &mut cache, |_| true);
    let set = set.with_places(places);
    router.pick(request, set.offer().expect("not empty"), Timestamp::ZERO).index()
}

fn build(name: &str) -> Box<dyn Router> {
    RouterConfig::parse(name).expect("known").build(Seed(1))
}

fn user(user: u64) -> Request {
    Request { user: Some(UserId(user)), ..Request::example(0) }
}

fn prefix(prefix: u64) -> Request {
    Request {
        prefix: Some(PrefixHash(stable_hash(&prefix.to_le_bytes(), 0))),
        ..Request::example(0)
    }
}

#[test]
fn load_balanced_takes_the_least_reserved_share() {
    let mut fleet = fleet(&[5, 2, 9]);
    assert_eq!(pick(&mut *build("load_balanced"), &fleet, &user(1)), 1);
    fleet[2].load.window = 1_000;
    fleet[2].load.capacity = Tokens(1_000_000);
    assert_eq!(pick(&mut *build("load_balanced"), &fleet, &user(1)), 2, "relative to capacity");
}

#[test]
fn round_robin_gives_each_its_turn_and_passes_over_the_full() {
    let (mut router, all) = (build("round_robin"), fleet(&[0, 0, 0]));
    let turns: Vec<_> = (0..4).map(|_| pick(&mut *router, &all, &user(1))).collect();
    assert_eq!(turns, [0, 1, 2, 0]);
    let without_1 = [all[2], all[0]];
    assert_eq!(pick(&mut *router, &without_1, &user(1)), 2);
    assert_eq!(pick(&mut *router, &all, &user(1)), 0);
}

#[test]
fn random_reaches_every_instance() {
    let (mut router, all) = (build("random"), fleet(&[0, 0, 0, 0]));
    let mut seen = [0; 4];
    (0..400).for_each(|_| seen[pick(&mut *router, &all, &user(1))] += 1);
    assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
}

#[test]
fn power_of_two_avoids_the_most_loaded() {
    let (mut router, all) = (build("power_of_two"), fleet(&[90, 10, 20, 30]));
    assert!((0..200).all(|_| pick(&mut *router, &all, &user(1)) != 0));
    assert_eq!(pick(&mut *router, &all[..1], &user(1)), 0, "one candidate is enough");
}

#[test]
fn weights_are_kept_exactly_and_turns_are_spread() {
    let (mut router, mut all) = (build("weighted_round_robin"), fleet(&[0, 0, 0]));
    all[0].load.weight = 2.0;
    let turns: Vec<_> = (0..8).map(|_| pick(&mut *router, &all, &user(1))).collect();
    assert_eq!(turns.iter().filter(|&&t| t == 0).count(), 4);
    assert!(turns.windows(3).all(|w| w != [0, 0, 0]), "{turns:?}");
}

#[test]
fn least_connections_and_least_response_time_compare_what_they_say() {
    let mut all = fleet(&[3, 1, 2]);
    assert_eq!(pick(&mut *build("least_connections"), &all, &user(1)), 1);
    for (candidate, ms) in all.iter_mut().zip([30, 20, 10]) {
        candidate.load.latency = Duration::from_millis(ms);
    }
    assert_eq!(pick(&mut *build("least_response_time"), &all, &user(1)), 2);
}

#[test]
fn affinity_holds_until_its_instance_is_overloaded_and_then_moves_for_good() {
    let config = RouterConfig::Affinity(AffinityConfig::default());
    let (mut router, mut all) = (config.build(Seed(1)), fleet(&[0, 0, 0]));
    let home = pick(&mut *router, &all, &user(7));
    all[home].load.sequences = 25;
    assert_eq!(pick(&mut *router, &all, &user(7)), home, "a little more load is fine");
    all[home].load.sequences = 60;
    let moved = pick(&mut *router, &all, &user(7));
    assert_ne!(moved, home);
    all[home].load.sequences = 0;
    assert_eq!(pick(&mut *router, &all, &user(7)), moved, "it does not move back");
}

#[test]
fn affinity_keeps_a_bounded_number_of_ties() {
    let config = AffinityConfig { capacity: 8, ..AffinityConfig::default() };
    let (mut router, all) = (sagellm_routing::Affinity::new(&config), fleet(&[0, 1]));
    (0..100).for_each(|u| {
        pick(&mut router, &all, &user(u));
    });
    let kept = (0..100).filter(|&u| router.tie(&user(u)).is_some()).count();
    assert!((4..=8).contains(&kept), "{kept}");
}

#[test]
fn when_one_of_eight_leaves_an_eighth_of_the_keys_moves() {
    let (mut router, all) = (build("locality"), fleet(&[0; 8]));
    let before: Vec<_> = (0..4_000).map(|key| pick(&mut *router, &all, &prefix(key))).collect();
    let seven: Vec<_> = all.iter().filter(|c| c.id.index() != 3).copied().collect();
    let after: Vec<_> = (0..4_000).map(|key| pick(&mut *router, &seven, &prefix(key))).collect();
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    let owned = before.iter().filter(|&&home| home == 3).count();
    assert_eq!(moved, owned, "only the keys of the one that left move");
    assert!((0.10..0.15).contains(&(moved as f64 / 4_000.0)), "{moved}");
}

#[test]
fn locality_bounds_the_load_of_a_hot_prefix() {
    let config = RouterConfig::Locality(LocalityConfig::default());
    let (mut router, mut all) = (config.build(Seed(1)), fleet(&[0; 4]));
    for _ in 0..80 {
        let home = pick(&mut *router, &all, &prefix(1));
        all[home].load.sequences += 1;
    }
    let most = all.iter().map(|c| c.load.sequences).max().expect("four");
    assert!((25..=31).contains(&most), "1.5 × the mean of 20, no more: {most}");
}

#[test]
fn favourites_of_locality_hold_its_pick() {
    let (mut router, all) = (build("locality"), fleet(&[0; 64]));
    for key in 0..50 {
        let mut favourites = Vec::new();
        router.favourites(&prefix(key), &all, &Places::new(), &mut favourites);
        let home = pick(&mut *router, &all, &prefix(key));
        assert_eq!(favourites[0].index(), home);
    }
}

/// Returns where eight instances are: two machines of four, each of two NVLink pairs; both machines
/// in one rack, and a ninth instance in another.
fn two_machines() -> Places {
    let mut places = Places::new();
    for slot in 0..9u32 {
        let spec = ExecutionInstance {
            machine_id: Some(format!("m{}", slot / 4)),
            rack_id: Some(format!("r{}", slot / 8)),
            nvlink_peers: vec![format!("i{}", slot ^ 1)],
            ..ExecutionInstance::new(format!("i{slot}"), "h", 1, "m")
        };
        places.insert(InstanceId::new(slot, 0), &spec);
    }
    places
}

fn session(session: u64) -> Request {
    Request { session: Some(SessionId(session)), ..user(7) }
}

#[test]
fn topology_aware_stays_and_under_overload_goes_no_farther_than_it_must() {
    let (places, mut router) = (two_machines(), build("topology_aware"));
    let mut all = fleet(&[0, 9, 9, 9, 9, 9, 9, 9, 9]);
    let mut go = |all: &[Candidate]| pick_at(&mut *router, all, &places, &session(1));
    assert_eq!(go(&all), 0, "the least loaded, since nobody has served it");
    all[0].load.sequences = 30;
    assert_eq!(go(&all), 0, "a little more load is fine");
    all[0].load.sequences = 60;
    assert_eq!(go(&all), 1, "its NVLink peer");
    all[1].load.sequences = 60;
    all[2].load.sequences = 20;
    assert_eq!(go(&all), 3, "the less loaded of its machine");
    (all[2].load.sequences, all[3].load.sequences, all[8].load.sequences) = (60, 60, 0);
    assert_eq!(go(&all), 4, "its rack, where all are alike, not the least loaded far away");
    all.iter_mut().for_each(|candidate| candidate.load.sequences = 60);
    all[8].load.sequences = 0;
    assert_eq!(go(&all), 8, "anywhere");
}

#[test]
fn what_a_request_prefers_its_conversation_and_its_user_are_its_reference_in_this_order() {
    let (places, mut router) = (two_machines(), build("topology_aware"));
    let all = fleet(&[9, 9, 9, 9, 9, 0, 9, 9, 9]);
    let mut go = |request: &Request| pick_at(&mut *router, &all, &places, request);
    assert_eq!(go(&session(1)), 5);
    assert_eq!(go(&session(2)), 5, "the user's last");
    let preferred = Request { preferred: Some(InstanceId::new(2, 0)), ..session(2) };
    assert_eq!(go(&preferred), 2);
    assert_eq!(go(&session(2)), 2);
    assert_eq!(go(&session(1)), 5, "its conversation's last, though its user was at 2 since");
    assert_eq!(go(&Request { user: None, ..session(3) }), 5, "nobody knows it: the least loaded");
}

#[test]
fn a_reference_that_has_no_room_is_represented_by_those_near_it() {
    let (places, mut router) = (two_machines(), build("topology_aware"));
    let mut all = fleet(&[0, 0, 0, 0, 5, 5, 5, 5, 0]);
    let full = all.remove(6);
    let preferred = Request { preferred: Some(full.id), ..user(1) };
    assert_eq!(pick_at(&mut *router, &all, &places, &preferred), 7);
    let mut favourites = Vec::new();
    router.favourites(&preferred, &all, &places, &mut favourites);
    let shown: Vec<usize> = favourites.iter().map(|id| id.index()).collect();
    assert_eq!(shown, [7, 4, 5, 0, 1, 2, 3], "its peer, its machine, its rack");
}

#[test]
fn topology_aware_keeps_a_bounded_number_of_those_it_served() {
    let config = TopologyAwareConfig { capacity: 8, ..TopologyAwareConfig::default() };
    let (mut router, all) = (sagellm_routing::TopologyAware::new(&config), fleet(&[0, 1]));
    (0..100).for_each(|u| {
        pick(&mut router, &all, &user(u));
    });
    let kept = (0..100).filter(|&u| router.reference(&user(u)).is_some()).count();
    assert!((4..=8).contains(&kept), "{kept}");
}

proptest! {
    /// Whoever is picked is at most `overload` fuller than the least loaded, and nobody else who is
    /// as little loaded is nearer to the reference.
    #[test]
    fn nobody_nearer_is_passed_over_without_need(
        loads in prop::collection::vec(0u32..100, 9),
        present in prop::collection::vec(any::<bool>(), 9),
        reference in 0u32..9,
        overload in 0.0f64..1.0,
    ) {
        let config = TopologyAwareConfig { overload, ..TopologyAwareConfig::default() };
        let mut router = RouterConfig::TopologyAware(config).build(Seed(1));
        let (places, mut all) = (two_machines(), fleet(&loads));
        all.retain(|candidate| present[candidate.id.index()]);
        prop_assume!(!all.is_empty());
        let reference = InstanceId::new(reference, 0);
        let request = Request { preferred: Some(reference), ..user(1) };
        let picked = pick_at(&mut *router, &all, &places, &request);
        let load = |c: &Candidate| c.load.fraction();
        let least = all.iter().map(load).fold(f64::INFINITY, f64::min);
        let distance = |id: InstanceId| places.distance(reference, id);
        let nearest = all
            .iter()
            .filter(|c| load(c) - least <= overload)
            .map(|c| distance(c.id))
            .min();
        let picked = all.iter().find(|c| c.id.index() == picked).expect("a candidate");
        prop_assert!(load(picked) - least <= overload);
        prop_assert_eq!(Some(distance(picked.id)), nearest);
    }
}
