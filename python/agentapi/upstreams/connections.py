"""Connections to upstream servers: opened once, shared by the calls of one caller, closed when idle.

A connection belongs to one *organisation, upstream version and user*, so neither a credential nor the state that a
server keeps for a session ever crosses from one user to another. One task owns each connection from opening to
closing (the SDK's cancel scopes demand it); calls reach it through the session object.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import structlog
from mcp import Client, MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT

from agentapi.errors import UpstreamError, UpstreamNeedsConnectionError, UpstreamTimeoutError
from agentapi.upstreams.reasons import reason_of

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from mcp.client.session import ClientSession

    from agentapi.principal import OrgId, UpstreamId, UserId

__all__ = ["ConnectionKey", "ConnectionPool", "OpenTransport", "UpstreamLink"]

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)

_SESSION_TERMINATED = "Session terminated"
"""Message of the SDK (2.3.0) for an HTTP 404 on an established legacy session: the request was not processed."""


@dataclass(frozen=True, slots=True)
class ConnectionKey:
    """What a connection is bound to; a change of the upstream's configuration bumps ``version``."""

    org_id: OrgId
    upstream_id: UpstreamId
    version: int
    user_id: UserId


@dataclass(frozen=True, slots=True)
class UpstreamLink:
    """A transport of the SDK, and where its last HTTP status is noted for words about a failure."""

    transport: Any
    last_status: Callable[[], int | None] = lambda: None


OpenTransport = Callable[[], AbstractAsyncContextManager[UpstreamLink]]
"""Opens the transport of one upstream with the credential already attached."""


@dataclass(slots=True, eq=False)
class _Connection:
    key: ConnectionKey
    name: str
    ready: anyio.Event = field(default_factory=anyio.Event)
    closing: anyio.Event = field(default_factory=anyio.Event)
    closed: anyio.Event = field(default_factory=anyio.Event)
    session: ClientSession | None = None
    failure: UpstreamError | None = None
    in_flight: int = 0
    last_used: float = 0.0


