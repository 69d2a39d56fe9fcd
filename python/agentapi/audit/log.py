"""The audit log as the rooms above write it.

* ``record`` belongs to a change: it writes within the caller's own transaction, so that the two commit together or not
  at all. The chain is locked until then: record last, right before the transaction ends.
* ``call`` belongs to what passes through to an upstream: it returns when the row is committed, together with those of
  all who wait at that moment.
* ``note`` is for what nobody should wait for: refusals, and calls whose client has left.
"""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, Self
from uuid import uuid4

from agentapi.audit import store
from agentapi.audit.checkpoints import Checkpoints
from agentapi.audit.group_commit import GroupCommit
from agentapi.audit.models import Draft, Source, WriterId, storable
from agentapi.observability.request_context import current_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentapi.audit.models import Doer, Entry
    from agentapi.audit.signing import SigningKeys
    from agentapi.principal import OrgId
    from agentapi.settings import Settings
    from agentapi.storage.database import Connection, Database

__all__ = ["AuditLog", "AuditMode"]

AuditMode = Literal["strict", "buffered", "off"]
"""Whether a tool call waits for its row, or leaves it in memory for a while, or has none."""

_WRITER_LIFE_US: Final = 30 * 86_400 * 1_000_000
"""After which a process begins another chain of changes, so that the last row of one is in a recent partition."""
_SLACK: Final = timedelta(days=1)
"""How far the clock may jump while a change waits for its turn."""
_NOWHERE: Final = Source()


class AuditLog:
    """Writes rows.

    Args:
        database: Where the log is.
        mode: What ``call`` does.
        flush_s: How long rows that nobody waits for may gather.
        max_queue: Rows that wait at most.
        keys: Sign checkpoints; without them there are none.
        checkpoint_s: How long rows go without a checkpoint.
        clock_us: Microseconds since the beginning of 1970.
    """

    def __init__(
        self,
        database: Database,
        *,
        mode: AuditMode = "strict",
        flush_s: float = 0.25,
        max_queue: int = 20_000,
        keys: SigningKeys | None = None,
        checkpoint_s: float = 60.0,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._mode = mode
        self._clock_us = clock_us
        self._checkpoints = (
            None if keys is None else Checkpoints(database, keys, interval_s=checkpoint_s, clock_us=clock_us)
        )
        self._calls = GroupCommit(database, flush_s=flush_s, max_queue=max_queue, on_written=self._written)
        self._writer_id = WriterId(uuid4())
        self._writer_since_us = clock_us()
        self._latest_us = self._writer_since_us
        """The latest time that a row was drafted at, whatever the clock says by now."""

    @classmethod
    def from_settings(cls, settings: Settings, database: Database, keys: SigningKeys) -> Self:
        """Return the log of a process."""
        return cls(
            database,
            mode=settings.audit_mode,
            flush_s=settings.audit_flush_s,
            max_queue=settings.audit_max_queue,
            keys=keys,
            checkpoint_s=settings.audit_checkpoint_s,
        )

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Write what ``call`` and ``note`` are given for the length of the context, and take checkpoints."""
        async with contextlib.AsyncExitStack() as stack:
            if self._checkpoints is not None:
                await stack.enter_async_context(self._checkpoints.run())
            await stack.enter_async_context(self._calls.run())
            yield

    async def record(self, connection: Connection, doer: Doer, entry: Entry, source: Source | None = None) -> None:
        """Write a row within a transaction of the doer's organisation, right before it ends.

        Changes of one organisation that are made through one process wait for each other from here on.
        """
        self.recorded(doer, await store.record(connection, self.record_arguments(doer, entry, source)))

    def record_arguments(self, doer: Doer, entry: Entry, source: Source | None = None) -> tuple[object, ...]:
        """Return what ``store.RECORD`` takes to do what ``record`` does, for a statement that does more as well.

        Whoever runs it says so to ``recorded``.
        """
        draft = self._draft(doer, entry, source)
        if draft.at_us - self._writer_since_us > _WRITER_LIFE_US:
            self._writer_id, self._writer_since_us = WriterId(uuid4()), draft.at_us
        self._latest_us = max(self._latest_us, draft.at_us)
        # One that is drafted after this one may come before it.
        since, until = store.from_us(self._writer_since_us) - _SLACK, store.from_us(self._latest_us) + _SLACK
        return store.record_arguments(draft, self._writer_id, since=since, until=until)

    def recorded(self, doer: Doer, sequence: int) -> None:
        """Note that a row was written with that sequence; if its transaction rolls back, a checkpoint finds nothing."""
        self._written(doer.org_id, sequence == 1)

    @property
    def records_calls(self) -> bool:
        """Whether ``call`` writes anything at all."""
        return self._mode != "off"

    def require_writable(self) -> None:
        """Refuse a call before it is made if its row could not be written, as far as that is known.

        Raises:
            AuditUnavailableError: The database is away, and calls must not go unrecorded.
        """
        if self._mode == "strict":
            self._calls.require()

    async def call(self, doer: Doer, entry: Entry, source: Source | None = None) -> None:
        """Write the row of a call: in strict mode it is committed once this returns.

        Raises:
            AuditUnavailableError: It could not be written. It will be once that is possible, for the call was made.
        """
        if self._mode == "strict":
            await self._calls.commit(self._draft(doer, entry, source))
        elif self._mode == "buffered":
            self._calls.add(self._draft(doer, entry, source))

    def note(self, doer: Doer, entry: Entry, source: Source | None = None) -> None:
        """Write a row soon, without anybody waiting for it."""
        if self._mode != "off":
            self._calls.add(self._draft(doer, entry, source))

    @property
    def dropped(self) -> int:
        """How many rows were lost so far because too many waited."""
        return self._calls.dropped

    def _written(self, org_id: OrgId, new_chain: bool) -> None:
        if self._checkpoints is not None:
            self._checkpoints.touch(org_id, new_chain=new_chain)

    def _draft(self, doer: Doer, entry: Entry, source: Source | None) -> Draft:
        source = source or _source()
        return Draft(
            doer.org_id,
            self._clock_us(),
            doer.user_id,
            entry.action,
            entry.outcome,
            entry.resource_text,
            source.address,
            source.agent,
            source.request_id,
            entry.details_json,
        )


def _source() -> Source:
    """Return where the request of the running task came from."""
    scope = current_request.get()
    if scope is None:
        return _NOWHERE
    client = scope.get("client")
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    return Source(
        address=storable(client[0], 45) if client else "",
        agent=storable(agent.decode("latin-1"), 256) if agent else "",
        request_id=scope["state"]["request_id"],
    )
