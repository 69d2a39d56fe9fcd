"""SQL of the audit log. Rows are inserted and read; no statement here changes one.

``append`` and ``record`` take a connection inside a transaction of the row's organisation. ``append_group`` takes one
outside any: it is one statement that sets its own context, since what holds up every tool call should be a single round
trip.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from agentapi.audit.models import AuditRow, Checkpoint, Head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from agentapi.audit.models import Draft, Filter, Position, WriterId
    from agentapi.principal import OrgId
    from agentapi.storage.database import Connection

__all__ = [
    "RECORD",
    "append",
    "append_group",
    "audit_row",
    "chain_heads",
    "checkpoint_of",
    "checkpoints_to_verify",
    "create_partitions",
    "drop_month",
    "enter",
    "find",
    "from_us",
    "insert_checkpoint",
    "last_checkpoint",
    "last_checkpoint_between",
    "lock_checkpoints",
    "organizations",
    "organizations_between",
    "partitioned_months",
    "record",
    "record_arguments",
    "rows_to_verify",
    "to_us",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_LOCK = "SELECT pg_advisory_xact_lock($1)"
RECORD: Final = "audit_record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
"""Adds a row to a chain, with ``record_arguments``, for a statement that does more as well; its value is the sequence.

What it adds to is locked until the transaction ends, so it comes after all else that the statement does.
"""
_RECORD = f"SELECT {RECORD}"
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


_LOCK_CHECKPOINTS: Final = b"audit checkpoints"
_LAST_CHECKPOINT = """
SELECT * FROM audit_checkpoints WHERE org_id = $1 ORDER BY sequence DESC LIMIT 1
"""
_INSERT_CHECKPOINT = """
INSERT INTO audit_checkpoints (org_id, sequence, taken_at, kind, statement, previous, hash, key_id, signature)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
# One look-up for each chain, whatever the number of its rows.
_CHAIN_HEADS = """
WITH RECURSIVE writers AS (
    (SELECT writer_id FROM audit_log WHERE org_id = $1 AND recorded_at >= $2 AND recorded_at < $3
     ORDER BY writer_id LIMIT 1)
    UNION ALL
    SELECT (SELECT l.writer_id FROM audit_log l
            WHERE l.org_id = $1 AND l.writer_id > w.writer_id AND l.recorded_at >= $2 AND l.recorded_at < $3
            ORDER BY l.writer_id LIMIT 1)
    FROM writers w WHERE w.writer_id IS NOT NULL
)
SELECT w.writer_id, h.sequence, h.hash, h.recorded_at FROM writers w CROSS JOIN LATERAL (
    SELECT sequence, hash, recorded_at FROM audit_log l
    WHERE l.org_id = $1 AND l.writer_id = w.writer_id AND l.recorded_at >= $2 AND l.recorded_at < $3
    ORDER BY sequence DESC LIMIT 1
) h WHERE w.writer_id IS NOT NULL
"""
_ROWS_TO_VERIFY = "SELECT * FROM audit_log WHERE org_id = $1 ORDER BY writer_id, sequence, recorded_at"
_CHECKPOINTS_TO_VERIFY = "SELECT * FROM audit_checkpoints WHERE org_id = $1 ORDER BY sequence, taken_at"
_ORGANIZATIONS = """
WITH RECURSIVE orgs AS (
    (SELECT org_id FROM audit_log ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.org_id FROM audit_log t WHERE t.org_id > o.org_id ORDER BY t.org_id LIMIT 1)
    FROM orgs o WHERE o.org_id IS NOT NULL
), stated AS (
    (SELECT org_id FROM audit_checkpoints ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.org_id FROM audit_checkpoints t WHERE t.org_id > o.org_id ORDER BY t.org_id LIMIT 1)
    FROM stated o WHERE o.org_id IS NOT NULL
)
SELECT org_id FROM orgs WHERE org_id IS NOT NULL UNION SELECT org_id FROM stated WHERE org_id IS NOT NULL
ORDER BY org_id
"""
_SET_ORG = "SELECT set_config('app.org_id', $1, true)"
_LIMITS = "SET LOCAL lock_timeout = '5s'"
_PARTITIONS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'audit_log'::regclass AND c.relname ~ '^audit_log_[0-9]{4}_[0-9]{2}$' ORDER BY c.relname
"""
_CREATE_PARTITIONS = "SELECT audit_create_partitions($1)"
_ORGANIZATIONS_BETWEEN = """
WITH RECURSIVE orgs AS (
    (SELECT org_id FROM audit_log WHERE recorded_at >= $1 AND recorded_at < $2 ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.org_id FROM audit_log t
            WHERE t.org_id > o.org_id AND t.recorded_at >= $1 AND t.recorded_at < $2 ORDER BY t.org_id LIMIT 1)
    FROM orgs o WHERE o.org_id IS NOT NULL
), stated AS (
    (SELECT org_id FROM audit_checkpoints WHERE taken_at >= $1 AND taken_at < $2 ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.org_id FROM audit_checkpoints t
            WHERE t.org_id > o.org_id AND t.taken_at >= $1 AND t.taken_at < $2 ORDER BY t.org_id LIMIT 1)
    FROM stated o WHERE o.org_id IS NOT NULL
)
SELECT org_id FROM orgs WHERE org_id IS NOT NULL UNION SELECT org_id FROM stated WHERE org_id IS NOT NULL
ORDER BY org_id
"""
_LAST_CHECKPOINT_BETWEEN = """
SELECT * FROM audit_checkpoints WHERE org_id = $1 AND taken_at >= $2 AND taken_at < $3 ORDER BY sequence DESC LIMIT 1
"""
_DROP_MONTH = "DROP TABLE audit_log_{0}; DROP TABLE IF EXISTS audit_checkpoints_{0}"
# Rows of times to come would be those of a wrong clock; without the bound every future partition would be looked at.
_FIND = "SELECT * FROM audit_log WHERE {conditions} ORDER BY recorded_at DESC, writer_id DESC, sequence DESC LIMIT $2"
_CONDITIONS: Final = {
    "actor_id": "actor_id = {}",
    "action": "action = {}",
    "resource": "resource = {}",
    "outcome": "outcome = {}",
    "request_id": "request_id = {} AND request_id <> ''",
    "since": "recorded_at >= {}",
    "until": "recorded_at < {}",
}
_EVER: Final = datetime(9999, 1, 1, tzinfo=UTC)
_CLOCKS_DIFFER: Final = timedelta(days=1)
_PREFETCH: Final = 2_000


def record_arguments(draft: Draft, writer_id: WriterId, *, since: datetime, until: datetime) -> tuple[object, ...]:
    """Return what ``RECORD`` takes for ``draft``; the last row of the writer's chain, if any, is of a time between."""
    org_id = draft.org_id
    return (
        _lock_key(b"audit chain", org_id.bytes, writer_id.bytes),
        org_id,
        writer_id,
        since,
        until,
        from_us(draft.at_us),
        draft.actor_id,
        draft.action,
        draft.outcome,
        draft.resource,
        draft.address,
        draft.agent,
        draft.request_id,
        draft.details,
    )


