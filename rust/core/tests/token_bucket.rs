//! Which requests pass a rate limit: the shared vectors, a slow model, and what threads do to it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use agentapi_core::token_bucket::{
    Decision, Limit, LimitError, MAX_REQUESTS, MAX_WINDOW_NS, Outcome, Request, TokenBuckets, TooManyRequests,
};
use proptest::prelude::*;
use serde_json::Value;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

fn default_limit() -> Limit {
    Limit::new(60, MINUTE, 10).unwrap()
}

fn decision(outcome: Outcome, remaining: u32, retry_after_ns: u64, reset_ns: u64) -> Decision {
    Decision {
        outcome,
        remaining,
        retry_after_ns,
        reset_ns,
    }
}

#[test]
fn buckets_are_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<TokenBuckets>();
}

// The vectors.

fn outcome_of(value: &Value) -> Outcome {
    match value.as_str().unwrap() {
        "allowed" => Outcome::Allowed,
        "refused" => Outcome::Refused,
        "never_fits" => Outcome::NeverFits,
        other => panic!("{other}"),
    }
}

fn decision_of(value: &Value) -> Decision {
    decision(
        outcome_of(&value["outcome"]),
        u32::try_from(value["remaining"].as_u64().unwrap()).unwrap(),
        value["retry_after_ns"].as_u64().unwrap(),
        value["reset_ns"].as_u64().unwrap(),
    )
}

/// What the vectors say, at times moved by `offset_ns`; a single request is made in both ways.
fn replay(offset_ns: u64) {
    let text = include_str!("../../../tests/vectors/token_bucket.json");
    let document: Value = serde_json::from_str(text).unwrap();
    let cases = document["cases"].as_array().unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let (singly, together) = (TokenBuckets::new(100), TokenBuckets::new(100));
        for step in case["steps"].as_array().unwrap() {
            let now = step["now_ns"].as_u64().unwrap() + offset_ns;
            let number =
                |request: &Value, name: &str| u32::try_from(request[name].as_u64().unwrap()).unwrap();
            let requests: Vec<Request<'_>> = step["requests"]
                .as_array()
                .unwrap()
                .iter()
                .map(|request| Request {
                    key: request["key"].as_str().unwrap().as_bytes(),
                    limit: Limit::new(
                        number(request, "count"),
                        request["period_ns"].as_u64().unwrap(),
                        number(request, "burst"),
                    )
                    .unwrap(),
                    cost: number(request, "cost"),
                })
                .collect();
            let wanted: Vec<Decision> = step["each"].as_array().unwrap().iter().map(decision_of).collect();
            let decisions = together.acquire_many(&requests, now).unwrap();
            assert_eq!(decisions.each, wanted, "{} {step}", case["name"]);
            assert_eq!(decisions.outcome, outcome_of(&step["outcome"]));
            assert_eq!(Some(decisions.retry_after_ns), step["retry_after_ns"].as_u64());
            if let [only] = requests.as_slice() {
                let decided = singly.acquire(only.key, only.limit, only.cost, now);
                assert_eq!(decided, wanted[0], "{} {step}", case["name"]);
            } else {
                singly.acquire_many(&requests, now).unwrap();
            }
        }
    }
}

#[test]
fn decides_as_the_vectors_say() {
    replay(0);
}

#[test]
fn decides_alike_at_any_time() {
    replay(1_800_000_000 * SECOND);
}

// A model that keeps every token: each one taken has a moment at which it comes back.

struct Model {
    burst: usize,
    interval_ns: u64,
    coming_back: VecDeque<u64>,
    seen_ns: u64,
}

impl Model {
    fn acquire(&mut self, cost: usize, now: u64) -> Decision {
        let later = self.seen_ns.max(now);
        self.coming_back.retain(|at| *at > later);
        self.seen_ns = if self.coming_back.is_empty() { now } else { later };
        let now = self.seen_ns;
        let there = self.burst - self.coming_back.len();
        let (outcome, retry_after_ns) = if cost > self.burst {
            (Outcome::NeverFits, 0)
        } else if cost > there {
            (Outcome::Refused, self.coming_back[cost - there - 1] - now)
        } else {
            for _ in 0..cost {
                let last = self.coming_back.back().copied().unwrap_or(now);
                self.coming_back.push_back(last + self.interval_ns);
            }
            (Outcome::Allowed, 0)
        };
        decision(
            outcome,
            u32::try_from(self.burst - self.coming_back.len()).unwrap(),
            retry_after_ns,
            self.coming_back.back().map_or(0, |at| at - now),
        )
    }
}

