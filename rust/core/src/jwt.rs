//! Verification of access tokens: compact JWS (RFC 7515) with JWT claims (RFC 7519).
//!
//! Invariants:
//! - The key is chosen by the pair of `iss` and `kid`, and says which algorithms it may verify; what the token
//!   names is only compared with that. `none` is no algorithm, and HS256 belongs to issuers with a shared
//!   secret, which in turn accept nothing else.
//! - Keys carried by the token (`jwk`, `jku`, `x5u`, `x5c`) are never looked at; a `crit` header is refused,
//!   and so is `b64`, which no JWT may use (RFC 7797 section 7).
//! - Whatever two parsers could read differently (duplicate keys, padding, deep nesting) is malformed.
//! - Nothing of the claims is believed before the signature is good.
//!
//! An error carries its reason for the log; the caller shows the outside one answer for all of them.

mod error;
mod header;
mod verified;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::claims::{ClaimRules, clean_text};
use crate::decode_base64url;
use crate::json::{Json, Object};
use crate::jwks::{Algorithm, KeySet, KeySetError, VerifyingKey};
use crate::sync::{Mutex, RwLock};

pub use error::{PolicyError, TokenError};
use header::Header;
pub use verified::Verified;

/// The longest token that is read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// The shortest shared secret (RFC 7518 section 3.2), in bytes.
pub const MIN_SECRET_BYTES: usize = 32;
/// The largest tolerated difference between two clocks, in seconds.
pub const MAX_LEEWAY_S: i64 = 300;
/// Numeric dates end with the year 9999, so that every one of them is a date to Postgres and to Python.
const MAX_NUMERIC_DATE: i64 = 253_402_300_799;
/// How many lists of audiences an issuer's tokens share.
const MAX_SHARED_AUDIENCE_LISTS: usize = 256;

/// One authorization server whose tokens are accepted.
#[derive(Clone)]
pub struct IssuerPolicy {
    issuer: Arc<str>,
    audiences: Vec<String>,
    shared_secret: Option<Zeroizing<Vec<u8>>>,
    claims: ClaimRules,
}

impl IssuerPolicy {
    /// Checks the parts of a policy. With `shared_secret` the issuer signs with HS256 and is believed for nothing
    /// else; `audiences` are accepted besides the audience of each verification.
    ///
    /// # Errors
    /// [`PolicyError::EmptyName`] or [`PolicyError::ShortSecret`].
    pub fn new(
        issuer: &str,
        audiences: Vec<String>,
        shared_secret: Option<Zeroizing<Vec<u8>>>,
        claims: ClaimRules,
    ) -> Result<Self, PolicyError> {
        if issuer.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(PolicyError::EmptyName);
        }
        if shared_secret
            .as_ref()
            .is_some_and(|secret| secret.len() < MIN_SECRET_BYTES)
        {
            return Err(PolicyError::ShortSecret);
        }
        Ok(Self {
            issuer: Arc::from(issuer),
            audiences,
            shared_secret,
            claims,
        })
    }

    /// The exact `iss` of the issuer's tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

impl fmt::Debug for IssuerPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("IssuerPolicy")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// How the tokens of an issuer are believed.
#[cfg_attr(
    feature = "shuttle",
    allow(clippy::large_enum_variant, reason = "only a model's lock is large")
)]
enum Trust {
    SharedSecret(Box<hmac::Key>),
    KeySet(RwLock<Option<KeySet>>),
}

struct Issuer {
    name: Arc<str>,
    audiences: Vec<String>,
    claims: ClaimRules,
    trust: Trust,
    /// Lists of audiences of verified tokens. Tokens are for few places, so that one list serves many of them and
    /// stays in the processor's cache.
    audience_lists: Mutex<HashSet<Arc<[String]>>>,
}

/// Verifies the tokens of several issuers.
pub struct Verifier {
    issuers: HashMap<Arc<str>, Issuer>,
    leeway_s: i64,
}