async def record(connection: Connection, arguments: tuple[object, ...]) -> int:
    """Add a row to a chain, and return its sequence; until the transaction ends this one alone may add to it."""
    return int(await connection.fetchval(_RECORD, *arguments))


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


async def lock_checkpoints(connection: Connection, org_id: OrgId) -> None:
    """Wait until this transaction alone may add to the organisation's checkpoints; that lasts until it ends."""
    await connection.fetchrow(_LOCK, _lock_key(_LOCK_CHECKPOINTS, org_id.bytes))


async def last_checkpoint(connection: Connection, org_id: OrgId) -> Checkpoint | None:
    """Return the newest checkpoint."""
    record = await connection.fetchrow(_LAST_CHECKPOINT, org_id)
    return None if record is None else checkpoint_of(record)


async def insert_checkpoint(connection: Connection, checkpoint: Checkpoint) -> None:
    """Insert one checkpoint."""
    await connection.execute(
        _INSERT_CHECKPOINT,
        checkpoint.org_id,
        checkpoint.sequence,
        from_us(checkpoint.taken_at_us),
        checkpoint.kind,
        checkpoint.statement,
        checkpoint.previous,
        checkpoint.hash,
        checkpoint.key_id,
        checkpoint.signature,
    )


async def chain_heads(connection: Connection, org_id: OrgId, *, since: datetime, until: datetime = _EVER) -> list[Head]:
    """Return the last row, from that time on and before that other, of every chain that has one."""
    records = await connection.fetch(_CHAIN_HEADS, org_id, since, until)
    return [
        Head(record["writer_id"], record["sequence"], record["hash"], to_us(record["recorded_at"]))
        for record in records
    ]