proptest! {
    #[test]
    fn decides_as_a_model_that_keeps_every_token(
        count in 1_u32..200,
        period_ns in 1_000_000_u64..10 * SECOND,
        burst in 1_u32..20,
        start in 0..u64::MAX / 4,
        steps in prop::collection::vec((0_u32..25, -50_000_000_i64..200_000_000), 1..60),
    ) {
        let limit = Limit::new(count, period_ns, burst).unwrap();
        let buckets = TokenBuckets::new(10);
        let mut model = Model {
            burst: burst as usize,
            interval_ns: limit.interval_ns(),
            coming_back: VecDeque::new(),
            seen_ns: 0,
        };
        let mut now = start;
        for (cost, step) in steps {
            now = now.saturating_add_signed(step);
            prop_assert_eq!(
                buckets.acquire(b"key", limit, cost, now),
                model.acquire(cost as usize, now)
            );
        }
    }

    #[test]
    fn never_admits_more_than_the_burst_and_the_rate(
        count in 1_u32..200,
        period_ns in 1_000_000_u64..10 * SECOND,
        burst in 1_u32..20,
        steps in prop::collection::vec((1_u32..4, 0..50_000_000_u64), 1..200),
    ) {
        let limit = Limit::new(count, period_ns, burst).unwrap();
        let buckets = TokenBuckets::new(10);
        let (mut now, mut admitted) = (0_u64, 0_u64);
        for (cost, step) in steps {
            now += step;
            if buckets.acquire(b"key", limit, cost, now).outcome == Outcome::Allowed {
                admitted += u64::from(cost);
            }
            let period_ns = u128::from(period_ns);
            let most = u128::from(burst) * period_ns + u128::from(now) * u128::from(count);
            prop_assert!(u128::from(admitted) * period_ns <= most);
        }
    }

    #[test]
    fn the_promised_wait_is_exact(
        count in 1_u32..200,
        burst in 2_u32..20,
        cost in 1_u32..20,
    ) {
        prop_assume!(cost <= burst);
        let limit = Limit::new(count, MINUTE, burst).unwrap();
        let buckets = TokenBuckets::new(10);
        let all = buckets.acquire(b"key", limit, burst, SECOND);
        prop_assert_eq!(all.outcome, Outcome::Allowed);
        let wait = buckets.acquire(b"key", limit, cost, SECOND).retry_after_ns;
        prop_assert_eq!(buckets.acquire(b"key", limit, cost, SECOND + wait - 1).outcome, Outcome::Refused);
        prop_assert_eq!(buckets.acquire(b"key", limit, cost, SECOND + wait).outcome, Outcome::Allowed);
    }
}

// Limits.

#[test]
fn limits_have_bounds() {
    assert_eq!(Limit::new(0, MINUTE, 1), Err(LimitError::Zero));
    assert_eq!(Limit::new(1, 0, 1), Err(LimitError::Zero));
    assert_eq!(Limit::new(1, MINUTE, 0), Err(LimitError::Zero));
    assert_eq!(Limit::new(1_000_001, SECOND, 1), Err(LimitError::TooFast));
    assert_eq!(Limit::new(1_000_000, SECOND, 1).unwrap().interval_ns(), 1000);
    assert_eq!(Limit::new(1, MAX_WINDOW_NS, 2), Err(LimitError::TooSlow));
    assert_eq!(Limit::new(1, u64::MAX, 1), Err(LimitError::TooSlow));
    assert_eq!(Limit::new(u32::MAX, u64::MAX, u32::MAX), Err(LimitError::TooSlow));
    assert_eq!(Limit::new(1, MAX_WINDOW_NS, 1).unwrap().burst(), 1);
    assert_eq!(Limit::new(7, SECOND, 3).unwrap().interval_ns(), 142_858_000);
}

#[test]
fn the_end_of_time_is_no_trouble() {
    let buckets = TokenBuckets::new(10);
    let limit = Limit::new(1, MAX_WINDOW_NS, 1).unwrap();
    for now in [u64::MAX - 1, u64::MAX, 0] {
        let _ = buckets.acquire(b"key", limit, 1, now);
        let _ = buckets.acquire_many(
            &[Request {
                key: b"key",
                limit,
                cost: 1,
            }],
            now,
        );
    }
}

#[test]
fn a_request_has_a_bounded_number_of_limits() {
    let request = Request {
        key: b"key",
        limit: default_limit(),
        cost: 0,
    };
    let buckets = TokenBuckets::new(10);
    assert!(buckets.acquire_many(&[request; MAX_REQUESTS], 0).is_ok());
    assert_eq!(
        buckets.acquire_many(&[request; MAX_REQUESTS + 1], 0),
        Err(TooManyRequests)
    );
}

// Memory.

#[test]
fn full_buckets_are_forgotten_first() {
    let buckets = TokenBuckets::new(8);
    let limit = default_limit();
    let empty = |key: &str, now| buckets.acquire(key.as_bytes(), limit, 10, now).outcome == Outcome::Allowed;
    for number in 0..4 {
        assert!(empty(&format!("old {number}"), 0));
    }
    for number in 0..4 {
        assert!(empty(&format!("new {number}"), 9 * SECOND));
    }
    // At ten seconds the old ones are full again, so that four keys find room without a loss.
    for number in 4..8 {
        assert!(empty(&format!("new {number}"), 10 * SECOND));
    }
    assert_eq!((buckets.len(), buckets.evicted()), (8, 0));
    for number in 0..8 {
        assert!(!empty(&format!("new {number}"), 10 * SECOND));
    }
}

