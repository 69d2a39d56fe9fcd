//! A token that was verified already.
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
use std::sync::Arc;

use agentapi_core::jwt::Verified;
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, NOW, Signer, claims, jwks, policy, verifier_of};
use criterion::{Criterion, criterion_group, criterion_main};

fn warm(criterion: &mut Criterion) {
    let signer = Signer::p256();
    let cache: CachingVerifier<Arc<Verified>> = CachingVerifier::new(verifier_of(vec![policy(ISSUER)]), 1000);
    cache.replace_keys(ISSUER, &jwks(&[signer.jwk("k")])).unwrap();
    let token = signer.token("ES256", "k", &claims());
    let verified = cache.verify(&token, AUDIENCE, NOW).unwrap();
    black_box(cache.remember(&token, Arc::new(verified), NOW, Arc::clone)).unwrap();
    criterion.bench_function("token_cache/warm", |bencher| {
        bencher.iter(|| {
            cache
                .recall(black_box(&token), AUDIENCE, NOW, Arc::clone)
                .unwrap()
                .unwrap()
        });
    });
    criterion.bench_function("token_cache/unknown", |bencher| {
        bencher.iter(|| {
            cache
                .recall(black_box(&token[1..]), AUDIENCE, NOW, Arc::clone)
                .is_none()
        });
    });
}

criterion_group!(benches, warm);
criterion_main!(benches);
