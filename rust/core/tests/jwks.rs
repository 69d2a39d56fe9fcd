//! Which keys of a key set are used, and for what.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use agentapi_core::jwks::{Algorithm, KeySet, KeySetError, MAX_KEY_SET_BYTES};
use common::{Signer, encode, jwks, rsa};
use serde_json::{Value, json};

fn algorithms(jwk: Value) -> Option<Vec<&'static str>> {
    match KeySet::parse(&jwks(&[jwk])) {
        Ok(set) => Some(
            set.keys()
                .next()
                .unwrap()
                .algorithms()
                .map(Algorithm::name)
                .collect(),
        ),
        Err(KeySetError::NoUsableKey) => None,
        Err(error) => panic!("{error}"),
    }
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

#[test]
fn a_key_knows_its_algorithms() {
    assert_eq!(
        algorithms(rsa().jwk("k")),
        Some(vec!["RS256", "RS384", "RS512", "PS256"])
    );
    assert_eq!(algorithms(Signer::p256().jwk("k")), Some(vec!["ES256"]));
    assert_eq!(algorithms(Signer::p384().jwk("k")), Some(vec!["ES384"]));
    assert_eq!(
        algorithms(Signer::ed25519().jwk("k")),
        Some(vec!["EdDSA", "Ed25519"])
    );
}

#[test]
fn a_named_algorithm_narrows_the_key() {
    assert_eq!(
        algorithms(with(rsa().jwk("k"), "alg", json!("RS512"))),
        Some(vec!["RS512"])
    );
    for alg in ["ES256", "HS256", "none", "RSA-OAEP", "PS512", "rs256", ""] {
        assert_eq!(algorithms(with(rsa().jwk("k"), "alg", json!(alg))), None, "{alg}");
    }
    assert_eq!(algorithms(with(rsa().jwk("k"), "alg", json!(["RS256"]))), None);
    assert_eq!(
        algorithms(with(Signer::p256().jwk("k"), "alg", json!("ES384"))),
        None
    );
}

#[test]
fn keys_for_something_else_are_skipped() {
    let key = || Signer::p256().jwk("k");
    assert!(algorithms(with(key(), "use", json!("sig"))).is_some());
    assert!(algorithms(with(key(), "key_ops", json!(["verify"]))).is_some());
    let skipped = [
        with(key(), "use", json!("enc")),
        with(key(), "use", json!(7)),
        with(key(), "key_ops", json!(["encrypt"])),
        with(key(), "key_ops", json!("verify")),
        with(key(), "d", json!("a published private key")),
        with(key(), "kid", json!(7)),
        with(key(), "kid", json!("k".repeat(256))),
        with(key(), "kty", json!("AKP")),
        with(key(), "crv", json!("secp256k1")),
        with(key(), "crv", json!("P-384")),
        with(key(), "x", json!(encode([0; 32]))),
        with(key(), "x", json!(encode([0; 31]))),
        with(key(), "y", json!("not base64!")),
        with(Signer::ed25519().jwk("k"), "crv", json!("X25519")),
        with(Signer::ed25519().jwk("k"), "x", json!(encode([0; 31]))),
        Signer::Secret(vec![7; 64]).jwk("k"),
        json!({}),
    ];
    for jwk in skipped {
        assert_eq!(algorithms(jwk.clone()), None, "{jwk}");
    }
}

