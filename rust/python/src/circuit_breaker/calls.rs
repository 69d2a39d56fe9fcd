//! `Ticket` and `Refusal`: what a circuit answers, and how a call is said to have ended.

use agentapi_core::circuit_breaker::{self, Outcome, Recorded};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::clock::{coarse_ns, whole_seconds};

/// The right to make one call and to say how it ended.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct Ticket {
    pub(super) circuit: circuit_breaker::Circuit,
    pub(super) ticket: circuit_breaker::Ticket,
}

#[pymethods]
impl Ticket {
    /// Always true, which tells it from a refusal.
    #[getter]
    #[allow(clippy::unused_self, reason = "a property")]
    fn allowed(&self) -> bool {
        true
    }

    /// Whether the call is a probe of a half-open circuit.
    #[getter]
    fn is_probe(&self) -> bool {
        self.ticket.is_probe()
    }

    /// The other side did its part.
    fn success(&self) -> Option<&'static str> {
        self.record(Outcome::Success, coarse_ns())
    }

    /// The other side failed.
    fn failure(&self) -> Option<&'static str> {
        self.record(Outcome::Failure, coarse_ns())
    }

    /// The call says nothing about the other side.
    fn neutral(&self) -> Option<&'static str> {
        self.record(Outcome::Neutral, coarse_ns())
    }

    /// Says how the call ended, by the caller's clock.
    fn record_at(&self, outcome: &str, now: u64) -> PyResult<Option<&'static str>> {
        let outcome = match outcome {
            "success" => Outcome::Success,
            "failure" => Outcome::Failure,
            "neutral" => Outcome::Neutral,
            _ => {
                return Err(PyValueError::new_err(
                    "an outcome is 'success', 'failure' or 'neutral'",
                ));
            }
        };
        Ok(self.record(outcome, now))
    }

    fn __repr__(&self) -> String {
        let python_bool = if self.is_probe() { "True" } else { "False" };
        format!("Ticket(is_probe={python_bool})")
    }
}

impl Ticket {
    fn record(&self, outcome: Outcome, now: u64) -> Option<&'static str> {
        match self.circuit.record(self.ticket, outcome, now) {
            Recorded::Counted | Recorded::Stale => None,
            Recorded::Opened { .. } => Some("opened"),
            Recorded::Closed => Some("closed"),
        }
    }
}

/// The circuit lets no call through now.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct Refusal(pub(super) circuit_breaker::Refusal);

#[pymethods]
impl Refusal {
    /// Always false, which tells it from a ticket.
    #[getter]
    #[allow(clippy::unused_self, reason = "a property")]
    fn allowed(&self) -> bool {
        false
    }

    /// Always false, so that `if ticket:` is enough.
    #[allow(clippy::unused_self, reason = "Python's protocol")]
    fn __bool__(&self) -> bool {
        false
    }

    /// Why: the state of the circuit.
    #[getter]
    fn state(&self) -> &'static str {
        self.0.state.name()
    }

    /// When to ask again.
    #[getter]
    fn retry_after_ns(&self) -> u64 {
        self.0.retry_after_ns
    }

    /// The same in whole seconds, rounded up.
    #[getter]
    fn retry_after_s(&self) -> u64 {
        whole_seconds(self.0.retry_after_ns)
    }

    fn __repr__(&self) -> String {
        format!(
            "Refusal(state={:?}, retry_after_ns={})",
            self.state(),
            self.0.retry_after_ns
        )
    }
}
