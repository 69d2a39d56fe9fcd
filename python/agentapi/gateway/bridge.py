"""Questions of a modern upstream put to a client of the older revisions.

The upstream answers ``input_required``; the client, which cannot know that, is asked over its own session, and the
request goes out again with what it said (specification 2026-07-28, "Multi Round-Trip Requests").
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError
from mcp_types import REQUEST_TIMEOUT

from agentapi.errors import UpstreamError, first_leaf
from agentapi.gateway.capabilities import QUESTIONS
from agentapi.gateway.questions import told_question

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agentapi.gateway.rewrite import Rewriter
    from agentapi.upstreams.link import Peer

__all__ = ["RewritingPeer", "is_input_required", "with_rounds"]

_MAX_ROUNDS: Final = 10
_MAX_QUESTIONS: Final = 32
"""Most questions of one round."""
_ASK_TIMEOUT_S: Final = 300.0
"""How long a person may take over a question."""
_BACKOFF_S: Final = 0.05
_MAX_BACKOFF_S: Final = 0.25
"""Wait before a retry that carries nothing but the state: the upstream itself is not ready."""


def is_input_required(result: Mapping[str, Any]) -> bool:
    """Return whether ``result`` is a round, not the answer."""
    return result.get("resultType") == "input_required"


class RewritingPeer:
    """A client that sees the public URIs of an upstream."""

    def __init__(self, peer: Peer, rewriter: Rewriter) -> None:
        self._peer = peer
        self._rewriter = rewriter

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Pass on a notification."""
        await self._peer.notify(method, self._rewriter.notification(method, params))

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Pass on a request and return the client's result.

        Raises:
            MCPError: The client cannot be asked, or answered with an error.
            UpstreamError: As ``told_question``.
        """
        told = told_question(self._rewriter.upstream, method, params)
        return await self._peer.ask(method, self._rewriter.question(method, told))


async def with_rounds(send: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]], peer: Peer) -> dict[str, Any]:
    """Return the answer to a request, asking the client whatever the upstream wants to know before it.

    Args:
        send: Sends the request with these params besides its own.
        peer: The client.

    Raises:
        UpstreamError: The upstream asks without end, or what no client understands.
        MCPError: The upstream's error, or the client's to a question.
    """
    backoff_s = _BACKOFF_S
    result = await send({})
    for _ in range(_MAX_ROUNDS):
        if not is_input_required(result):
            return result
        questions = _questions(result)
        extra: dict[str, Any] = {}
        if questions:
            extra["inputResponses"] = await _ask_all(questions, peer)
            backoff_s = _BACKOFF_S
        else:
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
        if result.get("requestState") is not None:
            extra["requestState"] = result["requestState"]
        result = await send(extra)
    if is_input_required(result):
        raise UpstreamError(f"The upstream asked for input {_MAX_ROUNDS} times and did not answer.")
    return result


def _questions(result: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    given = result.get("inputRequests") or {}
    if not isinstance(given, dict) or len(given) > _MAX_QUESTIONS or not (given or "requestState" in result):
        raise _not_allowed()
    questions = {}
    for key, asked in given.items():
        method = asked.get("method") if isinstance(asked, dict) else None
        params = asked.get("params", {}) if isinstance(asked, dict) else None
        if not isinstance(method, str) or method not in QUESTIONS or not isinstance(params, dict):
            raise _not_allowed()
        if params.get("mode") == "url" and "elicitationId" not in params:
            # The older revision identifies such a question, the modern one does not any more.
            params = {**params, "elicitationId": secrets.token_urlsafe(12)}
        questions[key] = (method, params)
    return questions


async def _ask_all(questions: Mapping[str, tuple[str, dict[str, Any]]], peer: Peer) -> dict[str, Any]:
    """Ask everything at once; the first refusal takes the other questions back."""
    try:
        async with asyncio.timeout(_ASK_TIMEOUT_S), asyncio.TaskGroup() as group:
            tasks = {key: group.create_task(_ask(peer, method, params)) for key, (method, params) in questions.items()}
    except TimeoutError:
        raise MCPError(REQUEST_TIMEOUT, "The client did not answer the upstream's question in time.") from None
    except BaseExceptionGroup as group_error:
        raise first_leaf(group_error) from None
    return {key: task.result() for key, task in tasks.items()}


async def _ask(peer: Peer, method: str, params: dict[str, Any]) -> dict[str, Any]:
    return await peer.ask(method, params)


def _not_allowed() -> UpstreamError:
    return UpstreamError("The upstream asked for input in a way that the protocol does not allow.")
