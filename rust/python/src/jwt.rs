//! `ClaimRules`, `IssuerPolicy`, `VerifiedToken` and `TokenVerifier`.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use agentapi_core::claims::{self, ClaimRulesSpec};
use agentapi_core::jwt::{self, TokenError, Verified};
use agentapi_core::token_cache::CachingVerifier;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFrozenSet, PyMapping, PyString, PyTuple};
use zeroize::Zeroizing;

use crate::error::OrRaise as _;

/// Where the claims of an issuer's tokens say who the caller is. Pointers are RFC 6901 JSON pointers.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct ClaimRules(claims::ClaimRules);

#[pymethods]
impl ClaimRules {
    #[new]
    #[pyo3(signature = (
        *, organization_pointer=None, organizations=None, organization=None, role_pointer=None, roles=None,
        default_role=None, email_pointer=Some("/email".to_owned()), scope_pointer=Some("/scope".to_owned())
    ), text_signature = "(*, organization_pointer=None, organizations=None, organization=None, role_pointer=None, \
        roles=None, default_role=None, email_pointer='/email', scope_pointer='/scope')")]
    #[allow(clippy::too_many_arguments, reason = "they are keywords")]
    fn new(
        py: Python<'_>,
        organization_pointer: Option<String>,
        organizations: Option<&Bound<'_, PyMapping>>,
        organization: Option<String>,
        role_pointer: Option<String>,
        roles: Option<&Bound<'_, PyMapping>>,
        default_role: Option<String>,
        email_pointer: Option<String>,
        scope_pointer: Option<String>,
    ) -> PyResult<Self> {
        let spec = ClaimRulesSpec {
            organization_pointer,
            organizations: strings_of(organizations)?,
            organization,
            role_pointer,
            roles: strings_of(roles)?,
            default_role,
            email_pointer,
            scope_pointer,
        };
        claims::ClaimRules::new(spec).or_raise(py).map(Self)
    }
}

fn strings_of(mapping: Option<&Bound<'_, PyMapping>>) -> PyResult<HashMap<String, String>> {
    match mapping {
        Some(mapping) => mapping.items()?.iter().map(|item| item.extract()).collect(),
        None => Ok(HashMap::new()),
    }
}

/// One authorization server whose tokens are accepted.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct IssuerPolicy(jwt::IssuerPolicy);

#[pymethods]
impl IssuerPolicy {
    #[new]
    #[pyo3(
        signature = (*, issuer, audiences=Vec::new(), shared_secret=None, claims=None),
        text_signature = "(*, issuer, audiences=(), shared_secret=None, claims=None)"
    )]
    fn new(
        py: Python<'_>,
        issuer: &str,
        audiences: Vec<String>,
        shared_secret: Option<&[u8]>,
        claims: Option<&ClaimRules>,
    ) -> PyResult<Self> {
        let claims = match claims {
            Some(rules) => rules.0.clone(),
            None => claims::ClaimRules::new(default_rules()).or_raise(py)?,
        };
        let secret = shared_secret.map(|secret| Zeroizing::new(secret.to_vec()));
        jwt::IssuerPolicy::new(issuer, audiences, secret, claims)
            .or_raise(py)
            .map(Self)
    }

    /// The exact `iss` of the issuer's tokens.
    #[getter]
    fn issuer(&self) -> &str {
        self.0.issuer()
    }

    fn __repr__(&self) -> String {
        format!("IssuerPolicy(issuer={:?})", self.0.issuer())
    }
}

/// What `ClaimRules()` says.
fn default_rules() -> ClaimRulesSpec {
    ClaimRulesSpec {
        email_pointer: Some("/email".to_owned()),
        scope_pointer: Some("/scope".to_owned()),
        ..ClaimRulesSpec::default()
    }
}

/// What a verified token says about its owner. There is no way to make one but to verify a token.
#[pyclass(frozen, weakref, module = "agentapi._core")]
pub(crate) struct VerifiedToken {
    verified: Verified,
    scopes: PyOnceLock<Py<PyFrozenSet>>,
    audiences: PyOnceLock<Py<PyTuple>>,
}

#[pymethods]
impl VerifiedToken {
    /// The `iss` claim.
    #[getter]
    fn issuer(&self) -> &str {
        &self.verified.issuer
    }

    /// The `sub` claim.
    #[getter]
    fn subject(&self) -> &str {
        &self.verified.subject
    }

    /// The organisation that the issuer's claim rules found.
    #[getter]
    fn organization(&self) -> Option<&str> {
        self.verified.organization.as_deref()
    }

