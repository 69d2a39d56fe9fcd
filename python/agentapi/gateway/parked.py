"""Questions of a legacy upstream put to a modern client, which has no channel to be asked on.

The upstream's question becomes an ``input_required`` result while its request stays open, *parked*, in this process.
The ``requestState`` names it; the client's retry brings the answers and takes the request up again.

Invariants:
    * A parked call belongs to one principal and request: its sealed state opens for no other.
    * Each state is good once; whoever echoes an old one, or reaches another process, is told so.
    * Parked calls are bounded in number, for each user and altogether, and in time; none outlives ``run``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import structlog
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND

from agentapi.errors import AgentAPIError, UpstreamError
from agentapi.gateway.background import Background, shutting_down
from agentapi.gateway.capabilities import QUESTIONS, missing_capability_error, required_capability
from agentapi.gateway.questions import told_question

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from agentapi.gateway.request_state import Binding, RequestStates
    from agentapi.gateway.rewrite import Rewriter
    from agentapi.principal import OrgId, UserId
    from agentapi.upstreams.link import Peer

__all__ = ["ParkedCalls", "TooManyParkedError"]

_log = structlog.get_logger(__name__)


class TooManyParkedError(AgentAPIError):
    """There is no room for another call that waits for its user."""

    code = "too_many_waiting_calls"


@dataclass(slots=True, eq=False)
class _Call:
    """A request to the upstream under way: also the peer that the upstream's messages go to."""

    binding: Binding
    capabilities: Mapping[str, Any]
    rewriter: Rewriter
    listener: Peer | None = None
    """The client, while one of its requests is open."""
    task: asyncio.Task[None] | None = None
    result: dict[str, Any] | None = None
    failure: Exception | None = None
    missing: dict[str, Any] | None = None
    """A capability that the upstream wanted and the client does not have."""
    questions: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = field(default_factory=dict)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    expiry: asyncio.TimerHandle | None = None

    @property
    def ended(self) -> bool:
        return self.result is not None or self.failure is not None

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Pass on a notification; while nobody listens there is nowhere to send it."""
        if self.listener is not None:
            await self.listener.notify(method, self.rewriter.notification(method, params))

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Keep a question until the client's answer comes."""
        if method not in QUESTIONS:
            raise MCPError(METHOD_NOT_FOUND, "A client cannot be asked that.", {"method": method})
        missing = required_capability(self.capabilities, method, params)
        if missing is not None:
            self.missing = missing
            raise missing_capability_error(missing)
        told = told_question(self.rewriter.upstream, method, params)
        key = secrets.token_urlsafe(6)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.questions[key] = {"method": method, "params": self.rewriter.question(method, told)}, answer
        self.stirred.set()
        try:
            return await answer
        finally:
            del self.questions[key]

    def open_questions(self) -> dict[str, dict[str, Any]]:
        return {key: question for key, (question, answer) in self.questions.items() if not answer.done()}

    def outcome(self) -> dict[str, Any]:
        """Return the upstream's answer.

        Raises:
            MCPError: The client lacks a capability without which the upstream failed, or the upstream's own error.
            UpstreamError: It could not be reached, or gave no answer.
        """
        failed = self.result is None or self.result.get("isError") is True
        if failed and self.missing is not None:
            raise missing_capability_error(self.missing)
        if self.result is None:
            raise self.failure or shutting_down()
        return self.result


