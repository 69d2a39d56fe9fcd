//! What came of a good token.

use std::fmt;
use std::sync::Arc;

use super::error::TokenError;
use crate::claims::Role;
use crate::jwks::VerifyingKey;

/// What a token proved, and what has to hold each time it is shown.
pub struct Verified {
    /// The `iss` claim.
    pub issuer: Arc<str>,
    /// The `sub` claim.
    pub subject: String,
    /// The organisation that the issuer's claim rules found.
    pub organization: Option<String>,
    /// The role that the issuer's claim rules found.
    pub role: Option<Role>,
    /// The e-mail address that the issuer's claim rules found.
    pub email: Option<String>,
    /// The scopes that the issuer's claim rules found.
    pub scopes: Vec<String>,
    /// The `aud` claim as a list, shared with other tokens for the same.
    pub audiences: Arc<[String]>,
    /// The `exp` claim in Unix seconds, rounded down.
    pub expires_at: i64,
    /// The `jti` claim.
    pub token_id: Option<String>,
    /// The `sid` claim where it is text: issuers give it meanings of their own, so that no other kind is refused.
    pub session_id: Option<String>,
    /// The `iat` claim, rounded down.
    pub(super) issued_at: Option<i64>,
    /// The later of `nbf` and `iat`, rounded up.
    pub(super) valid_from: i64,
    /// One of the audiences is the issuer policy's own.
    pub(super) for_policy_audience: bool,
    pub(super) key: Option<Arc<VerifyingKey>>,
}

impl Verified {
    /// The `kid` of the key that verified the token.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key.as_ref()?.key_id().map(AsRef::as_ref)
    }

    /// Whether the key that verified the token has left its issuer's set.
    #[must_use]
    pub fn is_key_retired(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.is_retired())
    }

    /// The `iat` claim in Unix seconds, rounded down.
    #[must_use]
    pub fn issued_at(&self) -> Option<i64> {
        self.issued_at
    }

    /// Whether `exp` has passed at `now`.
    #[must_use]
    pub fn is_expired(&self, now: i64, leeway_s: i64) -> bool {
        now >= self.expires_at.saturating_add(leeway_s)
    }

    /// What depends on the moment and on the place where the token is shown.
    ///
    /// # Errors
    /// [`TokenError::Expired`], [`TokenError::NotYetValid`] or [`TokenError::WrongAudience`].
    pub fn check(&self, audience: &str, now: i64, leeway_s: i64) -> Result<(), TokenError> {
        if self.is_expired(now, leeway_s) {
            Err(TokenError::Expired)
        } else if self.valid_from > now.saturating_add(leeway_s) {
            Err(TokenError::NotYetValid)
        } else if self.for_policy_audience
            || (!audience.is_empty() && self.audiences.iter().any(|aud| aud == audience))
        {
            Ok(())
        } else {
            Err(TokenError::WrongAudience)
        }
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Verified")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}
