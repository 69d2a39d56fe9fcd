//! Verification of a token that was never seen, beside the bare signature check of the same crypto library.
//!
//! One line of JSON for each algorithm. The two are timed in turn within each round, and each goes first in every
//! other round, so that whatever else the machine does falls on both. Not criterion's business: it measures one
//! after the other.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "benchmarks"
)]
#![allow(clippy::print_stdout, reason = "the report reads it")]
#![allow(dead_code, unreachable_pub, reason = "shared with the tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{AUDIENCE, NOW, Signer, claims, verifier};
use serde_json::json;

const ROUNDS: usize = 20_000;
const WARM_UP: usize = 1000;

/// The key as the library parses it, without anything of ours.
fn bare_key(signer: &Signer) -> ParsedPublicKey {
    let jwk = signer.jwk("k");
    let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    match signer {
        Signer::Rsa(_) => RsaPublicKeyComponents {
            n: part("n"),
            e: part("e"),
        }
        .to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256)
        .unwrap(),
        Signer::Ec(..) => {
            let point = [&[4], part("x").as_slice(), part("y").as_slice()].concat();
            ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).unwrap()
        }
        _ => ParsedPublicKey::new(&signature::ED25519, part("x")).unwrap(),
    }
}

fn nanoseconds(call: impl FnOnce()) -> f64 {
    let start = Instant::now();
    call();
    start.elapsed().as_secs_f64() * 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (ec, ed) = (Signer::p256(), Signer::ed25519());
    for (alg, signer) in [("RS256", common::rsa()), ("ES256", &ec), ("EdDSA", &ed)] {
        let token = signer.token(alg, "k", &claims());
        let verifier = verifier(&[signer.jwk("k")]);
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let key = bare_key(signer);
        let verify = || {
            black_box(verifier.verify(black_box(&token), AUDIENCE, NOW).unwrap());
        };
        let check = || {
            key.verify_sig(black_box(message.as_bytes()), &signature).unwrap();
        };

        let (verifications, bare): (Vec<f64>, Vec<f64>) = (0..WARM_UP + ROUNDS)
            .map(|round| {
                if round % 2 == 0 {
                    let verification = nanoseconds(verify);
                    (verification, nanoseconds(check))
                } else {
                    let bare = nanoseconds(check);
                    (nanoseconds(verify), bare)
                }
            })
            .skip(WARM_UP)
            .unzip();
        let ratios = verifications.iter().zip(&bare).map(|(whole, bare)| whole / bare);
        let ratio = median(ratios.collect());
        println!(
            "{}",
            json!({
                "alg": alg, "verify_ns": median(verifications), "bare_ns": median(bare), "ratio": ratio,
                "rounds": ROUNDS,
            })
        );
    }
}
