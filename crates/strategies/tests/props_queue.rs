//! The queue against the plainest model of it: a list that is searched every time.

use proptest::prelude::*;
use sagellm_strategies::queue::{FairnessConfig, PoolId, Queue};
use sagellm_strategies::{Rank, Urgency};
use sagellm_types::{Request, RequestId, RequestPriority, Timestamp, Tokens, UserId};

#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        pool: u8,
        user: u8,
        level: u8,
        rank: u8,
        expires: Option<u8>,
        prompt: u8,
    },
    /// The head of a pool is served.
    Serve(u8),
    /// Somebody leaves unserved.
    Remove(u8),
    /// A served request turns out to have used more or less.
    Settle(u8, u8),
    /// Every rank is asked for again.
    Rebuild(u8),
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let push = (any::<[u8; 5]>(), proptest::option::weighted(0.3, any::<u8>()));
    prop_oneof![
        4 => push.prop_map(|([pool, user, level, rank, prompt], expires)| {
            Step::Push { pool: pool % 2, user: user % 4, level: level % 5, rank, expires, prompt }
        }),
        3 => (0..2u8).prop_map(Step::Serve),
        1 => any::<u8>().prop_map(Step::Remove),
        1 => any::<(u8, u8)>().prop_map(|(which, used)| Step::Settle(which, used)),
        1 => any::<u8>().prop_map(Step::Rebuild),
        1 => (0..20u8).prop_map(Step::Pass),
    ]
}

/// A waiting request as the model keeps it.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: Request,
    pool: usize,
    rank: Rank,
    valid_until: Timestamp,
    sequence: u64,
}

/// What a rank becomes when it has run out.
fn later(request: &Request) -> Urgency {
    Urgency::fixed(Rank::at(request.arrival).behind())
}

fn head_of(waiting: &[Waiting], pool: usize) -> Option<(RequestId, Rank)> {
    let own = waiting.iter().filter(|w| w.pool == pool);
    own.min_by_key(|w| (w.rank, w.sequence)).map(|w| (w.request.id, w.rank))
}

