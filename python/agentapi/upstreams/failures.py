"""What went wrong between a request and its answer: the upstream's own word, or ours about the connection.

The SDK's transports report a broken connection as a JSON-RPC error of their own making, under codes that servers use
too. They are known by their words (SDK 2.3.0), for the codes alone would take an upstream's answer for ours.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import anyio
from mcp import MCPError

from agentapi.egress.transport import ResponseTooLargeError
from agentapi.errors import UpstreamError, UpstreamTimeoutError, UpstreamUnaskedError
from agentapi.upstreams.challenges import Challenge, parse_challenge
from agentapi.upstreams.reasons import reason_of

if TYPE_CHECKING:
    from agentapi.upstreams.calls import Call

__all__ = [
    "BrokenError",
    "ClosedError",
    "CredentialRefusedError",
    "HttpFailureError",
    "HttpRefusalError",
    "ProbeBrokeError",
    "RefusedError",
    "UnprocessedError",
    "WrongAnswerError",
    "failed_with",
    "is_closed",
    "is_http_refusal",
    "judge",
    "refusal_of",
]

_CLOSED: Final = "Connection closed"
_STREAM_BROKE: Final = ("SSE stream ended", "SSE stream failed")
_REFUSED: Final = ("Server returned an error response", "Not Found", "Session terminated", "Redirect to ")
_NONSENSE: Final = (
    "Unexpected content type",
    "Failed to parse JSON response",
    "Failed to parse SSE message",
    "server answered a request with 202",
)


class ClosedError(UpstreamError):
    """The connection ended before the answer came; whether the request was processed is not known."""


class BrokenError(ClosedError):
    """The same of one request alone; the connection is good for others."""


class UnprocessedError(UpstreamError):
    """The upstream never looked at the request: the connection was closed, or its session forgotten, before."""


class WrongAnswerError(UpstreamError):
    """What came is not the answer to the request: no message, one that can be read in two ways, or another's."""


class HttpFailureError(UpstreamError):
    """The upstream answered with an HTTP error, and nothing of the protocol in it.

    ``retry_after_s`` is how long it asked to be left alone, if it did.
    """

    def __init__(self, message: str, *, status: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class RefusedError(HttpFailureError):
    """A 4xx: the upstream is well, and takes this for the caller's fault; with 429, for too much of one caller."""


class CredentialRefusedError(UpstreamError):
    """The upstream answered that a user's own credential is not good, or not good enough, and did nothing."""

    def __init__(self, message: str, challenge: Challenge | None = None) -> None:
        super().__init__(message)
        self.challenge = challenge or Challenge()


def refusal_of(status: int, headers: list[str]) -> Challenge | None:
    """Return what an HTTP status and its ``WWW-Authenticate`` say of the credential; None if nothing is wrong with it.

    A 403 counts where it says that scopes are missing (MCP 2026-07-28, "Scope Challenge Handling").
    """
    if status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return None
    challenge = parse_challenge(headers)
    missing = challenge.error == "insufficient_scope"
    return challenge if missing or status == HTTPStatus.UNAUTHORIZED else None


def failed_with(status: int | None, message: str, retry_after_s: float | None = None) -> UpstreamError:
    """Return the error of an upstream that answered with that HTTP status, if any, and nothing of the protocol."""
    if status is None or status < HTTPStatus.BAD_REQUEST:
        return UpstreamError(message)
    refused = status < HTTPStatus.INTERNAL_SERVER_ERROR
    return (RefusedError if refused else HttpFailureError)(message, status=status, retry_after_s=retry_after_s)


class ProbeBrokeError(Exception):
    """The connection ended over the question which era the server speaks."""


class HttpRefusalError(Exception):
    """The server answered with an HTTP error and no JSON-RPC message."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def is_http_refusal(error: MCPError, status: int | None) -> bool:
    """Return whether ``error`` is what the SDK makes of an HTTP error without a message of the protocol.

    Of a redirect it makes various things; the body of one is never read (``http_channel``), so none is the upstream's.
    """
    if status is None or status < HTTPStatus.MULTIPLE_CHOICES:
        return False
    return status < HTTPStatus.BAD_REQUEST or error.message.startswith(_REFUSED)


def is_closed(error: MCPError) -> bool:
    """Return whether ``error`` is what the SDK makes of the end of the connection."""
    return error.message == _CLOSED


def judge(  # noqa: C901, PLR0911, PLR0912 - one line per kind of failure reads better than a dispatch
    error: Exception, call: Call, name: str, *, in_session: bool, on_pipe: bool, ending: str | None
) -> Exception:
    """Return what the caller is told of ``error``; the upstream's own word is returned as it is.

    Args:
        error: What ended the wait.
        call: The request that waited.
        name: Of the upstream.
        in_session: Whether the server gave the connection a session that it can forget.
        on_pipe: Whether nobody notes when a request is sent.
        ending: Why the transport ended, where it knows.
    """
    if call.refusal is not None:
        return CredentialRefusedError(f"Upstream '{name}' failed: {reason_of(error, call.status)}.", call.refusal)
    if isinstance(call.failure, ResponseTooLargeError):
        # It would be as large another time.
        return UpstreamError(f"Upstream '{name}' failed: {reason_of(call.failure)}.")
    if isinstance(call.failure, WrongAnswerError):
        return UpstreamError(f"Upstream '{name}' answered with a result that the protocol does not allow.")
    if isinstance(call.failure, MCPError | UpstreamUnaskedError):
        return call.failure
    if call.failure is not None:
        return BrokenError(f"Upstream '{name}' failed: {reason_of(call.failure)}.")
    if isinstance(error, TimeoutError):
        return UpstreamTimeoutError(f"Upstream '{name}' did not answer within {call.timeout_s:g} s.")
    if isinstance(error, anyio.ClosedResourceError | anyio.BrokenResourceError):
        return _closed(name, ending)
    if not isinstance(error, MCPError):
        return error
    if in_session and _forgot_session(error, call):
        return UnprocessedError(f"Upstream '{name}' ended the session.")
    if call.answered:
        # Whatever words it uses.
        return error
    if is_http_refusal(error, call.status):
        message = f"Upstream '{name}' failed: {reason_of(error, call.status)}."
        return failed_with(call.status, message, call.retry_after_s)
    if is_closed(error):
        if not (call.sent or on_pipe):
            return UnprocessedError(f"Upstream '{name}' closed the connection.")
        return _closed(name, ending)
    if error.message.startswith(_STREAM_BROKE):
        return BrokenError(f"Upstream '{name}' broke off its answer.")
    if error.message.startswith(_NONSENSE):
        return UpstreamError(f"Upstream '{name}' answered with a result that the protocol does not allow.")
    return error


def _closed(name: str, ending: str | None) -> ClosedError:
    return ClosedError(f"Upstream '{name}' closed the connection{f': {ending}' if ending else ''}.")


def _forgot_session(error: MCPError, call: Call) -> bool:
    """Tell a session that is gone: HTTP 404 by the specification, 400 with words to that effect by habit.

    An answer with the request's own id is about the request, unless it is a 404 that speaks of the session.
    """
    words = error.message.lower()
    if call.status == HTTPStatus.NOT_FOUND:
        return not call.answered or "session" in words
    return call.status == HTTPStatus.BAD_REQUEST and not call.answered and "session id" in words
