"""The stream of a session that its client holds open by a GET request."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from mcp import MCPError

from agentapi.errors import AgentAPIError
from agentapi.gateway.exchange import ClientTraits, Interest, Visitor
from agentapi.gateway.listening import Changes
from agentapi.gateway.scopes import permitted

if TYPE_CHECKING:
    from agentapi.gateway.call import Call
    from agentapi.gateway.conversations import Conversation
    from agentapi.gateway.exchange import RequestRouter
    from agentapi.gateway.reply import Reply
    from agentapi.gateway.session_ids import Session

__all__ = ["StandingStream", "visitor_of"]

_log = structlog.get_logger(__name__)


def visitor_of(call: Call, client: ClientTraits) -> Visitor:
    """Return who speaks when nothing is asked."""
    return Visitor(principal=call.principal, view=call.view, toolset=call.toolset, client=client)


class StandingStream:
    """Reports to a session what changes: the lists, and the resources that it subscribed to."""

    def __init__(self, router: RequestRouter, call: Call, session: Session, conversation: Conversation) -> None:
        self._router = router
        self._visitor = visitor_of(call, session.client)
        self._scopes = call.principal.scopes if call.operation_scopes else None
        self._expires_at = min(call.expires_at, session.expires_at)
        self._conversation = conversation
        self._changes = Changes(Interest())

    async def report(self, reply: Reply, ended: asyncio.Event) -> None:
        """Write what changes until ``ended`` is set, or the session or the access token ends."""
        tasks = [asyncio.ensure_future(self._changes.write_to(reply)), asyncio.ensure_future(self._follow())]
        try:
            async with asyncio.timeout(self._expires_at - time.time()):
                await ended.wait()
        except TimeoutError:
            pass
        finally:
            await _stop(*tasks)

    async def _follow(self) -> None:
        """Listen to what the session is interested in, anew whenever that changes, without a moment of deafness."""
        changed = self._conversation.uris_changed
        held: asyncio.Task[None] | None = None
        try:
            while True:
                changed.clear()
                interest = Interest(tools=True, prompts=True, resources=True, uris=self._conversation.uris)
                self._changes.interest = permitted(interest, self._scopes) if self._scopes is not None else interest
                listening = asyncio.Event()
                held, former = asyncio.ensure_future(self._hold(listening)), held
                await listening.wait()
                if former is not None:
                    await _stop(former)
                if not changed.is_set():
                    self._conversation.caught_up.set()
                await changed.wait()
        finally:
            if held is not None:
                await _stop(held)

    async def _hold(self, listening: asyncio.Event) -> None:
        """Listen until cancelled; a task of its own, since what it holds may have to be let go where it was taken."""
        try:
            async with self._router.listen(self._visitor, self._changes.interest, self._changes.add):
                listening.set()
                await asyncio.Event().wait()
        except Exception as error:  # noqa: BLE001 - the stream is good for questions and messages all the same
            defect = None if isinstance(error, AgentAPIError | MCPError) else error
            _log.warning("listening_failed", reason=str(error), exc_info=defect)
        finally:
            listening.set()


async def _stop(*tasks: asyncio.Future[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
