"""Bring every sealed value under the keyring's active key, while the gateway goes on serving.

A room that seals declares its columns as ``SealedColumn``; a test compares all of them with the catalogue, so that a
new table cannot be forgotten. Their rows belong to every organisation, and row-level security shows them to nobody at
once. For this one purpose each such table has policies that let the *owner* of the schema, and only in a transaction
that says ``app.maintenance = 'keys'``, read and update every row (migration 0011). The application's role may say so
too, and sees nothing by it.

Rows are taken in batches, each its own transaction. A row that somebody else has locked is left for the next round, so
that nobody waits for longer than a batch takes. What is done is told from the values themselves, which name their key:
a run that was interrupted goes on where it ended, and one that has nothing to do changes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from agentapi._core import SealError
from agentapi.errors import StartupError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentapi._core import Keyring

__all__ = ["Progress", "SealedColumn", "count_by_key", "reseal"]

_BATCH: Final = 200
_ROUNDS: Final = 5
_BETWEEN_ROUNDS_S: Final = 0.5
_TOLD_FAILURES: Final = 20

_MAINTENANCE = "SELECT set_config('app.maintenance', 'keys', true)"
_MAY_SEE_ALL = """
SELECT NOT c.relrowsecurity OR r.rolsuper OR r.rolbypassrls OR (
    SELECT count(DISTINCT p.cmd) = 2 FROM pg_catalog.pg_policies p
    WHERE p.schemaname = current_schema() AND p.tablename = c.relname AND current_user = ANY (p.roles)
      AND p.cmd IN ('SELECT', 'UPDATE')
)
FROM pg_catalog.pg_class c, pg_catalog.pg_roles r
WHERE c.oid = to_regclass($1) AND r.rolname = current_user
"""
# A sealed value begins with its version, the length of its key id, and the id.
_COUNT = """
SELECT convert_from(substring({column} FROM 3 FOR get_byte({column}, 1)), 'UTF8') AS key_id, count(*) AS values
FROM {table} WHERE length({column}) > 2 GROUP BY 1
"""
_TAKE = """
SELECT {wanted} FROM {table} WHERE {column} IS NOT NULL AND substring({column} FROM 1 FOR $1) <> $2 {after}
ORDER BY {key} LIMIT $3 FOR UPDATE SKIP LOCKED
"""
_PUT = "UPDATE {table} SET {column} = $1 WHERE ({key}) = ({places})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedColumn:
    """One column of sealed values."""

    table: str
    column: str
    key: tuple[str, ...]
    """The primary key."""
    context: tuple[str, ...] = ()
    """Further columns that the associated data names."""
    aad: Callable[[Mapping[str, Any]], bytes]
    """Makes the associated data of a row's value from its key and context."""

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(slots=True)
class Progress:
    """What a run has done to one column so far."""

    resealed: int = 0
    unopened: int = 0
    """Values that do not open: changed, moved, or sealed by a key that the keyring lacks."""
    remaining: int = 0
    """Values under another key than the active one when the run ended; those that do not open among them."""
    rows: list[str] = field(default_factory=list)
    """The keys of some rows whose values do not open."""


async def count_by_key(dsn: str, columns: Sequence[SealedColumn]) -> dict[SealedColumn, dict[str, int]]:
    """Return how many values of each column each key has sealed.

    Raises:
        StartupError: The role would not see every row, or the schema is older than this version.
    """
    connection = await _connect(dsn, columns)
    try:
        return {column: await _count(connection, column) for column in columns}
    finally:
        await connection.close()


