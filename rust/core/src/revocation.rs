//! Tokens that are refused before they expire.
//!
//! Invariants: an entry counts for one issuer's tokens only, and stays until no token it means could be accepted
//! for another reason; nothing is pushed out to make room, so a full list says that it is full.

use std::collections::HashMap;
use std::sync::Arc;

use crate::claims::clean_text;
use crate::jwt::Verified;

/// The most entries of one list, in all.
pub const MAX_REVOCATIONS: usize = 100_000;

/// Why a revocation is not taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// No policy names the issuer.
    #[error("the issuer is not configured")]
    UnknownIssuer,
    /// Not a text that a `jti` or `sub` claim may hold.
    #[error("no token has such a name")]
    BadName,
    /// [`MAX_REVOCATIONS`] entries, none of which has expired.
    #[error("the revocation list is full")]
    Full,
}

/// What is revoked of one issuer.
#[derive(Default)]
struct OfIssuer {
    /// `jti` to the moment from which on the entry is not needed.
    tokens: HashMap<Box<str>, i64>,
    subjects: HashMap<Box<str>, OfSubject>,
}

#[derive(Clone, Copy)]
struct OfSubject {
    issued_before: i64,
    until: i64,
}

impl OfSubject {
    /// A token that does not say when it was issued may be an old one.
    fn covers(self, verified: &Verified) -> bool {
        verified.issued_at().is_none_or(|at| at < self.issued_before)
    }
}

/// The revoked tokens of all issuers.
#[derive(Default)]
pub(crate) struct Revocations {
    issuers: HashMap<Arc<str>, OfIssuer>,
    entries: usize,
}

impl Revocations {
    /// Revokes the token `token_id` until `until`.
    pub(crate) fn add_token(
        &mut self,
        issuer: &Arc<str>,
        token_id: &str,
        until: i64,
        now: i64,
    ) -> Result<(), RevocationError> {
        let name = clean_text(token_id).map_err(|_| RevocationError::BadName)?;
        if let Some(known) = self
            .issuers
            .get_mut(issuer)
            .and_then(|of| of.tokens.get_mut(name))
        {
            *known = until.max(*known);
            return Ok(());
        }
        self.make_room(now)?;
        let of = self.issuers.entry(Arc::clone(issuer)).or_default();
        of.tokens.insert(Box::from(name), until);
        self.entries += 1;
        Ok(())
    }

    /// Revokes until `until` what `subject` was issued before `issued_before`.
    pub(crate) fn add_subject(
        &mut self,
        issuer: &Arc<str>,
        subject: &str,
        issued_before: i64,
        until: i64,
        now: i64,
    ) -> Result<(), RevocationError> {
        let name = clean_text(subject).map_err(|_| RevocationError::BadName)?;
        if let Some(known) = self
            .issuers
            .get_mut(issuer)
            .and_then(|of| of.subjects.get_mut(name))
        {
            known.issued_before = issued_before.max(known.issued_before);
            known.until = until.max(known.until);
            return Ok(());
        }
        self.make_room(now)?;
        let of = self.issuers.entry(Arc::clone(issuer)).or_default();
        of.subjects
            .insert(Box::from(name), OfSubject { issued_before, until });
        self.entries += 1;
        Ok(())
    }

    pub(crate) fn covers(&self, verified: &Verified) -> bool {
        let Some(of) = self.issuers.get(&verified.issuer) else {
            return false;
        };
        let is_token = verified
            .token_id
            .as_deref()
            .is_some_and(|id| of.tokens.contains_key(id));
        is_token
            || of
                .subjects
                .get(verified.subject.as_str())
                .is_some_and(|subject| subject.covers(verified))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    fn make_room(&mut self, now: i64) -> Result<(), RevocationError> {
        if self.entries >= MAX_REVOCATIONS {
            for of in self.issuers.values_mut() {
                of.tokens.retain(|_, until| *until > now);
                of.subjects.retain(|_, subject| subject.until > now);
            }
            let entries_of = |of: &OfIssuer| of.tokens.len() + of.subjects.len();
            self.entries = self.issuers.values().map(entries_of).sum();
        }
        if self.entries < MAX_REVOCATIONS {
            Ok(())
        } else {
            Err(RevocationError::Full)
        }
    }
}
