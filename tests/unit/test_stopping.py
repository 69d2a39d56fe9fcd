from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from agentapi.stopping import on_stop_signal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """What a server would hear, in the place of the handlers of the test run."""
    heard: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        heard.append(number)

    former = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield heard
    for number, previous in former.items():
        signal.signal(number, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_both_the_server_and_we_hear_of_the_stop(handled: list[int], number: signal.Signals) -> None:
    acted = asyncio.Event()
    with on_stop_signal(acted.set):
        signal.raise_signal(number)
        await asyncio.wait_for(acted.wait(), 5)
    assert handled == [number]
    acted.clear()
    signal.raise_signal(number)
    assert handled == [number, number]
    await asyncio.sleep(0)
    assert not acted.is_set()


async def test_a_signal_that_nobody_handles_is_left_alone(handled: list[int]) -> None:
    del handled
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with on_stop_signal(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_another_thread_leaves_signals_alone(handled: list[int]) -> None:
    del handled
    before = signal.getsignal(signal.SIGTERM)

    def elsewhere() -> object:
        async def look() -> object:
            with on_stop_signal(lambda: None):
                return signal.getsignal(signal.SIGTERM)

        return asyncio.run(look())

    assert await asyncio.to_thread(elsewhere) is before
