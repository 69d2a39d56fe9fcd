//! The cache of verified tokens under many threads: an invalidation that has returned is never lost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use agentapi_core::jwt::{TokenError, Verified};
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, NOW, Signer, claims, jwks, policy, verifier_of};
use serde_json::json;

type Cache = CachingVerifier<Arc<Verified>>;

const THREADS: usize = 16;
const TOKENS: usize = 24;
const ROUNDS: usize = 300;

fn show(cache: &Cache, token: &str) -> Result<Arc<Verified>, TokenError> {
    if let Some(answer) = cache.recall(token, AUDIENCE, NOW, Arc::clone) {
        return answer;
    }
    let verified = Arc::new(cache.verify(token, AUDIENCE, NOW)?);
    cache.remember(token, verified, NOW, Arc::clone)
}

fn token(signer: &Signer, kid: &str, name: &str, subject: &str, issued_at: i64) -> String {
    let mut claims = claims();
    for (member, value) in [
        ("jti", json!(name)),
        ("sub", json!(subject)),
        ("iat", json!(issued_at)),
    ] {
        claims[member] = value;
    }
    signer.token("EdDSA", kid, &claims)
}

/// Shows tokens on many threads while `invalidate` runs, and counts what was accepted though it had been told to be
/// dead before it was shown. `is_dead` is set for a token after its invalidation has returned.
fn late_hits(cache: &Cache, tokens: &[String], is_dead: &[AtomicBool], invalidate: impl FnOnce()) -> usize {
    let (stop, late, shown) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for first in 0..THREADS {
            let (stop, late, shown) = (&stop, &late, &shown);
            scope.spawn(move || {
                let mut at = first;
                while !stop.load(Ordering::Relaxed) {
                    at = (at + 1) % tokens.len();
                    let was_dead = is_dead[at].load(Ordering::SeqCst);
                    if show(cache, &tokens[at]).is_ok() && was_dead {
                        late.fetch_add(1, Ordering::Relaxed);
                    }
                    shown.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while shown.load(Ordering::Relaxed) < tokens.len() {
            thread::yield_now();
        }
        invalidate();
        let seen = shown.load(Ordering::Relaxed);
        while shown.load(Ordering::Relaxed) < seen + 2 * tokens.len() {
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    late.into_inner()
}

fn flags() -> Vec<AtomicBool> {
    (0..TOKENS).map(|_| AtomicBool::new(false)).collect()
}

#[test]
fn no_thread_gets_a_token_after_its_revocation() {
    let signer = Signer::ed25519();
    for round in 0..ROUNDS / 10 {
        // A small cache evicts all the time, so that tokens are verified anew while they are revoked.
        let capacity = if round % 2 == 0 { 1000 } else { TOKENS / 3 };
        let cache = Cache::new(verifier_of(vec![policy(ISSUER)]), capacity);
        cache.replace_keys(ISSUER, &jwks(&[signer.jwk("k")])).unwrap();
        let tokens: Vec<String> = (0..TOKENS)
            .map(|number| token(&signer, "k", &number.to_string(), &format!("u-{number}"), NOW - 1))
            .collect();
        let is_dead = flags();
        let late = late_hits(&cache, &tokens, &is_dead, || {
            for (number, flag) in is_dead.iter().enumerate() {
                if number % 2 == 0 {
                    cache.revoke_token(ISSUER, &number.to_string(), NOW + 600, NOW)
                } else {
                    cache.revoke_subject(ISSUER, &format!("u-{number}"), NOW, None, NOW)
                }
                .unwrap();
                flag.store(true, Ordering::SeqCst);
            }
        });
        assert_eq!(late, 0);
        assert!(tokens.iter().all(|token| show(&cache, token).is_err()));
        assert!(cache.is_empty());
    }
}

#[test]
fn no_thread_gets_a_token_after_its_key_has_left() {
    let signers = [Signer::ed25519(), Signer::ed25519()];
    let sets: Vec<Vec<u8>> = signers
        .iter()
        .zip(["a", "b"])
        .map(|(signer, kid)| jwks(&[signer.jwk(kid)]))
        .collect();
    let cache = Cache::new(verifier_of(vec![policy(ISSUER)]), 1000);
    cache.replace_keys(ISSUER, &sets[0]).unwrap();
    for round in 0..ROUNDS / 10 {
        let (signer, kid) = (&signers[round % 2], ["a", "b"][round % 2]);
        let tokens: Vec<String> = (0..TOKENS)
            .map(|number| token(signer, kid, &number.to_string(), "user-1", NOW))
            .collect();
        let is_dead = flags();
        let late = late_hits(&cache, &tokens, &is_dead, || {
            cache.replace_keys(ISSUER, &sets[(round + 1) % 2]).unwrap();
            for flag in &is_dead {
                flag.store(true, Ordering::SeqCst);
            }
        });
        assert_eq!(late, 0);
        assert!(tokens.iter().all(|token| show(&cache, token).is_err()));
        assert!(cache.is_empty());
    }
}

#[test]
fn revocations_on_many_threads_all_count() {
    let signer = Signer::ed25519();
    let cache = Cache::new(verifier_of(vec![policy(ISSUER)]), 1000);
    cache.replace_keys(ISSUER, &jwks(&[signer.jwk("k")])).unwrap();
    let tokens: Vec<String> = (0..THREADS * TOKENS)
        .map(|number| token(&signer, "k", &number.to_string(), "user-1", NOW))
        .collect();
    thread::scope(|scope| {
        for first in 0..THREADS {
            let (cache, tokens) = (&cache, &tokens);
            scope.spawn(move || {
                for number in (first..tokens.len()).step_by(THREADS) {
                    assert!(show(cache, &tokens[number]).is_ok());
                    cache
                        .revoke_token(ISSUER, &number.to_string(), NOW + 600, NOW)
                        .unwrap();
                    assert_eq!(show(cache, &tokens[number]).err(), Some(TokenError::Revoked));
                }
            });
        }
    });
    assert_eq!(cache.revocations(), tokens.len());
    assert!(cache.is_empty());
}
