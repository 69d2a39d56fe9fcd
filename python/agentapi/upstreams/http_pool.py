"""Keep-alive connections to the upstreams that are spoken to by the request: one pool for the process.

Invariants:

* A connection is used by one organisation for one version of one upstream, and where the credential is a user's own by
  that user with that credential, so that what one does to a connection is never seen by another, and a changed
  configuration or credential never meets an old connection.
* It carries one request at a time, and lies in the pool only while its last answer ended well.
* Open connections are bounded, in all, for each organisation and for each upstream; beyond that a request is refused
  at once. An organisation at its bound makes room among its own, so that none takes the connections of another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from agentapi.errors import UpstreamUnaskedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentapi.egress.dialer import Destination, Dialer
    from agentapi.egress.http1 import Http1Connection
    from agentapi.principal import OrgId, UpstreamId, UserId
    from agentapi.settings import Settings

__all__ = ["HttpPool", "PoolExhaustedError", "PoolKey", "Pooled"]

_IDLE_S: Final = 4.0
"""Servers that say nothing close an idle connection after 5 seconds as a rule (uvicorn, Node.js). A request that meets
the closing cannot be told from one that was processed, so an older connection is not used."""
_IDLE_MOST_S: Final = 60.0
_MARGIN_S: Final = 1.0


class PoolExhaustedError(UpstreamUnaskedError):
    """No connection may be opened now."""


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What a connection is bound to."""

    org_id: OrgId
    upstream_id: UpstreamId
    version: int
    user_id: UserId | None = None
    """Whose own credential it carries; None for a shared one."""
    credential: str = ""
    """The version of that."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hash the key once; it is looked up twice for each request."""
        of = (self.org_id, self.upstream_id, self.version, self.user_id, self.credential)
        object.__setattr__(self, "_hash", hash(of))

    def __hash__(self) -> int:
        """Return the same for equal keys."""
        return self._hash


@dataclass(slots=True, eq=False)
class Pooled:
    """A connection that is lent out, or lies in the pool until ``expires``."""

    key: PoolKey
    connection: Http1Connection
    expires: float = 0.0
    reused: bool = False
    """Whether it carried a request before, so that the server may have closed it meanwhile."""


