"""Connections to upstream servers: opened once, shared by the calls of one caller, closed when idle.

A connection belongs to one *organisation, upstream version and user*, and where a server could ask its client
something to one conversation, or to one request at a time. So neither a credential, nor the state that a server keeps
for a session, nor a question of its own ever crosses from one caller to another. One task owns each connection from
opening to closing (the SDK's cancel scopes demand it); calls reach it through its link.
"""

from __future__ import annotations

import contextlib
import copy
import math
from typing import TYPE_CHECKING, Final

import anyio

from agentapi.errors import UpstreamError, UpstreamRestsError, UpstreamTimeoutError, UpstreamUnaskedError, first_leaf
from agentapi.upstreams.backoff import Backoff
from agentapi.upstreams.breakers import outcome_of
from agentapi.upstreams.calls import current_call
from agentapi.upstreams.failures import ProbeBrokeError
from agentapi.upstreams.held import Held, giving_way
from agentapi.upstreams.in_flight import InFlight
from agentapi.upstreams.link import Era
from agentapi.upstreams.models import Transport
from agentapi.upstreams.opening import is_everybodys, opening_failure
from agentapi.upstreams.session import open_link
from agentapi.upstreams.turns import NobodyThereError, Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import TaskGroup

    from agentapi.principal import OrgId, UserId
    from agentapi.upstreams.session import Link
    from agentapi.upstreams.wanted import ConnectionKey, Limits, Wanted

__all__ = ["ConnectionPool"]

_CLOSE_S: Final = 8.0
"""How long a connection may take to close; stopping a process takes at most three times two seconds."""
_TRIES: Final = 3