async def find(
    connection: Connection, org_id: OrgId, wanted: Filter, *, after: Position | None, limit: int
) -> list[AuditRow]:
    """Return at most ``limit`` rows, newest first, from behind ``after``."""
    values: list[object] = [org_id, limit]
    conditions = ["org_id = $1"]
    for name, condition in _CONDITIONS.items():
        value = getattr(wanted, name)
        if value is not None:
            values.append(value)
            conditions.append(condition.format(f"${len(values)}"))
    if after is not None:
        first = len(values) + 1
        values += (from_us(after.recorded_at_us), after.writer_id, after.sequence)
        conditions.append(f"(recorded_at, writer_id, sequence) < (${first}, ${first + 1}, ${first + 2})")
        # PostgreSQL looks for partitions to leave out by comparisons of one column alone.
        conditions.append(f"recorded_at <= ${first}")
    elif wanted.until is None:
        values.append(datetime.now(UTC) + _CLOCKS_DIFFER)
        conditions.append(f"recorded_at < ${len(values)}")
    sql = _FIND.format(conditions=" AND ".join(conditions))
    return [audit_row(record) for record in await connection.fetch(sql, *values)]


async def checkpoints_to_verify(connection: Connection, org_id: OrgId) -> AsyncIterator[Checkpoint]:
    """Return all checkpoints in their order; the transaction is one that sees a single moment."""
    async for record in connection.cursor(_CHECKPOINTS_TO_VERIFY, org_id, prefetch=_PREFETCH):
        yield checkpoint_of(record)


async def rows_to_verify(connection: Connection, org_id: OrgId) -> AsyncIterator[AuditRow]:
    """Return all rows, chain by chain; the transaction is one that sees a single moment."""
    async for record in connection.cursor(_ROWS_TO_VERIFY, org_id, prefetch=_PREFETCH):
        yield audit_row(record)


async def organizations(connection: Connection) -> list[OrgId]:
    """Return every organisation that has rows or checkpoints; the owner of the schema may ask."""
    return [record["org_id"] for record in await connection.fetch(_ORGANIZATIONS)]


async def enter(connection: Connection, org_id: OrgId) -> None:
    """Have the rest of an owner's transaction see and write one organisation."""
    await connection.fetchrow(_SET_ORG, str(org_id))


async def create_partitions(connection: Connection, months: int) -> None:
    """Make the partitions of as many months, from this one on, that are missing; the owner of the schema may."""
    await connection.execute(_CREATE_PARTITIONS, months)


async def partitioned_months(connection: Connection) -> list[datetime]:
    """Return the beginnings of the months that have a partition."""
    names = [record["relname"].removeprefix("audit_log_") for record in await connection.fetch(_PARTITIONS)]
    return [datetime(int(name[:4]), int(name[5:]), 1, tzinfo=UTC) for name in names]


async def organizations_between(connection: Connection, since: datetime, until: datetime) -> list[OrgId]:
    """Return whose rows and checkpoints there are of that time; the owner of the schema may ask."""
    return [record["org_id"] for record in await connection.fetch(_ORGANIZATIONS_BETWEEN, since, until)]


async def last_checkpoint_between(
    connection: Connection, org_id: OrgId, since: datetime, until: datetime
) -> Checkpoint | None:
    """Return the newest checkpoint of that time."""
    record = await connection.fetchrow(_LAST_CHECKPOINT_BETWEEN, org_id, since, until)
    return None if record is None else checkpoint_of(record)


async def drop_month(connection: Connection, month: datetime) -> None:
    """Drop the partitions of a month, with all that is in them; the owner of the schema may."""
    await connection.execute(_LIMITS)
    await connection.execute(_DROP_MONTH.format(month.strftime("%Y_%m")))


def checkpoint_of(record: asyncpg.Record) -> Checkpoint:
    """Return a record with all columns as a checkpoint."""
    return Checkpoint(
        org_id=record["org_id"],
        sequence=record["sequence"],
        taken_at_us=to_us(record["taken_at"]),
        kind=record["kind"],
        statement=record["statement"],
        previous=record["previous"],
        hash=record["hash"],
        key_id=record["key_id"],
        signature=record["signature"],
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
