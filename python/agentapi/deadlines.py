"""A bound on how long something takes, that costs nothing where nothing has to wait."""

from __future__ import annotations

import asyncio
import types
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

__all__ = ["within"]

_T = TypeVar("_T")


async def within(timeout_s: float | None, coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return what ``coroutine`` comes to, as ``async with asyncio.timeout(timeout_s)`` would.

    Most bodies have come when they are read and most writes return at once. So the coroutine is begun first, and a
    timer set only when it waits for something.

    Raises:
        TimeoutError: It has not ended after ``timeout_s``, and was cancelled.
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    async with asyncio.timeout(timeout_s):
        return await _resumed(coroutine, waits_for)


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, _T], waits_for: object) -> Generator[Any, Any, _T]:
    """Go on with a coroutine that waits for something, as ``await`` does."""
    while True:
        try:
            step = partial(coroutine.send, (yield waits_for))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the coroutine is to have it
            step = partial(coroutine.throw, error)
        try:
            waits_for = step()
        except StopIteration as done:
            result: _T = done.value
            return result
