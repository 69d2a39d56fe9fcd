"""One PostgreSQL and one pool for the whole run; each test makes organisations of its own."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from agentapi.storage.database import Database
from agentapi.storage.embedded import APP_ROLE, EmbeddedPostgres, embedded_postgres
from agentapi.storage.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory that the server's user can reach under root, which pytest's own is not."""
    path = Path(tempfile.mkdtemp(prefix="agentapi-test-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def migrated_postgres() -> AsyncIterator[EmbeddedPostgres]:
    path = Path(tempfile.mkdtemp(prefix="agentapi-test-", dir="/tmp"))
    async with embedded_postgres(path) as server:
        await migrate(server.owner_dsn, APP_ROLE)
        yield server
    shutil.rmtree(path)


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    async with migrated_postgres() as server:
        yield server


@pytest.fixture(scope="session")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A pool of exactly one connection, so that every test finds what the one before left in it."""
    database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=1, timeout_s=5.0)
    yield database
    await database.close()


@pytest.fixture
async def app_connection(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres.app_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def owner_connection(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres.owner_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def superuser(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection that row-level security does not bind."""
    connection = await asyncpg.connect(postgres.superuser_dsn)
    yield connection
    await connection.close()
