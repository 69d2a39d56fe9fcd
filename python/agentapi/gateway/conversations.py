"""What this process keeps of the sessions of older clients: what is under way, and what an id cannot carry.

An id is served by every replica, and what stands here is known to one: the level of log messages, the resources that
a client subscribed to, its stream, the questions it has not answered yet, and which sessions have ended before their
time. A deployment of several processes sends each session to one of them until replicas share this.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, REQUEST_TIMEOUT

from agentapi.errors import TooManyStreamsError
from agentapi.gateway.listening import MAX_URIS
from agentapi.gateway.rpc import notification_message, request_message
from agentapi.gateway.session_ids import UnknownSessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentapi.gateway.reply import Reply
    from agentapi.gateway.session_ids import Session

__all__ = ["Conversation", "Conversations"]

_MAX_ASKED: Final = 64
_MAX_ENDED: Final = 100_000


class Conversation:
    """One session of an older client.

    Args:
        on_turn: Called with it when it may have turned busy or idle.
    """

    def __init__(self, on_turn: Callable[[Conversation], None] = lambda _: None) -> None:
        self._on_turn = on_turn
        self.log_level: str | None = None
        self.uris: frozenset[str] = frozenset()
        self.uris_changed = asyncio.Event()
        self.caught_up = asyncio.Event()
        """Set while the standing stream, if there is one, listens to all of ``uris``."""
        self.caught_up.set()
        self.standing: Reply | None = None
        """The stream of its GET request, on which it hears what belongs to no request."""
        self._end_standing: Callable[[], None] | None = None
        self._under_way: dict[str | int, asyncio.Task[Any]] = {}
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, so that without it at most preferences are lost."""
        return not self._under_way and self.standing is None

    def subscribe(self, uri: str) -> None:
        """Report changes of a resource from now on.

        Raises:
            MCPError: There are too many already.
        """
        if len(self.uris) >= MAX_URIS and uri not in self.uris:
            raise MCPError(code=INVALID_PARAMS, message=f"One session reports at most {MAX_URIS} resources.")
        self.uris |= {uri}
        self._change()

    def unsubscribe(self, uri: str) -> None:
        """Report them no more."""
        self.uris -= {uri}
        self._change()

    def _change(self) -> None:
        self.uris_changed.set()
        if self.standing is not None:
            self.caught_up.clear()

    @contextlib.contextmanager
    def stand(self, reply: Reply, end: Callable[[], None]) -> Iterator[None]:
        """Take ``reply`` as the stream of the session for the length of the context; one before it is ended."""
        if self._end_standing is not None:
            self._end_standing()
        self.standing, self._end_standing = reply, end
        self._on_turn(self)
        try:
            yield
        finally:
            if self.standing is reply:
                self.standing = self._end_standing = None
                self.caught_up.set()
                self._on_turn(self)

    @contextlib.contextmanager
    def tracking(self, request_id: str | int) -> Iterator[None]:
        """Let the client cancel the running task by ``request_id`` for the length of the context.

        Raises:
            MCPError: A request of that id is under way.
        """
        task = asyncio.current_task()
        if request_id in self._under_way or task is None:
            raise MCPError(code=INVALID_REQUEST, message="A request of this id is under way.")
        self._under_way[request_id] = task
        self._on_turn(self)
        try:
            yield
        finally:
            del self._under_way[request_id]
            self._on_turn(self)

    def cancel(self, request_id: object) -> None:
        """Cancel a request of the client; one that is not under way has been answered."""
        if isinstance(request_id, str | int) and (task := self._under_way.get(request_id)) is not None:
            task.cancel()

    async def ask(self, reply: Reply, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Ask the client on the stream of ``reply``, or on that of its GET request once that is over.

        Raises:
            MCPError: It cannot be asked, does not answer in time, or answered with an error.
        """
        if len(self._asked) >= _MAX_ASKED:
            raise MCPError(code=INTERNAL_ERROR, message="The client has too many questions to answer already.")
        # Unlike a count, it names no question of another process.
        identifier = uuid4().hex
        answer = asyncio.get_running_loop().create_future()
        self._asked[identifier] = answer
        try:
            await self._write(reply, request_message(identifier, method, params))
            async with asyncio.timeout(timeout_s):
                result: dict[str, Any] = await answer
        except TimeoutError:
            raise MCPError(code=REQUEST_TIMEOUT, message="The client did not answer in time.") from None
        else:
            return result
        finally:
            if self._asked.pop(identifier, None) is not None:
                # Whoever asked does not wait for the answer any more.
                reply.offer(notification_message("notifications/cancelled", {"requestId": identifier}))

    def answered(self, message: dict[str, Any]) -> None:
        """Take a response of the client; one to no question of ours is let go."""
        answer = self._asked.pop(str(message.get("id")), None)
        if answer is None or answer.done():
            return
        error, result = message.get("error"), message.get("result")
        if isinstance(result, dict):
            answer.set_result(result)
        elif isinstance(error, dict) and isinstance(error.get("code"), int):
            text = str(error.get("message", ""))
            answer.set_exception(MCPError(code=error["code"], message=text, data=error.get("data")))
        else:
            answer.set_exception(MCPError(code=INVALID_REQUEST, message="The client's answer is no response."))

    def end(self) -> None:
        """Cancel what is under way, give up what was asked, and end the stream."""
        for task in list(self._under_way.values()):
            task.cancel()
        for answer in list(self._asked.values()):
            if not answer.done():
                answer.set_exception(MCPError(code=CONNECTION_CLOSED, message="The client has ended its session."))
        if self._end_standing is not None:
            self._end_standing()

    async def _write(self, reply: Reply, message: bytes) -> None:
        if await reply.event(message) or (self.standing is not None and await self.standing.event(message)):
            return
        raise MCPError(code=CONNECTION_CLOSED, message="The client has no stream on which it can be asked.")


class Conversations:
    """The sessions that this process knows of.

    Args:
        most: Bound on those that are remembered; of idle ones the one that was quiet longest is forgotten first, and
            when there is none, a session that is new here has to wait.
        clock: Unix seconds.
    """

    def __init__(self, *, clock: Callable[[], float], most: int = 10_000) -> None:
        self._most = most
        self._clock = clock
        self._known: dict[str, Conversation] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        """Those of them that are, the one that was quiet longest first."""
        self._ended: set[str] = set()
        self._ends: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._known)

    def of(self, session: Session) -> Conversation:
        """Return the conversation of ``session``, remembered or new.

        Raises:
            UnknownSessionError: It has ended.
            TooManyStreamsError: There is no room for it.
        """
        identifier = session.client.conversation
        if identifier in self._ended:
            raise UnknownSessionError("ended")
        known = self._known.get(identifier)
        if known is None:
            self._make_room()
            known = self._known[identifier] = Conversation(partial(self._turned, identifier))
        self._turned(identifier, known)
        return known

    def end(self, session: Session) -> None:
        """End a conversation before its time: its id is refused from now on, in this process."""
        identifier = session.client.conversation
        known = self._known.pop(identifier, None)
        self._idle.pop(identifier, None)
        if known is not None:
            known.end()
        self._ended.add(identifier)
        heapq.heappush(self._ends, (session.expires_at, identifier))
        while self._ends and (self._ends[0][0] <= self._clock() or len(self._ends) > _MAX_ENDED):
            self._ended.discard(heapq.heappop(self._ends)[1])

    def _make_room(self) -> None:
        if len(self._known) < self._most:
            return
        if not self._idle:
            raise TooManyStreamsError("Too many sessions are at work; try again when some are idle.")
        identifier, _ = self._idle.popitem(last=False)
        del self._known[identifier]

    def _turned(self, identifier: str, conversation: Conversation) -> None:
        """Take note of a conversation that was busy just now, or still is."""
        if self._known.get(identifier) is not conversation:
            return
        self._idle.pop(identifier, None)
        if conversation.is_idle:
            self._idle[identifier] = None