impl Verifier {
    /// A verifier for `policies`; an issuer without a shared secret has no key until [`Self::replace_keys`].
    ///
    /// # Errors
    /// [`PolicyError::DuplicateIssuer`] or [`PolicyError::BadLeeway`].
    pub fn new(policies: impl IntoIterator<Item = IssuerPolicy>, leeway_s: i64) -> Result<Self, PolicyError> {
        if !(0..=MAX_LEEWAY_S).contains(&leeway_s) {
            return Err(PolicyError::BadLeeway);
        }
        let mut issuers = HashMap::new();
        for policy in policies {
            let trust = match &policy.shared_secret {
                Some(secret) => Trust::SharedSecret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))),
                None => Trust::KeySet(RwLock::new(None)),
            };
            let name = policy.issuer;
            let issuer = Issuer {
                name: Arc::clone(&name),
                audiences: policy.audiences,
                claims: policy.claims,
                trust,
                audience_lists: Mutex::new(HashSet::new()),
            };
            if issuers.insert(Arc::clone(&name), issuer).is_some() {
                return Err(PolicyError::DuplicateIssuer(name.as_ref().to_owned()));
            }
        }
        Ok(Self { issuers, leeway_s })
    }

    /// The shared name of an issuer that a policy names.
    pub(crate) fn issuer(&self, name: &str) -> Option<&Arc<str>> {
        self.issuers.get_key_value(name).map(|(name, _)| name)
    }

    /// The tolerated difference between clocks, in seconds.
    #[must_use]
    pub fn leeway_s(&self) -> i64 {
        self.leeway_s
    }

    /// Puts `keys` in the place of the issuer's key set; a key that stays keeps its identity. Returns whether a
    /// key was retired.
    ///
    /// # Errors
    /// [`KeySetError::UnknownIssuer`] or [`KeySetError::SharedSecretIssuer`]; the old set then stays.
    pub fn replace_keys(&self, issuer: &str, mut keys: KeySet) -> Result<bool, KeySetError> {
        let Trust::KeySet(current) = &self.issuers.get(issuer).ok_or(KeySetError::UnknownIssuer)?.trust
        else {
            return Err(KeySetError::SharedSecretIssuer);
        };
        let mut current = current.write();
        let any_retired = current.as_ref().is_some_and(|previous| keys.succeed(previous));
        *current = Some(keys);
        Ok(any_retired)
    }

    /// Verifies `token` for `audience` at `now` (Unix seconds). An empty audience matches none.
    ///
    /// # Errors
    /// Any [`TokenError`].
    pub fn verify(&self, token: &str, audience: &str, now: i64) -> Result<Verified, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(TokenError::Malformed)?;
        let [header, payload, signature] =
            [header, payload, signature].map(|part| decode_base64url(part).ok_or(TokenError::Malformed));
        let (header, payload, signature) = (header?, payload?, signature?);
        let header = Header::parse(&header)?;
        let claims = Object::parse(&payload).map_err(|_| TokenError::Malformed)?;

        let iss = required_text(&claims, "iss")?;
        let issuer = self.issuers.get(iss).ok_or(TokenError::UnknownIssuer)?;
        let key = issuer.authenticate(&header, signing_input.as_bytes(), &signature)?;
        let verified = issuer.read_claims(&claims, key)?;
        verified.check(audience, now, self.leeway_s)?;
        Ok(verified)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Verifier")
            .field("issuers", &self.issuers.keys())
            .field("leeway_s", &self.leeway_s)
            .finish()
    }
}

