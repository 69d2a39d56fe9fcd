//! `Limit`, `Decision`, `Decisions` and `TokenBuckets`.

use agentapi_core::token_bucket::{self, Outcome, Request};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::clock::{coarse_ns, monotonic_ns, whole_seconds};
use crate::error::OrRaise as _;

/// A tick of the coarse clock is at most a hundredth of this, so that a bucket which needs this long to become full
/// is right to a hundredth of its burst. A faster one is worth reading the time for.
const COARSE_WINDOW_NS: u64 = 1_000_000_000;

/// The time for decisions about these limits.
fn now_for<'l>(mut limits: impl Iterator<Item = &'l Limit>) -> u64 {
    if limits.all(|limit| limit.0.window_ns() >= COARSE_WINDOW_NS) {
        coarse_ns()
    } else {
        monotonic_ns()
    }
}

/// How fast and up to how many tokens a bucket fills.
#[pyclass(frozen, eq, hash, module = "agentapi._core")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Limit(token_bucket::Limit);

#[pymethods]
impl Limit {
    #[new]
    #[pyo3(signature = (*, count, period_ns, burst))]
    fn new(py: Python<'_>, count: u32, period_ns: u64, burst: u32) -> PyResult<Self> {
        token_bucket::Limit::new(count, period_ns, burst)
            .or_raise(py)
            .map(Self)
    }

    /// The time in which one token comes back.
    #[getter]
    fn interval_ns(&self) -> u64 {
        self.0.interval_ns()
    }

    /// The most tokens a bucket holds.
    #[getter]
    fn burst(&self) -> u32 {
        self.0.burst()
    }

    fn __repr__(&self) -> String {
        format!(
            "Limit(interval_ns={}, burst={})",
            self.0.interval_ns(),
            self.0.burst()
        )
    }
}

/// What one limit says about a request.
#[pyclass(frozen, eq, module = "agentapi._core")]
#[derive(PartialEq, Eq)]
pub(crate) struct Decision(token_bucket::Decision);

#[pymethods]
impl Decision {
    /// Whether the tokens were there.
    #[getter]
    fn allowed(&self) -> bool {
        self.0.outcome == Outcome::Allowed
    }

    /// Whether the cost is more than the burst, so that no waiting helps.
    #[getter]
    fn never_fits(&self) -> bool {
        self.0.outcome == Outcome::NeverFits
    }

    /// Tokens that are left.
    #[getter]
    fn remaining(&self) -> u32 {
        self.0.remaining
    }

    /// How long to wait before the same request can be allowed; 0 unless refused.
    #[getter]
    fn retry_after_ns(&self) -> u64 {
        self.0.retry_after_ns
    }

    /// The same in whole seconds, rounded up.
    #[getter]
    fn retry_after_s(&self) -> u64 {
        whole_seconds(self.0.retry_after_ns)
    }

    /// How long until the bucket is full.
    #[getter]
    fn reset_ns(&self) -> u64 {
        self.0.reset_ns
    }

    /// The same in whole seconds, rounded up.
    #[getter]
    fn reset_s(&self) -> u64 {
        whole_seconds(self.0.reset_ns)
    }

    fn __repr__(&self) -> String {
        format!(
            "Decision({:?}, remaining={}, retry_after_ns={}, reset_ns={})",
            self.0.outcome, self.0.remaining, self.0.retry_after_ns, self.0.reset_ns
        )
    }
}

/// What several limits say about one request.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct Decisions(token_bucket::Decisions);

#[pymethods]
impl Decisions {
    /// Whether every limit allows the request; otherwise nothing was taken anywhere.
    #[getter]
    fn allowed(&self) -> bool {
        self.0.outcome == Outcome::Allowed
    }

    /// Whether a limit can never allow it.
    #[getter]
    fn never_fits(&self) -> bool {
        self.0.outcome == Outcome::NeverFits
    }

    /// How long to wait until every limit can allow it; 0 unless refused.
    #[getter]
    fn retry_after_ns(&self) -> u64 {
        self.0.retry_after_ns
    }

    /// The same in whole seconds, rounded up.
    #[getter]
    fn retry_after_s(&self) -> u64 {
        whole_seconds(self.0.retry_after_ns)
    }

    /// What each limit says, in order.
    #[getter]
    fn each<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.each.iter().copied().map(Decision))
    }

    fn __repr__(&self) -> String {
        format!(
            "Decisions({:?}, retry_after_ns={}, {} limits)",
            self.0.outcome,
            self.0.retry_after_ns,
            self.0.each.len()
        )
    }
}

/// The token buckets of many keys.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct TokenBuckets(token_bucket::TokenBuckets);

#[pymethods]
impl TokenBuckets {
    #[new]
    #[pyo3(signature = (*, capacity=100_000))]
    fn new(capacity: usize) -> Self {
        Self(token_bucket::TokenBuckets::new(capacity))
    }

    /// Takes tokens from the bucket of `key` if they are there.
    #[pyo3(signature = (key, limit, cost=1, now=None))]
    fn acquire(&self, key: &str, limit: &Limit, cost: u32, now: Option<u64>) -> Decision {
        let now = now.unwrap_or_else(|| now_for(std::iter::once(limit)));
        Decision(self.0.acquire(key.as_bytes(), limit.0, cost, now))
    }

    /// Takes tokens from several buckets if all of them have what is asked, otherwise from none.
    #[pyo3(signature = (requests, now=None))]
    #[allow(clippy::needless_pass_by_value, reason = "extracted from any sequence")]
    fn acquire_many(
        &self,
        py: Python<'_>,
        requests: Vec<(Bound<'_, PyString>, Bound<'_, Limit>, u32)>,
        now: Option<u64>,
    ) -> PyResult<Decisions> {
        let now = now.unwrap_or_else(|| now_for(requests.iter().map(|(_, limit, _)| limit.get())));
        let requests: Vec<Request<'_>> = requests
            .iter()
            .map(|(key, limit, cost)| {
                Ok(Request {
                    key: key.to_str()?.as_bytes(),
                    limit: limit.get().0,
                    cost: *cost,
                })
            })
            .collect::<PyResult<_>>()?;
        self.0.acquire_many(&requests, now).or_raise(py).map(Decisions)
    }

    /// How many buckets were forgotten before they were full, for want of room.
    #[getter]
    fn evicted(&self) -> u64 {
        self.0.evicted()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("TokenBuckets(len={}, evicted={})", self.0.len(), self.0.evicted())
    }
}
