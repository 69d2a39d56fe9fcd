//! Sealed values, beside the bare cipher of the same crypto library with a nonce drawn per call.
#![allow(missing_docs, clippy::unwrap_used, reason = "benchmarks")]

use std::hint::black_box;

use agentapi_core::sealed::Keyring;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;
use criterion::{Criterion, criterion_group, criterion_main};

const AAD: &[u8] = b"oauth_tokens/0190f7a2/github/0190f7a3";

fn seal_and_open(criterion: &mut Criterion) {
    let keyring = Keyring::parse(&Keyring::generate("k1").unwrap()).unwrap();
    for (name, size) in [("160", 160), ("1024", 1024)] {
        let plaintext = vec![7; size];
        let sealed = keyring.seal(&plaintext, AAD).unwrap();
        let mut group = criterion.benchmark_group(format!("sealed_{name}"));
        group.bench_function("seal", |bencher| {
            bencher.iter(|| keyring.seal(black_box(&plaintext), AAD).unwrap());
        });
        group.bench_function("open", |bencher| {
            bencher.iter(|| keyring.open(black_box(&sealed), AAD).unwrap());
        });
        let bare = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
        group.bench_function("bare_seal", |bencher| {
            bencher.iter(|| {
                let mut nonce = [0; 12];
                rand::fill(&mut nonce).unwrap();
                let mut body = black_box(&plaintext).clone();
                bare.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(AAD), &mut body)
                    .unwrap();
                body
            });
        });
        group.finish();
    }
}

criterion_group!(benches, seal_and_open);
criterion_main!(benches);
