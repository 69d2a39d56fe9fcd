//! A token that was verified already, and what revocations cost.
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

use agentapi_core::claims::ClaimRules;
use agentapi_core::jwt::{IssuerPolicy, Verified};
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, NOW, SECRET, Signer, claims, claims_with, jwks, policy, verifier_of};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use serde_json::json;

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

/// What a revocation costs the one who asks for it, and the token that is shown next.
fn revoke(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("revocation");
    for cached in [10_000, 100_000] {
        let (cache, tokens) = filled(cached);
        let mut number = 0;
        let mut revoke_next = || {
            number = (number + 1) % 1000;
            cache
                .revoke_token(ISSUER, &format!("elsewhere-{number}"), NOW + 600, NOW)
                .unwrap();
        };
        group.bench_function(BenchmarkId::new("revoke_token", cached), |bencher| {
            bencher.iter(&mut revoke_next);
        });
        group.bench_function(BenchmarkId::new("recall_after", cached), |bencher| {
            bencher.iter_batched(
                &mut revoke_next,
                |()| {
                    cache
                        .recall(black_box(&tokens[0]), AUDIENCE, NOW, Arc::clone)
                        .unwrap()
                        .unwrap()
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A cache that remembers so many tokens, and these.
fn filled(tokens: usize) -> (CachingVerifier<Arc<Verified>>, Vec<String>) {
    let policy = IssuerPolicy::new(
        ISSUER,
        vec![],
        Some(SECRET.to_vec().into()),
        ClaimRules::default(),
    )
    .unwrap();
    // Room to spare, as shards fill unevenly.
    let cache = CachingVerifier::new(verifier_of(vec![policy]), tokens * 2);
    let signer = Signer::Secret(SECRET.to_vec());
    let tokens = (0..tokens)
        .map(|number| {
            let token = signer.token("HS256", "k", &claims_with("jti", json!(number.to_string())));
            let verified = cache.verify(&token, AUDIENCE, NOW).unwrap();
            black_box(cache.remember(&token, Arc::new(verified), NOW, Arc::clone)).unwrap();
            token
        })
        .collect();
    (cache, tokens)
}

criterion_group!(benches, warm, revoke);
criterion_main!(benches);
