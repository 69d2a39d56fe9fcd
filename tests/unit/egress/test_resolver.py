from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import anyio
import pytest

from agentapi.egress.resolver import Resolver
from agentapi.errors import UpstreamError, UpstreamTimeoutError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """A lookup that counts, and that waits for ``gate`` when it is closed."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        await self.gate.wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_an_answer_is_kept_for_its_time_and_no_longer() -> None:
    clock, lookup = Clock(), Counting(["1.1.1.1"], ["8.8.8.8"])
    resolver = Resolver(lookup, ttl_s=30, clock=clock)
    assert await resolver.resolve("a.example") == (ip_address("1.1.1.1"),)
    clock.now += 29.9
    assert await resolver.resolve("A.example.") == (ip_address("1.1.1.1"),)
    clock.now += 0.1
    assert await resolver.resolve("a.example") == (ip_address("8.8.8.8"),)
    assert lookup.asked == ["a.example", "a.example"]


async def test_many_callers_share_one_lookup_and_one_who_leaves_does_not_end_it() -> None:
    lookup = Counting(["1.1.1.1"])
    lookup.gate.clear()
    resolver = Resolver(lookup)
    callers = [asyncio.create_task(resolver.resolve("a.example")) for _ in range(20)]
    await asyncio.wait(callers, timeout=0)
    await anyio.wait_all_tasks_blocked()
    callers[0].cancel()
    lookup.gate.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert set(answers[1:]) == {(ip_address("1.1.1.1"),)}
    assert len(lookup.asked) == 1


async def test_a_dead_name_server_is_given_up_on() -> None:
    lookup = Counting(["1.1.1.1"])
    lookup.gate.clear()
    resolver = Resolver(lookup, timeout_s=0.01)
    with anyio.fail_after(5), pytest.raises(UpstreamTimeoutError):
        await resolver.resolve("a.example")
    lookup.gate.set()
    assert await resolver.resolve("a.example") == (ip_address("1.1.1.1"),)


async def test_a_name_without_addresses_and_a_nonsense_answer_are_upstream_errors() -> None:
    for answer in ([], ["not an address"]):
        with pytest.raises(UpstreamError, match="does not resolve"):
            await Resolver(Counting(answer)).resolve("a.example")


async def test_the_cache_is_bounded_and_forgets_the_least_used() -> None:
    lookup = Counting(["1.1.1.1"])
    resolver = Resolver(lookup, max_entries=2)
    for host in ("a.example", "b.example", "a.example", "c.example", "a.example", "b.example"):
        await resolver.resolve(host)
    assert lookup.asked == ["a.example", "b.example", "c.example", "b.example"]


async def test_literals_are_not_looked_up_and_repeats_are_dropped() -> None:
    lookup = Counting(["1.1.1.1", "1.1.1.1", "::1"])
    resolver = Resolver(lookup)
    assert await resolver.resolve("10.0.0.1") == (ip_address("10.0.0.1"),)
    assert lookup.asked == []
    assert await resolver.resolve("a.example") == (ip_address("1.1.1.1"), ip_address("::1"))


async def test_closing_abandons_what_is_under_way() -> None:
    lookup = Counting(["1.1.1.1"])
    lookup.gate.clear()
    resolver = Resolver(lookup, timeout_s=60)
    caller = asyncio.create_task(resolver.resolve("a.example"))
    await anyio.wait_all_tasks_blocked()
    with anyio.fail_after(5):
        await resolver.aclose()
        with pytest.raises(asyncio.CancelledError):
            await caller


async def test_the_system_resolver_knows_localhost_and_refuses_the_unknown() -> None:
    resolver = Resolver()
    assert {address.is_loopback for address in await resolver.resolve("localhost")} == {True}
    with pytest.raises(UpstreamError):
        await resolver.resolve("name.invalid")
    await resolver.aclose()