#[test]
fn without_a_full_bucket_the_one_that_is_soonest_full_goes() {
    let buckets = TokenBuckets::new(4);
    let limit = default_limit();
    for (key, cost) in [("a", 5), ("b", 2), ("c", 9), ("d", 4), ("e", 9)] {
        assert_eq!(
            buckets.acquire(key.as_bytes(), limit, cost, 0).outcome,
            Outcome::Allowed
        );
    }
    assert_eq!((buckets.len(), buckets.evicted()), (4, 1));
    let left = |key: &str| buckets.acquire(key.as_bytes(), limit, 0, 0).remaining;
    assert_eq!(["a", "b", "c", "d", "e"].map(left), [5, 10, 1, 6, 1]);
}

#[test]
fn looking_and_refusing_cost_no_memory() {
    let buckets = TokenBuckets::new(100);
    for number in 0..50_u8 {
        let _ = buckets.acquire(&[number], default_limit(), 0, 0);
        let _ = buckets.acquire(&[number], default_limit(), 11, 0);
        let request = Request {
            key: &[number],
            limit: default_limit(),
            cost: 11,
        };
        let _ = buckets.acquire_many(&[request], 0);
    }
    assert!(buckets.is_empty());
}

#[test]
fn a_flood_of_keys_stays_within_the_capacity() {
    let buckets = TokenBuckets::new(1000);
    for number in 0..20_000_u64 {
        let _ = buckets.acquire(&number.to_le_bytes(), default_limit(), 1, number * 1000);
        assert!(buckets.len() <= 1000);
    }
    assert!(buckets.evicted() > 0);
}

#[test]
fn full_buckets_do_not_pile_up() {
    let buckets = TokenBuckets::new(100_000);
    for number in 0..100_000_u64 {
        // Each bucket is full again after a second, so that a thousand are not full at any time.
        let _ = buckets.acquire(&number.to_le_bytes(), default_limit(), 1, number * SECOND / 1000);
    }
    assert!(buckets.len() < 10_000, "{}", buckets.len());
    assert_eq!(buckets.evicted(), 0);
}

// Threads.

#[test]
fn threads_lose_no_token_and_find_none() {
    const THREADS: u64 = 8;
    const TRIES: u64 = 20_000;
    let buckets = TokenBuckets::new(1000);
    let limit = Limit::new(1000, SECOND, 500).unwrap();
    let clock = AtomicU64::new(SECOND);
    let taken: u64 = std::thread::scope(|scope| {
        let worker = || {
            (0..TRIES)
                .filter(|_| {
                    // The clock is read before the bucket is locked, so that times arrive out of order.
                    let now = clock.fetch_add(1000, Ordering::Relaxed);
                    buckets.acquire(b"shared", limit, 1, now).outcome == Outcome::Allowed
                })
                .count() as u64
        };
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    // 160,000 tries in 160 ms of that clock: the burst and a token each millisecond.
    let last = SECOND + (THREADS * TRIES - 1) * 1000;
    let theory = 500 + (last - SECOND) / limit.interval_ns();
    assert!((theory - 1..=theory).contains(&taken), "{taken} of {theory}");
}

#[test]
fn threads_take_from_all_limits_or_from_none() {
    let buckets = TokenBuckets::new(10_000);
    let limit = Limit::new(1, 3600 * SECOND, 1000).unwrap();
    let keys: Vec<String> = (0..6).map(|number| format!("key {number}")).collect();
    let taken = [const { AtomicU64::new(0) }; 6];
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let (buckets, keys, taken) = (&buckets, &keys, &taken);
            scope.spawn(move || {
                for round in 0..2000_usize {
                    // In every order, so that a wrong order of locks would stop the threads for ever.
                    let chosen =
                        [thread + round, thread * 3 + round / 2 + 1, thread + 2 * round + 3].map(|at| at % 6);
                    let requests = chosen.map(|at| Request {
                        key: keys[at].as_bytes(),
                        limit,
                        cost: 1,
                    });
                    if buckets.acquire_many(&requests, 0).unwrap().outcome == Outcome::Allowed {
                        for at in chosen {
                            taken[at].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    for (key, taken) in keys.iter().zip(&taken) {
        let left = buckets.acquire(key.as_bytes(), limit, 0, 0).remaining;
        assert_eq!(u64::from(left) + taken.load(Ordering::Relaxed), 1000, "{key}");
    }
    assert!(taken.iter().any(|taken| taken.load(Ordering::Relaxed) == 1000));
}
