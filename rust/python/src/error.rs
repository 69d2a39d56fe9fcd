//! The exceptions, and the only place where errors of the core become Python's.

use agentapi_core::{circuit_breaker, claims, envelope, jwks, jwt, revocation, sealed, token_bucket};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

create_exception!(
    agentapi._core,
    TokenError,
    PyException,
    "A token is not acceptable. The message is one and the same; `reason`, a static word, is for the log."
);
create_exception!(
    agentapi._core,
    UnknownKeyError,
    TokenError,
    "The key set of `issuer` has no such key or is not loaded yet: refresh it and try once more."
);
create_exception!(
    agentapi._core,
    KeySetError,
    PyValueError,
    "A key set cannot be used; the old one stays."
);
create_exception!(
    agentapi._core,
    RevocationError,
    PyException,
    "A revocation is not taken on."
);
create_exception!(
    agentapi._core,
    SealError,
    PyException,
    "A value cannot be sealed or opened. Every failure to open has the same message."
);
create_exception!(
    agentapi._core,
    KeyringError,
    PyValueError,
    "A keyring cannot be used."
);
create_exception!(
    agentapi._core,
    EnvelopeError,
    PyException,
    "A JSON-RPC message is refused. `reason` is a static word, `jsonrpc_code` and `id_json` are for the answer."
);

const REFUSED: &str = "the token is not acceptable";

/// Results of the core, with their errors turned into exceptions.
pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

/// One error type of the core and the exception it becomes.
pub(crate) trait Raise {
    fn exception(&self, py: Python<'_>) -> PyErr;
}

impl<T, E: Raise> OrRaise<T> for Result<T, E> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| error.exception(py))
    }
}

impl Raise for jwt::TokenError {
    fn exception(&self, py: Python<'_>) -> PyErr {
        let attributes = |error: &PyErr| {
            let value = error.value(py);
            value.setattr("reason", self.reason())?;
            self.issuer_to_refresh()
                .map_or(Ok(()), |issuer| value.setattr("issuer", issuer.as_ref()))
        };
        let error = match self.issuer_to_refresh() {
            Some(_) => UnknownKeyError::new_err(REFUSED),
            None => TokenError::new_err(REFUSED),
        };
        match attributes(&error) {
            Ok(()) => error,
            Err(failure) => failure,
        }
    }
}

impl Raise for jwks::KeySetError {
    fn exception(&self, _: Python<'_>) -> PyErr {
        KeySetError::new_err(self.to_string())
    }
}

impl Raise for revocation::RevocationError {
    fn exception(&self, _: Python<'_>) -> PyErr {
        RevocationError::new_err(self.to_string())
    }
}

impl Raise for jwt::PolicyError {
    fn exception(&self, _: Python<'_>) -> PyErr {
        PyValueError::new_err(self.to_string())
    }
}

impl Raise for claims::ClaimRulesError {
    fn exception(&self, _: Python<'_>) -> PyErr {
        PyValueError::new_err(self.to_string())
    }
}

impl Raise for sealed::SealError {
    fn exception(&self, _: Python<'_>) -> PyErr {
        SealError::new_err(self.to_string())
    }
}

impl Raise for sealed::KeyringError {
    fn exception(&self, _: Python<'_>) -> PyErr {
        KeyringError::new_err(self.to_string())
    }
}

impl Raise for envelope::EnvelopeError {
    fn exception(&self, py: Python<'_>) -> PyErr {
        let attributes = |error: &PyErr| {
            let value = error.value(py);
            let id_json = self.id_json.as_ref().map(|id| PyBytes::new(py, id.as_bytes()));
            value.setattr("reason", self.reason.name())?;
            value.setattr("jsonrpc_code", self.reason.jsonrpc_code())?;
            value.setattr("id_json", id_json)
        };
        let error = EnvelopeError::new_err(self.to_string());
        match attributes(&error) {
            Ok(()) => error,
            Err(failure) => failure,
        }
    }
}

impl Raise for token_bucket::LimitError {
    fn exception(&self, _: Python<'_>) -> PyErr {
        PyValueError::new_err(self.to_string())
    }
}

impl Raise for token_bucket::TooManyRequests {
    fn exception(&self, _: Python<'_>) -> PyErr {
        PyValueError::new_err(self.to_string())
    }
}

impl Raise for circuit_breaker::RulesError {
    fn exception(&self, _: Python<'_>) -> PyErr {
        PyValueError::new_err(self.to_string())
    }
}
