//! `CircuitRules`, `Ticket`, `Refusal`, `CircuitSnapshot`, `Circuit` and `CircuitBreakers`.

mod calls;

use std::hash::{BuildHasher as _, RandomState};

use agentapi_core::circuit_breaker::{self, Rules};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::clock::coarse_ns;
use crate::error::OrRaise as _;

pub(crate) use self::calls::{Refusal, Ticket};

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

/// The circuit of one key, to be kept beside what it guards.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct Circuit {
    core: circuit_breaker::Circuit,
    /// The ticket of all calls of the generation in which this object was made, which needs no lock to be found.
    first: Option<Py<Ticket>>,
    /// That of the latest generation in which the circuit was closed again.
    latest: Mutex<Option<Py<Ticket>>>,
}

#[pymethods]
impl Circuit {
    /// Names the circuit.
    #[getter]
    fn key(&self) -> &str {
        self.core.key()
    }

    /// Asks to make a call.
    fn allow(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.core.closed() {
            Some(ticket) => self.shared(py, ticket),
            None => self.allow_at(py, coarse_ns()),
        }
    }

    /// Asks to make a call, by the caller's clock.
    fn allow_at(&self, py: Python<'_>, now: u64) -> PyResult<Py<PyAny>> {
        match self.core.allow(now) {
            Ok(ticket) if ticket.is_probe() => {
                let circuit = self.core.clone();
                Py::new(py, Ticket { circuit, ticket }).map(Py::into_any)
            }
            Ok(ticket) => self.shared(py, ticket),
            Err(refusal) => Py::new(py, Refusal(refusal)).map(Py::into_any),
        }
    }

    fn __repr__(&self) -> String {
        format!(
            "Circuit(key={:?}, state={:?})",
            self.key(),
            self.core.state().name()
        )
    }
}

impl Circuit {
    fn new(py: Python<'_>, circuit: circuit_breaker::Circuit) -> PyResult<Self> {
        let ticket = |ticket| {
            let circuit = circuit.clone();
            Py::new(py, Ticket { circuit, ticket })
        };
        Ok(Self {
            first: circuit.closed().map(ticket).transpose()?,
            latest: Mutex::new(None),
            core: circuit,
        })
    }

    /// The object for a ticket of the closed circuit, which is the same for all calls of a generation.
    fn shared(&self, py: Python<'_>, ticket: circuit_breaker::Ticket) -> PyResult<Py<PyAny>> {
        let of_generation = |held: &&Py<Ticket>| held.get().ticket == ticket;
        if let Some(held) = self.first.as_ref().filter(of_generation) {
            return Ok(held.clone_ref(py).into_any());
        }
        let mut latest = self.latest.lock();
        if let Some(held) = latest.as_ref().filter(of_generation) {
            return Ok(held.clone_ref(py).into_any());
        }
        let circuit = self.core.clone();
        let made = latest.insert(Py::new(py, Ticket { circuit, ticket })?);
        Ok(made.clone_ref(py).into_any())
    }
}

/// The most circuits that are found by the hash which their key's `str` keeps.
const MOST_AT_HAND: usize = 4096;

/// The circuits of many keys under the same rules.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct CircuitBreakers {
    breakers: circuit_breaker::CircuitBreakers,
    /// `Circuit` by key for those asked for lately. Emptied when it is full, which costs them a lookup each.
    at_hand: Py<PyDict>,
    most_at_hand: usize,
}

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
        Ok(Self {
            breakers: circuit_breaker::CircuitBreakers::new(rules, capacity, seed).or_raise(py)?,
            at_hand: PyDict::new(py).unbind(),
            // What is at hand cannot be forgotten, so that it has to be a small part.
            most_at_hand: (capacity / 8).min(MOST_AT_HAND),
        })
    }

    /// The circuit of `key`.
    fn __getitem__<'py>(&self, key: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        self.circuit(key, None)
    }

    /// The circuit of `key`, made if there is none.
    #[pyo3(signature = (key, now=None))]
    fn circuit<'py>(&self, key: &Bound<'py, PyString>, now: Option<u64>) -> PyResult<Bound<'py, PyAny>> {
        let py = key.py();
        let at_hand = self.at_hand.bind(py);
        // A subclass could compare as it likes.
        let is_plain = key.is_exact_instance_of::<PyString>();
        if is_plain && let Some(circuit) = at_hand.get_item(key)? {
            return Ok(circuit);
        }
        let circuit = self
            .breakers
            .circuit(key.to_str()?, now.unwrap_or_else(coarse_ns));
        let circuit = Bound::new(py, Circuit::new(py, circuit)?)?.into_any();
        if is_plain && self.most_at_hand > 0 {
            if at_hand.len() >= self.most_at_hand {
                at_hand.clear();
            }
            at_hand.set_item(key, &circuit)?;
        }
        Ok(circuit)
    }

    /// Refuses all calls of `key` until a reset.
    #[pyo3(signature = (key, now=None))]
    fn force_open(&self, key: &str, now: Option<u64>) {
        self.breakers.force_open(key, now.unwrap_or_else(coarse_ns));
    }

    /// Closes the circuit of `key` without a past.
    fn reset(&self, key: &str) {
        self.breakers.reset(key);
    }

    /// The circuit of `key`; one that is not known is closed.
    #[pyo3(signature = (key, now=None))]
    fn snapshot(&self, key: &str, now: Option<u64>) -> CircuitSnapshot {
        CircuitSnapshot(self.breakers.snapshot(key, now.unwrap_or_else(coarse_ns)))
    }

    /// The circuits that are not closed.
    #[pyo3(signature = (now=None))]
    fn tripped(&self, now: Option<u64>) -> Vec<CircuitSnapshot> {
        let now = now.unwrap_or_else(coarse_ns);
        self.breakers
            .tripped(now)
            .into_iter()
            .map(CircuitSnapshot)
            .collect()
    }

    /// How many known circuits are in each state.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = self.breakers.counts();
        let by_state = PyDict::new(py);
        by_state.set_item("closed", counts.closed)?;
        by_state.set_item("open", counts.open)?;
        by_state.set_item("half_open", counts.half_open)?;
        by_state.set_item("forced_open", counts.forced_open)?;
        Ok(by_state)
    }

    fn __len__(&self) -> usize {
        self.breakers.len()
    }

    fn __repr__(&self) -> String {
        format!("CircuitBreakers(len={})", self.breakers.len())
    }
}