impl Issuer {
    /// Finds the key that must have signed and lets it judge. A shared secret has no key to name.
    fn authenticate(
        &self,
        header: &Header,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Option<Arc<VerifyingKey>>, TokenError> {
        match &self.trust {
            Trust::SharedSecret(secret) => {
                if header.algorithm != Algorithm::Hs256 {
                    return Err(TokenError::UnsupportedAlgorithm);
                }
                hmac::verify(secret, message, signature).map_err(|_| TokenError::BadSignature)?;
                Ok(None)
            }
            Trust::KeySet(keys) => {
                let key = self.choose_key(keys, header)?;
                if key.verifies(header.algorithm, message, signature) {
                    Ok(Some(key))
                } else {
                    Err(TokenError::BadSignature)
                }
            }
        }
    }

    fn choose_key(
        &self,
        keys: &RwLock<Option<KeySet>>,
        header: &Header,
    ) -> Result<Arc<VerifyingKey>, TokenError> {
        if header.algorithm == Algorithm::Hs256 {
            return Err(TokenError::UnsupportedAlgorithm);
        }
        let unknown = || TokenError::UnknownKey {
            issuer: Arc::clone(&self.name),
        };
        let keys = keys.read();
        let keys = keys.as_ref().ok_or_else(|| TokenError::NoKeySet {
            issuer: Arc::clone(&self.name),
        })?;
        let key = if let Some(key_id) = &header.key_id {
            let key = keys.get(key_id).ok_or_else(unknown)?;
            if !key.allows(header.algorithm) {
                return Err(TokenError::UnsupportedAlgorithm);
            }
            key
        } else {
            let mut able = keys.keys().filter(|key| key.allows(header.algorithm));
            match (able.next(), able.next()) {
                (Some(only), None) => only,
                (None, _) => return Err(unknown()),
                (Some(_), Some(_)) => return Err(TokenError::AmbiguousKey),
            }
        };
        Ok(Arc::clone(key))
    }

    fn read_claims(
        &self,
        claims: &Object<'_>,
        key: Option<Arc<VerifyingKey>>,
    ) -> Result<Verified, TokenError> {
        let audiences = audiences_of(claims.get("aud").ok_or(TokenError::MissingClaim)?)?;
        let expires_at = numeric_date(claims.get("exp").ok_or(TokenError::MissingClaim)?, f64::floor)?;
        let not_before = claims
            .get("nbf")
            .map(|claim| numeric_date(claim, f64::ceil))
            .transpose()?;
        let iat = claims.get("iat");
        let issued_at = iat.map(|claim| numeric_date(claim, f64::floor)).transpose()?;
        let issued_by = iat.map(|claim| numeric_date(claim, f64::ceil)).transpose()?;
        let token_id = match claims.get("jti") {
            Some(claim) => Some(clean_text(claim.as_str().ok_or(TokenError::BadClaim)?)?.to_owned()),
            None => None,
        };
        let session_id = claims
            .get("sid")
            .and_then(Json::as_str)
            .and_then(|claim| clean_text(claim).ok())
            .map(str::to_owned);
        let subject = clean_text(required_text(claims, "sub")?)?.to_owned();
        let identity = self.claims.apply(claims)?;
        Ok(Verified {
            issuer: Arc::clone(&self.name),
            subject,
            organization: identity.organization,
            role: identity.role,
            email: identity.email,
            scopes: identity.scopes,
            for_policy_audience: audiences.iter().any(|audience| self.audiences.contains(audience)),
            audiences: self.share(audiences),
            expires_at,
            token_id,
            session_id,
            issued_at,
            valid_from: not_before.max(issued_by).unwrap_or(i64::MIN),
            key,
        })
    }

    fn share(&self, audiences: Vec<String>) -> Arc<[String]> {
        let mut lists = self.audience_lists.lock();
        if let Some(list) = lists.get(audiences.as_slice()) {
            return Arc::clone(list);
        }
        let list: Arc<[String]> = audiences.into();
        if lists.len() < MAX_SHARED_AUDIENCE_LISTS {
            lists.insert(Arc::clone(&list));
        }
        list
    }
}

fn required_text<'j>(claims: &'j Object<'_>, name: &str) -> Result<&'j str, TokenError> {
    claims
        .get(name)
        .ok_or(TokenError::MissingClaim)?
        .as_str()
        .ok_or(TokenError::BadClaim)
}

fn audiences_of(claim: &Json<'_>) -> Result<Vec<String>, TokenError> {
    match claim {
        Json::String(audience) => Ok(vec![audience.as_ref().to_owned()]),
        Json::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or(TokenError::BadClaim))
            .collect(),
        _ => Err(TokenError::BadClaim),
    }
}

/// RFC 7519 section 2: seconds since the epoch, possibly with a fraction.
#[allow(
    clippy::cast_possible_truncation,
    reason = "out of range saturates and is then refused"
)]
fn numeric_date(claim: &Json<'_>, round: fn(f64) -> f64) -> Result<i64, TokenError> {
    let seconds = match claim {
        Json::Int(seconds) => *seconds,
        Json::Float(seconds) if seconds.is_finite() => round(*seconds) as i64,
        _ => return Err(TokenError::BadClaim),
    };
    if (-MAX_NUMERIC_DATE..=MAX_NUMERIC_DATE).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(TokenError::BadClaim)
    }
}
