"""An upstream's own error, as a client may be told of it: the one place for the relay and the session path.

Invariants:

* A code by which the protocol says something about the client's request, its headers, its version or its next step is
  told only where an upstream can mean that. Clients and ``rpc.error_status`` act on such codes, and would take the
  upstream's word for the gateway's.
* A client tells the gateway's own errors by the ``code`` in their data, and follows the address that is there. Data
  with such a word reach it only as ``upstreamData``.
* What reads like an error of the gateway names the upstream that said it: see ``_attributed``.
* Message and data are bounded in bytes.

=====================================  ==========================================================================
code                                   told
=====================================  ==========================================================================
-32700, -32020, -32022, -32800         as -32603, with the code in ``data``: they are about the message or the
                                       version that the gateway sent, or about the client's own cancellation
-32021 missing client capability       where its data names a capability that the client did not declare
-32042 address to be visited first     of an older server, where the client can be asked to visit one, and under
                                       the upstream's name
-32603 internal error                  under the upstream's name: it is the gateway's own code for what goes wrong
all others                             as they are: what a server says of params, methods and itself, and codes to
                                       which no revision that is served here gives a meaning
=====================================  ==========================================================================
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
    URL_ELICITATION_REQUIRED,
)

from agentapi.errors import AgentAPIError, UpstreamError
from agentapi.gateway.questions import is_web_address, told_question
from agentapi.gateway.rpc import REQUEST_CANCELLED
from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_DATA_BYTES", "MAX_MESSAGE_BYTES", "told_error"]

MAX_MESSAGE_BYTES: Final = 4096
MAX_DATA_BYTES: Final = 64 * 1024
_OURS: Final = frozenset({PARSE_ERROR, HEADER_MISMATCH, UNSUPPORTED_PROTOCOL_VERSION, REQUEST_CANCELLED})
"""The last is how the gateway says that it was the client who ended the request."""
_MAX_CODE: Final = 2**53
"""Beyond it clients differ in which number they read."""
_REFUSALS_OF_THE_GATEWAY: Final = frozenset({"call_not_waiting", "connection_declined"})
"""Codes that stand in data of errors without being those of a domain error."""


def told_error(
    error: MCPError, *, upstream: str, era: Era, declared: Mapping[str, Any], client_era: Era = Era.MODERN
) -> MCPError:
    """Return what the client is told of an error of an upstream.

    Args:
        error: As the upstream sent it.
        upstream: Its name.
        era: Its era.
        declared: The capabilities that the client declared.
        client_era: The client's; a modern one is not told -32042 but asked, see ``forwarding``.
    """
    message, data = _cut(error.message), _bounded(error.data)
    if error.code == MISSING_REQUIRED_CLIENT_CAPABILITY:
        required = data.get("requiredCapabilities") if isinstance(data, dict) else None
        if isinstance(required, dict) and not _covers(declared, required):
            return MCPError(error.code, message, {"requiredCapabilities": required})
    elif error.code == URL_ELICITATION_REQUIRED:
        if era is Era.LEGACY and _is_visit(data):
            elicitation, visits = declared.get("elicitation"), {"elicitations": data["elicitations"]}
            if client_era is Era.MODERN:
                return MCPError(error.code, message, visits)
            if isinstance(elicitation, dict) and elicitation.get("url") is not None:
                return MCPError(
                    error.code, _cut(f"Upstream '{upstream}' asks for this first: {message}"), _asked(upstream, visits)
                )
    elif error.code not in _OURS and abs(error.code) <= _MAX_CODE:
        return _attributed(error.code, message, data, upstream)
    code = error.code if abs(error.code) <= _MAX_CODE else 0
    return MCPError(
        INTERNAL_ERROR,
        _cut(f"Upstream '{upstream}' answered with the error {code}: {message}"),
        {"code": UpstreamError.code, "upstreamCode": code},
    )


def _attributed(code: int, message: str, data: object, upstream: str) -> MCPError:
    """Return an error of ``upstream`` such that nobody takes it for one of the gateway."""
    word = data.get("code") if isinstance(data, dict) else None
    speaks_for_us = isinstance(word, str) and word in _vocabulary()
    if speaks_for_us or code == INTERNAL_ERROR:
        message = _cut(f"Upstream '{upstream}' says: {message}")
    return MCPError(code, message, {"upstreamData": data} if speaks_for_us else data)


def _vocabulary() -> frozenset[str]:
    """Return the words by which clients know the gateway's errors, those of every room that has been loaded."""
    words, kinds = set(_REFUSALS_OF_THE_GATEWAY), [AgentAPIError]
    while kinds:
        kind = kinds.pop()
        words.add(kind.code)
        kinds.extend(kind.__subclasses__())
    return frozenset(words)


def _cut(text: str) -> str:
    if len(text) * 4 <= MAX_MESSAGE_BYTES:
        return text
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= MAX_MESSAGE_BYTES:
        return text
    end = "\u2026"
    return raw[: MAX_MESSAGE_BYTES - len(end.encode())].decode("utf-8", "ignore") + end


def _bounded(data: object) -> Any:  # noqa: ANN401 - whatever an upstream sends
    """Return ``data``, or nothing where it is too large: half of it could say what the whole does not."""
    if data is None:
        return None
    return (
        data if len(json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")) <= MAX_DATA_BYTES else None
    )


def _covers(declared: object, required: Mapping[str, Any]) -> bool:
    """Return whether ``required`` asks for nothing that is not in ``declared``."""
    if not isinstance(declared, dict):
        return not required
    return all(
        name in declared and (not isinstance(inner, dict) or _covers(declared[name], inner))
        for name, inner in required.items()
    )


def _asked(upstream: str, visits: Mapping[str, Any]) -> dict[str, Any]:
    asked = visits["elicitations"]
    return {"elicitations": [told_question(upstream, "elicitation/create", each) for each in asked]}


def _is_visit(data: object) -> bool:
    """Return whether ``data`` says where to go (specification 2025-11-25, "URL elicitation required")."""
    asked = data.get("elicitations") if isinstance(data, dict) else None
    return (
        isinstance(asked, list)
        and bool(asked)
        and all(
            isinstance(each, dict)
            and each.get("mode") == "url"
            and isinstance(each.get("message"), str)
            and is_web_address(each.get("url"))
            for each in asked
        )
    )
