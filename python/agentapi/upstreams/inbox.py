"""What an upstream sends of its own accord: sorted to the request, the subscription or the catalogue it concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
from mcp import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND

from agentapi.errors import UpstreamError
from agentapi.upstreams.calls import Call, current_call
from agentapi.upstreams.notices import PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from anyio.abc import TaskGroup
    from mcp.shared.dispatcher import DispatchContext
    from mcp.shared.transport_context import TransportContext

__all__ = ["CHANGES", "Inbox"]

CHANGES: Final = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)
_CAPABILITY_OF: Final = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
_CLAIM_S: Final = 5.0
"""How long a question that comes ahead of any request waits for one that it can belong to."""


class Inbox:
    """Sorts what comes in on one connection.

    Args:
        tasks: Where notifications are handed over to clients.
        askable: What was declared to the server: ``sampling``, ``elicitation``, ``roots``.
        bound: Whether all on this connection is of one conversation, or one request at a time, so that a message
            without a sign of its own can still be told whose it is.
        chatty: Whether log messages are wanted without asking for them with each request.
        hear: Called with every change that the server reports.
        calls: Where the requests under way are kept.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        *,
        askable: Collection[str],
        bound: bool,
        chatty: bool,
        hear: Callable[[str, dict[str, Any]], None],
        calls: dict[str | int, Call] | None = None,
    ) -> None:
        self.calls = {} if calls is None else calls
        self.ears: dict[str | int, Callable[[str, dict[str, Any]], None]] = {}
        """Who listens: by the id of a modern subscription, or under a name that no subscription has."""
        self._tasks = tasks
        self._askable = frozenset(askable)
        self._bound = bound
        self.chatty = chatty
        self._hear = hear
        self._begun = anyio.Event()
        self._used = False

    def begin(self, call: Call) -> None:
        """Take in a request that is about to be sent."""
        self.calls[call.request_id] = call
        self._used = self._used or call.peer is not None
        self._begun.set()
        self._begun = anyio.Event()

    def end(self, call: Call) -> None:
        """Forget a request: its answer is here, or nobody waits for it."""
        call.end()
        del self.calls[call.request_id]

    async def answer(
        self, _: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Answer a request of the server, by asking the client whose request it belongs to.

        Raises:
            MCPError: It may not ask that, or there is nobody to ask.
        """
        if method == "ping":
            return {}
        if _CAPABILITY_OF.get(method) not in self._askable:
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)
        call = current_call.get() or await self._claimant()
        if call is None or call.peer is None or call.done:
            raise MCPError(code=INVALID_REQUEST, message="No request is under way that this could belong to.")
        if isinstance(visit := (params or {}).get("elicitationId"), str):
            call.asked.elicitations.add(visit)
        try:
            return await call.ask(method, dict(params or {}))
        except UpstreamError as error:
            raise MCPError(code=INVALID_PARAMS, message=error.message) from None
        except TimeoutError:
            raise MCPError(code=INVALID_REQUEST, message="The client did not answer in time.") from None

    def sort(self, method: str, params: dict[str, Any], sender: Call | None) -> None:
        """Hand a notification to whom it concerns, without waiting; call in the order of arrival."""
        if method in CHANGES:
            self._hear(method, params)
        if (ear := self.ears.get(_subscription(params))) is not None:
            ear(method, params)
        elif method in CHANGES:
            for each in list(self.ears.values()):
                each(method, params)
        elif (call := sender or self._meant(method, params)) is not None:
            self._tell(call, method, params)

    def _meant(self, method: str, params: dict[str, Any]) -> Call | None:
        """Return the call that a notification belongs to which came on no call's way."""
        if method != PROGRESS:
            return self._only()
        token = params.get("progressToken")
        return self.calls.get(token) if isinstance(token, str | int) else None

    def _tell(self, call: Call, method: str, params: dict[str, Any]) -> None:
        """Queue a notification for the call's client if it belongs to the call."""
        if not call.asked.hears(method, params):
            call.dropped += 1
            return
        told = {**params, "progressToken": call.progress_token} if method == PROGRESS else params
        if call.note(method, told):
            self._tasks.start_soon(call.deliver)

    def _only(self) -> Call | None:
        """Return the call that a message without a sign belongs to, if that can be told."""
        waiting = [call for call in self.calls.values() if not call.is_subscription]
        asking = [call for call in waiting if call.peer is not None]
        return asking[-1] if asking and (self._bound or len(waiting) == 1) else None

    async def _claimant(self) -> Call | None:
        """Return the call that a question without a sign belongs to; it may be a moment ahead of it.

        Some servers ask for the roots as soon as they are initialized. Later, where every request may be another
        client's, a question outside of any belongs to one that is over, and nobody else shall get it.
        """
        with anyio.move_on_after(_CLAIM_S):
            while (call := self._only()) is None and self._bound and (self.chatty or not self._used):
                await self._begun.wait()
            return call
        return None


def _subscription(params: Mapping[str, Any]) -> str | int:
    meta = params.get("_meta")
    key = meta.get(SUBSCRIPTION_ID_META_KEY) if isinstance(meta, dict) else None
    return key if isinstance(key, str | int) else ""
