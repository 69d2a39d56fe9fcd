//! The decisions `AgentAPI` makes on every request, as pure policy.
//!
//! Nothing in this crate reads a clock, touches the network or knows Python:
//! time comes in as `now`, keys and rules come in as values.

#![forbid(unsafe_code)]

pub mod circuit_breaker;
pub mod claims;
pub mod envelope;
mod json;
pub mod jwks;
pub mod jwt;
mod keyed_table;
pub mod revocation;
pub mod sealed;
mod sync;
pub mod token_bucket;
pub mod token_cache;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Decodes base64url as RFC 7515 wants it: no padding, no other alphabet, zero trailing bits.
fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
