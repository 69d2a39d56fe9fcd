"""A thousand connections, opened and closed, leave nothing behind: no task, no descriptor, no process, no socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pytest
from mcp import StdioServerParameters

from agentapi.upstreams.channel import Channel
from agentapi.upstreams.connections import Limits, Wanted
from agentapi.upstreams.models import Transport
from agentapi.upstreams.stdio_channel import StdioProcess
from unit.upstreams.doubles import Clock, drain, key
from unit.upstreams.servers import ALICE, Journal, full_http, full_sse, http, sse, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the process holds."""

    tasks: int
    descriptors: int
    processes: int

    @classmethod
    async def count(cls) -> Holdings:
        await drain()
        open_files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path is needed
        return cls(len(asyncio.all_tasks()), open_files, len(psutil.Process().children(recursive=True)))

    def must_be_within(self, before: Holdings) -> None:
        # Less is well: what earlier tests left to the garbage collector, and sockets kept for the next request.
        assert self.tasks <= before.tasks, (self, before)
        assert self.descriptors <= before.descriptors, (self, before)
        assert self.processes <= before.processes, (self, before)

    @classmethod
    async def at_rest(cls) -> Holdings:
        """Count once nothing changes any more: closing takes its time, and who closed does not wait for it."""
        last, same = await cls.count(), 0
        async with asyncio.timeout(20):
            while same < 10:
                await asyncio.sleep(0.05)
                found = await cls.count()
                same = same + 1 if found == last else 0
                last = found
        return last


@contextlib.asynccontextmanager
async def shell() -> AsyncIterator[Channel]:
    process = StdioProcess(StdioServerParameters(command="/bin/sh", args=["-c", _REPLY]), max_message_bytes=10_000)
    yield Channel(process.streams(), Transport.STDIO, ending=lambda: process.ending, alive=process.is_running)


async def test_a_thousand_processes() -> None:
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
        before = await Holdings.at_rest()
        for start in range(0, 1000, 20):
            await round_of(range(start, start + 20))
        (await Holdings.at_rest()).must_be_within(before)


@pytest.mark.parametrize(("kind", "rounds"), [("modern", 50), ("legacy", 50), ("sse", 15)])
async def test_a_thousand_connections_over_http(kind: str, rounds: int) -> None:
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
        before = await Holdings.at_rest()
        for _ in range(rounds):
            await round_of(range(1, 21))
        (await Holdings.at_rest()).must_be_within(before)
