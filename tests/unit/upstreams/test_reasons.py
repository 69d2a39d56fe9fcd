from __future__ import annotations

import ssl

import httpx2
import pytest
from mcp import MCPError

from agentapi._core import SealError
from agentapi.errors import EgressRefusedError, FieldError, InvalidRequestError, UpstreamError
from agentapi.upstreams.reasons import reason_of


def tls_failure() -> Exception:
    failed = ssl.SSLCertVerificationError(1, "certificate verify failed")
    failed.reason = "CERTIFICATE_VERIFY_FAILED"
    error = httpx2.ConnectError("10.0.0.1")
    error.__cause__ = failed
    return error


def http_failure(status: int) -> Exception:
    request = httpx2.Request("GET", "http://10.0.0.1/")
    return httpx2.HTTPStatusError("10.0.0.1", request=request, response=httpx2.Response(status, request=request))


CASES: dict[str, tuple[Exception, str]] = {
    "field": (InvalidRequestError("x", (FieldError("/command", "must be allowed"),)), "must be allowed"),
    "ours": (UpstreamError("The server failed."), "The server failed"),
    "guard": (EgressRefusedError("The address may not be used."), "The address may not be used"),
    "seal": (SealError("x"), "its stored secret does not open with the keyring in use; store the secret again"),
    "timeout": (httpx2.ReadTimeout("10.0.0.1"), "it did not answer in time"),
    "built-in timeout": (TimeoutError("10.0.0.1"), "it did not answer in time"),
    "refused": (httpx2.ConnectError("10.0.0.1"), "the connection was refused"),
    "tls": (tls_failure(), "the TLS handshake failed (CERTIFICATE_VERIFY_FAILED)"),
    "status": (http_failure(401), "it answered HTTP 401, so it wants a credential, or another one"),
    "other status": (http_failure(502), "it answered HTTP 502"),
    "broken": (httpx2.ReadError("10.0.0.1"), "the connection broke"),
    "end of file": (EOFError(), "the connection broke"),
    "no stream": (httpx2.SSEError("10.0.0.1"), "it does not speak MCP over SSE"),
    "no command": (FileNotFoundError("/opt/x"), "its command cannot be started"),
    "no right": (PermissionError("/opt/x"), "its command cannot be started"),
    "protocol": (MCPError(code=-1, message="no key s3cret"), "it answered with the JSON-RPC error -1"),
    "defect": (KeyError("10.0.0.1"), "it does not speak MCP"),
}


@pytest.mark.parametrize(("error", "words"), CASES.values(), ids=CASES)
def test_an_error_is_one_clause_without_an_address(error: Exception, words: str) -> None:
    assert reason_of(error) == words
    assert reason_of(ExceptionGroup("a", [ExceptionGroup("b", [error, RuntimeError()])])) == words
    assert "10.0.0.1" not in reason_of(error)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "does not speak MCP"),
        (200, "does not speak MCP"),
        (307, "a redirect"),
        (403, "may not use it"),
        (599, "HTTP 599"),
    ],
)
def test_an_http_status_says_more_than_what_the_sdk_made_of_it(status: int | None, words: str) -> None:
    assert words in reason_of(RuntimeError(), status)
