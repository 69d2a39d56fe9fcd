"""Apply the schema's plain SQL files, as the owner of the schema.

The runner is ours because the kept ones for asyncpg (asyncpg-trek 0.4, pogo-migrate 0.2) neither take a lock
nor keep a checksum, and the rest (yoyo, dbmate, Alembic) bring a second driver or a binary.

A migration reads the role that it grants to from the setting ``agentapi.app_role`` and quotes it with ``%I``,
so no text is put into SQL here and the checksum of a file is the same in every deployment.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from agentapi.errors import StartupError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.storage.database import Connection

__all__ = ["Migration", "load_migrations", "migrate", "pending"]

_CONNECT_TIMEOUT_S = 10.0
_ADVISORY_LOCK = 0x6167656E74617069  # "agentapi" in ASCII
# Waiting for another runner is bounded as every statement is, and longer, for that one may have much to do.
_WAIT_FOR_RUNNERS = "SET statement_timeout = '10min'; SET lock_timeout = '10min'"
_TAKE_LOCK = "SELECT pg_advisory_lock($1)"
_LIMITS = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '5min'"
_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text COLLATE "C" PRIMARY KEY,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_APP_ROLE = "SELECT set_config('agentapi.app_role', $1, true)"
_ROLE_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)"
_TABLE_EXISTS = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_APPLIED = "SELECT name, checksum FROM schema_migrations"
_RECORD = "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file; its name is its place in the order."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations() -> list[Migration]:
    """Return the migrations of this version, in order."""
    files = (file for file in resources.files("agentapi.migrations").iterdir() if file.name.endswith(".sql"))
    found = (Migration(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")) for file in files)
    return sorted(found, key=lambda migration: migration.name)


async def migrate(dsn: str, app_role: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing, each migration in its own transaction, and return the names of what was applied.

    Raises:
        StartupError: a migration failed or was edited after it was applied, or ``app_role`` does not exist.
        StorageUnavailableError: the database cannot be reached.
    """
    wanted = load_migrations() if migrations is None else migrations
    try:
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT_S)
    except ValueError as error:  # The driver's own words may repeat a part of the address.
        raise StartupError(
            "AGENTAPI_MIGRATION_DATABASE_URL is not an address like postgresql://user@host/name."
        ) from error
    except (OSError, asyncpg.PostgresError) as error:
        raise StorageUnavailableError("The database cannot be reached.", reason=str(error)) from error
    try:
        await connection.execute(_WAIT_FOR_RUNNERS)
        await connection.execute(_TAKE_LOCK, _ADVISORY_LOCK)  # Held until the connection closes.
        if not await connection.fetchval(_ROLE_EXISTS, app_role):
            raise StartupError(f"The role {app_role} does not exist; create it, or set AGENTAPI_DATABASE_APP_ROLE.")
        await connection.execute(_CREATE_TABLE)
        missing = await _missing(connection, wanted)
        for migration in missing:
            await _apply(connection, migration, app_role)
        return [migration.name for migration in missing]
    finally:
        await connection.close()


async def pending(connection: Connection, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Return the names of the migrations that are not applied; the application's role may ask.

    Raises:
        StartupError: a migration was edited after it was applied.
    """
    wanted = load_migrations() if migrations is None else migrations
    if not await connection.fetchval(_TABLE_EXISTS):
        return [migration.name for migration in wanted]
    return [migration.name for migration in await _missing(connection, wanted)]


async def _missing(connection: Connection, wanted: Sequence[Migration]) -> list[Migration]:
    applied = {row["name"]: row["checksum"] for row in await connection.fetch(_APPLIED)}
    for migration in wanted:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise StartupError(f"The migration {migration.name} was edited after it was applied; restore it.")
    return [migration for migration in wanted if migration.name not in applied]


async def _apply(connection: asyncpg.Connection[Any], migration: Migration, app_role: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute(_LIMITS)
            await connection.fetchval(_APP_ROLE, app_role)
            await connection.execute(migration.sql)
            await connection.execute(_RECORD, migration.name, migration.checksum)
    except asyncpg.PostgresError as error:
        raise StartupError(f"The migration {migration.name} failed: {error}.") from error
    _log.info("migration_applied", name=migration.name)
