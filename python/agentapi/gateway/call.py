"""What the endpoint hands to a front: who called, with which message, and what any era checks of its headers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from mcp_types import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR

from agentapi._core import EnvelopeError, scan_envelope
from agentapi.errors import InsufficientScopeError, NotAcceptableError, TooManyStreamsError
from agentapi.gateway.incoming import Incoming
from agentapi.gateway.reply import Answer
from agentapi.gateway.rpc import RpcRefusalError, error_message, error_object, error_status
from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentapi.principal import Principal
    from agentapi.upstreams.registry import WorkspaceView

__all__ = ["Call", "check_accept", "failure", "read_message"]

_ENVELOPE_MESSAGES = {
    PARSE_ERROR: "The request body is not strict JSON in UTF-8.",
    INVALID_REQUEST: "The request body is not a single JSON-RPC 2.0 message.",
    INVALID_PARAMS: "The params of the request, or their _meta, are not an object.",
}

_UNWANTED = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An admitted request."""

    principal: Principal
    view: WorkspaceView
    toolset: str | None
    expires_at: int
    """When the access token ends, in Unix seconds; no stream outlives it."""
    operation_scopes: bool
    """Whether the issuer's tokens carry scopes by operation."""
    challenge: Callable[[InsufficientScopeError], str] = field(repr=False)
    """Returns the ``WWW-Authenticate`` of a refusal."""


def read_message(body: bytes, *, max_bytes: int, max_depth: int) -> Incoming:
    """Return the message in ``body``.

    Raises:
        RpcRefusalError: It is none, or two parsers could read it differently.
    """
    try:
        envelope = scan_envelope(body, max_bytes=max_bytes, max_depth=max_depth)
    except EnvelopeError as error:
        code, reason, id_json = error.jsonrpc_code, error.reason, error.id_json
        message = _ENVELOPE_MESSAGES[code]
        raise RpcRefusalError(code, message, data={"reason": reason}, id_json=id_json) from None
    return Incoming(body, envelope)


def failure(call: Call, era: Era, id_json: bytes, error: Exception) -> Answer:
    """Return the answer to a request that came to ``error``.

    The older revisions leave the status open; their clients take one that is not 200 for a failure of the transport,
    so only what the transport is to act upon has one.
    """
    described = error_object(error)
    status, headers = error_status(described) if era is Era.MODERN else HTTPStatus.OK, ()
    if isinstance(error, InsufficientScopeError):
        challenge = (b"www-authenticate", call.challenge(error).encode())
        return Answer(error_message(id_json, described), HTTPStatus.FORBIDDEN, (challenge,))
    if isinstance(error, TooManyStreamsError):
        status = HTTPStatus.TOO_MANY_REQUESTS
    return Answer(error_message(id_json, described), status, headers)


def check_accept(headers: Iterable[tuple[bytes, bytes]], *, json_too: bool = True) -> None:
    """Refuse a client that does not take events and, unless it asks for a stream alone, JSON.

    Ranges and weights are those of RFC 9110, section 12.5.1.

    Raises:
        NotAcceptableError: It does not.
    """
    takes_json, takes_events = _taken(b", ".join([value for name, value in headers if name == b"accept"]))
    if not takes_events or (json_too and not takes_json):
        needed = "application/json and text/event-stream" if json_too else "text/event-stream"
        raise NotAcceptableError(f"The client must accept {needed}.")


@lru_cache(maxsize=64)
def _taken(accept: bytes) -> tuple[bool, bool]:
    """Return whether JSON and whether events are taken; there are about as many headers as kinds of clients."""
    ranges = set()
    for item in accept.decode("latin-1").split(","):
        kind, _, weight = item.partition(";")
        if weight.replace(" ", "").lower() not in _UNWANTED:
            ranges.add(kind.strip().lower())
    takes_json = bool(ranges & {"application/json", "application/*", "*/*"})
    return takes_json, bool(ranges & {"text/event-stream", "text/*", "*/*"})
