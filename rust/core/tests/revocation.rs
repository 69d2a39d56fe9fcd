//! Tokens that are refused before they expire.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::sync::Arc;

use agentapi_core::jwt::{TokenError, Verified};
use agentapi_core::revocation::{MAX_REVOCATIONS, RevocationError};
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, LEEWAY_S, NOW, Signer, claims, jwks, policy, verifier_of};
use serde_json::{Value, json};

type Cache = CachingVerifier<Arc<Verified>>;

const OTHER: &str = "https://other.example";

struct Subject {
    cache: Cache,
    signer: Signer,
}

impl Subject {
    fn new(capacity: usize) -> Self {
        let signer = Signer::ed25519();
        let cache = Cache::new(verifier_of(vec![policy(ISSUER), policy(OTHER)]), capacity);
        for issuer in [ISSUER, OTHER] {
            cache.replace_keys(issuer, &jwks(&[signer.jwk("k")])).unwrap();
        }
        Self { cache, signer }
    }

    fn token(&self, changes: &[(&str, Value)]) -> String {
        let mut claims = claims();
        for (name, value) in changes {
            claims[*name] = value.clone();
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(*name);
            }
        }
        self.signer.token("EdDSA", "k", &claims)
    }

    fn verdict(&self, token: &str) -> Result<(), TokenError> {
        if let Some(answer) = self.cache.recall(token, AUDIENCE, NOW, |_| ()) {
            return answer;
        }
        let verified = self.cache.verify(token, AUDIENCE, NOW)?;
        self.cache.remember(token, Arc::new(verified), NOW, |_| ())
    }
}

#[test]
fn a_revoked_token_is_refused_whether_it_is_remembered_or_not() {
    for (capacity, seen_before) in [(100, true), (100, false), (0, true), (0, false)] {
        let subject = Subject::new(capacity);
        let revoked = subject.token(&[]);
        let others = [
            subject.token(&[("jti", json!("t-2"))]),
            subject.token(&[("jti", Value::Null)]),
            subject.token(&[("iss", json!(OTHER))]),
            subject.token(&[("jti", json!("t-2")), ("sub", json!("t-1"))]),
        ];
        if seen_before {
            assert_eq!(subject.verdict(&revoked), Ok(()));
            assert!(others.iter().all(|token| subject.verdict(token).is_ok()));
        }
        subject.cache.revoke_token(ISSUER, "t-1", NOW + 600, NOW).unwrap();
        assert_eq!(subject.verdict(&revoked), Err(TokenError::Revoked));
        assert_eq!(subject.verdict(&revoked), Err(TokenError::Revoked));
        assert!(others.iter().all(|token| subject.verdict(token).is_ok()));
        assert_eq!(TokenError::Revoked.reason(), "revoked");
    }
}

#[test]
fn a_revoked_subject_loses_what_was_issued_before() {
    for seen_before in [true, false] {
        let subject = Subject::new(100);
        let issued = |at: Value| subject.token(&[("iat", at)]);
        let old = [
            issued(json!(NOW - 1)),
            issued(json!(NOW - 1000)),
            issued(json!(NOW - 1).as_f64().map_or(Value::Null, |at| json!(at + 0.9))),
            issued(Value::Null),
        ];
        let kept = [
            issued(json!(NOW)),
            issued(json!(NOW + LEEWAY_S)),
            subject.token(&[("iat", json!(NOW - 1)), ("sub", json!("user-2"))]),
            subject.token(&[("iat", json!(NOW - 1)), ("iss", json!(OTHER))]),
        ];
        if seen_before {
            assert!(
                old.iter()
                    .chain(&kept)
                    .all(|token| subject.verdict(token).is_ok())
            );
        }
        subject
            .cache
            .revoke_subject(ISSUER, "user-1", NOW, None, NOW)
            .unwrap();
        for token in &old {
            assert_eq!(subject.verdict(token), Err(TokenError::Revoked));
        }
        assert!(kept.iter().all(|token| subject.verdict(token).is_ok()));
    }
}

