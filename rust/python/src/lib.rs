//! `agentapi._core`: the Python face of `agentapi-core`.
//!
//! Every class is frozen and may be used from any thread. Nothing here calls back into Python while a lock of
//! the core is held.

mod circuit_breaker;
mod clock;
mod envelope;
mod error;
mod jwt;
mod sealed;
mod token_bucket;

use pyo3::prelude::*;

/// The performance-critical decisions of `AgentAPI`.
#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::circuit_breaker::{Circuit, CircuitBreakers, CircuitRules, CircuitSnapshot, Refusal, Ticket};
    #[pymodule_export]
    use crate::envelope::{Envelope, scan_envelope};
    #[pymodule_export]
    use crate::error::{
        EnvelopeError, KeySetError, KeyringError, RevocationError, SealError, TokenError, UnknownKeyError,
    };
    #[pymodule_export]
    use crate::jwt::{ClaimRules, IssuerPolicy, TokenVerifier, VerifiedToken};
    #[pymodule_export]
    use crate::sealed::Keyring;
    #[pymodule_export]
    use crate::token_bucket::{Decision, Decisions, Limit, TokenBuckets};
}
