//! The corpora of the fuzz targets, replayed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../../fuzz/properties/envelope.rs"]
mod envelope;
#[path = "../../fuzz/properties/jwks.rs"]
mod jwks;
#[path = "../../fuzz/properties/jwt.rs"]
mod jwt;
#[path = "../../fuzz/properties/sealed.rs"]
mod sealed;

use std::fs;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        check(&fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files > 100, "{target}: {files}");
}

#[test]
fn envelope_corpus() {
    replay("envelope", envelope::check);
}

#[test]
fn jwks_corpus() {
    replay("jwks", jwks::check);
}

#[test]
fn jwt_corpus() {
    replay("jwt", jwt::check);
}

#[test]
fn sealed_corpus() {
    replay("sealed", sealed::check);
}
