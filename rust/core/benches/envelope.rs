//! The scan of a message, beside `serde_json`, which builds a tree of the same bytes.
#![allow(missing_docs, clippy::unwrap_used, reason = "benchmarks")]

use std::hint::black_box;

use agentapi_core::envelope::{Envelope, Limits};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};

const LIMITS: Limits = Limits {
    max_bytes: 2 << 20,
    max_depth: 64,
};

fn tools_call(arguments: &Value) -> Vec<u8> {
    let message = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {
            "name": "search_issues", "arguments": arguments,
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": "p-7",
            },
        },
    });
    message.to_string().into_bytes()
}

/// Some `bytes` of short members, which are what a reader of JSON finds hardest.
fn records(bytes: usize) -> Value {
    let record = |number: usize| json!({"id": number, "title": "A title of some words", "open": true, "labels": ["a", "b"]});
    let each = record(1000).to_string().len() + 1;
    json!({ "records": (0..bytes / each).map(record).collect::<Vec<_>>() })
}

/// Some `bytes` of one string, with an escape in each line.
fn text(bytes: usize) -> Value {
    let line = "A line of a file that somebody has attached to a call.\n";
    json!({ "content": line.repeat(bytes / (line.len() + 1)) })
}

fn scan(criterion: &mut Criterion) {
    let small = json!({"query": "is:open label:bug crash on start", "limit": 20, "sort": "updated"});
    let messages = [
        ("small", small),
        ("16_kib_of_records", records(16 << 10)),
        ("16_kib_of_text", text(16 << 10)),
        ("1_mib_of_records", records(1 << 20)),
        ("1_mib_of_text", text(1 << 20)),
    ];
    for (name, arguments) in messages {
        let message = tools_call(&arguments);
        let mut group = criterion.benchmark_group(format!("envelope_{name}"));
        group.throughput(Throughput::Bytes(u64::try_from(message.len()).unwrap()));
        group.bench_function("scan", |bencher| {
            bencher.iter(|| Envelope::scan(black_box(&message), LIMITS).unwrap().kind);
        });
        group.bench_function("serde_json", |bencher| {
            bencher.iter(|| serde_json::from_slice::<Value>(black_box(&message)).unwrap());
        });
        group.finish();
    }
}

criterion_group!(benches, scan);
criterion_main!(benches);
