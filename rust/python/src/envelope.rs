//! `Envelope` and `scan_envelope`.

use std::borrow::Cow;
use std::ops::Range;

use agentapi_core::envelope::{self, Id, Limits};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::error::OrRaise as _;

type Span = (usize, usize);

/// What a relay has to know of one JSON-RPC message. There is no way to make one but to scan a message.
#[pyclass(frozen, get_all, module = "agentapi._core")]
pub(crate) struct Envelope {
    /// `request`, `notification` or `response`.
    kind: &'static str,
    /// The method of a request or notification.
    method: Option<Py<PyString>>,
    /// The id, if there is one.
    id: Option<Py<PyAny>>,
    /// The id as it is written.
    id_json: Option<Py<PyBytes>>,
    /// `params.name`, if it is a string.
    name: Option<Py<PyString>>,
    /// `params.uri`, if it is a string.
    uri: Option<Py<PyString>>,
    /// `params.requestState`, if it is a string.
    request_state: Option<Py<PyString>>,
    /// The protocol revision that `params._meta` names.
    protocol_version: Option<Py<PyString>>,
    /// Whether `params._meta` is an object.
    has_meta: bool,
    /// Whether `params._meta` asks for progress notifications.
    has_progress_token: bool,
    /// Whether `params` is what the first request for something holds.
    has_plain_params: bool,
    /// `result.resultType`, if `result` is an object and that a string.
    result_type: Option<Py<PyString>>,
    /// Where the value of `id` stands.
    id_range: Option<Span>,
    /// Where the value of `params` stands.
    params_range: Option<Span>,
    /// Where the value of `params.name` stands.
    name_range: Option<Span>,
    /// Where the value of `params.uri` stands.
    uri_range: Option<Span>,
    /// Where the value of `params.requestState` stands.
    request_state_range: Option<Span>,
    /// Where the value of `params._meta` stands.
    meta_range: Option<Span>,
}

#[pymethods]
impl Envelope {
    fn __repr__(&self) -> String {
        format!("Envelope(kind={:?})", self.kind)
    }
}

/// Scans one JSON-RPC message without building its tree.
#[pyfunction]
#[pyo3(signature = (body, *, max_bytes, max_depth=64))]
pub(crate) fn scan_envelope(
    py: Python<'_>,
    body: &[u8],
    max_bytes: usize,
    max_depth: usize,
) -> PyResult<Envelope> {
    if !(1..=envelope::MAX_DEPTH).contains(&max_depth) {
        return Err(PyValueError::new_err("max_depth is 1 to 256"));
    }
    let limits = Limits { max_bytes, max_depth };
    let found = envelope::Envelope::scan(body, limits).or_raise(py)?;
    let text = |text: Option<Cow<'_, str>>| text.map(|text| PyString::new(py, &text).unbind());
    let span = |range: Option<Range<usize>>| range.map(|range| (range.start, range.end));
    let id_json = found.ranges.id.clone().and_then(|range| body.get(range));
    Ok(Envelope {
        kind: found.kind.name(),
        method: text(found.method),
        id: found.id.map(|id| python_id(py, id)).transpose()?,
        id_json: id_json.map(|raw| PyBytes::new(py, raw).unbind()),
        name: text(found.name),
        uri: text(found.uri),
        request_state: text(found.request_state),
        protocol_version: text(found.protocol_version),
        has_meta: found.has_meta,
        has_progress_token: found.has_progress_token,
        has_plain_params: found.has_plain_params,
        result_type: text(found.result_type),
        id_range: span(found.ranges.id),
        params_range: span(found.ranges.params),
        name_range: span(found.ranges.name),
        uri_range: span(found.ranges.uri),
        request_state_range: span(found.ranges.request_state),
        meta_range: span(found.ranges.meta),
    })
}

fn python_id(py: Python<'_>, id: Id<'_>) -> PyResult<Py<PyAny>> {
    Ok(match id {
        Id::Integer(number) => number.into_pyobject(py)?.into_any().unbind(),
        Id::String(text) => PyString::new(py, &text).into_any().unbind(),
    })
}