    /// The role that the issuer's claim rules found.
    #[getter]
    fn role(&self) -> Option<&'static str> {
        self.verified.role.map(claims::Role::name)
    }

    /// The e-mail address that the issuer's claim rules found.
    #[getter]
    fn email(&self) -> Option<&str> {
        self.verified.email.as_deref()
    }

    /// The scopes that the issuer's claim rules found.
    #[getter]
    fn scopes<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyFrozenSet>> {
        let scopes = self.scopes.get_or_try_init(py, || {
            PyFrozenSet::new(py, &self.verified.scopes).map(Bound::unbind)
        })?;
        Ok(scopes.bind(py))
    }

    /// The `aud` claim.
    #[getter]
    fn audiences<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyTuple>> {
        let audiences = self.audiences.get_or_try_init(py, || {
            PyTuple::new(py, self.verified.audiences.iter()).map(Bound::unbind)
        })?;
        Ok(audiences.bind(py))
    }

    /// The `exp` claim, in Unix seconds.
    #[getter]
    fn expires_at(&self) -> i64 {
        self.verified.expires_at
    }

    /// The `jti` claim.
    #[getter]
    fn token_id(&self) -> Option<&str> {
        self.verified.token_id.as_deref()
    }

    /// The `sid` claim.
    #[getter]
    fn session_id(&self) -> Option<&str> {
        self.verified.session_id.as_deref()
    }

    /// The `kid` of the key that verified the token.
    #[getter]
    fn key_id(&self) -> Option<&str> {
        self.verified.key_id()
    }

    fn __repr__(&self) -> String {
        format!("VerifiedToken(issuer={:?})", self.verified.issuer)
    }
}

/// What the cache holds: the Python object, which gives access to what it was made of.
struct Shared(Py<VerifiedToken>);

impl Borrow<Verified> for Shared {
    fn borrow(&self) -> &Verified {
        &self.0.get().verified
    }
}

/// Verifies the tokens of several issuers and remembers them until they expire or their key leaves the set.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct TokenVerifier(CachingVerifier<Shared>);

#[pymethods]
impl TokenVerifier {
    #[new]
    #[pyo3(signature = (issuers, *, leeway_s=30, cache_entries=100_000))]
    fn new(
        py: Python<'_>,
        issuers: Vec<PyRef<'_, IssuerPolicy>>,
        leeway_s: i64,
        cache_entries: usize,
    ) -> PyResult<Self> {
        let policies = issuers.into_iter().map(|policy| policy.0.clone());
        let verifier = jwt::Verifier::new(policies, leeway_s).or_raise(py)?;
        Ok(Self(CachingVerifier::new(verifier, cache_entries)))
    }

    /// Puts a key set in the place of the issuer's and returns how many keys are usable.
    fn replace_keys(&self, py: Python<'_>, issuer: &str, jwks: &[u8]) -> PyResult<usize> {
        self.0.replace_keys(issuer, jwks).or_raise(py)
    }

    /// Verifies a token for an audience at `now`, in Unix seconds; without it, by the system's clock.
    #[pyo3(signature = (token, audience, now=None))]
    fn verify(
        &self,
        py: Python<'_>,
        token: &Bound<'_, PyString>,
        audience: &str,
        now: Option<i64>,
    ) -> PyResult<Py<VerifiedToken>> {
        let now = now.unwrap_or_else(unix_now);
        // Text that is not Unicode (a lone surrogate) is as wrong as any other text that is no token.
        let token = token.to_str().map_err(|_| TokenError::Malformed).or_raise(py)?;
        let take = |shared: &Shared| shared.0.clone_ref(py);
        if let Some(answer) = self.0.recall(token, audience, now, take) {
            return answer.or_raise(py);
        }
        // The interpreter is kept: beside a thread that is busy in Python, one who has let go of it for some
        // microseconds waits milliseconds to get it back (bench/interpreter.py).
        let verified = self.0.verify(token, audience, now).or_raise(py)?;
        let fresh = VerifiedToken {
            verified,
            scopes: PyOnceLock::new(),
            audiences: PyOnceLock::new(),
        };
        self.0
            .remember(token, Shared(Py::new(py, fresh)?), now, take)
            .or_raise(py)
    }

    /// Refuses the issuer's token of that `jti` from now on.
    #[pyo3(signature = (issuer, jti, expires_at, *, now=None))]
    fn revoke_token(
        &self,
        py: Python<'_>,
        issuer: &str,
        jti: &str,
        expires_at: i64,
        now: Option<i64>,
    ) -> PyResult<()> {
        let now = now.unwrap_or_else(unix_now);
        self.0.revoke_token(issuer, jti, expires_at, now).or_raise(py)
    }

    /// Refuses from now on what the issuer gave the subject before a moment.
    #[pyo3(signature = (issuer, subject, issued_before, *, expires_at=None, now=None))]
    fn revoke_subject(
        &self,
        py: Python<'_>,
        issuer: &str,
        subject: &str,
        issued_before: i64,
        expires_at: Option<i64>,
        now: Option<i64>,
    ) -> PyResult<()> {
        let now = now.unwrap_or_else(unix_now);
        self.0
            .revoke_subject(issuer, subject, issued_before, expires_at, now)
            .or_raise(py)
    }

    /// How many revocations are listed.
    #[getter]
    fn revocations(&self) -> usize {
        self.0.revocations()
    }

    /// How many tokens are remembered, with the dead ones that are not reclaimed yet.
    #[getter]
    fn cached_tokens(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("TokenVerifier(cached_tokens={})", self.0.len())
    }
}

fn unix_now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
