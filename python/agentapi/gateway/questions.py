"""What an upstream asks of a client, as far as it may: the one place for all four ways.

Invariants:

* A client is asked only what it declared that it can be asked.
* An address that a user shall open is one of the web, and the words beside it name the upstream that wants it opened:
  the client shows them as those of the server it knows, which is the gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentapi.errors import UpstreamError
from agentapi.gateway.capabilities import QUESTIONS, missing_capability_error, required_capability

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["is_web_address", "told_question", "told_round"]


def told_question(upstream: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the params of a question of ``upstream`` as a client is to see them; forms pass as they are.

    Raises:
        UpstreamError: It asks in a way that the protocol does not have, or for an address that is none of the web.
    """
    mode = params.get("mode", "form")
    if method != "elicitation/create" or mode == "form":
        return params
    message = params.get("message")
    if mode != "url" or not isinstance(message, str) or not is_web_address(params.get("url")):
        raise _not_allowed(upstream)
    return {**params, "message": f"Upstream '{upstream}' asks: {message}"}


def told_round(upstream: str, declared: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Return an ``input_required`` result with its questions as a client is to see them.

    Raises:
        MCPError: The client did not declare that it can be asked one of them.
        UpstreamError: As ``told_question``.
    """
    asked = result.get("inputRequests")
    if asked is None:
        return result
    if not isinstance(asked, dict):
        raise _not_allowed(upstream)
    told = {}
    for key, question in asked.items():
        method = question.get("method") if isinstance(question, dict) else None
        params = question.get("params", {}) if isinstance(question, dict) else None
        if not isinstance(method, str) or method not in QUESTIONS or not isinstance(params, dict):
            raise _not_allowed(upstream)
        missing = required_capability(declared, method, params)
        if missing is not None:
            raise missing_capability_error(missing)
        seen = told_question(upstream, method, params)
        told[key] = question if seen is params else {**question, "params": seen}
    return {**result, "inputRequests": told}


def is_web_address(given: object) -> bool:
    """Return whether ``given`` is an address that a browser shows as what it is: http or https, without a user."""
    if not isinstance(given, str) or not given.isprintable() or " " in given or "\\" in given:
        return False
    try:
        parts = urlsplit(given)
        return parts.scheme in {"https", "http"} and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def _not_allowed(upstream: str) -> UpstreamError:
    return UpstreamError(f"Upstream '{upstream}' asked for input in a way that the protocol does not allow.")
