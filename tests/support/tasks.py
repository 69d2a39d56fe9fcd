"""What runs on the event loop, for tests that must leave nothing behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["eventually", "tasks_by_kind"]


def tasks_by_kind() -> Counter[str]:
    """Count the tasks of the running loop by their coroutine's name, without those of servers beside the subject.

    A session's own tasks come and go one at a time, so that sets of tasks differ where nothing was left behind; what
    each of several steps leaves shows in the count.
    """
    tasks = (task for task in asyncio.all_tasks() if "uvicorn" not in repr(task))
    return Counter(getattr(task.get_coro(), "__qualname__", "") for task in tasks)


async def eventually(holds: Callable[[], Awaitable[bool]], *, within_s: float = 20.0) -> None:
    """Return once ``holds`` does, for what goes on in the background; fail if that takes too long."""
    async with asyncio.timeout(within_s):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)
