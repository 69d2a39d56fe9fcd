from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
import structlog
from starlette.applications import Starlette

from agentapi.observability.health import HealthBoard, Probe, Status

if TYPE_CHECKING:
    from collections.abc import Iterable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Part:
    """A part that can be well, ill or silent."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error = error
        self.hangs = hangs
        self.asked = 0
        self.facts: dict[str, bool] | None = None

    async def __call__(self) -> dict[str, bool] | None:
        self.asked += 1
        if self.hangs:
            await anyio.sleep_forever()
        if self.error is not None:
            raise self.error
        return self.facts


SECRET = "connection to 10.0.0.5:5432 as planted refused"


def board(probes: Iterable[Probe], **options: Any) -> HealthBoard:
    return HealthBoard(probes, **{"clock": Clock(), **options})


async def get(board: HealthBoard, path: str) -> tuple[int, dict[str, Any]]:
    transport = httpx2.ASGITransport(app=Starlette(routes=list(board.routes())))
    async with httpx2.AsyncClient(transport=transport, base_url="http://h", trust_env=False) as client:
        with anyio.fail_after(10):
            response = await client.get(path)
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    return response.status_code, body


async def test_all_well() -> None:
    cache = Part()
    cache.facts = {"shared": False}
    well = board([Probe("database", Part()), Probe("cache", cache, critical=False)])
    assert await get(well, "/live") == (200, {"status": "ok"})
    assert await get(well, "/ready") == (200, {"status": "ready"})
    assert await get(well, "/health") == (
        200,
        {
            "status": "ok",
            "draining": False,
            "parts": {
                "database": {"status": "ok", "critical": True, "latency_ms": 0.0},
                "cache": {"status": "ok", "critical": False, "latency_ms": 0.0, "details": {"shared": False}},
            },
        },
    )


async def test_a_part_that_is_not_critical_degrades_and_keeps_traffic() -> None:
    ill = board([Probe("database", Part()), Probe("cache", Part(OSError(SECRET)), critical=False)])
    status, body = await get(ill, "/health")
    assert (status, body["status"], body["parts"]["cache"]["status"]) == (200, "degraded", "down")
    assert (await get(ill, "/ready"))[0] == 200


async def test_a_critical_part_takes_the_gateway_down_but_not_dead() -> None:
    ill = board([Probe("database", Part(OSError(SECRET))), Probe("cache", Part(OSError(SECRET)), critical=False)])
    with structlog.testing.capture_logs() as entries:
        status, body = await get(ill, "/health")
    assert (status, body["status"]) == (503, "down")
    assert "10.0.0.5" not in str(body)
    assert "OSError" not in str(body)
    assert {entry["probe"] for entry in entries} == {"database", "cache"}
    assert await get(ill, "/ready") == (503, {"status": "not_ready"})
    assert await get(ill, "/live") == (200, {"status": "ok"})


async def test_a_probe_that_hangs_is_bounded_and_does_not_hold_up_the_others() -> None:
    quick = Part()
    ill = board([Probe("slow", Part(hangs=True)), Probe("quick", quick)], timeout_s=0.02)
    _, body = await get(ill, "/health")
    assert body["parts"]["slow"]["status"] == "down"
    assert body["parts"]["quick"]["status"] == "ok"
    assert quick.asked == 1


async def test_an_outcome_is_remembered_for_a_moment() -> None:
    clock, part = Clock(), Part()
    well = HealthBoard([Probe("database", part)], clock=clock, cache_s=1.0)
    await asyncio.gather(*(well.health() for _ in range(50)))
    clock.now += 0.99
    await well.health()
    assert part.asked == 1
    part.error = OSError(SECRET)
    clock.now += 0.01
    assert (await well.health()).status is Status.DOWN
    part.error = None
    clock.now += 1.0
    assert (await well.health()).status is Status.OK
    assert part.asked == 3


async def test_draining_refuses_traffic_while_all_is_well() -> None:
    well = board([Probe("database", Part())])
    well.drain()
    assert well.draining
    assert await get(well, "/ready") == (503, {"status": "draining"})
    status, body = await get(well, "/health")
    assert (status, body["draining"]) == (200, True)
    assert (await get(well, "/live"))[0] == 200


async def test_latency_is_told() -> None:
    clock = Clock()

    async def takes_a_while() -> None:
        clock.now += 0.125

    found = await HealthBoard([Probe("x", takes_a_while)], clock=clock).health()
    assert found.parts["x"].latency_ms == 125.0


async def test_a_caller_that_leaves_does_not_block_the_board() -> None:
    part = Part(hangs=True)
    ill = board([Probe("x", part)], timeout_s=60)
    caller = asyncio.create_task(ill.health())
    await anyio.wait_all_tasks_blocked()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    part.hangs = False
    with anyio.fail_after(5):
        assert (await ill.health()).status is Status.OK


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="same name"):
        HealthBoard([Probe("x", Part()), Probe("x", Part())])


async def test_the_log_is_told_of_a_change_and_not_of_every_look() -> None:
    clock, part, slow = Clock(), Part(OSError(SECRET)), Part(hangs=True)
    ill = HealthBoard([Probe("database", part), Probe("slow", slow)], clock=clock, timeout_s=0.02)

    async def looks(times: int) -> list[tuple[str, str]]:
        with structlog.testing.capture_logs() as entries:
            for _ in range(times):
                clock.now += 1.0
                await ill.health()
        return sorted((entry["event"], entry["probe"]) for entry in entries)

    assert await looks(3) == [("probe_failed", "database"), ("probe_timed_out", "slow")]
    part.error, slow.hangs = None, False
    assert await looks(3) == [("probe_recovered", "database"), ("probe_recovered", "slow")]
    part.error = OSError(SECRET)
    assert await looks(3) == [("probe_failed", "database")]
