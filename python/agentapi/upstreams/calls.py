"""One request under way on a connection, and what arrives for it before its answer.

The Streamable HTTP transport of the SDK runs each POST, and hands over what came on its answer, in the context of
whoever sent the request. So the context variable here tells exactly which request a message belongs to; where a
transport has one pipe for everything the link decides.
"""

from __future__ import annotations

import math
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio

from agentapi._core import EnvelopeError, scan_envelope
from agentapi.egress.transport import ResponseTooLargeError
from agentapi.upstreams.link import MAX_ANSWER_DEPTH
from agentapi.upstreams.notices import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentapi.upstreams.challenges import Challenge
    from agentapi.upstreams.link import Peer

__all__ = ["Call", "current_call", "is_within_bound"]

_MAX_WAITING: Final = 1024
"""Notifications that wait for a slow client; what comes on top is dropped."""
_ASK_TIMEOUT_S: Final = 300.0
"""How long a person may take over a question of the upstream."""


@dataclass(slots=True, eq=False)
class Call:
    """A request that waits for its answer, or will."""

    request_id: str | int
    scope: anyio.CancelScope
    timeout_s: float = math.inf
    peer: Peer | None = None
    progress_token: str | int | None = None
    """The client's own, which the upstream never sees."""
    asked: Asked = field(default_factory=Asked)
    """What is to be told before the answer; its token is the upstream's."""
    dropped: int = 0
    """How many notifications came that do not belong to it."""
    whole_s: float = math.inf
    """Bound on the request with all that its client is asked meanwhile."""
    end_s: float = math.inf
    """When that is over, on the event loop's clock."""
    sent: bool = False
    """Whether the transport has begun to send it."""
    is_subscription: bool = False
    """Whether it stands for a stream of events and not for something that is done."""
    status: int | None = None
    """Of the HTTP answer."""
    retry_after_s: float | None = None
    """How long that asked to be left alone."""
    refusal: Challenge | None = None
    """What that said of the user's own credential, if it refused it."""
    failure: Exception | None = None
    """Why no answer can come, where the transport found out; the upstream's own error where nobody else would tell."""
    answered: bool = False
    """Whether an error of the upstream's own came, where the transport looks at answers."""
    max_answer_bytes: int | None = None
    """A longer answer is not read to its end, where the transport can tell whose it is."""
    done: bool = False
    _waiting: deque[tuple[str, dict[str, Any]]] = field(default_factory=deque)
    _delivering: anyio.Lock = field(default_factory=anyio.Lock)
    _asking: int = 0
    _asks: set[anyio.CancelScope] = field(default_factory=set)
    _left_s: float = math.inf

    def may_take(self, size_bytes: int) -> bool:
        """Return whether its answer may be so long."""
        return self.max_answer_bytes is None or size_bytes <= self.max_answer_bytes

    def fail(self, error: Exception) -> None:
        """End the wait: the answer cannot come."""
        self.failure = error
        self.scope.cancel()

    def note(self, method: str, params: dict[str, Any]) -> bool:
        """Queue a notification for the client; return whether there was room."""
        if self.peer is None or self.done or len(self._waiting) >= _MAX_WAITING:
            return False
        self._waiting.append((method, params))
        return True

    async def deliver(self) -> None:
        """Hand the client what is queued, in its order; return when it is all out."""
        async with self._delivering:
            while self._waiting and self.peer is not None:
                method, params = self._waiting.popleft()
                try:
                    await self.peer.notify(method, params)
                except Exception:  # noqa: BLE001 - a client that is gone must not end the connection of others
                    self._waiting.clear()

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Put a question of the upstream to the client; meanwhile the upstream's time stands still.

        Raises:
            MCPError: The client cannot be asked, or answered with an error.
            TimeoutError: Nobody answered.
        """
        if self.peer is None:
            raise AssertionError(method)
        if self._asking == 0:
            self._left_s = self.scope.deadline - anyio.current_time()
            self.scope.deadline = self.end_s
        self._asking += 1
        try:
            with anyio.fail_after(_ASK_TIMEOUT_S) as scope:
                self._asks.add(scope)
                try:
                    # What was said before the question is read before it.
                    await self.deliver()
                    return await self.peer.ask(method, params)
                finally:
                    self._asks.discard(scope)
        finally:
            self._asking -= 1
            if self._asking == 0:
                self.scope.deadline = min(anyio.current_time() + self._left_s, self.end_s)

    def end(self) -> None:
        """Take back what the client has not answered yet: the request is over."""
        self.done = True
        for scope in self._asks:
            scope.cancel()


current_call: ContextVar[Call | None] = ContextVar("agentapi_upstream_call", default=None)
"""The call on whose behalf something is sent."""


def is_within_bound(message: bytes, calls: Mapping[str | int, Call]) -> bool:
    """Return whether a message that came on a way of many requests may be parsed, from the bytes alone.

    One that may not ends the wait of the call it answers. Where that cannot be told, it ends all waits that it could
    be meant for: a server could hide in the way it writes an id whose answer it sends.
    """
    size = len(message)
    small = [call for call in calls.values() if not call.may_take(size)]
    if not small:
        return True
    try:
        found = scan_envelope(message, max_bytes=size, max_depth=MAX_ANSWER_DEPTH)
    except EnvelopeError:
        answered = small
    else:
        meant = {found.id, str(found.id)} if found.kind == "response" else set()
        answered = [call for call in small if not meant.isdisjoint({call.request_id, str(call.request_id)})]
    for call in answered:
        call.fail(ResponseTooLargeError(call.max_answer_bytes or 0))
    return not answered
