"""The bounds of the relay's connections, between organisations."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from agentapi.egress import Egress
from agentapi.principal import OrgId, UpstreamId
from agentapi.upstreams.http_pool import HttpPool, Pooled, PoolExhaustedError, PoolKey
from support.raw_upstream import Request, json_answer, serve_raw
from unit.gateway.relaying import LOOPBACK
from unit.upstreams.doubles import drain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Take = Callable[[PoolKey], Awaitable[Pooled]]


def _key(org: int, upstream: int = 1) -> PoolKey:
    return PoolKey(OrgId(UUID(int=org)), UpstreamId(UUID(int=upstream)), 1)


@asynccontextmanager
async def _pool(
    *,
    max_connections: int = 8,
    max_per_organization: int = 8,
    max_per_upstream: int = 8,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[tuple[HttpPool, Take]]:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer({}))

    async with serve_raw(handler) as server, Egress(LOOPBACK) as egress:
        pool = HttpPool(
            egress.dialer,
            connect_timeout_s=2.0,
            max_connections=max_connections,
            max_per_organization=max_per_organization,
            max_per_upstream=max_per_upstream,
            clock=clock,
        )
        destination = egress.dialer.destination(server.url)
        async with pool.run():
            yield pool, lambda key: pool.take(key, destination)


async def test_an_organisation_at_its_bound_takes_nothing_from_another() -> None:
    async with _pool(max_connections=8, max_per_organization=2) as (pool, take):
        held = [await take(_key(1, upstream)) for upstream in (1, 2)]
        with pytest.raises(PoolExhaustedError, match="in use"):
            await take(_key(1, 3))
        other = await take(_key(2))
        assert len(pool) == 3
        for pooled in [*held, other]:
            pool.discard(pooled)
        pool.give_back(await take(_key(1, 3)))


async def test_an_organisation_at_its_bound_makes_room_among_its_own() -> None:
    async with _pool(max_connections=8, max_per_organization=2) as (pool, take):
        foreign = await take(_key(2))
        own = [await take(_key(1, upstream)) for upstream in (1, 2)]
        # The other's is the one that would expire first.
        for pooled in (foreign, *own):
            pool.give_back(pooled)
        await take(_key(1, 3))
        assert (len(pool), pool.idle) == (3, 2)
        assert await take(_key(2)) is foreign


async def test_an_upstream_at_its_bound_takes_nothing_from_another() -> None:
    async with _pool(max_per_upstream=2) as (pool, take):
        held = [await take(_key(1)) for _ in range(2)]
        with pytest.raises(PoolExhaustedError, match="in use"):
            await take(_key(1))
        pool.give_back(await take(_key(1, 2)))
        pool.discard(held[0])
        await take(_key(1))
        assert len(pool) == 3


async def test_what_lies_too_long_is_closed_without_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentapi.upstreams.http_pool._IDLE_S", 0.02)
    async with _pool() as (pool, take):
        pool.give_back(await take(_key(1)))
        assert len(pool) == 1
        async with asyncio.timeout(5):
            while len(pool):
                await drain()


async def test_a_thousand_connections_leave_nothing_behind() -> None:
    async with _pool() as (pool, take):
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path is needed
        for number in range(1000):
            pool.discard(await take(_key(1, number)))
        assert (len(pool), pool.idle) == (0, 0)
        async with asyncio.timeout(10):
            while len(os.listdir("/proc/self/fd")) > before + 8:  # noqa: PTH208 - as above
                await drain()
