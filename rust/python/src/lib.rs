//! `agentapi._core`: the Python face of `agentapi-core`.

use pyo3::prelude::*;

/// The performance-critical decisions of `AgentAPI`.
#[pymodule]
mod _core {}
