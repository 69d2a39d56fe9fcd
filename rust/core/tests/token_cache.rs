//! What is remembered of verified tokens, and for how long.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::sync::Arc;

use agentapi_core::jwt::{TokenError, Verified};
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, LEEWAY_S, NOW, Signer, claims, claims_with, jwks, policy, verifier_of};
use proptest::prelude::*;
use serde_json::json;

type Cache = CachingVerifier<Arc<Verified>>;

fn cache(signers: &[(&str, &Signer)], capacity: usize) -> Cache {
    let cache = Cache::new(verifier_of(vec![policy(ISSUER)]), capacity);
    replace(&cache, signers);
    cache
}

fn replace(cache: &Cache, signers: &[(&str, &Signer)]) {
    let keys: Vec<_> = signers.iter().map(|(kid, signer)| signer.jwk(kid)).collect();
    cache.replace_keys(ISSUER, &jwks(&keys)).unwrap();
}

fn recall(cache: &Cache, token: &str, audience: &str, now: i64) -> Option<Result<Arc<Verified>, TokenError>> {
    cache.recall(token, audience, now, Arc::clone)
}

fn verify(cache: &Cache, token: &str, now: i64) -> Result<Arc<Verified>, TokenError> {
    recall(cache, token, AUDIENCE, now).unwrap_or_else(|| {
        let verified = Arc::new(cache.verify(token, AUDIENCE, now)?);
        cache.remember(token, verified, now, Arc::clone)
    })
}

fn token(signer: &Signer, number: usize, lifetime_s: i64) -> String {
    let mut claims = claims_with("exp", json!(NOW + lifetime_s));
    claims["jti"] = json!(number.to_string());
    signer.token("EdDSA", "k", &claims)
}

#[test]
fn the_same_token_gives_the_same_object() {
    let signer = Signer::ed25519();
    let cache = cache(&[("k", &signer)], 100);
    let (first, second) = (token(&signer, 1, 60), token(&signer, 2, 60));
    let verified = verify(&cache, &first, NOW).unwrap();
    assert!(Arc::ptr_eq(&verified, &verify(&cache, &first, NOW).unwrap()));
    assert!(!Arc::ptr_eq(&verified, &verify(&cache, &second, NOW).unwrap()));
    assert_eq!(cache.len(), 2);
}

#[test]
fn only_the_identical_token_hits() {
    let signer = Signer::ed25519();
    let cache = cache(&[("k", &signer)], 100);
    let good = token(&signer, 1, 60);
    verify(&cache, &good, NOW).unwrap();
    let (_, rest) = good.split_once('.').unwrap();
    let same_tail = format!("{}.{rest}", common::encode(r#"{"alg":"EdDSA"}"#));
    assert!(recall(&cache, &same_tail, AUDIENCE, NOW).is_none());
    assert_eq!(
        verify(&cache, &same_tail, NOW).unwrap_err(),
        TokenError::BadSignature
    );
    assert!(recall(&cache, &good[1..], AUDIENCE, NOW).is_none());
    assert!(recall(&cache, "", AUDIENCE, NOW).is_none());
}

#[test]
fn a_token_is_forgotten_when_it_expires() {
    let signer = Signer::ed25519();
    let cache = cache(&[("k", &signer)], 100);
    let token = token(&signer, 1, 60);
    verify(&cache, &token, NOW).unwrap();
    let last = NOW + 60 + LEEWAY_S - 1;
    assert!(recall(&cache, &token, AUDIENCE, last).unwrap().is_ok());
    assert!(recall(&cache, &token, AUDIENCE, last + 1).is_none());
    assert!(cache.is_empty());
    assert_eq!(verify(&cache, &token, last + 1).unwrap_err(), TokenError::Expired);
}

#[test]
fn time_and_audience_are_checked_on_a_hit() {
    let signer = Signer::ed25519();
    let cache = cache(&[("k", &signer)], 100);
    let token = signer.token("EdDSA", "k", &claims_with("nbf", json!(NOW)));
    verify(&cache, &token, NOW).unwrap();
    assert_eq!(
        recall(&cache, &token, AUDIENCE, NOW - LEEWAY_S - 1)
            .unwrap()
            .unwrap_err(),
        TokenError::NotYetValid
    );
    assert_eq!(
        recall(&cache, &token, "https://elsewhere", NOW)
            .unwrap()
            .unwrap_err(),
        TokenError::WrongAudience
    );
    assert!(recall(&cache, &token, AUDIENCE, NOW).unwrap().is_ok());
}

#[test]
fn a_token_is_forgotten_when_its_key_leaves_the_set() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let cache = cache(&[("k", &old)], 100);
    let token = token(&old, 1, 60);
    let verified = verify(&cache, &token, NOW).unwrap();
    replace(&cache, &[("new", &new), ("k", &old)]);
    assert!(
        Arc::ptr_eq(&verified, &verify(&cache, &token, NOW).unwrap()),
        "the key has stayed"
    );
    replace(&cache, &[("new", &new)]);
    assert!(verified.is_key_retired());
    assert_eq!(verify(&cache, &token, NOW).unwrap_err().reason(), "unknown_key");
    assert!(cache.is_empty());
}

#[test]
fn a_token_is_forgotten_when_its_key_changes_under_the_same_id() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let cache = cache(&[("k", &old)], 100);
    let token = token(&old, 1, 60);
    verify(&cache, &token, NOW).unwrap();
    replace(&cache, &[("k", &new)]);
    assert_eq!(verify(&cache, &token, NOW).unwrap_err(), TokenError::BadSignature);
}

