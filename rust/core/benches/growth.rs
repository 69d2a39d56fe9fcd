//! How the cost of a decision grows with keys and threads: one line of JSON for each measurement.
//!
//! A round visits keys in an order that no cache can foresee. Not criterion's business: it repeats one call, which
//! keeps that call's memory warm.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "benchmarks"
)]
#![allow(clippy::print_stdout, reason = "the report reads it")]
#![allow(dead_code, unreachable_pub, reason = "shared with the tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use agentapi_core::circuit_breaker::{Circuit, CircuitBreakers, Outcome, Rules};
use agentapi_core::jwt::{IssuerPolicy, Verified};
use agentapi_core::token_bucket::{Limit, TokenBuckets};
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, NOW, Signer, claims_with, verifier_of};
use serde_json::json;

const SIZES: [usize; 4] = [1, 1000, 100_000, 1_000_000];
const THREADS: [usize; 4] = [1, 2, 4, 8];
const ROUNDS: usize = 5;
/// A round of one thread takes about this, so that several run at the same time and not one after the other.
const ROUND_NS: f64 = 5e7;
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// Nanoseconds in which one of `threads` gets a decision: from the first start to the last end of a round.
fn round(threads: usize, calls: u32, keys: usize, seed: usize, decide: &(impl Fn(usize) + Sync)) -> f64 {
    let barrier = Barrier::new(threads);
    let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut state = (seed * threads + thread) as u64 + 1;
                    barrier.wait();
                    let start = Instant::now();
                    for _ in 0..calls {
                        // xorshift64*
                        state ^= state >> 12;
                        state ^= state << 25;
                        state ^= state >> 27;
                        let drawn = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
                        decide(usize::try_from(drawn).unwrap() % keys);
                    }
                    (start, Instant::now())
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let start = spans.iter().map(|(start, _)| *start).min().unwrap();
    let end = spans.iter().map(|(_, end)| *end).max().unwrap();
    (end - start).as_secs_f64() * 1e9 / f64::from(calls)
}

/// The median round.
fn measure(threads: usize, keys: usize, decide: impl Fn(usize) + Sync) -> f64 {
    let first_ns = round(1, 100_000, keys, 0, &decide);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of calls"
    )]
    let calls = (ROUND_NS / first_ns).clamp(50_000.0, 1e7) as u32;
    let mut rounds: Vec<f64> = (1..=ROUNDS)
        .map(|seed| round(threads, calls, keys, seed, &decide))
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn report(what: &str, keys: usize, decide: impl Fn(usize) + Sync) {
    for threads in THREADS {
        let ns = measure(threads, keys, &decide);
        println!(
            "{}",
            json!({"what": what, "keys": keys, "threads": threads, "ns": ns})
        );
    }
}

fn token_cache(keys: usize) {
    let issuer = IssuerPolicy::new(
        ISSUER,
        vec![],
        Some(SECRET.to_vec().into()),
        agentapi_core::claims::ClaimRules::default(),
    )
    .unwrap();
    // Room to spare, as shards fill unevenly.
    let cache: CachingVerifier<Arc<Verified>> =
        CachingVerifier::new(verifier_of(vec![issuer]), keys * 2 + 64);
    let signer = Signer::Secret(SECRET.to_vec());
    let tokens: Vec<String> = (0..keys)
        .map(|number| {
            let token = signer.token("HS256", "k", &claims_with("jti", json!(number.to_string())));
            let verified = cache.verify(&token, AUDIENCE, NOW).unwrap();
            black_box(cache.remember(&token, Arc::new(verified), NOW, Arc::clone)).unwrap();
            token
        })
        .collect();
    report("verified token", keys, |at| {
        let recalled = cache.recall(&tokens[at], AUDIENCE, NOW, Arc::clone);
        black_box(recalled.unwrap().unwrap());
    });
}

fn token_bucket(keys: usize) {
    let limit = Limit::new(1_000_000, 1_000_000_000, 1_000_000_000).unwrap();
    let buckets = TokenBuckets::new(keys * 2 + 64);
    let names: Vec<String> = (0..keys)
        .map(|number| format!("org:0190f7a2/user:{number:08}"))
        .collect();
    for name in &names {
        let _ = buckets.acquire(name.as_bytes(), limit, 1, 0);
    }
    report("token bucket", keys, |at| {
        let _ = black_box(buckets.acquire(names[at].as_bytes(), limit, 1, 0));
    });
}

fn circuit_breaker(keys: usize) {
    let breakers = CircuitBreakers::new(Rules::default(), keys * 2 + 64, 7).unwrap();
    let names: Vec<String> = (0..keys)
        .map(|number| format!("org:{number:08}/upstream:github/call_tool"))
        .collect();
    report("circuit breaker by key", keys, |at| {
        let circuit = breakers.circuit(&names[at], 0);
        let ticket = circuit.allow(0).unwrap();
        black_box(circuit.record(ticket, Outcome::Success, 0));
    });
    let circuits: Vec<Circuit> = names.iter().map(|name| breakers.circuit(name, 0)).collect();
    report("circuit breaker at hand", keys, |at| {
        let ticket = circuits[at].allow(0).unwrap();
        black_box(circuits[at].record(ticket, Outcome::Success, 0));
    });
}

/// Measures what the first word among the arguments is a part of the name of, or all.
fn main() {
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|wanted| name.contains(wanted));
    for keys in SIZES {
        for (name, measure_at) in [
            ("token_cache", token_cache as fn(usize)),
            ("token_bucket", token_bucket),
            ("circuit_breaker", circuit_breaker),
        ] {
            if is_wanted(name) {
                measure_at(keys);
            }
        }
    }
}