async def reseal(
    dsn: str,
    columns: Sequence[SealedColumn],
    keyring: Keyring,
    *,
    tell: Callable[[SealedColumn, Progress], None] = lambda *_: None,
    batch: int = _BATCH,
) -> dict[SealedColumn, Progress]:
    """Seal what is under other keys anew, and return what became of each column.

    Args:
        dsn: The database as the owner of the schema.
        columns: What to go through.
        keyring: Opens the old values and seals the new ones.
        tell: Called after every batch.
        batch: Rows of one transaction.

    Raises:
        StartupError: The role would not see every row, or the schema is older than this version.
    """
    connection = await _connect(dsn, columns)
    progress = {column: Progress() for column in columns}
    try:
        for turn in range(_ROUNDS):
            for column in columns:
                await _pass(connection, column, keyring, progress[column], tell=tell, batch=batch)
                counts = await _count(connection, column)
                progress[column].remaining = sum(counts.values()) - counts.get(keyring.active_key_id, 0)
            if all(made.remaining <= made.unopened for made in progress.values()):
                break
            if turn < _ROUNDS - 1:
                # What is left was locked, or written meanwhile by a process that still seals under the old key.
                await asyncio.sleep(_BETWEEN_ROUNDS_S)
        return progress
    finally:
        await connection.close()


async def _pass(
    connection: asyncpg.Connection[asyncpg.Record],
    column: SealedColumn,
    keyring: Keyring,
    progress: Progress,
    *,
    tell: Callable[[SealedColumn, Progress], None],
    batch: int,
) -> None:
    """Go through one column once, in the order of its key."""
    progress.unopened, progress.rows = 0, []
    mark = keyring.seal(b"", b"")
    prefix = mark[: 2 + mark[1]]
    last: tuple[Any, ...] | None = None
    while True:
        async with connection.transaction():
            await connection.fetchval(_MAINTENANCE)
            rows = await connection.fetch(_take(column, last), len(prefix), prefix, batch, *(last or ()))
            made = []
            for row in rows:
                key = tuple(row[name] for name in column.key)
                try:
                    made.append((keyring.reseal(row[column.column], column.aad(dict(row))), *key))
                except SealError:
                    progress.unopened += 1
                    if len(progress.rows) < _TOLD_FAILURES:
                        progress.rows.append("/".join(str(part) for part in key))
                last = key
            await connection.executemany(_put(column), made)
        progress.resealed += len(made)
        if not rows:
            return
        tell(column, progress)


async def _connect(dsn: str, columns: Sequence[SealedColumn]) -> asyncpg.Connection[asyncpg.Record]:
    try:
        connection = await asyncpg.connect(dsn, timeout=10.0, command_timeout=60.0)
    except ValueError as error:  # The driver's own words may repeat a part of the address.
        raise StartupError(
            "AGENTAPI_MIGRATION_DATABASE_URL is not an address like postgresql://user@host/name."
        ) from error
    except (OSError, asyncpg.PostgresError) as error:
        raise StorageUnavailableError("The database cannot be reached.", reason=str(error)) from error
    try:
        for column in columns:
            await _require_every_row(connection, column)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _require_every_row(connection: asyncpg.Connection[asyncpg.Record], column: SealedColumn) -> None:
    """Refuse to go on where row-level security hides rows: the old key would look as if nothing needed it."""
    sees = await connection.fetchval(_MAY_SEE_ALL, column.table)
    if sees is None:
        raise StartupError(f"The database has no table {column.table}; run `agentapi migrate`.")
    if not sees:
        raise StartupError(
            f"The role of AGENTAPI_MIGRATION_DATABASE_URL does not see every row of {column.table};"
            " use the one that applied the migrations."
        )


async def _count(connection: asyncpg.Connection[asyncpg.Record], column: SealedColumn) -> dict[str, int]:
    async with connection.transaction():
        await connection.fetchval(_MAINTENANCE)
        rows = await connection.fetch(_COUNT.format(table=column.table, column=column.column))
    return {row["key_id"]: row["values"] for row in rows}


def _take(column: SealedColumn, last: tuple[Any, ...] | None) -> str:
    key = ", ".join(column.key)
    after = "" if last is None else f"AND ({key}) > ({_places(4, len(column.key))})"
    wanted = ", ".join((*column.key, *column.context, column.column))
    return _TAKE.format(wanted=wanted, table=column.table, column=column.column, after=after, key=key)


def _put(column: SealedColumn) -> str:
    return _PUT.format(
        table=column.table,
        column=column.column,
        key=", ".join(column.key),
        places=_places(2, len(column.key)),
    )


def _places(first: int, count: int) -> str:
    return ", ".join(f"${first + offset}" for offset in range(count))