#[test]
fn a_token_is_forgotten_when_its_key_may_no_longer_verify_its_algorithm() {
    let bound_to = |alg: &str| {
        let mut jwk = common::rsa().jwk("k");
        jwk["alg"] = json!(alg);
        jwks(&[jwk])
    };
    let cache = Cache::new(verifier_of(vec![policy(ISSUER)]), 100);
    cache.replace_keys(ISSUER, &bound_to("RS256")).unwrap();
    let token = common::rsa().token("RS256", "k", &claims());
    verify(&cache, &token, NOW).unwrap();
    cache.replace_keys(ISSUER, &bound_to("RS512")).unwrap();
    assert_eq!(
        verify(&cache, &token, NOW).unwrap_err(),
        TokenError::UnsupportedAlgorithm
    );
}

#[test]
fn a_verification_that_overlaps_a_rotation_does_not_hit_afterwards() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let cache = cache(&[("k", &old)], 100);
    let token = token(&old, 1, 60);
    let slow = Arc::new(cache.verify(&token, AUDIENCE, NOW).unwrap());
    replace(&cache, &[("new", &new)]);
    let refused = cache.remember(&token, Arc::clone(&slow), NOW, Arc::clone);
    assert_eq!(refused.unwrap_err().reason(), "unknown_key");
    assert!(recall(&cache, &token, AUDIENCE, NOW).is_none());

    replace(&cache, &[("new", &new), ("k", &old)]);
    let fresh = Arc::new(cache.verify(&token, AUDIENCE, NOW).unwrap());
    assert!(Arc::ptr_eq(
        &fresh,
        &cache
            .remember(&token, Arc::clone(&fresh), NOW, Arc::clone)
            .unwrap()
    ));
    assert_eq!(cache.len(), 1);
}

#[test]
fn a_set_that_is_refused_changes_nothing() {
    let signer = Signer::ed25519();
    let cache = cache(&[("k", &signer)], 100);
    let token = token(&signer, 1, 60);
    verify(&cache, &token, NOW).unwrap();
    assert!(cache.replace_keys(ISSUER, b"{\"keys\":[]}").is_err());
    assert!(
        cache
            .replace_keys("https://other.example", &jwks(&[signer.jwk("k")]))
            .is_err()
    );
    assert!(recall(&cache, &token, AUDIENCE, NOW).is_some());
}

