"""Work that outlives the request that began it, and ends with the gateway."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from agentapi.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

__all__ = ["Background", "shutting_down"]

_T = TypeVar("_T")


class Background:
    """Tasks of one owner, which ``run`` ends; none may raise, since they share a task group."""

    def __init__(self) -> None:
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[Any]] = set()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Own the tasks for the length of the context; leaving it ends them."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                self._tasks = None
                for task in self._running:
                    task.cancel()

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Begin ``work``.

        Raises:
            UpstreamError: The gateway is shutting down.
        """
        if self._tasks is None:
            work.close()
            raise shutting_down()
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def shutting_down() -> UpstreamError:
    """Return what is said to whoever comes too late."""
    return UpstreamError("The gateway is shutting down.")
