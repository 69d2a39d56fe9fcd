//! `Keyring`.

use agentapi_core::sealed;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::error::OrRaise as _;

/// The sealing keys of a deployment: the active one seals, all of them open.
#[pyclass(frozen, module = "agentapi._core")]
pub(crate) struct Keyring(sealed::Keyring);

#[pymethods]
impl Keyring {
    /// Parses the text form.
    #[staticmethod]
    fn parse(py: Python<'_>, text: &str) -> PyResult<Self> {
        sealed::Keyring::parse(text).or_raise(py).map(Self)
    }

    /// Returns the text form of a keyring with one new key.
    #[staticmethod]
    fn generate(py: Python<'_>, key_id: &str) -> PyResult<String> {
        Ok(sealed::Keyring::generate(key_id).or_raise(py)?.to_string())
    }

    /// Returns the text form of a keyring with a new active key beside the old ones.
    #[staticmethod]
    fn rotate(py: Python<'_>, text: &str, key_id: &str) -> PyResult<String> {
        Ok(sealed::Keyring::rotate(text, key_id).or_raise(py)?.to_string())
    }

    /// The id of the key that seals.
    #[getter]
    fn active_key_id(&self) -> &str {
        self.0.active_key_id()
    }

    /// The ids of all keys, sorted.
    #[getter]
    fn key_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.key_ids())
    }

    /// Seals a value; it opens with the same associated data alone.
    fn seal<'py>(&self, py: Python<'py>, plaintext: &[u8], aad: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.0.seal(plaintext, aad).or_raise(py)?))
    }

    /// Opens a sealed value.
    fn open<'py>(&self, py: Python<'py>, sealed: &[u8], aad: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.0.open(sealed, aad).or_raise(py)?))
    }

    /// Opens a sealed value and seals it again under the active key.
    fn reseal<'py>(&self, py: Python<'py>, sealed: &[u8], aad: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.0.reseal(sealed, aad).or_raise(py)?))
    }

    /// Seals a value that opens until `expires_at`, in Unix seconds.
    fn seal_until<'py>(
        &self,
        py: Python<'py>,
        plaintext: &[u8],
        aad: &[u8],
        expires_at: i64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let sealed = self.0.seal_until(plaintext, aad, expires_at).or_raise(py)?;
        Ok(PyBytes::new(py, &sealed))
    }

    /// Opens a value of `seal_until` that has not expired at `now`, in Unix seconds.
    fn open_unexpired<'py>(
        &self,
        py: Python<'py>,
        sealed: &[u8],
        aad: &[u8],
        now: i64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let opened = self.0.open_unexpired(sealed, aad, now).or_raise(py)?;
        Ok(PyBytes::new(py, &opened))
    }

    /// As `seal_until`, in base64url.
    fn seal_text_until(
        &self,
        py: Python<'_>,
        plaintext: &[u8],
        aad: &[u8],
        expires_at: i64,
    ) -> PyResult<String> {
        self.0.seal_text_until(plaintext, aad, expires_at).or_raise(py)
    }

    /// Opens a value of `seal_text_until` that has not expired at `now`, in Unix seconds.
    fn open_text_unexpired<'py>(
        &self,
        py: Python<'py>,
        sealed: &Bound<'py, PyString>,
        aad: &[u8],
        now: i64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        // Text that is not Unicode (a lone surrogate) was never sealed, and is refused as other text is.
        let sealed = sealed.to_string_lossy();
        let opened = self.0.open_text_unexpired(&sealed, aad, now).or_raise(py)?;
        Ok(PyBytes::new(py, &opened))
    }

    fn __repr__(&self) -> String {
        format!(
            "Keyring(active_key_id={:?}, key_ids={:?})",
            self.0.active_key_id(),
            self.0.key_ids()
        )
    }
}