#[test]
fn capacity_is_kept_and_the_dead_go_first() {
    let signer = Signer::ed25519();
    let cache = cache(&[("k", &signer)], 4);
    let lasting: Vec<_> = (0..3).map(|number| token(&signer, number, 600)).collect();
    for token in &lasting {
        verify(&cache, token, NOW).unwrap();
    }
    verify(&cache, &token(&signer, 3, 60), NOW).unwrap();
    verify(&cache, &token(&signer, 4, 600), NOW + 200).unwrap();
    assert_eq!(cache.len(), 4);
    for token in &lasting {
        assert!(recall(&cache, token, AUDIENCE, NOW + 200).is_some());
    }
    for number in 5..50 {
        verify(&cache, &token(&signer, number, 600), NOW).unwrap();
        assert_eq!(cache.len(), 4);
    }
}

#[test]
fn the_dead_do_not_pile_up() {
    let signer = Signer::ed25519();
    let cache = cache(&[("k", &signer)], 1000);
    for number in 0..200 {
        verify(&cache, &token(&signer, number, 10), NOW).unwrap();
    }
    assert_eq!(cache.len(), 200);
    for number in 200..600 {
        verify(&cache, &token(&signer, number, 600), NOW + 100).unwrap();
    }
    assert_eq!(cache.len(), 400);
}

#[test]
fn what_retired_keys_verified_is_reclaimed_as_new_tokens_come() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let cache = cache(&[("k", &old)], 1000);
    for number in 0..200 {
        verify(&cache, &token(&old, number, 600), NOW).unwrap();
    }
    replace(&cache, &[("k", &new)]);
    for number in 0..400 {
        verify(&cache, &token(&new, number, 600), NOW).unwrap();
    }
    assert_eq!(cache.len(), 400);
}

#[test]
fn a_capacity_of_none_and_a_very_long_token_remember_nothing() {
    let signer = Signer::ed25519();
    let none = cache(&[("k", &signer)], 0);
    verify(&none, &token(&signer, 1, 60), NOW).unwrap();
    assert!(none.is_empty());
    let some = cache(&[("k", &signer)], 10);
    let mut long = claims();
    long["groups"] = json!("g".repeat(4096));
    verify(&some, &signer.token("EdDSA", "k", &long), NOW).unwrap();
    assert!(some.is_empty());
}

#[test]
fn threads_agree_while_keys_rotate() {
    let (stable, other) = (Signer::ed25519(), Signer::ed25519());
    let cache = cache(&[("k", &stable), ("o", &other)], 64);
    let tokens: Vec<_> = (0..16).map(|number| token(&stable, number, 60)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..200 {
                    let number = round % tokens.len();
                    let verified = verify(&cache, &tokens[number], NOW).unwrap();
                    assert_eq!(verified.token_id.as_deref(), Some(number.to_string().as_str()));
                }
            });
        }
        for _ in 0..25 {
            replace(&cache, &[("k", &stable)]);
            replace(&cache, &[("o", &other), ("k", &stable)]);
        }
    });
    assert_eq!(cache.len(), tokens.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// The oracle is a verifier that remembers nothing.
    #[test]
    fn remembering_changes_no_answer(
        steps in prop::collection::vec((0..8_usize, 0..2_usize, -100_i64..200, any::<bool>()), 1..60),
        capacity in 0..6_usize,
    ) {
        let signers = [Signer::ed25519(), Signer::ed25519()];
        let tokens: Vec<_> = (0..8).map(|number| token(&signers[number % 2], number, 10 + i64::try_from(number).unwrap() * 10)).collect();
        let (subject, oracle) = (cache(&[("k", &signers[0])], capacity), cache(&[("k", &signers[0])], 0));
        for (number, key, at, rotate) in steps {
            if rotate {
                replace(&subject, &[("k", &signers[key])]);
                replace(&oracle, &[("k", &signers[key])]);
            }
            let outcome = |cache: &Cache| verify(cache, &tokens[number], NOW + at).map(|verified| verified.token_id.clone());
            prop_assert_eq!(outcome(&subject), outcome(&oracle));
            prop_assert!(subject.len() <= capacity);
        }
    }
}
