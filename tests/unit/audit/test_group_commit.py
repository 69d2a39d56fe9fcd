"""What becomes of rows at the end of a process; the rest is held against a real database."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from agentapi.audit.group_commit import GroupCommit
from agentapi.audit.models import Draft
from agentapi.errors import AuditUnavailableError, StorageUnavailableError
from agentapi.principal import OrgId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class SlowDatabase:
    """Is away for one attempt, which takes until it is let go, and is there for the next."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.written = 0

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[SlowDatabase]:
        if not self.answers.is_set():
            self.asked.set()
            await self.answers.wait()
            raise StorageUnavailableError("The database is not available.")
        yield self

    async def execute(self, *_: object) -> None:
        self.written += 1


async def test_an_attempt_that_fails_while_the_process_ends_is_not_the_last() -> None:
    database: Any = SlowDatabase()
    commit = GroupCommit(database, flush_s=0.01, max_queue=10, on_written=lambda _org, _new: None)
    draft = Draft(OrgId(uuid4()), 1, None, "a.b", "success", "", "", "", "", "{}")
    async with commit.run():
        waiting = asyncio.create_task(commit.commit(draft))
        await database.asked.wait()
        asyncio.get_running_loop().call_soon(database.answers.set)
    with pytest.raises(AuditUnavailableError):
        await waiting
    assert (database.written, commit.dropped) == (1, 0)