#[test]
fn rsa_keys_are_held_to_their_limits() {
    let modulus = |bytes: usize| {
        let mut modulus = vec![0xc3; bytes];
        *modulus.last_mut().unwrap() = 1;
        modulus
    };
    let key = |n: &[u8], e: &[u8]| json!({"kty": "RSA", "kid": "k", "n": encode(n), "e": encode(e)});
    let exponent: &[u8] = &[1, 0, 1];
    assert!(algorithms(key(&modulus(256), exponent)).is_some());
    assert!(algorithms(key(&modulus(1024), exponent)).is_some());
    assert!(
        algorithms(key(&[&[0], modulus(256).as_slice()].concat(), exponent)).is_some(),
        "a sign byte"
    );
    assert!(algorithms(key(&modulus(256), &[3])).is_some());
    let mut even = modulus(256);
    even[255] = 2;
    let mut short = modulus(256);
    short[0] = 0x7f;
    let refused: [(&[u8], &[u8]); 10] = [
        (&modulus(128), exponent),
        (&short, exponent),
        (&modulus(1025), exponent),
        (&even, exponent),
        (&[], exponent),
        (&[0, 0], exponent),
        (&modulus(256), &[]),
        (&modulus(256), &[1]),
        (&modulus(256), &[4]),
        (&modulus(256), &[4, 0, 0, 0, 1]),
    ];
    for (n, e) in refused {
        assert_eq!(algorithms(key(n, e)), None, "{} bytes, {e:?}", n.len());
    }
}

#[test]
fn an_unusable_key_does_not_spoil_the_others() {
    let keys = [
        json!({"kty": "new", "kid": "a"}),
        Signer::p256().jwk("a"),
        Signer::Secret(vec![1; 32]).jwk("b"),
    ];
    let set = KeySet::parse(&jwks(&keys)).unwrap();
    assert_eq!(set.len(), 1);
    assert!(set.get("a").is_some());
    assert!(set.get("b").is_none());
}

#[test]
fn a_set_that_is_ambiguous_or_too_large_is_refused() {
    let parse = |text: &[u8]| KeySet::parse(text).err();
    let twice = jwks(&[Signer::p256().jwk("a"), Signer::p384().jwk("a")]);
    assert_eq!(parse(&twice), Some(KeySetError::DuplicateKeyId));
    let many: Vec<Value> = (0..101).map(|_| json!({"kty": "new"})).collect();
    assert_eq!(parse(&jwks(&many)), Some(KeySetError::TooManyKeys));
    assert_eq!(parse(&jwks(&many[..100])), Some(KeySetError::NoUsableKey));
    assert_eq!(
        parse(&vec![b' '; MAX_KEY_SET_BYTES + 1]),
        Some(KeySetError::TooLarge)
    );
    assert_eq!(parse(br#"{"keys":[]}"#), Some(KeySetError::NoUsableKey));
    let malformed: [&[u8]; 8] = [
        b"",
        b"[]",
        b"{}",
        br#"{"keys":{}}"#,
        br#"{"keys":[1]}"#,
        br#"{"keys":[],"keys":[]}"#,
        br#"{"keys":[{"kty":"EC","kty":"RSA"}]}"#,
        br#"{"keys":[]} x"#,
    ];
    for text in malformed {
        assert_eq!(
            parse(text),
            Some(KeySetError::Malformed),
            "{}",
            String::from_utf8_lossy(text)
        );
    }
}

#[test]
fn keys_without_an_id_may_be_many() {
    let mut anonymous = [Signer::p256().jwk(""), Signer::p256().jwk("")];
    for jwk in &mut anonymous {
        jwk.as_object_mut().unwrap().remove("kid");
    }
    let set = KeySet::parse(&jwks(&anonymous)).unwrap();
    assert_eq!(set.len(), 2);
    assert!(set.get("").is_none());
}

#[test]
fn a_key_judges_only_its_own_algorithms() {
    let set = KeySet::parse(&jwks(&[with(rsa().jwk("k"), "alg", json!("RS256"))])).unwrap();
    let key = set.get("k").unwrap();
    assert!(key.verifies(Algorithm::Rs256, b"message", &rsa().sign("RS256", b"message")));
    assert!(!key.verifies(Algorithm::Rs256, b"massage", &rsa().sign("RS256", b"message")));
    assert!(!key.verifies(Algorithm::Rs512, b"message", &rsa().sign("RS512", b"message")));
    assert!(!key.verifies(Algorithm::Hs256, b"message", &rsa().sign("RS256", b"message")));
}
