"""Rows of tool calls, written many at a time: whoever waits for one goes on when all of them are committed.

Invariants:

* One task writes, and a row is linked only to rows that are known to be committed, so a chain has neither gaps nor
  forks. After a failure nobody knows whether the last rows were committed; the task goes on as another writer.
* A row that somebody was told is written, is. A row that could not be written is kept and written later, marked, since
  what it tells of has happened all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import asyncpg
import structlog

from agentapi.audit import store
from agentapi.audit.chain import head_of, link
from agentapi.audit.models import WriterId
from agentapi.errors import AuditUnavailableError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from agentapi.audit.models import AuditRow, Draft, Head
    from agentapi.principal import OrgId
    from agentapi.storage.database import Connection, Database

__all__ = ["GroupCommit"]

_log = structlog.get_logger(__name__)

_MAX_GROUP: Final = 2_000
"""Rows of one transaction; their waiters wait for the slowest."""
_RETRY_S: Final = 1.0
_CLOSE_S: Final = 10.0
"""How long the end of the process waits for the last rows."""
_UNAVAILABLE: Final = "The audit log cannot be written now, so the request is refused; try again later."

_UNWRITABLE: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.exceptions.DataError)
"""What says that a row cannot be stored, now or ever; it is a defect of ours, since drafts are made storable."""

_Waiting = tuple["Draft", "asyncio.Future[None] | None"]


class GroupCommit:
    """The one writer of a process for rows that no transaction of their own brings along.

    Args:
        database: Where the log is.
        flush_s: How long rows that nobody waits for may gather before they are written.
        max_queue: Rows that wait at most; further ones are refused, or dropped and counted if nobody waits for them.
        on_written: Told of each organisation that rows were committed for, and whether they begin a chain.
    """

    def __init__(
        self, database: Database, *, flush_s: float, max_queue: int, on_written: Callable[[OrgId, bool], None]
    ) -> None:
        self._database = database
        self._on_written = on_written
        self._flush_s = flush_s
        self._max_queue = max_queue
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._urgent = asyncio.Event()
        self._heads: dict[OrgId, Head] = {}
        self._writer_id = WriterId(uuid4())
        self._closing = False
        self.away = False
        """Whether the last attempt to write failed."""
        self.dropped = 0
        """Rows that were lost because the queue was full."""

    def require(self) -> None:
        """Refuse what cannot be recorded now.

        Raises:
            AuditUnavailableError: The database is away, or more rows wait than may.
        """
        if self.away or len(self._queue) >= self._max_queue:
            raise AuditUnavailableError(_UNAVAILABLE)

    async def commit(self, draft: Draft) -> None:
        """Write a row and return when it is committed.

        Raises:
            AuditUnavailableError: It could not be; it will be written once the database is back.
        """
        if self.away or len(self._queue) >= self._max_queue:
            self.add(_late(draft))
            raise AuditUnavailableError(_UNAVAILABLE)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((draft, waiter))
        self._filled.set()
        self._urgent.set()
        await waiter

    def add(self, draft: Draft) -> None:
        """Write a row soon; nobody is told when."""
        if len(self._queue) >= self._max_queue:
            self._drop(1)
            return
        self._queue.append((draft, None))
        self._filled.set()
        if len(self._queue) >= _MAX_GROUP:
            self._urgent.set()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Write for the length of the context, and at its end what is left."""
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            self._closing = True
            self._filled.set()
            self._urgent.set()
            _, late = await asyncio.wait([task], timeout=_CLOSE_S)
            if late:
                task.cancel()
                await asyncio.wait([task])
            if self._queue:
                self._drop(len(self._queue))

    async def _work(self) -> None:
        while not (self._closing and not self._queue):
            if not self._queue:
                self._filled.clear()
                self._urgent.clear()
                await self._filled.wait()
            if not self._urgent.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._flush_s):
                        await self._urgent.wait()
            last = self._closing
            try:
                await self._write_all()
            except _UNWRITABLE:
                _log.exception("audit_rows_refused")
            except (StorageUnavailableError, asyncpg.PostgresError) as error:
                self._failed((), error)
                if last:
                    return
                # An attempt that was under way when the end came is not the last: what it met may be over.
                if not self._closing:
                    await asyncio.sleep(_RETRY_S)

    async def _write_all(self) -> None:
        """Write until nothing waits, on one connection."""
        async with self._database.statements() as connection:
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_GROUP))]
                try:
                    await self._write(connection, [draft for draft, _ in group])
                except BaseException as error:
                    self._failed(group, error)
                    raise
                if self.away:
                    _log.info("audit_back", writer_id=str(self._writer_id))
                    self.away = False
                for _, waiter in group:
                    if waiter is not None and not waiter.done():
                        waiter.set_result(None)
            self._urgent.clear()

    async def _write(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        chains = self._linked(drafts)
        if len(chains) == 1:
            await store.append_group(connection, chains[0])
        else:
            async with connection.transaction():
                for rows in chains:
                    await store.append_group(connection, rows)
        for rows in chains:
            self._heads[rows[0].org_id] = head_of(rows[-1])
            self._on_written(rows[0].org_id, rows[0].sequence == 1)

    def _linked(self, drafts: Sequence[Draft]) -> list[list[AuditRow]]:
        """Return the rows of each organisation in the order of its chain."""
        chains: dict[OrgId, list[AuditRow]] = {}
        heads: dict[OrgId, Head | None] = {}
        for draft in drafts:
            org_id = draft.org_id
            head = heads[org_id] if org_id in heads else self._heads.get(org_id)
            row = link(draft, self._writer_id, head)
            heads[org_id] = head_of(row)
            chains.setdefault(org_id, []).append(row)
        return list(chains.values())

    def _failed(self, group: Sequence[_Waiting], error: BaseException) -> None:
        """Refuse all who wait, and keep their rows unless it is them that the database will not take."""
        self._writer_id = WriterId(uuid4())
        self._heads.clear()
        kept: Sequence[_Waiting] = []
        if not isinstance(error, _UNWRITABLE):
            kept = group
            self._went_away(error)
        waiting: deque[_Waiting] = deque((_late(draft), None) for draft, _ in kept)
        waiting.extend((draft if waiter is None else _late(draft), None) for draft, waiter in self._queue)
        for _, waiter in (*group, *self._queue):
            if waiter is not None and not waiter.done():
                waiter.set_exception(AuditUnavailableError(_UNAVAILABLE))
        self._queue = waiting

    def _went_away(self, error: BaseException) -> None:
        if not self.away:
            _log.error("audit_away", waiting=len(self._queue), reason=f"{type(error).__name__}: {error}")
        self.away = True

    def _drop(self, rows: int) -> None:
        if not self.dropped:
            _log.error("audit_rows_dropped", rows=rows)
        self.dropped += rows


def _late(draft: Draft) -> Draft:
    """Return ``draft`` marked: its caller was refused, and where the connection was lost it may be there twice."""
    details = json.loads(draft.details)
    return replace(draft, details=json.dumps({**details, "recorded_late": True}, ensure_ascii=False, sort_keys=True))
