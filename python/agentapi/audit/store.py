"""SQL of the audit log. Rows are inserted and read; no statement here changes one.

``append`` and ``chain_head`` take a connection inside a transaction of the row's organisation. ``append_group`` takes
one outside any: it is one statement that sets its own context, since what holds up every tool call should be a single
round trip.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from agentapi.audit.models import AuditRow, Head

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from agentapi.audit.models import WriterId
    from agentapi.principal import OrgId
    from agentapi.storage.database import Connection

__all__ = ["append", "append_group", "audit_row", "chain_head", "from_us", "lock_chain", "to_us"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_LOCK = "SELECT pg_advisory_xact_lock($1)"
_HEAD = """
SELECT sequence, hash, recorded_at FROM audit_log
WHERE org_id = $1 AND writer_id = $2 AND recorded_at >= $3 ORDER BY sequence DESC LIMIT 1
"""
_APPEND = """
INSERT INTO audit_log (org_id, writer_id, sequence, recorded_at, actor_id, action, outcome, resource, address, agent,
                       request_id, details, previous, hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""
# The organisation of each row is what set_config returned, so that the context is set before row-level security looks.
_APPEND_GROUP = """
INSERT INTO audit_log (org_id, writer_id, sequence, recorded_at, actor_id, action, outcome, resource, address, agent,
                       request_id, details, previous, hash)
SELECT context.org_id::uuid, $2, row.*
FROM (SELECT set_config('app.org_id', $1, true) AS org_id OFFSET 0) AS context
CROSS JOIN unnest($3::bigint[], $4::timestamptz[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[],
                  $10::text[], $11::text[], $12::text[], $13::bytea[], $14::bytea[]) AS row
"""


async def lock_chain(connection: Connection, org_id: OrgId, writer_id: WriterId) -> None:
    """Wait until this transaction alone may add to the chain; that lasts until it ends."""
    await connection.fetchrow(_LOCK, _lock_key(b"audit chain", org_id.bytes, writer_id.bytes))


async def chain_head(connection: Connection, org_id: OrgId, writer_id: WriterId, *, since: datetime) -> Head | None:
    """Return the last row of the chain, which is not older than ``since``."""
    row = await connection.fetchrow(_HEAD, org_id, writer_id, since)
    return None if row is None else Head(writer_id, row["sequence"], row["hash"], to_us(row["recorded_at"]))


async def append(connection: Connection, row: AuditRow) -> None:
    """Insert one row."""
    await connection.execute(
        _APPEND,
        row.org_id,
        row.writer_id,
        row.sequence,
        from_us(row.recorded_at_us),
        row.actor_id,
        row.action,
        row.outcome,
        row.resource,
        row.address,
        row.agent,
        row.request_id,
        row.details,
        row.previous,
        row.hash,
    )


async def append_group(connection: Connection, rows: Sequence[AuditRow]) -> None:
    """Insert rows of one chain, all or none."""
    first = rows[0]
    await connection.execute(
        _APPEND_GROUP,
        str(first.org_id),
        first.writer_id,
        [row.sequence for row in rows],
        [from_us(row.recorded_at_us) for row in rows],
        [row.actor_id for row in rows],
        [row.action for row in rows],
        [row.outcome for row in rows],
        [row.resource for row in rows],
        [row.address for row in rows],
        [row.agent for row in rows],
        [row.request_id for row in rows],
        [row.details for row in rows],
        [row.previous for row in rows],
        [row.hash for row in rows],
    )


def audit_row(record: asyncpg.Record) -> AuditRow:
    """Return a record with all columns as a row."""
    return AuditRow(
        org_id=record["org_id"],
        writer_id=record["writer_id"],
        sequence=record["sequence"],
        recorded_at_us=to_us(record["recorded_at"]),
        actor_id=record["actor_id"],
        action=record["action"],
        outcome=record["outcome"],
        resource=record["resource"],
        address=record["address"],
        agent=record["agent"],
        request_id=record["request_id"],
        details=record["details"],
        previous=record["previous"],
        hash=record["hash"],
    )


def to_us(time: datetime) -> int:
    """Return a time as microseconds since the beginning of 1970."""
    return (time - _EPOCH) // _MICROSECOND


def from_us(time_us: int) -> datetime:
    """Return the time of so many microseconds since the beginning of 1970."""
    return _EPOCH + timedelta(microseconds=time_us)


def _lock_key(*parts: bytes) -> int:
    return int.from_bytes(sha256(b"".join(parts)).digest()[:8], signed=True)