class ConnectionPool:
    """All upstream connections of the process.

    Args:
        connect_timeout_s: Bound on opening a connection, handshake included.
        idle_s: A connection without a call for this long is closed.
        max_connections: Bound on open connections; the longest idle one gives way.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        idle_s: float,
        max_connections: int,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._max_connections = max_connections
        self._clock = clock
        self._connections: dict[ConnectionKey, _Connection] = {}
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
        return len(self._connections)

    async def call(
        self,
        key: ConnectionKey,
        name: str,
        open_transport: OpenTransport,
        operation: Callable[[ClientSession], Awaitable[_T]],
        *,
        timeout_s: float,
        repeatable: bool = False,
    ) -> _T:
        """Run ``operation`` on the connection of ``key``, opening it first where there is none.

        A request that the upstream refused unprocessed, because it no longer knows the session, runs once more on a
        fresh connection. So does one that is ``repeatable``, a read, when the connection turns out to be closed.
        Nothing else is tried twice.

        Raises:
            UpstreamError: The upstream cannot be reached, or the connection broke.
            UpstreamTimeoutError: No answer within ``timeout_s``.
            MCPError: The upstream answered with a JSON-RPC error.
        """
        try:
            return await self._call_once(key, name, open_transport, operation, timeout_s)
        except _SessionTerminatedError:
            return await self._call_once(key, name, open_transport, operation, timeout_s)
        except _ClosedError:
            if not repeatable:
                raise
            return await self._call_once(key, name, open_transport, operation, timeout_s)

    async def _call_once(
        self,
        key: ConnectionKey,
        name: str,
        open_transport: OpenTransport,
        operation: Callable[[ClientSession], Awaitable[_T]],
        timeout_s: float,
    ) -> _T:
        connection = await self._connected(key, name, open_transport)
        session = connection.session
        if session is None:
            raise AssertionError(name)
        connection.in_flight += 1
        try:
            with anyio.fail_after(timeout_s):
                return await operation(session)
        except TimeoutError:
            raise UpstreamTimeoutError(f"Upstream '{name}' did not answer within {timeout_s:g} s.") from None
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                self._discard(connection)
                raise _ClosedError(f"Upstream '{name}' closed the connection.") from error
            if error.code == REQUEST_TIMEOUT:
                raise UpstreamTimeoutError(f"Upstream '{name}' did not answer in time.") from error
            if error.code == INVALID_REQUEST and error.message == _SESSION_TERMINATED:
                self._discard(connection)
                raise _SessionTerminatedError(f"Upstream '{name}' ended the session.") from error
            raise
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            self._discard(connection)
            raise _ClosedError(f"Upstream '{name}' closed the connection.") from error
        finally:
            connection.in_flight -= 1
            connection.last_used = self._clock()

    async def _connected(self, key: ConnectionKey, name: str, open_transport: OpenTransport) -> _Connection:
        connection = self._connections.get(key)
        if connection is None:
            if self._tasks is None:
                raise UpstreamError("The gateway is shutting down.")
            self._close_superseded(key)
            self._make_room()
            connection = _Connection(key, name, last_used=self._clock())
            self._connections[key] = connection
            self._tasks.start_soon(self._own, connection, open_transport)
        # Counted while it waits, so that the connection is not idle before its turn comes.
        connection.in_flight += 1
        try:
            await connection.ready.wait()
        finally:
            connection.in_flight -= 1
        if connection.failure is not None:
            raise type(connection.failure)(connection.failure.message) from connection.failure
        return connection

    async def _own(self, connection: _Connection, open_transport: OpenTransport) -> None:
        """Hold one connection open; never raises, for it shares its task group with all the others."""
        link = UpstreamLink(None)
        try:
            # The deadline bounds the opening; once open it is lifted and the same scope ends the connection.
            with anyio.CancelScope(deadline=anyio.current_time() + self._connect_timeout_s) as scope:
                async with (
                    open_transport() as link,
                    Client(link.transport, mode="auto", cache=None) as client,
                ):
                    scope.deadline = math.inf
                    connection.session = client.session
                    connection.ready.set()
                    await connection.closing.wait()
            if connection.session is None:
                connection.failure = UpstreamTimeoutError(
                    f"Upstream '{connection.name}' did not complete the connection within "
                    f"{self._connect_timeout_s:g} s."
                )
        except UpstreamNeedsConnectionError as error:
            connection.failure = error
        except Exception as error:  # noqa: BLE001 - whatever an upstream does must end here, as words
            reason = reason_of(error, link.last_status())
            connection.failure = UpstreamError(f"Upstream '{connection.name}' is unavailable: {reason}.")
            _log.info("upstream_connection_failed", upstream=connection.name, reason=reason)
        finally:
            if connection.session is None and connection.failure is None:
                connection.failure = UpstreamError("The gateway is shutting down.")
            self._discard(connection)
            connection.ready.set()
            connection.closed.set()

    def _discard(self, connection: _Connection) -> None:
        if self._connections.get(connection.key) is connection:
            del self._connections[connection.key]
        connection.closing.set()

    def _close_superseded(self, key: ConnectionKey) -> None:
        """Close what is idle of the upstream's older versions: no call will ask for it again."""
        for old in list(self._connections.values()):
            if old.key.upstream_id == key.upstream_id and old.key.version < key.version and old.in_flight == 0:
                self._discard(old)

    def _make_room(self) -> None:
        if len(self._connections) < self._max_connections:
            return
        idle = [c for c in self._connections.values() if c.in_flight == 0 and c.ready.is_set()]
        if not idle:
            raise UpstreamError("All upstream connections are in use; try again shortly.")
        self._discard(min(idle, key=lambda c: c.last_used))

    async def _reap(self) -> None:
        while True:
            await anyio.sleep(self._idle_s / 2)
            self.close_idle()

    def close_idle(self) -> None:
        """Close the connections that no call has used for ``idle_s``."""
        oldest = self._clock() - self._idle_s
        for connection in list(self._connections.values()):
            if connection.in_flight == 0 and connection.ready.is_set() and connection.last_used <= oldest:
                self._discard(connection)

    async def _close_all(self) -> None:
        connections = list(self._connections.values())
        for connection in connections:
            self._discard(connection)
        with anyio.move_on_after(5, shield=True):
            # One that is still being opened is cut off by the end of the task group.
            for connection in connections:
                if connection.session is not None:
                    await connection.closed.wait()


class _SessionTerminatedError(UpstreamError):
    """The upstream forgot the session before it looked at the request."""


class _ClosedError(UpstreamError):
    """The connection ended before the answer came; whether the request was processed is not known."""