class ParkedCalls:
    """The calls of this process that may have to wait for their users; ``run`` owns them.

    Args:
        states: Seals the names of parked calls.
        ttl_s: How long a call waits for the client's retry.
        max_calls: Most parked calls.
        max_calls_per_user: Most of one user.
    """

    def __init__(self, *, states: RequestStates, ttl_s: float, max_calls: int, max_calls_per_user: int) -> None:
        self._states = states
        self._ttl_s = ttl_s
        self._max_calls = max_calls
        self._max_calls_per_user = max_calls_per_user
        self._parked: dict[str, _Call] = {}
        self._held: Counter[tuple[OrgId, UserId]] = Counter()
        self._background = Background()

    def __len__(self) -> int:
        return len(self._parked)

    def run(self) -> AbstractAsyncContextManager[None]:
        """Own the calls for the length of the context; leaving it takes them back from the upstreams."""
        return self._background.run()

    async def begin(
        self,
        binding: Binding,
        capabilities: Mapping[str, Any],
        rewriter: Rewriter,
        listener: Peer,
        send: Callable[[Peer], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        """Send a request and return its answer, or an ``input_required`` result if the upstream asks before it.

        Args:
            binding: Whose request it is, and which.
            capabilities: What the client declared.
            rewriter: Makes the upstream's URIs public in its messages.
            listener: Where its notifications go.
            send: Sends it; what the upstream sends meanwhile goes to the peer.

        Raises:
            MCPError: As ``_Call.outcome``.
            UpstreamError: As ``_Call.outcome``.
            TooManyParkedError: It would have to wait and there is no room.
        """
        call = _Call(binding, capabilities, rewriter)
        call.task = self._background.start(self._drive(call, send))
        return await self._listen(call, listener)

    async def resume(self, binding: Binding, listener: Peer, sealed: object, responses: object) -> dict[str, Any]:
        """Take up a parked call with what the client answered; returns and raises as ``begin`` does.

        Raises:
            InvalidRequestStateError: The state is not one of this request.
        """
        name = self._states.open(_parked(binding), sealed)
        if responses is not None and not isinstance(responses, dict):
            raise MCPError(INVALID_PARAMS, "The inputResponses are not an object.")
        call = self._take(name)
        if call is None:
            raise MCPError(
                INVALID_PARAMS,
                "This call does not wait here any more: it expired, was taken up already, or waits in another process "
                "of the gateway. Make it again.",
                {"code": "call_not_waiting"},
            )
        for key, response in (responses or {}).items():
            question = call.questions.get(key)
            if question is not None and not question[1].done() and isinstance(response, dict):
                question[1].set_result(response)
        return await self._listen(call, listener)

    async def _drive(self, call: _Call, send: Callable[[Peer], Awaitable[dict[str, Any]]]) -> None:
        """Wait for the upstream's answer; never raises, for it shares its task group with all the others."""
        try:
            call.result = await send(call)
        except (MCPError, AgentAPIError) as error:
            call.failure = error
        except Exception:  # noqa: BLE001 - what nobody foresaw must not end the others; the log has it
            _log.exception("parked_call_crashed")
            call.failure = MCPError(INTERNAL_ERROR, "Something went wrong here; the log has the details.")
        finally:
            if not call.ended:
                call.failure = UpstreamError("The call was taken back: it waited too long, or the gateway stops.")
            call.stirred.set()

    async def _listen(self, call: _Call, listener: Peer) -> dict[str, Any]:
        call.listener = listener
        try:
            while not call.ended:
                questions = call.open_questions()
                if questions:
                    return self._park(call, questions)
                call.stirred.clear()
                await call.stirred.wait()
            return call.outcome()
        except BaseException:
            # The client is gone, or there is no room for the call: nobody will take it up.
            _cancel(call)
            raise
        finally:
            call.listener = None

    def _park(self, call: _Call, questions: dict[str, dict[str, Any]]) -> dict[str, Any]:
        binding = call.binding
        owner = binding.principal.org_id, binding.principal.user_id
        if len(self._parked) >= self._max_calls or self._held[owner] >= self._max_calls_per_user:
            raise TooManyParkedError("Too many calls wait for their users; answer some or try again later.")
        name = secrets.token_urlsafe(12)
        state = self._states.seal(_parked(binding), name)
        self._parked[name] = call
        self._held[owner] += 1
        call.expiry = asyncio.get_running_loop().call_later(self._ttl_s, self._expire, name)
        return {"resultType": "input_required", "inputRequests": questions, "requestState": state}

    def _take(self, name: str) -> _Call | None:
        call = self._parked.pop(name, None)
        if call is None:
            return None
        owner = call.binding.principal.org_id, call.binding.principal.user_id
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        if call.expiry is not None:
            call.expiry.cancel()
        return call

    def _expire(self, name: str) -> None:
        call = self._take(name)
        if call is not None:
            _log.info("parked_call_expired", method=call.binding.method)
            _cancel(call)


def _parked(binding: Binding) -> Binding:
    """Return what binds the name of a parked call, so that no state of an upstream passes for one."""
    return replace(binding, method=f"parked {binding.method}")


def _cancel(call: _Call) -> None:
    if call.task is not None:
        call.task.cancel()
