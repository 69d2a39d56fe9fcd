"""Why an upstream failed, in words that a person can act on and that name no internal address."""

from __future__ import annotations

import ssl

import httpx2
from mcp import MCPError

from agentapi._core import SealError
from agentapi.egress.transport import ResponseTooLargeError
from agentapi.errors import AgentAPIError, InvalidRequestError, first_leaf

__all__ = ["reason_of"]

_SDK_NOT_JSON = "Unexpected content type"
"""How the SDK (2.3.0) begins what it says of an answer that is neither JSON nor an event stream."""

_STATUS_WORDS = {
    401: "it answered HTTP 401, so it wants a credential, or another one",
    403: "it answered HTTP 403, so the credential may not use it",
    404: "it answered HTTP 404, so the endpoint path is probably wrong",
    405: "it answered HTTP 405, so this is probably not an MCP endpoint",
    429: "it answered HTTP 429, so it is limiting requests",
}


def reason_of(error: BaseException, http_status: int | None = None) -> str:
    """Return one clause for ``error``; of a group the first leaf that says something.

    Args:
        error: What left the SDK, an ``ExceptionGroup`` included.
        http_status: The last status that the upstream answered with, where it spoke HTTP.
    """
    leaf = first_leaf(error)
    if http_status is not None and 300 <= http_status < 400:  # noqa: PLR2004 - RFC 9110, section 15.4
        return f"it answered HTTP {http_status}, a redirect, which is not followed; give the final address"
    if http_status is not None and http_status >= 400:  # noqa: PLR2004 - RFC 9110, section 15: errors start here
        return _STATUS_WORDS.get(http_status, f"it answered HTTP {http_status}")
    return _words(leaf)


def _words(error: BaseException) -> str:  # noqa: C901, PLR0911 - one sentence per kind reads better than a dispatch
    if isinstance(error, InvalidRequestError) and error.fields:
        return error.fields[0].detail
    if isinstance(error, AgentAPIError):
        return error.message.rstrip(".")
    if isinstance(error, SealError):
        return "its stored secret does not open with the keyring in use; store the secret again"
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return "it did not answer in time"
    if isinstance(error, httpx2.ConnectError):
        cause = _tls_cause(error)
        return f"the TLS handshake failed ({cause})" if cause else "the connection was refused"
    if isinstance(error, httpx2.HTTPStatusError):
        status = error.response.status_code
        return _STATUS_WORDS.get(status, f"it answered HTTP {status}")
    if isinstance(error, ResponseTooLargeError):
        return "its answer is too large"
    if isinstance(error, httpx2.SSEError):
        return "it does not speak MCP over SSE"
    if isinstance(error, httpx2.TransportError | ConnectionError | EOFError):
        return "the connection broke"
    if isinstance(error, FileNotFoundError | PermissionError):
        return "its command cannot be started"
    if isinstance(error, MCPError):
        if error.message.startswith(_SDK_NOT_JSON):
            return "it does not speak MCP: its answer is not JSON"
        # Not its words: they may repeat the credential, and this reaches other people and the log.
        return f"it answered with the JSON-RPC error {error.code}"
    return "it does not speak MCP"


def _tls_cause(error: BaseException) -> str | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen.reason or "TLS error"
        seen = seen.__cause__ or seen.__context__
    return None
