from __future__ import annotations

import asyncio
from typing import cast

import pytest

from agentapi.deadlines import within

SOON_S = 0.01
NEVER_LOOKED_AT = cast("float", "no number")


async def prompt() -> int:
    return 7


async def waiting(*events: asyncio.Event) -> int:
    for event in events:
        await event.wait()
    return len(events)


async def test_what_does_not_wait_sets_no_timer() -> None:
    assert await within(NEVER_LOOKED_AT, prompt()) == 7
    with pytest.raises(TypeError):
        await within(NEVER_LOOKED_AT, waiting(asyncio.Event()))


@pytest.mark.parametrize("timeout_s", [None, 5.0])
async def test_what_waits_more_than_once_is_waited_for(timeout_s: float | None) -> None:
    events = [asyncio.Event() for _ in range(3)]
    task = asyncio.create_task(within(timeout_s, waiting(*events)))
    for event in events:
        await asyncio.sleep(0)
        assert not task.done()
        event.set()
    assert await task == 3


async def test_what_takes_too_long_is_cancelled() -> None:
    ended = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(True)
            raise

    with pytest.raises(TimeoutError):
        await within(SOON_S, endless())
    assert ended


async def test_what_fails_fails_the_same_before_and_after_it_waits() -> None:
    async def failing(*events: asyncio.Event) -> None:
        await waiting(*events)
        raise RuntimeError

    later = asyncio.Event()
    asyncio.get_running_loop().call_soon(later.set)
    for events in ([], [later]):
        with pytest.raises(RuntimeError):
            await within(5.0, failing(*events))


async def test_what_refuses_to_be_cancelled_comes_to_what_it_comes_to() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "done"

    assert await within(SOON_S, stubborn()) == "done"


async def test_cancellation_from_outside_reaches_it() -> None:
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(within(5.0, endless()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
