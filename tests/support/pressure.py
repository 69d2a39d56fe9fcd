"""Processes that ask for more than a limit allows, all at once, and what they are given together.

    python -m support.pressure URL COUNT BURST SECONDS

is one of them: it asks for one user's ``COUNT`` requests a minute, of which ``BURST`` may come at once, and prints the
times at which it was admitted, and when it was without Redis.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentapi.limits.limiter import RateLimiter
from agentapi.limits.local import per_minute
from agentapi.limits.shared import SharedLimits
from agentapi.observability.metrics import REGISTRY
from agentapi.settings import load_settings
from agentapi.storage.redis import RedisStore
from support.gateway import dev_environment

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pressed", "press"]

_ASKERS = 4
_PAUSE_S = 0.002
"""Between two requests of one of them: pressure, and not all of the machine."""
_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Pressed:
    """What came of it."""

    admitted: int
    """Within the time, counted from the first admission."""
    theory: float
    """What a single bucket gives in that time."""
    asked: int
    processes: int
    away_s: float
    """How long a process went without Redis, the longest."""
    unanswered: int
    """Requests that Redis did not answer in time, each of which its process decided by itself."""
    extra: float
    """By how much the theory may be exceeded: by those, by each process while Redis was away, by what Redis forgot."""


def press(
    url: str,
    *,
    count: int,
    burst: int,
    seconds: float,
    processes: int = 4,
    timeout_ms: int = 500,
    meanwhile: Callable[[], None] | None = None,
) -> Pressed:
    """Have ``processes`` ask for ``seconds`` and do ``meanwhile`` what else is to happen."""
    command = [sys.executable, "-m", "support.pressure", url, *map(str, (count, burst, seconds, timeout_ms))]
    environment = dev_environment({"PYTHONPATH": str(Path(__file__).parents[1])})
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        if meanwhile is not None:
            meanwhile()
        told = [json.loads(worker.communicate(timeout=seconds + _READY_S)[0].splitlines()[-1]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    # On Linux the monotonic clock is one for all processes.
    times = sorted(moment for each in told for moment in each["admitted"])
    away_s = max(each["away_s"] for each in told)
    unanswered = sum(each["unanswered"] for each in told)
    rate = count / 60
    return Pressed(
        admitted=sum(moment <= times[0] + seconds for moment in times),
        theory=burst + rate * seconds,
        asked=sum(each["asked"] for each in told),
        processes=processes,
        away_s=away_s,
        unanswered=unanswered,
        extra=unanswered + (processes * (burst + rate * away_s) + burst if away_s else 0.0),
    )


async def _ask(url: str, count: int, burst: int, seconds: float, timeout_ms: int) -> dict[str, object]:
    store = RedisStore.from_settings(load_settings(redis_url=url, redis_timeout_ms=timeout_ms))
    limiter = RateLimiter(SharedLimits(store))
    asked = [("user/pressed", per_minute(count, burst), 1)]
    await store.check()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    # A little longer than is counted, for it is counted from the first admission of any process.
    end = time.monotonic() + seconds + 0.5
    admitted: list[float] = []
    tried = 0
    away_s = 0.0

    async def one() -> None:
        nonlocal tried
        while time.monotonic() < end:
            tried += 1
            if (await limiter.take(asked)).allowed:
                admitted.append(time.monotonic())
            await asyncio.sleep(_PAUSE_S)

    async def watch() -> None:
        nonlocal away_s
        seen = time.monotonic()
        while seen < end:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            away_s += 0.0 if store.available else now - seen
            seen = now

    await asyncio.gather(watch(), *(one() for _ in range(_ASKERS)))
    await store.aclose()
    unanswered = REGISTRY.get_sample_value("agentapi_redis_events_total", {"event": "failed"}) or 0.0
    return {"admitted": admitted, "asked": tried, "away_s": away_s, "unanswered": int(unanswered)}


def main() -> None:
    """Ask, and print what came of it."""
    url, count, burst, seconds, timeout_ms = sys.argv[1:]
    told = asyncio.run(_ask(url, int(count), int(burst), float(seconds), int(timeout_ms)))
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
