//! Asking a circuit and recording how the call ended.
#![allow(missing_docs, clippy::unwrap_used, reason = "benchmarks")]

use std::hint::black_box;

use agentapi_core::circuit_breaker::{CircuitBreakers, Outcome, Rules};
use criterion::{Criterion, criterion_group, criterion_main};

const KEY: &str = "org:0190f7a2/upstream:github/call_tool";

fn circuits(criterion: &mut Criterion) {
    let breakers = CircuitBreakers::new(Rules::default(), 100_000, 7).unwrap();
    let mut group = criterion.benchmark_group("circuit_breaker");
    let mut now = 0;
    group.bench_function("by_key", |bencher| {
        bencher.iter(|| {
            now += 1000;
            let circuit = breakers.circuit(black_box(KEY), now);
            let ticket = circuit.allow(now).unwrap();
            circuit.record(ticket, Outcome::Success, now)
        });
    });
    let circuit = breakers.circuit(KEY, now);
    group.bench_function("at_hand", |bencher| {
        bencher.iter(|| {
            now += 1000;
            let ticket = black_box(&circuit).allow(now).unwrap();
            circuit.record(ticket, Outcome::Success, now)
        });
    });
    breakers.force_open("down", 0);
    let down = breakers.circuit("down", 0);
    group.bench_function("refused", |bencher| {
        bencher.iter(|| black_box(&down).allow(1).is_err());
    });
    group.finish();
}

criterion_group!(benches, circuits);
criterion_main!(benches);