#[test]
fn a_later_revocation_never_weakens_an_earlier_one() {
    let subject = Subject::new(100);
    let token = subject.token(&[("iat", json!(NOW - 10))]);
    let cache = &subject.cache;
    cache.revoke_subject(ISSUER, "user-1", NOW, None, NOW).unwrap();
    cache
        .revoke_subject(ISSUER, "user-1", NOW - 100, Some(NOW + 1), NOW)
        .unwrap();
    cache.revoke_token(ISSUER, "t-2", NOW + 600, NOW).unwrap();
    cache.revoke_token(ISSUER, "t-2", NOW - 600, NOW).unwrap();
    assert_eq!(cache.revocations(), 2);
    // A full list drops what has expired, which neither has.
    fill(cache, 2, NOW - 600);
    cache.revoke_token(ISSUER, "more", NOW + 600, NOW).unwrap();
    assert_eq!(cache.revocations(), 3);
    assert_eq!(subject.verdict(&token), Err(TokenError::Revoked));
    assert_eq!(
        subject.verdict(&subject.token(&[("jti", json!("t-2"))])),
        Err(TokenError::Revoked)
    );
}

/// Fills a list that has `already` entries.
fn fill(cache: &Cache, already: usize, expires_at: i64) {
    for number in already..MAX_REVOCATIONS {
        cache
            .revoke_token(OTHER, &format!("n-{number}"), expires_at, NOW)
            .unwrap();
    }
    assert_eq!(cache.revocations(), MAX_REVOCATIONS);
}

#[test]
fn a_full_list_says_so_and_forgets_nothing_that_counts() {
    let subject = Subject::new(100);
    let cache = &subject.cache;
    let token = subject.token(&[]);
    cache.revoke_token(ISSUER, "t-1", NOW + 600, NOW).unwrap();
    fill(cache, 1, NOW + 60);
    let more = |now| cache.revoke_token(ISSUER, "more", NOW + 600, now);
    assert_eq!(more(NOW), Err(RevocationError::Full));
    assert_eq!(
        cache.revoke_subject(ISSUER, "user-9", NOW, None, NOW),
        Err(RevocationError::Full)
    );
    // What is listed already needs no room.
    assert_eq!(cache.revoke_token(ISSUER, "t-1", NOW + 600, NOW), Ok(()));
    // A token is accepted for the leeway after its end, so the entry has to outlive it.
    assert_eq!(more(NOW + 60 + LEEWAY_S - 1), Err(RevocationError::Full));
    assert_eq!(more(NOW + 60 + LEEWAY_S), Ok(()));
    assert_eq!(cache.revocations(), 2);
    assert_eq!(subject.verdict(&token), Err(TokenError::Revoked));
}

#[test]
fn names_are_checked() {
    let subject = Subject::new(100);
    let long = "x".repeat(256);
    for name in ["", "a\nb", long.as_str()] {
        assert_eq!(
            subject.cache.revoke_token(ISSUER, name, NOW, NOW),
            Err(RevocationError::BadName)
        );
        assert_eq!(
            subject.cache.revoke_subject(ISSUER, name, NOW, None, NOW),
            Err(RevocationError::BadName)
        );
    }
    assert_eq!(
        subject
            .cache
            .revoke_token("https://nobody.example", "t-1", NOW, NOW),
        Err(RevocationError::UnknownIssuer)
    );
    assert_eq!(
        subject
            .cache
            .revoke_subject("https://nobody.example", "user-1", NOW, None, NOW),
        Err(RevocationError::UnknownIssuer)
    );
    assert_eq!(subject.cache.revocations(), 0);
}

#[test]
fn a_verification_that_a_revocation_overtakes_is_refused() {
    let subject = Subject::new(100);
    let token = subject.token(&[]);
    let slow = Arc::new(subject.cache.verify(&token, AUDIENCE, NOW).unwrap());
    subject.cache.revoke_token(ISSUER, "t-1", NOW + 600, NOW).unwrap();
    let answer = subject.cache.remember(&token, slow, NOW, |_| ());
    assert_eq!(answer, Err(TokenError::Revoked));
    assert!(subject.cache.is_empty());
}
