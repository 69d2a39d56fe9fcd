//! Verification of a token that was never seen, beside the bare signature check of the same crypto library.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "benchmarks"
)]
#![allow(dead_code, unreachable_pub, reason = "shared with the tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use agentapi_core::jwks::{Algorithm, KeySet};
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{AUDIENCE, ISSUER, NOW, Signer, claims, jwks, policy, verifier_of};
use criterion::{Criterion, criterion_group, criterion_main};

/// The parsed key of the library, without anything of ours.
fn bare_key(signer: &Signer) -> ParsedPublicKey {
    let jwk = signer.jwk("k");
    let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    match jwk["kty"].as_str().unwrap() {
        "RSA" => RsaPublicKeyComponents {
            n: part("n"),
            e: part("e"),
        }
        .to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256)
        .unwrap(),
        "EC" => {
            let point = [&[4], part("x").as_slice(), part("y").as_slice()].concat();
            ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).unwrap()
        }
        _ => ParsedPublicKey::new(&signature::ED25519, part("x")).unwrap(),
    }
}

fn cold(criterion: &mut Criterion) {
    let (ec, ed) = (Signer::p256(), Signer::ed25519());
    for (alg, signer) in [("RS256", common::rsa()), ("ES256", &ec), ("EdDSA", &ed)] {
        let token = signer.token(alg, "k", &claims());
        let verifier = verifier_of(vec![policy(ISSUER)]);
        verifier
            .replace_keys(ISSUER, KeySet::parse(&jwks(&[signer.jwk("k")])).unwrap())
            .unwrap();
        let (message, encoded) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(encoded).unwrap();
        let key = bare_key(signer);
        let mut group = criterion.benchmark_group(format!("jwt_{}", alg.to_lowercase()));
        group.bench_function("cold", |bencher| {
            bencher.iter(|| verifier.verify(black_box(&token), AUDIENCE, NOW).unwrap());
        });
        group.bench_function("bare_signature", |bencher| {
            bencher.iter(|| key.verify_sig(black_box(message.as_bytes()), &signature).unwrap());
        });
        group.finish();
    }
}

fn key_set(criterion: &mut Criterion) {
    let set = jwks(&[Signer::p256().jwk("a"), Signer::ed25519().jwk("b")]);
    criterion.bench_function("jwks/parse", |bencher| {
        bencher.iter(|| {
            let keys = KeySet::parse(black_box(&set)).unwrap();
            assert!(keys.get("a").is_some_and(|key| key.allows(Algorithm::Es256)));
        });
    });
}

criterion_group!(benches, cold, key_set);
criterion_main!(benches);
