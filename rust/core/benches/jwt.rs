//! Reading a key set. Verification of a token that was never seen is measured in `cold.rs`.
#![allow(missing_docs, clippy::unwrap_used, reason = "benchmarks")]
#![allow(dead_code, unreachable_pub, reason = "shared with the tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use agentapi_core::jwks::{Algorithm, KeySet};
use common::{Signer, jwks};
use criterion::{Criterion, criterion_group, criterion_main};

fn key_set(criterion: &mut Criterion) {
    let set = jwks(&[Signer::p256().jwk("a"), Signer::ed25519().jwk("b")]);
    criterion.bench_function("jwks/parse", |bencher| {
        bencher.iter(|| {
            let keys = KeySet::parse(black_box(&set)).unwrap();
            assert!(keys.get("a").is_some_and(|key| key.allows(Algorithm::Es256)));
        });
    });
}

criterion_group!(benches, key_set);
criterion_main!(benches);
