//! Why a token, or the configuration of a verifier, is refused.

use std::sync::Arc;

use crate::claims::BadClaim;

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a compact JWS with JSON objects for header and claims.
    #[error("malformed")]
    Malformed,
    /// Longer than [`super::MAX_TOKEN_BYTES`].
    #[error("too_large")]
    TooLarge,
    /// The algorithm is not one that the issuer's key may verify.
    #[error("unsupported_algorithm")]
    UnsupportedAlgorithm,
    /// No policy names the issuer.
    #[error("unknown_issuer")]
    UnknownIssuer,
    /// The signature is not the key's.
    #[error("bad_signature")]
    BadSignature,
    /// `exp` has passed.
    #[error("expired")]
    Expired,
    /// The token, or what its subject was issued up to some moment, was revoked.
    #[error("revoked")]
    Revoked,
    /// `nbf` or `iat` lies in the future.
    #[error("not_yet_valid")]
    NotYetValid,
    /// `aud` names someone else.
    #[error("wrong_audience")]
    WrongAudience,
    /// `iss`, `sub`, `aud` or `exp` is missing.
    #[error("missing_claim")]
    MissingClaim,
    /// A claim has the wrong type or value.
    #[error("bad_claim")]
    BadClaim,
    /// Without a `kid`, more than one key could be meant.
    #[error("unknown_key")]
    AmbiguousKey,
    /// The issuer's key set has no such key; a fresh one may.
    #[error("unknown_key")]
    UnknownKey {
        /// The issuer whose key set may be out of date.
        issuer: Arc<str>,
    },
    /// No key set of the issuer has been loaded yet.
    #[error("no_key_set")]
    NoKeySet {
        /// The issuer whose key set is wanted.
        issuer: Arc<str>,
    },
}

impl TokenError {
    /// A static `snake_case` word for the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongAudience => "wrong_audience",
            Self::MissingClaim => "missing_claim",
            Self::BadClaim => "bad_claim",
            Self::AmbiguousKey | Self::UnknownKey { .. } => "unknown_key",
            Self::NoKeySet { .. } => "no_key_set",
        }
    }

    /// The issuer whose key set is worth fetching before another try.
    #[must_use]
    pub fn issuer_to_refresh(&self) -> Option<&Arc<str>> {
        match self {
            Self::UnknownKey { issuer } | Self::NoKeySet { issuer } => Some(issuer),
            _ => None,
        }
    }
}

impl From<BadClaim> for TokenError {
    fn from(_: BadClaim) -> Self {
        Self::BadClaim
    }
}

/// Why a [`super::Verifier`] cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// An issuer or an audience is empty.
    #[error("an issuer or audience is empty")]
    EmptyName,
    /// Two policies name the same issuer.
    #[error("two policies name the issuer {0:?}")]
    DuplicateIssuer(String),
    /// Shorter than [`super::MIN_SECRET_BYTES`].
    #[error("a shared secret has at least 32 bytes")]
    ShortSecret,
    /// Outside of 0 to [`super::MAX_LEEWAY_S`].
    #[error("the leeway is 0 to 300 seconds")]
    BadLeeway,
}
