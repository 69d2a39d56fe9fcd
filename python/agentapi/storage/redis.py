"""Redis or Valkey, which processes share: the one owner of the client, behind a circuit breaker.

Invariants:

* Nobody waits for it longer than ``timeout_s``, whatever it does, its connections included; while the circuit is open
  nobody waits at all. One that only became slow is a dead one.
* Nothing is sent twice: what became of a script that was cut off is not known.
* A connection whose reply was not awaited is closed, so that nobody gets somebody else's reply.
* It holds nothing that cannot be rebuilt; whoever uses it has a way without it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Any, Final, Self

import structlog
from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from agentapi._core import CircuitBreakers, CircuitRules
from agentapi.errors import RedisUnavailableError, StartupError
from agentapi.observability.metrics import REDIS_EVENTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentapi.settings import Settings

__all__ = ["RULES", "RedisStore", "Script"]

_log = structlog.get_logger(__name__)

_MS_NS: Final = 1_000_000
RULES: Final = CircuitRules(
    consecutive_failures=2,
    failure_rate_percent=50,
    window_ns=10_000 * _MS_NS,
    min_calls=20,
    open_ns=1_000 * _MS_NS,
    probes=1,
    probe_lease_ns=1_000 * _MS_NS,
    successes_to_close=2,
)
"""Two failures in a row open the circuit for a second; two probes, one after the other, close it."""
_CIRCUIT: Final = "redis"
_CONNECTION: Final = {
    "retry": Retry(NoBackoff(), 0),
    # The time-outs of the library's own go through `asyncio.wait_for`, which in Python 3.11 may lose a cancellation,
    # and with it the one that counts here.
    "socket_timeout": None,
    "socket_connect_timeout": None,
    # What it tells about itself when a connection begins would be round trips more.
    "driver_info": None,
}
"""Of every connection, whatever the address says."""
_MAX_REASON: Final = 80


class Script:
    """A Lua script, by the name that the server knows it by and as text."""

    def __init__(self, text: str) -> None:
        self.text = text
        # Redis names scripts so; nothing is guarded by it.
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_CHECK: Final = Script("return redis.call('SET', KEYS[1], '', 'PX', 1000)")


class RedisStore:
    """Runs scripts, and says when it cannot.

    Args:
        client: A client that neither retries nor waits by itself.
        prefix: Begins every key, so that deployments can share a server.
        timeout_s: Within which everything has to happen.
        rules: Of the circuit.
        now_ns: Any one clock; a monotonic one by default.
    """

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str,
        timeout_s: float,
        rules: CircuitRules = RULES,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._client = client
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        # One hash tag, so that all keys of a script are in one slot wherever there are slots.
        self._prefix = f"{{{prefix}}}:".encode()
        self._timeout_s = timeout_s
        self._now_ns = now_ns
        self._circuits = CircuitBreakers(rules)
        self._circuit = self._circuits.circuit(_CIRCUIT, now_ns())
        self._told_gone = False
        """The log is told once, not with every probe that fails."""

    @classmethod
    def from_settings(cls, settings: Settings, *, now_ns: Callable[[], int] = time.monotonic_ns) -> Self:
        """Build from the ``redis_*`` settings; nothing is connected to yet.

        Raises:
            StartupError: The address is missing, or is not one.
        """
        if settings.redis_url is None:
            raise StartupError("AGENTAPI_REDIS_URL is not set.")
        timeout_s = settings.redis_timeout_ms / 1000
        try:
            pool = BlockingConnectionPool.from_url(
                settings.redis_url.get_secret_value(),
                max_connections=settings.redis_max_connections,
                timeout=timeout_s,
                protocol=2,
            )
            pool.connection_kwargs.update(_CONNECTION)
            _share_tls_context(pool)
        except (RedisError, ValueError, OSError):
            # The address has a password in it.
            raise StartupError(
                "AGENTAPI_REDIS_URL is not an address like redis://:password@host:6379/0 or rediss://host:6380."
            ) from None
        return cls(Redis(connection_pool=pool), prefix=settings.redis_prefix, timeout_s=timeout_s, now_ns=now_ns)

    @property
    def available(self) -> bool:
        """Whether the circuit is closed."""
        return self._circuits.snapshot(_CIRCUIT, self._now_ns()).state == "closed"

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:  # noqa: ANN401
        """Return what a script comes to, within one round trip where the server knows it.

        Raises:
            RedisUnavailableError: It cannot be known; the script may have run all the same.
        """
        return await self._guarded(lambda: self._evaluate(script, keys, arguments))

    async def check(self) -> None:
        """Ask whether it can be used: one that is full, or a replica, answers and does nothing.

        Raises:
            RedisUnavailableError: It cannot, or could not a moment ago.
        """
        await self.run(_CHECK, ["check"], [])
        if not self.available:
            # One good answer is not enough for the circuit, and so not for anybody who looks.
            raise RedisUnavailableError

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _evaluate(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> object:
        named = [len(keys), *(self._prefix + key.encode() for key in keys), *arguments]
        try:
            return await self._execute("EVALSHA", script.sha, *named)
        except NoScriptError:
            # The server was restarted, or told to forget its scripts; it has not acted on this.
            return await self._execute("EVAL", script.text, *named)

    async def _guarded(self, work: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - whatever a script returns
        ticket = self._circuit.allow_at(self._now_ns())
        if not ticket:
            raise RedisUnavailableError
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await work()
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(ticket.record_at("failure", self._now_ns()), error)
            raise RedisUnavailableError from None
        except BaseException:
            # Whoever waited has left, which says nothing of Redis.
            ticket.record_at("neutral", self._now_ns())
            raise
        if ticket.record_at("success", self._now_ns()) == "closed":
            REDIS_EVENTS.labels("closed").inc()
            _log.info("redis_available")
            self._told_gone = False
        return answer

    def _failed(self, change: str | None, error: Exception) -> None:
        REDIS_EVENTS.labels("failed").inc()
        if change == "opened" and not self._told_gone:
            REDIS_EVENTS.labels("opened").inc()
            _log.warning("redis_unavailable", reason=_reason_of(error))
            self._told_gone = True


def _share_tls_context(pool: BlockingConnectionPool) -> None:
    """Have all connections use one TLS context, for to make one takes as long as some hundred decisions."""
    if not issubclass(pool.connection_class, SSLConnection):
        return
    shared = pool.connection_class(**pool.connection_kwargs).ssl_context
    shared.get()

    class SharingConnection(SSLConnection):
        def __init__(self, **given: Any) -> None:  # noqa: ANN401 - the library's own arguments
            super().__init__(**given)
            self.ssl_context = shared

    pool.connection_class = SharingConnection


def _reason_of(error: Exception) -> str:
    """Return what went wrong for the log, without what a server or an address may hold besides."""
    if isinstance(error, ResponseError):
        # The first word is a code (OOM, NOAUTH, READONLY, ...), if the library has left it there.
        return f"{type(error).__name__}: {str(error)[:_MAX_REASON]}"
    return type(error).__name__
