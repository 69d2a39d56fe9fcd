"""The transactions of one piece of work as one: they are committed together, or none of them is.

Code that opens transactions as usual joins the one that is open around it, as a part that can fail by itself. Only the
task that opened it joins: what that task starts, and what outlives it, has connections of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from asyncpg.transaction import Transaction

    from agentapi.storage.database import Connection

__all__ = ["Together"]


class Together:
    """One transaction that others join; what was not committed when its context ends is rolled back.

    Args:
        acquire: Lends a connection; asked once, when there is something to do.
        begin: Is called first of all within the transaction; what it raises reaches whoever was about to do something.
    """

    def __init__(
        self,
        acquire: Callable[[], AbstractAsyncContextManager[Connection]],
        begin: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._acquire = acquire
        self._begin = begin
        self._stack = AsyncExitStack()
        self._connection: Connection | None = None
        self._transaction: Transaction | None = None
        self._has_begun = False
        self._task = asyncio.current_task()
        self._afterwards: list[Callable[[], None]] = []

    @classmethod
    def current(cls) -> Together | None:
        """Return what is open around the running task, if it is that task's."""
        found = _open.get()
        return found if found is not None and found.is_of(asyncio.current_task()) else None

    def is_of(self, task: asyncio.Task[Any] | None) -> bool:
        """Return whether ``task`` opened it."""
        return self._task is task

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Let the transactions of the running task join until the context ends."""
        async with self._stack:
            token = _open.set(self)
            try:
                yield self
            finally:
                _open.reset(token)

    @asynccontextmanager
    async def part(self) -> AsyncIterator[Connection]:
        """Open a part, which is undone by itself if it fails."""
        if self._connection is None:
            self._connection = await self._stack.enter_async_context(self._acquire())
            self._transaction = self._connection.transaction()
            await self._transaction.start()
            self._stack.push_async_callback(self._roll_back)
        if not self._has_begun:
            await self._begin(self._connection)
            self._has_begun = True
        async with self._connection.transaction():
            yield self._connection

    def when_committed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once everything is committed."""
        self._afterwards.append(callback)

    async def commit(self) -> None:
        """Commit all parts; there are none after it."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.commit()
        for callback in self._afterwards:
            callback()

    async def _roll_back(self) -> None:
        if self._transaction is not None:
            await self._transaction.rollback()


_open: ContextVar[Together | None] = ContextVar("agentapi.together", default=None)