proptest! {
    #[test]
    fn without_fairness_the_least_rank_goes_first(steps in proptest::collection::vec(step(), 1..120)) {
        let mut queue = Queue::new(None);
        let pools = [queue.add_pool(), queue.add_pool()];
        let (mut model, mut now, mut sequence): (Vec<Waiting>, _, _) = (Vec::new(), Timestamp::ZERO, 0);
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push { pool, level, rank, expires, .. } => {
                    let priority = RequestPriority::ALL[usize::from(level)];
                    let arrival = Timestamp::from_secs(rank.into());
                    let request = Request { priority, arrival, ..Request::example(index as u32) };
                    let valid_until = expires.map_or(Timestamp::MAX, |at| Timestamp::from_millis(at.into()));
                    let urgency = Urgency { rank: Rank::at(arrival), valid_until };
                    queue.push(pools[usize::from(pool)], &request, urgency);
                    sequence += 1;
                    let rank = urgency.rank;
                    model.push(Waiting { request, pool: pool.into(), rank, valid_until, sequence });
                }
                Step::Serve(pool) => {
                    let pool = usize::from(pool);
                    let head = head(&mut queue, pools[pool], &model, now);
                    // Ranks that have run out are asked for again at the head, one after the other.
                    while let Some(first) = head_of(&model, pool) {
                        let found = model.iter_mut().find(|w| w.request.id == first.0).expect("waits");
                        if found.valid_until >= now {
                            break;
                        }
                        let fresh = later(&found.request);
                        (found.rank, found.valid_until) = (fresh.rank, fresh.valid_until);
                    }
                    prop_assert_eq!(head, head_of(&model, pool));
                    if let Some((id, _)) = head {
                        prop_assert_eq!(queue.serve(id), Some(0));
                        prop_assert_eq!(queue.serve(id), None, "served once");
                        model.retain(|w| w.request.id != id);
                    }
                }
                Step::Remove(which) if !model.is_empty() => {
                    let gone = model.swap_remove(usize::from(which) % model.len());
                    prop_assert!(queue.remove(gone.request.id));
                    prop_assert!(!queue.remove(gone.request.id), "removed once");
                }
                Step::Rebuild(factor) => {
                    let rank = |id: RequestId| {
                        Rank::at(Timestamp::from_nanos(id.index() as u64 * u64::from(factor) % 251))
                    };
                    queue.rebuild(|id| Urgency::fixed(rank(id)));
                    for waiting in &mut model {
                        (waiting.rank, waiting.valid_until) = (rank(waiting.request.id), Timestamp::MAX);
                    }
                }
                Step::Pass(ms) => now = Timestamp::from_millis(now.as_nanos() / 1_000_000 + u64::from(ms)),
                Step::Remove(_) | Step::Settle(..) => {}
            }
            prop_assert_eq!(queue.len(), model.len());
            for (place, &pool) in pools.iter().enumerate() {
                let own = model.iter().filter(|w| w.pool == place);
                prop_assert_eq!(queue.pool_len(pool), own.count());
            }
        }
    }

    #[test]
    fn with_fairness_the_user_who_was_served_least_goes_first(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let fairness = FairnessConfig { input_weight: 1, output_weight: 2, level_weight: 500 };
        let mut queue = Queue::new(Some(fairness.clone()));
        let pool = queue.add_pool();
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut counters = [0_u64; 4];
        let mut floor = 0;
        for (index, step) in steps.into_iter().enumerate() {
            let user_of = |w: &Waiting| w.request.user.expect("all have one").0 as usize;
            let least = |waiting: &[Waiting], counters: &[u64; 4]| {
                waiting.iter().map(|w| counters[user_of(w)]).min()
            };
            match step {
                Step::Push { user, level, rank, prompt, .. } => {
                    let user = usize::from(user);
                    if !waiting.iter().any(|w| user_of(w) == user) {
                        let start = least(&waiting, &counters).unwrap_or(floor);
                        counters[user] = counters[user].max(start);
                    }
                    let mut request = Request {
                        user: Some(UserId(user as u64)),
                        priority: RequestPriority::ALL[usize::from(level)],
                        ..Request::example(index as u32)
                    };
                    request.forecast.prompt = Tokens(prompt.into());
                    let rank = Rank::at(Timestamp::from_millis(rank.into()));
                    queue.push(pool, &request, Urgency::fixed(rank));
                    let valid_until = Timestamp::MAX;
                    waiting.push(Waiting { request, pool: 0, rank, valid_until, sequence: index as u64 });
                }
                Step::Serve(_) => {
                    let level = |user: usize| {
                        let own = waiting.iter().filter(|w| user_of(w) == user);
                        own.map(|w| w.request.priority.level()).min()
                    };
                    let turns = (0..4).filter_map(|user| Some(counters[user] + 500 * level(user)? as u64));
                    let first = turns.min();
                    let head = head(&mut queue, pool, &waiting, Timestamp::ZERO);
                    prop_assert_eq!(head.is_some(), first.is_some());
                    let Some((id, _)) = head else { continue };
                    let served = *waiting.iter().find(|w| w.request.id == id).expect("waits");
                    let user = user_of(&served);
                    let turn = counters[user] + 500 * level(user).expect("waits") as u64;
                    prop_assert_eq!(Some(turn), first, "the least turn goes first");
                    let own = waiting.iter().filter(|w| user_of(w) == user);
                    let best = own.min_by_key(|w| (w.rank, w.sequence)).expect("waits");
                    prop_assert_eq!(best.request.id, id, "within a user by rank");
                    let weight = fairness.forecast(&served.request.forecast);
                    prop_assert_eq!(queue.serve(id), Some(weight));
                    counters[user] += weight;
                    waiting.retain(|w| w.request.id != id);
                    floor = floor.max(least(&waiting, &counters).unwrap_or(counters[user]));
                }
                Step::Remove(which) if !waiting.is_empty() => {
                    let gone = waiting.swap_remove(usize::from(which) % waiting.len());
                    prop_assert!(queue.remove(gone.request.id));
                    let own = counters[user_of(&gone)];
                    floor = floor.max(least(&waiting, &counters).unwrap_or(own));
                }
                Step::Settle(which, used) => {
                    // Only of those who wait: what the others owe is not to be seen from outside.
                    let users: Vec<usize> = waiting.iter().map(user_of).collect();
                    let Some(&user) = users.get(usize::from(which) % users.len().max(1)) else { continue };
                    queue.settle(pool, Some(UserId(user as u64)), 100, used.into());
                    counters[user] = counters[user].saturating_add_signed(i64::from(used) - 100);
                    floor = floor.max(least(&waiting, &counters).expect("somebody waits"));
                }
                Step::Remove(_) | Step::Rebuild(_) | Step::Pass(_) => {}
            }
        }
    }
}

fn head(
    queue: &mut Queue,
    pool: PoolId,
    model: &[Waiting],
    now: Timestamp,
) -> Option<(RequestId, Rank)> {
    let ask = |id| later(&model.iter().find(|w| w.request.id == id).expect("waits").request);
    queue.head(pool, now, ask).map(|head| (head.request, head.rank))
}
