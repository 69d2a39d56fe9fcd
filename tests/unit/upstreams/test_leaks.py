"""A thousand connections, opened and closed, leave nothing behind: no task, no descriptor, no process, no socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
from mcp import StdioServerParameters

from agentapi.upstreams.channel import Channel
from agentapi.upstreams.guard import Guard, Watched
from agentapi.upstreams.models import Transport
from agentapi.upstreams.sandbox import SandboxLimits
from agentapi.upstreams.stdio import Run
from agentapi.upstreams.stdio_channel import StdioProcess
from agentapi.upstreams.wanted import Limits, Wanted
from unit.upstreams.doubles import Clock, drain, key
from unit.upstreams.servers import ALICE, Journal, full_http, full_sse, http, sse, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# On a loop of their own: tasks of what other tests share for the whole session come and go.
pytestmark = pytest.mark.asyncio(loop_scope="function")

_REPLY = """
while IFS= read -r line; do
  id=${line#*'"id":'}; id=${id%%,*}
  case $line in
    *'"method":"initialize"'*) result='{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{}}' ;;
    *'"id":'*) result='{}' ;;
    *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,"result":%s}\\n' "$id" "$result"
done
"""
"""A server of the older revisions in a language that starts within a millisecond."""


Foreign = tuple[frozenset[Hashable], ...]
"""What the process held before a test: tasks, descriptors and processes."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the process holds, but for what it held when the test began: that may go away at any time."""

    tasks: int
    descriptors: int
    processes: int

    @classmethod
    async def count(cls, foreign: Foreign) -> Holdings:
        await drain()
        gc.collect()
        return cls(*(len(now - before) for now, before in zip(_held(), foreign, strict=True)))

    @classmethod
    async def at_rest(cls, foreign: Foreign) -> Holdings:
        """Count once nothing changes any more: closing takes its time, and who closed does not wait for it."""
        last, same = await cls.count(foreign), 0
        async with asyncio.timeout(20):
            while same < 10:
                await asyncio.sleep(0.05)
                found = await cls.count(foreign)
                same = same + 1 if found == last else 0
                last = found
        return last


def _held() -> Foreign:
    descriptors = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no path is needed
        with contextlib.suppress(OSError):
            # A number is used again; what it stands for tells the old from the new.
            descriptors.add((number, os.readlink(f"/proc/self/fd/{number}")))  # noqa: PTH115 - as above
    processes = frozenset(psutil.Process().children(recursive=True))
    return frozenset(asyncio.all_tasks()), frozenset(descriptors), processes


@pytest_asyncio.fixture(loop_scope="function")
async def foreign() -> Foreign:
    """What other tests left behind."""
    gc.collect()
    return _held()


@contextlib.asynccontextmanager
async def shell() -> AsyncIterator[Channel]:
    parameters = StdioServerParameters(command="/bin/sh", args=["-c", _REPLY])
    process = StdioProcess(Run(parameters, Guard(SandboxLimits(), Watched(), ())), max_message_bytes=10_000)
    yield Channel(process.streams(), Transport.STDIO, ending=lambda: process.ending, alive=process.is_running)


async def test_a_thousand_processes(foreign: Foreign) -> None:
    clock = Clock()
    async with world(limits=Limits(in_all=2000, per_upstream=2000, per_user=2000), clock=clock) as made:

        async def once(number: int) -> None:
            async with made.pool.lease(Wanted(key(number), "sh", shell)) as link:
                assert await link.request("tools/list", {}, caller=ALICE, timeout_s=10) == {}

        async def round_of(numbers: range) -> None:
            await asyncio.gather(*(once(number) for number in numbers))
            clock.advance(301)
            made.pool.close_idle()
            assert len(made.pool) == 0

        await round_of(range(20))
        before = await Holdings.at_rest(foreign)
        for start in range(0, 1000, 20):
            await round_of(range(start, start + 20))
        assert await Holdings.at_rest(foreign) == before


@pytest.mark.parametrize(("kind", "rounds"), [("modern", 50), ("legacy", 50), ("sse", 15)])
async def test_a_thousand_connections_over_http(kind: str, rounds: int, foreign: Foreign) -> None:
    journal, clock = Journal(), Clock()
    served = full_sse(journal) if kind == "sse" else full_http(journal, legacy=kind == "legacy")
    async with served as url, world(clock=clock) as made:

        async def round_of(numbers: range) -> None:
            ups = [sse(url, number=number) if kind == "sse" else http(url, number=number) for number in numbers]
            listings = await asyncio.gather(
                *(made.client.request(up, ALICE, "tools/list", {}, timeout_s=10) for up in ups)
            )
            assert all(listing["tools"] for listing in listings)
            assert len(made.pool) == len(numbers)
            clock.advance(301)
            made.pool.close_idle()
            assert len(made.pool) == 0

        await round_of(range(1, 21))
        await round_of(range(1, 21))
        before = await Holdings.at_rest(foreign)
        for _ in range(rounds):
            await round_of(range(1, 21))
        after = await Holdings.at_rest(foreign)
        # The sockets that are kept for the next request belong to the process, and to both ends of it here.
        assert (after.tasks, after.processes) == (before.tasks, before.processes)
        assert after.descriptors <= before.descriptors