class HttpPool:
    """Lends connections.

    Args:
        dialer: Makes them, to checked addresses.
        connect_timeout_s: Bound on making one.
        max_connections: Bound on open ones.
        max_per_organization: Bound on those of one organisation.
        max_per_upstream: Bound on those of one key.
        clock: Monotonic seconds; by default the event loop's.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        connect_timeout_s: float,
        max_connections: int,
        max_per_organization: int,
        max_per_upstream: int,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._dialer = dialer
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._max_per_organization = max_per_organization
        self._max_per_upstream = max_per_upstream
        self._clock = clock or asyncio.get_running_loop().time
        self._idle: dict[PoolKey, list[Pooled]] = {}
        self._open: Counter[PoolKey] = Counter()
        self._open_of: Counter[OrgId] = Counter()
        self._total = 0
        self._closing = False

    @classmethod
    def from_settings(cls, settings: Settings, dialer: Dialer) -> Self:
        """Build from the ``relay_*`` settings and ``upstream_connect_timeout_s``."""
        return cls(
            dialer,
            connect_timeout_s=settings.upstream_connect_timeout_s,
            max_connections=settings.relay_max_connections,
            max_per_organization=settings.relay_max_connections_per_organization,
            max_per_upstream=settings.relay_max_connections_per_upstream,
        )

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Close what idles for the length of the context, and at its end what is left."""
        reaper = asyncio.create_task(self._reap())
        try:
            yield
        finally:
            self._closing = True
            reaper.cancel()
            for lying in list(self._idle.values()):
                for pooled in list(lying):
                    self.discard(pooled)
            self._idle.clear()

    def __len__(self) -> int:
        return self._total

    @property
    def idle(self) -> int:
        """How many connections lie in the pool."""
        return sum(len(lying) for lying in self._idle.values())

    async def take(
        self,
        key: PoolKey,
        destination: Destination,
        *,
        fresh: bool = False,
        connecting: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> Pooled:
        """Return a connection to ``destination``, which ``key`` stands for.

        Args:
            key: What it is bound to.
            destination: Where it goes.
            fresh: Do not use one that lies in the pool.
            connecting: Gives what is entered while one is made.

        Raises:
            EgressRefusedError: The guard does not let it through.
            PoolExhaustedError: There are too many.
            UpstreamError: None can be made.
        """
        lying = self._idle.get(key)
        now = self._clock()
        while lying and not fresh:
            pooled = lying.pop()
            if pooled.expires > now and pooled.connection.reusable:
                return pooled
            self.discard(pooled)
        self._make_room(key)
        self._open[key] += 1
        self._open_of[key.org_id] += 1
        self._total += 1
        try:
            with connecting():
                connection = await self._dialer.connect(destination, timeout_s=self._connect_timeout_s)
        except BaseException:
            self._forget(key)
            raise
        return Pooled(key, connection)

    def give_back(self, pooled: Pooled) -> None:
        """Keep the connection for another request, or close it if it cannot carry one."""
        if self._closing or not pooled.connection.reusable:
            self.discard(pooled)
            return
        promised = pooled.connection.keep_alive_s
        lasts = _IDLE_S if promised is None else min(promised - _MARGIN_S, _IDLE_MOST_S)
        pooled.expires = self._clock() + lasts
        pooled.reused = True
        self._idle.setdefault(pooled.key, []).append(pooled)

    def discard(self, pooled: Pooled) -> None:
        """Close a connection that was lent out or taken off the pool."""
        pooled.connection.abort()
        self._forget(pooled.key)

    def close(self, unwanted: Callable[[PoolKey], bool]) -> None:
        """Close what lies in the pool for a key that is ``unwanted``; what is lent out may lie there its time."""
        for key in [key for key in self._idle if unwanted(key)]:
            for pooled in self._idle.pop(key):
                self.discard(pooled)

    def close_idle(self) -> None:
        """Close what has lain for too long, and what its server has closed."""
        now = self._clock()
        for key, lying in list(self._idle.items()):
            for pooled in lying:
                if pooled.expires <= now or not pooled.connection.reusable:
                    self.discard(pooled)
            kept = [pooled for pooled in lying if pooled.expires > now and pooled.connection.reusable]
            if kept:
                self._idle[key] = kept
            else:
                del self._idle[key]

    def _forget(self, key: PoolKey) -> None:
        self._total -= 1
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
        self._open_of[key.org_id] -= 1
        if not self._open_of[key.org_id]:
            del self._open_of[key.org_id]

    def _make_room(self, key: PoolKey) -> None:
        if self._closing:
            raise PoolExhaustedError("The gateway is shutting down.")
        if self._has_room(key):
            return
        self.close_idle()
        if self._open_of[key.org_id] >= self._max_per_organization:
            self._evict(key.org_id)
        if self._total >= self._max_connections:
            self._evict()
        if not self._has_room(key):
            raise PoolExhaustedError("All upstream connections are in use; try again shortly.")

    def _has_room(self, key: PoolKey) -> bool:
        return (
            self._open[key] < self._max_per_upstream
            and self._open_of[key.org_id] < self._max_per_organization
            and self._total < self._max_connections
        )

    def _evict(self, org_id: OrgId | None = None) -> None:
        """Close the connection that would have expired first, of all or of one organisation."""
        lying = (lying[0] for key, lying in self._idle.items() if lying and org_id in {None, key.org_id})
        oldest = min(lying, key=lambda pooled: pooled.expires, default=None)
        if oldest is not None:
            self._idle[oldest.key].remove(oldest)
            self.discard(oldest)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_S / 2)
            self.close_idle()