class ConnectionPool:
    """All upstream connections of the process.

    Args:
        limits: Bounds on their number and time.
        clock: Monotonic seconds.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = anyio.current_time) -> None:
        self._limits = limits
        self._clock = clock
        self._connections: dict[ConnectionKey, list[Held]] = {}
        self._closing: set[Held] = set()
        """Those that are to close, and have not closed yet."""
        self._backoff = Backoff(clock)
        self._turns = Turns(limits.connecting)
        self._in_flight = InFlight(limits)
        self._tasks: TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Own the connections for the length of the context; leaving it closes them all."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._reap)
            try:
                yield
            finally:
                self._tasks = None
                await self._close_all()
                tasks.cancel_scope.cancel()

    def __len__(self) -> int:
        return sum(map(len, self._connections.values()))

    @contextlib.asynccontextmanager
    async def lease_for_request(self, wanted: Wanted) -> AsyncIterator[Link]:
        """Do the same as ``lease`` for one request, which counts among those of its user and organisation.

        Raises:
            UpstreamUnaskedError: There are too many of them.
            UpstreamError: As for ``lease``.
        """
        with self._in_flight.request(wanted.key):
            async with self.lease(wanted) as link:
                yield link

    @contextlib.asynccontextmanager
    async def lease(self, wanted: Wanted) -> AsyncIterator[Link]:
        """Yield a live link of ``wanted.key``, opened if there is none; for a key ``alone`` nobody else has it.

        Raises:
            UpstreamError: The upstream cannot be reached, or there are too many connections.
            UpstreamTimeoutError: It did not open in time.
        """
        connection = await self._connected(wanted)
        link = connection.link
        if link is None:
            raise AssertionError(wanted.name)
        try:
            yield link
        except BaseException as error:
            if wanted.key.alone and (isinstance(error, UpstreamTimeoutError) or not isinstance(error, Exception)):
                # The server may still ask about a request that was given up; nobody shall get that question.
                self._discard(connection)
            raise
        finally:
            connection.in_flight -= 1
            connection.last_used = self._clock()
            if link.closed.is_set() or (connection.retired and connection.in_flight == 0):
                self._discard(connection)

    def discard(self, link: Link) -> None:
        """Close the connection of ``link``: the next call opens another one."""
        for connection in self._all():
            if connection.link is link:
                self._discard(connection)

    def links(self, wanted: Callable[[ConnectionKey], bool]) -> list[Link]:
        """Return the open links whose key is ``wanted``."""
        return [each.link for each in self._all() if each.link is not None and wanted(each.key)]

    def close(self, unwanted: Callable[[ConnectionKey], bool]) -> list[ConnectionKey]:
        """Close the connections whose key is ``unwanted``, calls on them or not; return their keys."""
        closed = [connection for connection in self._all() if unwanted(connection.key)]
        for connection in closed:
            self._discard(connection)
        return [connection.key for connection in closed]

    async def end(self, unwanted: Callable[[ConnectionKey], bool]) -> None:
        """Close the connections whose key is ``unwanted``, and wait until each is closed, or time is up."""
        # Some may have been told to close a moment ago, and are on their way.
        await self._end([connection for connection in {*self._all(), *self._closing} if unwanted(connection.key)])

    async def end_member(self, org_id: OrgId, user_id: UserId) -> None:
        """Close the connections of a user who is no member of an organisation any more, in the same way."""
        await self.end(lambda key: (key.org_id, key.user_id) == (org_id, user_id))

    def retire(self, unwanted: Callable[[ConnectionKey], bool]) -> None:
        """Give the connections whose key is ``unwanted`` to no further call; each is closed when its last has ended."""
        for connection in self._all():
            if unwanted(connection.key):
                self._retire(connection)

    def close_idle(self) -> None:
        """Close the connections that no call has used for ``idle_s``."""
        oldest = self._clock() - self._limits.idle_s
        for connection in self._all():
            if connection.is_idle and connection.last_used <= oldest:
                self._discard(connection)

    async def _connected(self, wanted: Wanted) -> Held:
        """Return an open connection that counts the caller among its calls."""
        for _ in range(_TRIES):
            connection = self._at_hand(wanted.key) or self._begin(wanted)
            # Counted while it waits, so that the connection is not idle before its turn comes.
            connection.in_flight += 1
            try:
                await connection.ready.wait()
                _raise_again(connection.failure)
                if await self._is_sound(connection):
                    return connection
            except BaseException:
                connection.in_flight -= 1
                raise
            connection.in_flight -= 1
            self._discard(connection)
        raise UpstreamError(f"Upstream '{wanted.name}' closes every connection as soon as it is open.")

    def _at_hand(self, key: ConnectionKey) -> Held | None:
        for connection in self._connections.get(key, ()):
            if not connection.retired and (not key.alone or connection.in_flight == 0):
                return connection
        return None

    def _begin(self, wanted: Wanted) -> Held:
        if self._tasks is None:
            raise UpstreamUnaskedError("The gateway is shutting down.")
        self.retire(lambda old: _is_superseded(old, wanted.key))
        self._backoff.check(wanted.key, wanted.name)
        connection = Held(wanted, last_used=self._clock(), after=self._make_room(wanted.key))
        self._connections.setdefault(wanted.key, []).append(connection)
        self._tasks.start_soon(self._own, connection)
        return connection

    async def _is_sound(self, connection: Held) -> bool:
        """Return whether a connection can be used, asking a legacy server that was not used for a while."""
        link = connection.link
        if link is None or connection.closing.is_set() or not link.is_alive():
            return False
        rested_s = self._clock() - connection.last_used
        if rested_s < self._limits.ping_after_s or link.profile.era is Era.MODERN or connection.in_flight > 1:
            return True
        connection.last_used = self._clock()
        return await link.ping(self._limits.ping_timeout_s)

    async def _own(self, connection: Held) -> None:
        """Hold one connection open; never raises, for it shares its task group with all the others."""
        current_call.set(None)
        begun = self._clock()
        place, opening = (connection.key.upstream_id, connection.key.version), connection.wanted.opening
        try:
            await self._wait_for_room(connection)
            opening.begin()
            connection.turn = await self._turns.take(place, timeout_s=self._limits.connect_timeout_s)
            try:
                await self._hold(connection, connection.wanted.era)
            except Exception as error:
                if not isinstance(first_leaf(error), ProbeBrokeError):
                    raise
                # Some servers of the older revisions end at anything but ``initialize``.
                await self._hold(connection, Era.LEGACY)
        except NobodyThereError as error:
            connection.failure = error.failure
        except Exception as error:  # noqa: BLE001 - whatever an upstream does must end here, as words
            connection.failure = opening_failure(error, connection.channel, connection.wanted.name)
            opening.record(outcome_of(connection.failure))
            connection.end_turn(connection.failure if is_everybodys(error, connection.channel) else None)
        finally:
            connection.end_turn()
            opening.record("neutral")
            if connection.crashed:
                self._backoff.crashed(connection.key, ran_s=self._clock() - begun)
            if connection.link is None and connection.failure is None:
                connection.failure = UpstreamUnaskedError("The gateway is shutting down.")
            self._discard(connection)
            self._closing.discard(connection)
            connection.ready.set()
            connection.closed.set()

    async def _hold(self, connection: Held, era: Era | None) -> None:
        wanted, limit_s = connection.wanted, self._limits.connect_timeout_s
        # The deadline bounds the opening; once open it is lifted, and set again for the closing.
        with anyio.CancelScope(deadline=anyio.current_time() + limit_s) as scope:
            async with wanted.open_channel() as channel:
                connection.channel = channel
                connection.crashed = channel.kind is Transport.STDIO
                async with open_link(
                    channel,
                    name=wanted.name,
                    timeout_s=limit_s,
                    era=era,
                    capabilities=wanted.capabilities,
                    client_info=wanted.client_info,
                    bound=wanted.key.alone or bool(wanted.key.conversation),
                    chatty=bool(wanted.key.conversation),
                    hear=wanted.hear,
                ) as link:
                    scope.deadline = math.inf
                    connection.link = link
                    connection.last_used = self._clock()
                    wanted.opened(link.profile)
                    wanted.opening.record("success")
                    connection.end_turn()
                    connection.ready.set()
                    await _first_of(connection.closing, link.closed)
                    connection.crashed = connection.crashed and not link.is_alive()
                    scope.deadline = anyio.current_time() + _parting_s(wanted)
        wanted.parting.record("failure" if scope.cancelled_caught else "success")
        if connection.link is None:
            # Slow to start, or asleep: it did not end by itself, and the wait was pause enough.
            connection.crashed = False
            raise UpstreamTimeoutError(f"it did not complete the connection within {limit_s:g} s")

    def _discard(self, connection: Held) -> None:
        siblings = self._connections.get(connection.key, [])
        if connection in siblings:
            siblings.remove(connection)
            if not siblings:
                del self._connections[connection.key]
            self._closing.add(connection)
        connection.closing.set()

    def _all(self) -> list[Held]:
        return [connection for siblings in self._connections.values() for connection in siblings]

    def _retire(self, connection: Held) -> None:
        connection.retired = True
        if connection.in_flight == 0:
            self._discard(connection)

    def _make_room(self, key: ConnectionKey) -> list[Held]:
        """Let others give way where a bound is reached; return those whose end is to be waited for.

        Raises:
            UpstreamUnaskedError: All of them are in use.
        """
        leaving = giving_way(key, self._limits, [*self._all(), *self._closing])
        for connection in leaving:
            connection.gives_way = True
            self._discard(connection)
        return leaving

    async def _wait_for_room(self, connection: Held) -> None:
        with anyio.move_on_after(self._limits.connect_timeout_s):
            while connection.after:
                await connection.after[-1].closed.wait()
                connection.after.pop()
        if connection.after:
            for leaving in connection.after:
                leaving.gives_way = False
            raise UpstreamUnaskedError("All upstream connections are in use; try again shortly.")

    async def _reap(self) -> None:
        while True:
            await anyio.sleep(self._limits.idle_s / 2)
            self.close_idle()

    async def _close_all(self) -> None:
        await self._end(self._all())

    async def _end(self, connections: list[Held]) -> None:
        for connection in connections:
            self._discard(connection)
        with anyio.move_on_after(_CLOSE_S, shield=True):
            # One that is still being opened is cut off by the end of the task group.
            for connection in connections:
                if connection.link is not None:
                    await connection.closed.wait()


def _raise_again(failure: UpstreamError | None) -> None:
    """Give each waiter an error of its own: a traceback is not shared."""
    if failure is not None:
        raise copy.copy(failure).with_traceback(None) from failure


def _is_superseded(old: ConnectionKey, new: ConnectionKey) -> bool:
    """Return whether no call will ask for ``old`` again: the upstream, or the user's credential, has changed."""
    if old.upstream_id != new.upstream_id:
        return False
    same_caller = old.version == new.version and old.user_id == new.user_id
    return old.version < new.version or (same_caller and old.credential != new.credential)


def _parting_s(wanted: Wanted) -> float:
    """Return how long the server may take over being told; no time where it has not answered that of late."""
    try:
        wanted.parting.begin()
    except UpstreamRestsError:
        return 0.0
    return _CLOSE_S


async def _first_of(*events: anyio.Event) -> None:
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)
