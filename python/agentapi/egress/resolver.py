"""Names to addresses, once: a bounded cache with one lookup in flight per name.

The cache is no defence by itself. What keeps DNS rebinding out is that a connection is made to an address
from the very answer that was checked (see ``client``); the cache only spares lookups.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from agentapi.errors import UpstreamError, UpstreamTimeoutError

if TYPE_CHECKING:
    from agentapi.egress.addresses import IPAddress

__all__ = ["Lookup", "Resolver"]

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Name to textual addresses; raises ``OSError`` where there are none."""

_LOOKUP_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class _Answer:
    addresses: tuple[IPAddress, ...]
    expires_at: float


def _getaddrinfo(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Resolver:
    """Resolve names through a small cache.

    Lookups run on threads of their own rather than through ``loop.getaddrinfo``: that one shares the
    default executor (with uvloop: four threads of libuv) with everything else, so a few dead name servers
    would stop the process.
    """

    def __init__(
        self,
        lookup: Lookup | None = None,
        *,
        ttl_s: float = 30.0,
        timeout_s: float = 5.0,
        max_entries: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup or self._system_lookup
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._max_entries = max_entries
        self._clock = clock
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._in_flight: dict[str, asyncio.Task[tuple[IPAddress, ...]]] = {}
        self._threads: ThreadPoolExecutor | None = None

    async def resolve(self, host: str) -> tuple[IPAddress, ...]:
        """Return every address of ``host``, in the order of the answer and without repeats.

        Raises:
            UpstreamError: The name does not resolve.
            UpstreamTimeoutError: The name servers did not answer in time.
        """
        key = host.lower().removesuffix(".")
        try:
            return (ip_address(key),)
        except ValueError:
            pass
        answer = self._answers.get(key)
        if answer is not None and self._clock() < answer.expires_at:
            self._answers.move_to_end(key)
            return answer.addresses
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(key))
            self._in_flight[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        # A caller that gives up must not take the lookup away from the others.
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Abandon lookups that are under way and forget every answer."""
        tasks = tuple(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._answers.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def _landed(self, key: str, task: asyncio.Task[tuple[IPAddress, ...]]) -> None:
        del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # Every waiter may be gone; asking keeps asyncio from reporting it as lost.

    async def _fetch(self, host: str) -> tuple[IPAddress, ...]:
        try:
            async with asyncio.timeout(self._timeout_s):
                texts = await self._lookup(host)
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"The name {host!r} could not be resolved in time.") from error
        except (OSError, UnicodeError) as error:
            raise UpstreamError(f"The name {host!r} does not resolve.", reason=str(error)) from error
        try:
            addresses = tuple(dict.fromkeys(ip_address(text) for text in texts))
        except ValueError as error:
            raise UpstreamError(f"The name {host!r} does not resolve.", reason=str(error)) from error
        if not addresses:
            raise UpstreamError(f"The name {host!r} does not resolve.", reason="empty answer")
        self._answers[host] = _Answer(addresses, self._clock() + self._ttl_s)
        self._answers.move_to_end(host)
        while len(self._answers) > self._max_entries:
            self._answers.popitem(last=False)
        return addresses

    async def _system_lookup(self, host: str) -> list[str]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="agentapi-dns")
        return await asyncio.get_running_loop().run_in_executor(self._threads, _getaddrinfo, host)
