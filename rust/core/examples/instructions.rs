//! Takes one decision again and again, so that callgrind can count: `instructions CASE CALLS`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;

use agentapi_core::circuit_breaker::{CircuitBreakers, Outcome, Rules};
use agentapi_core::claims::ClaimRules;
use agentapi_core::jwt::{IssuerPolicy, Verified};
use agentapi_core::sealed::Keyring;
use agentapi_core::token_bucket::{Limit, TokenBuckets};
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, NOW, SECRET, Signer, claims, verifier_of};

const LIMIT_KEY: &[u8] = b"org:0190f7a2/user:0190f7a3/tool:search";
const CIRCUIT_KEY: &str = "org:0190f7a2/upstream:github/call_tool";
const AAD: &[u8] = b"oauth_tokens/0190f7a2/github/0190f7a3";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let calls: u64 = arguments[2].parse().unwrap();
    match arguments[1].as_str() {
        "warm_verify" => warm_verify(calls),
        "acquire" => acquire(calls),
        "refuse" => refuse(calls),
        "circuit_by_key" => circuit_by_key(calls),
        "circuit_at_hand" => circuit_at_hand(calls),
        "seal" => seal(calls),
        "open" => open(calls),
        other => panic!("no case {other:?}"),
    }
}

fn warm_verify(calls: u64) {
    // A token of a shared secret: making another key takes a number of instructions that differs between runs.
    let secret = Some(SECRET.to_vec().into());
    let policy = IssuerPolicy::new(ISSUER, vec![], secret, ClaimRules::default()).unwrap();
    let cache: CachingVerifier<Arc<Verified>> = CachingVerifier::new(verifier_of(vec![policy]), 1000);
    let token = Signer::Secret(SECRET.to_vec()).token("HS256", "k", &claims());
    let verified = cache.verify(&token, AUDIENCE, NOW).unwrap();
    black_box(cache.remember(&token, Arc::new(verified), NOW, Arc::clone)).unwrap();
    for _ in 0..calls {
        let recalled = cache.recall(black_box(&token), AUDIENCE, NOW, Arc::clone);
        black_box(recalled.unwrap().unwrap());
    }
}

fn acquire(calls: u64) {
    let limit = Limit::new(1_000_000, 1_000_000_000, 1_000_000).unwrap();
    let buckets = TokenBuckets::new(1000);
    for now in 0..calls {
        let _ = black_box(buckets.acquire(black_box(LIMIT_KEY), limit, 1, now * 1000));
    }
}

fn refuse(calls: u64) {
    let limit = Limit::new(60, 60_000_000_000, 10).unwrap();
    let buckets = TokenBuckets::new(1000);
    let _ = buckets.acquire(LIMIT_KEY, limit, 10, 0);
    for now in 0..calls {
        let _ = black_box(buckets.acquire(black_box(LIMIT_KEY), limit, 1, now));
    }
}

fn circuit_by_key(calls: u64) {
    let breakers = CircuitBreakers::new(Rules::default(), 1000, 7).unwrap();
    for now in 0..calls {
        let circuit = breakers.circuit(black_box(CIRCUIT_KEY), now * 1000);
        let ticket = circuit.allow(now * 1000).unwrap();
        black_box(circuit.record(ticket, Outcome::Success, now * 1000));
    }
}

fn circuit_at_hand(calls: u64) {
    let breakers = CircuitBreakers::new(Rules::default(), 1000, 7).unwrap();
    let circuit = breakers.circuit(CIRCUIT_KEY, 0);
    for now in 0..calls {
        let ticket = black_box(&circuit).allow(now * 1000).unwrap();
        black_box(circuit.record(ticket, Outcome::Success, now * 1000));
    }
}

fn seal(calls: u64) {
    let keyring = Keyring::parse(&Keyring::generate("k1").unwrap()).unwrap();
    for _ in 0..calls {
        black_box(keyring.seal(black_box(&[7; 1024]), AAD).unwrap());
    }
}

fn open(calls: u64) {
    let keyring = Keyring::parse(&Keyring::generate("k1").unwrap()).unwrap();
    let sealed = keyring.seal(&[7; 1024], AAD).unwrap();
    for _ in 0..calls {
        black_box(keyring.open(black_box(&sealed), AAD).unwrap());
    }
}
