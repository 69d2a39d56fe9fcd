from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from agentapi.principal import OrgId
from agentapi.tenancy.views import TenantViews
from unit.upstreams.doubles import ORG, Clock, drain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OTHER = OrgId(UUID(int=99))


class Rows:
    """What is stored: a number that a test changes, read when the test lets go of the gate."""

    def __init__(self) -> None:
        self.stored = 1
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self) -> int:
        self.reads += 1
        read = self.stored
        await self.gate.wait()
        return read


def views() -> TenantViews[int]:
    return TenantViews(clock=Clock(), ttl_s=5.0)


async def test_what_was_forgotten_while_it_was_read_is_not_kept() -> None:
    rows, made = Rows(), views()
    rows.gate.clear()
    early = asyncio.ensure_future(made.get(ORG, "k", rows.load))
    await drain()
    made.forget(ORG)
    rows.stored = 2
    late = asyncio.ensure_future(made.get(ORG, "k", rows.load))
    await drain()
    rows.gate.set()
    assert (await early, await late) == (1, 2)
    assert await made.get(ORG, "k", rows.load) == 2
    assert rows.reads == 2


async def test_a_change_of_one_organisation_keeps_what_is_read_of_another() -> None:
    rows, made = Rows(), views()
    rows.gate.clear()
    reading = asyncio.ensure_future(made.get(ORG, "k", rows.load))
    await drain()
    made.forget(OTHER)
    rows.gate.set()
    await reading
    await made.get(ORG, "k", rows.load)
    assert rows.reads == 1


async def _fails() -> int:
    raise ZeroDivisionError


async def test_nothing_is_kept_of_organisations_that_are_not_read() -> None:
    made, rows = views(), Rows()
    loads: tuple[Callable[[], Awaitable[int]], ...] = (rows.load, _fails)
    for load in loads:
        for _ in range(10):
            org = OrgId(uuid4())
            if load is _fails:
                with pytest.raises(ZeroDivisionError):
                    await made.get(org, "k", load)
            else:
                await made.get(org, "k", load)
            made.forget(org)
    assert (made._reads, len(made._views)) == ({}, 0)
