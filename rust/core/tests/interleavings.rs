//! The cache of verified tokens under every order of steps that a model checker comes upon: what
//! an invalidation has killed is accepted from nobody once it has returned. Runs with the feature `shuttle` only.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use agentapi_core::claims::ClaimRules;
use agentapi_core::jwt::{IssuerPolicy, TokenError, Verified};
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, NOW, SECRET, Signer, claims, jwks, policy, verifier_of};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::{Config, Runner, thread};

type Cache = CachingVerifier<std::sync::Arc<Verified>>;

const ORDERS: usize = 2000;
/// How often a priority changes within one order.
const CHANGES: usize = 3;
const SHOWERS: usize = 2;
const SHOWN: usize = 3;

/// Runs `test` in many orders, drawn at random, and with priorities that change at random points.
fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
        let mut config = Config::new();
        // The crypto library needs more than the model gives a thread.
        config.stack_size = 1 << 20;
        Runner::new(scheduler, config).run(test);
    }
    run(RandomScheduler::new(ORDERS), test.clone());
    run(PctScheduler::new(CHANGES, ORDERS), test);
}

fn show(cache: &Cache, token: &str) -> Result<(), TokenError> {
    if let Some(answer) = cache.recall(token, AUDIENCE, NOW, |_| ()) {
        return answer;
    }
    let verified = std::sync::Arc::new(cache.verify(token, AUDIENCE, NOW)?);
    cache.remember(token, verified, NOW, |_| ())
}

/// Shows `token` on several threads while `invalidate` runs on another.
fn nobody_gets_it_afterwards(cache: Cache, token: &str, invalidate: impl FnOnce(&Cache) + Send + 'static) {
    let cache = Arc::new(cache);
    let is_dead = Arc::new(AtomicBool::new(false));
    let showers: Vec<_> = (0..SHOWERS)
        .map(|_| {
            let (cache, is_dead, token) = (Arc::clone(&cache), Arc::clone(&is_dead), token.to_owned());
            thread::spawn(move || {
                for _ in 0..SHOWN {
                    let was_dead = is_dead.load(Ordering::SeqCst);
                    let accepted = show(&cache, &token).is_ok();
                    assert!(!(accepted && was_dead), "accepted after its end");
                }
            })
        })
        .collect();
    invalidate(&cache);
    is_dead.store(true, Ordering::SeqCst);
    for shower in showers {
        shower.join().unwrap();
    }
    assert!(show(&cache, token).is_err());
}

/// A cache for tokens of a shared secret, which are verified fast, and one such token.
fn with_secret() -> (Cache, String) {
    let rules = ClaimRules::default();
    let policy = IssuerPolicy::new(ISSUER, vec![], Some(SECRET.to_vec().into()), rules).unwrap();
    let token = Signer::Secret(SECRET.to_vec()).token("HS256", "k", &claims());
    (Cache::new(verifier_of(vec![policy]), 4), token)
}

#[test]
fn a_revoked_token_is_accepted_from_nobody() {
    explore(|| {
        let (cache, token) = with_secret();
        nobody_gets_it_afterwards(cache, &token, |cache| {
            cache.revoke_token(ISSUER, "t-1", NOW + 600, NOW).unwrap();
        });
    });
}

#[test]
fn a_token_of_a_revoked_subject_is_accepted_from_nobody() {
    explore(|| {
        let (cache, token) = with_secret();
        nobody_gets_it_afterwards(cache, &token, |cache| {
            cache.revoke_token(ISSUER, "another", NOW + 600, NOW).unwrap();
            cache
                .revoke_subject(ISSUER, "user-1", NOW + 1, None, NOW)
                .unwrap();
        });
    });
}

#[test]
fn a_token_of_a_retired_key_is_accepted_from_nobody() {
    let [old, new] = [Signer::ed25519(), Signer::ed25519()];
    let token = old.token("EdDSA", "old", &claims());
    let (old, new) = (jwks(&[old.jwk("old")]), jwks(&[new.jwk("new")]));
    explore(move || {
        let cache = Cache::new(verifier_of(vec![policy(ISSUER)]), 4);
        cache.replace_keys(ISSUER, &old).unwrap();
        let new = new.clone();
        nobody_gets_it_afterwards(cache, &token, move |cache| {
            cache.replace_keys(ISSUER, &new).unwrap();
        });
    });
}
