"""Signed checkpoints: where the chains of an organisation ended at a time.

A chain alone shows what was changed within it. That its end was cut off, that it is missing as a whole or was written
anew shows against a checkpoint that names its head, signed with a key that the database does not have. The checkpoints
of an organisation are a chain themselves, and each is told to the log of the process, so that a copy is elsewhere.

What is hashed, and signed, is the tag ``agentapi-audit-checkpoint-1`` and then, each preceded by its length as in a
row: org_id, sequence, taken_at, kind, statement, key_id, previous. The statement is a JSON object: of a periodic
checkpoint ``{"heads": [[writer, sequence, hash], ...]}``, the chains that moved since the one before; of one of
retention ``{"checkpoints": [sequence, hash] or null, "dropped": [[writer, sequence, hash], ...]}``, the last dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import asyncpg
import structlog

from agentapi.audit import store
from agentapi.audit.chain import NO_HASH
from agentapi.audit.models import Checkpoint, Head, WriterId
from agentapi.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from agentapi.audit.signing import SigningKeys
    from agentapi.principal import OrgId
    from agentapi.storage.database import Connection, Database

__all__ = ["Checkpoints", "encoded", "heads_json", "insert_signed", "read_heads"]

_log = structlog.get_logger(__name__)

_TAG: Final = b"agentapi-audit-checkpoint-1"
_FIXED: Final = struct.Struct(">27sI16sIQIq")
_SOON_S: Final = 1.0
"""How long a new chain may go without a checkpoint that names it."""
_SLACK: Final = timedelta(hours=1)
"""How much later than its time a row may be committed, or another process's clock may go."""

Kind = Literal["periodic", "retention"]


def encoded(checkpoint: Checkpoint) -> bytes:
    """Return what is hashed and signed of a checkpoint."""
    pieces = [
        _FIXED.pack(_TAG, 16, checkpoint.org_id.bytes, 8, checkpoint.sequence, 8, checkpoint.taken_at_us),
    ]
    for data in (
        checkpoint.kind.encode(),
        checkpoint.statement.encode(),
        checkpoint.key_id.encode(),
        checkpoint.previous,
    ):
        pieces += (struct.pack(">I", len(data)), data)
    return b"".join(pieces)


def heads_json(heads: Iterable[Head]) -> list[list[Any]]:
    """Return heads as a statement has them."""
    return sorted([str(head.writer_id), head.sequence, head.hash.hex()] for head in heads)


def read_heads(heads: list[list[Any]]) -> list[Head]:
    """Return the heads of a statement."""
    return [Head(WriterId(UUID(writer)), int(sequence), bytes.fromhex(hash_)) for writer, sequence, hash_ in heads]


async def insert_signed(
    connection: Connection,
    keys: SigningKeys,
    last: Checkpoint | None,
    *,
    org_id: OrgId,
    kind: Kind,
    statement: dict[str, Any],
    now_us: int,
) -> Checkpoint:
    """Sign and insert the checkpoint behind ``last``; the transaction holds the lock of the organisation's."""
    unsigned = Checkpoint(
        org_id=org_id,
        sequence=1 if last is None else last.sequence + 1,
        taken_at_us=now_us if last is None else max(now_us, last.taken_at_us),
        kind=kind,
        statement=json.dumps(statement, sort_keys=True, separators=(",", ":")),
        previous=NO_HASH if last is None else last.hash,
        hash=b"",
        key_id=keys.active_id,
        signature=b"",
    )
    data = encoded(unsigned)
    signed = Checkpoint(
        unsigned.org_id,
        unsigned.sequence,
        unsigned.taken_at_us,
        unsigned.kind,
        unsigned.statement,
        unsigned.previous,
        sha256(data).digest(),
        unsigned.key_id,
        keys.sign(data),
    )
    await store.insert_checkpoint(connection, signed)
    _log.info("audit_checkpoint", org_id=str(org_id), sequence=signed.sequence, hash=signed.hash.hex(), kind=kind)
    return signed


class Checkpoints:
    """Takes checkpoints of the organisations that this process writes rows for, of all of their chains.

    Args:
        database: Where the log is.
        keys: Signs.
        interval_s: How long rows may go without one.
        clock_us: Microseconds since the beginning of 1970.
    """

    def __init__(
        self, database: Database, keys: SigningKeys, *, interval_s: float, clock_us: Callable[[], int]
    ) -> None:
        self._database = database
        self._keys = keys
        self._interval_s = interval_s
        self._clock_us = clock_us
        self._touched: set[OrgId] = set()
        self._new: set[OrgId] = set()
        self._begun = asyncio.Event()
        self._known: defaultdict[OrgId, dict[WriterId, int]] = defaultdict(dict)

    def touch(self, org_id: OrgId, *, new_chain: bool) -> None:
        """Note that rows of the organisation were written."""
        self._touched.add(org_id)
        if new_chain:
            self._new.add(org_id)
            self._begun.set()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Take them for the length of the context, and last ones at its end."""
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self._take_all(self._touched)

    async def take(self, org_id: OrgId) -> Checkpoint | None:
        """Take a checkpoint of an organisation; without anything new there is none."""
        async with self._database.organization_transaction(org_id) as connection:
            await store.lock_checkpoints(connection, org_id)
            last = await store.last_checkpoint(connection, org_id)
            since = datetime(1970, 1, 1, tzinfo=UTC) if last is None else store.from_us(last.taken_at_us) - _SLACK
            month = since.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            known = self._known[org_id]
            heads = await store.chain_heads(connection, org_id, since=month)
            moved = [head for head in heads if known.get(head.writer_id) != head.sequence]
            if not moved:
                return None
            taken = await insert_signed(
                connection,
                self._keys,
                last,
                org_id=org_id,
                kind="periodic",
                statement={"heads": heads_json(moved)},
                now_us=self._clock_us(),
            )
        known.update({head.writer_id: head.sequence for head in moved})
        return taken

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._interval_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._begun.wait()
            if loop.time() < due:
                await asyncio.sleep(min(_SOON_S, due - loop.time()))
                self._begun.clear()
                await self._take_all(self._new)
            else:
                self._new.clear()
                await self._take_all(self._touched)
                due = loop.time() + self._interval_s

    async def _take_all(self, organizations: set[OrgId]) -> None:
        """Take one of each and empty the set; where that fails, the next turn tries again."""
        taking = list(organizations)
        organizations.clear()
        for org_id in taking:
            try:
                await self.take(org_id)
            except (StorageUnavailableError, asyncpg.PostgresError) as error:
                _log.warning("audit_checkpoint_failed", org_id=str(org_id), reason=f"{type(error).__name__}: {error}")
                self._touched.add(org_id)
