//! `CircuitRules`, `Ticket`, `Refusal`, `CircuitSnapshot` and `CircuitBreakers`.

use std::hash::{BuildHasher as _, RandomState};

use agentapi_core::circuit_breaker::{self, Outcome, Recorded, Rules};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::clock::{monotonic_ns, whole_seconds};
use crate::error::OrRaise as _;

/// When circuits open and close.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct CircuitRules(Rules);

#[pymethods]
impl CircuitRules {
    #[new]
    #[pyo3(signature = (
        *, consecutive_failures=5, failure_rate_percent=50, window_ns=60_000_000_000, min_calls=20,
        open_ns=30_000_000_000, jitter_percent=10, probes=1, probe_lease_ns=30_000_000_000,
        successes_to_close=2
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords")]
    fn new(
        consecutive_failures: u32,
        failure_rate_percent: u32,
        window_ns: u64,
        min_calls: u32,
        open_ns: u64,
        jitter_percent: u32,
        probes: u32,
        probe_lease_ns: u64,
        successes_to_close: u32,
    ) -> Self {
        Self(Rules {
            consecutive_failures,
            failure_rate_percent,
            window_ns,
            min_calls,
            open_ns,
            jitter_percent,
            probes,
            probe_lease_ns,
            successes_to_close,
        })
    }

    fn __repr__(&self) -> String {
        format!("Circuit{:?}", self.0)
    }
}

/// The right to make one call and to say once how it ended.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct Ticket {
    is_probe: bool,
    ticket: Mutex<Option<circuit_breaker::Ticket>>,
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
        self.is_probe
    }

    fn __repr__(&self) -> String {
        let python_bool = if self.is_probe { "True" } else { "False" };
        format!("Ticket(is_probe={python_bool})")
    }
}

/// The circuit lets no call through now.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct Refusal(circuit_breaker::Refusal);

#[pymethods]
impl Refusal {
    /// Always false, which tells it from a ticket.
    #[getter]
    #[allow(clippy::unused_self, reason = "a property")]
    fn allowed(&self) -> bool {
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

/// One circuit, to be shown.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct CircuitSnapshot(circuit_breaker::Snapshot);

#[pymethods]
impl CircuitSnapshot {
    /// Names the circuit.
    #[getter]
    fn key(&self) -> &str {
        &self.0.key
    }

    /// Its state.
    #[getter]
    fn state(&self) -> &'static str {
        self.0.state.name()
    }

    /// Failures in a row.
    #[getter]
    fn consecutive_failures(&self) -> u32 {
        self.0.consecutive_failures
    }

    /// Calls recorded in the window.
    #[getter]
    fn calls(&self) -> u32 {
        self.0.calls
    }

    /// How many of them failed.
    #[getter]
    fn failures(&self) -> u32 {
        self.0.failures
    }

    /// Probes that hold a place.
    #[getter]
    fn probes(&self) -> u32 {
        self.0.probes
    }

    /// The rest of the open time.
    #[getter]
    fn retry_after_ns(&self) -> u64 {
        self.0.retry_after_ns
    }

    /// How often it opened since it is known.
    #[getter]
    fn openings(&self) -> u64 {
        self.0.openings
    }

    fn __repr__(&self) -> String {
        format!("CircuitSnapshot(key={:?}, state={:?})", self.0.key, self.state())
    }
}

/// The circuits of many keys under the same rules.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct CircuitBreakers(circuit_breaker::CircuitBreakers);

#[pymethods]
impl CircuitBreakers {
    #[new]
    #[pyo3(signature = (rules=None, *, capacity=100_000, seed=None))]
    fn new(
        py: Python<'_>,
        rules: Option<&CircuitRules>,
        capacity: usize,
        seed: Option<u64>,
    ) -> PyResult<Self> {
        let rules = rules.map_or_else(Rules::default, |rules| rules.0);
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        circuit_breaker::CircuitBreakers::new(rules, capacity, seed)
            .or_raise(py)
            .map(Self)
    }

    /// Asks to make a call.
    #[pyo3(signature = (key, now=None))]
    fn allow<'py>(&self, py: Python<'py>, key: &str, now: Option<u64>) -> PyResult<Bound<'py, PyAny>> {
        match self.0.allow(key, now.unwrap_or_else(monotonic_ns)) {
            Ok(ticket) => {
                let ticket = Ticket {
                    is_probe: ticket.is_probe(),
                    ticket: Mutex::new(Some(ticket)),
                };
                Bound::new(py, ticket).map(Bound::into_any)
            }
            Err(refusal) => Bound::new(py, Refusal(refusal)).map(Bound::into_any),
        }
    }

    /// Says how a call ended and what that did to the circuit, if anything.
    #[pyo3(signature = (ticket, outcome, now=None))]
    fn record(&self, ticket: &Ticket, outcome: &str, now: Option<u64>) -> PyResult<Option<&'static str>> {
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
        let Some(ticket) = ticket.ticket.lock().take() else {
            return Ok(None);
        };
        let now = now.unwrap_or_else(monotonic_ns);
        Ok(match self.0.record(ticket, outcome, now) {
            Recorded::Counted | Recorded::Stale => None,
            Recorded::Opened { .. } => Some("opened"),
            Recorded::Closed => Some("closed"),
        })
    }

    /// Refuses all calls of `key` until a reset.
    #[pyo3(signature = (key, now=None))]
    fn force_open(&self, key: &str, now: Option<u64>) {
        self.0.force_open(key, now.unwrap_or_else(monotonic_ns));
    }

    /// Closes the circuit of `key` without a past.
    fn reset(&self, key: &str) {
        self.0.reset(key);
    }

    /// The circuit of `key`; one that is not known is closed.
    #[pyo3(signature = (key, now=None))]
    fn snapshot(&self, key: &str, now: Option<u64>) -> CircuitSnapshot {
        CircuitSnapshot(self.0.snapshot(key, now.unwrap_or_else(monotonic_ns)))
    }

    /// The circuits that are not closed.
    #[pyo3(signature = (now=None))]
    fn tripped(&self, now: Option<u64>) -> Vec<CircuitSnapshot> {
        let now = now.unwrap_or_else(monotonic_ns);
        self.0.tripped(now).into_iter().map(CircuitSnapshot).collect()
    }

    /// How many known circuits are in each state.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = self.0.counts();
        let by_state = PyDict::new(py);
        by_state.set_item("closed", counts.closed)?;
        by_state.set_item("open", counts.open)?;
        by_state.set_item("half_open", counts.half_open)?;
        by_state.set_item("forced_open", counts.forced_open)?;
        Ok(by_state)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("CircuitBreakers(len={})", self.0.len())
    }
}
