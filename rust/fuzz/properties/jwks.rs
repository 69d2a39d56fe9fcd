//! What holds of key sets for any bytes. Shared by the fuzz target and the replay of its corpus.

use std::collections::HashSet;

use agentapi_core::claims::ClaimRules;
use agentapi_core::jwks::{Algorithm, KeySet, MAX_KEY_ID_BYTES, MAX_KEYS};
use agentapi_core::jwt::{IssuerPolicy, Verifier};
use serde_json::Value;

const ISSUER: &str = "https://issuer.example";

pub fn check(text: &[u8]) {
    let Ok(keys) = KeySet::parse(text) else {
        return;
    };
    let value: Value = serde_json::from_slice(text).expect("what is accepted is JSON");
    let entries = value["keys"].as_array().expect("a key set is an array").len();
    assert!((1..=MAX_KEYS).contains(&entries) && (1..=entries).contains(&keys.len()));
    let ids: Vec<&str> = keys
        .keys()
        .filter_map(|key| key.key_id().map(AsRef::as_ref))
        .collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    for key in keys.keys() {
        assert!(!key.allows(Algorithm::Hs256) && key.algorithms().count() > 0);
        assert!(key.key_id().is_none_or(|id| id.len() <= MAX_KEY_ID_BYTES));
        for algorithm in key.algorithms() {
            assert!(!key.verifies(algorithm, b"message", &[0; 64]));
        }
    }
    let policy = IssuerPolicy::new(ISSUER, vec![], None, ClaimRules::default()).expect("a good policy");
    let verifier = Verifier::new([policy], 0).expect("a good verifier");
    assert_eq!(verifier.replace_keys(ISSUER, keys), Ok(false));
    let again = KeySet::parse(text).expect("a key set parses twice");
    assert_eq!(
        verifier.replace_keys(ISSUER, again),
        Ok(false),
        "the same keys stay"
    );
}
