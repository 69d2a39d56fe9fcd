//! Rate-limit decisions.
#![allow(missing_docs, clippy::unwrap_used, reason = "benchmarks")]

use std::hint::black_box;

use agentapi_core::token_bucket::{Limit, Request, TokenBuckets};
use criterion::{Criterion, criterion_group, criterion_main};

const KEY: &[u8] = b"org:0190f7a2/user:0190f7a3/tool:search";

fn decisions(criterion: &mut Criterion) {
    let limit = Limit::new(1_000_000, 1_000_000_000, 1_000_000).unwrap();
    let buckets = TokenBuckets::new(100_000);
    let mut group = criterion.benchmark_group("token_bucket");
    let mut now = 0;
    group.bench_function("allowed", |bencher| {
        bencher.iter(|| {
            now += 1000;
            buckets.acquire(black_box(KEY), limit, 1, now)
        });
    });
    let slow = Limit::new(1, 3_600_000_000_000, 1).unwrap();
    let _ = buckets.acquire(b"empty", slow, 1, 0);
    group.bench_function("refused", |bencher| {
        bencher.iter(|| buckets.acquire(black_box(b"empty"), slow, 1, 1));
    });
    let request = |key| Request { key, limit, cost: 1 };
    let requests = [
        request(KEY),
        request(b"org:0190f7a2"),
        request(b"address:192.0.2.7"),
    ];
    group.bench_function("three_limits", |bencher| {
        bencher.iter(|| {
            now += 1000;
            buckets.acquire_many(black_box(&requests), now).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
