from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
from click.testing import CliRunner

from agentapi.cli import cli
from agentapi.errors import StartupError, StorageUnavailableError
from agentapi.storage.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres
from agentapi.storage.migrations import Migration, load_migrations, migrate, pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def empty_dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The owner's address of a database without a schema."""
    name = f"empty_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.superuser_dsn)
    await admin.execute(f"CREATE DATABASE {name} OWNER {OWNER_ROLE}")
    yield postgres.owner_dsn.replace("/agentapi?", f"/{name}?")
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_migrations_are_applied_once_and_in_order(empty_dsn: str) -> None:
    names = [migration.name for migration in load_migrations()]
    assert names == sorted(names)
    assert names[0] == "0001_tenancy"
    connection = await asyncpg.connect(empty_dsn)
    try:
        assert await pending(connection) == names
        assert await migrate(empty_dsn, APP_ROLE) == names
        assert await migrate(empty_dsn, APP_ROLE) == []
        assert await pending(connection) == []
    finally:
        await connection.close()


async def test_concurrent_runners_apply_each_migration_once(empty_dsn: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_dsn, APP_ROLE) for _ in range(4)))
    assert sorted(applied) == [[], [], [], [migration.name for migration in load_migrations()]]


async def test_an_edited_migration_is_refused(empty_dsn: str) -> None:
    first = Migration("0001_x", "CREATE TABLE x (id int)")
    await migrate(empty_dsn, APP_ROLE, [first])
    edited = [Migration("0001_x", "CREATE TABLE x (id bigint)")]
    with pytest.raises(StartupError, match="0001_x was edited after it was applied"):
        await migrate(empty_dsn, APP_ROLE, edited)


async def test_a_failing_migration_leaves_nothing_and_those_before_it_stay(empty_dsn: str) -> None:
    migrations = [
        Migration("0001_x", "CREATE TABLE x (id int)"),
        Migration("0002_y", "CREATE TABLE y (id int); SELECT 1/0"),
    ]
    with pytest.raises(StartupError, match="0002_y failed: division by zero"):
        await migrate(empty_dsn, APP_ROLE, migrations)
    connection = await asyncpg.connect(empty_dsn)
    try:
        assert await connection.fetchval("SELECT to_regclass('x') IS NOT NULL AND to_regclass('y') IS NULL")
        assert await pending(connection, migrations) == ["0002_y"]
    finally:
        await connection.close()


async def test_a_migration_of_a_later_version_is_no_obstacle(empty_dsn: str) -> None:
    later = [Migration("0001_x", "SELECT 1"), Migration("0002_y", "SELECT 2")]
    await migrate(empty_dsn, APP_ROLE, later)
    assert await migrate(empty_dsn, APP_ROLE, later[:1]) == []


@pytest.mark.parametrize("role", ["nobody_here", 'x"; DROP TABLE schema_migrations; --'])
async def test_an_unknown_role_is_named(empty_dsn: str, role: str) -> None:
    with pytest.raises(StartupError, match="does not exist"):
        await migrate(empty_dsn, role)


async def test_a_role_with_an_odd_name_is_quoted(postgres: EmbeddedPostgres, empty_dsn: str) -> None:
    name = empty_dsn.partition("@/")[2].partition("?")[0]
    admin = await asyncpg.connect(postgres.superuser_dsn.replace("/agentapi?", f"/{name}?"))
    await admin.execute('CREATE ROLE "an ""odd"" role"')
    try:
        assert await migrate(empty_dsn, 'an "odd" role') == [migration.name for migration in load_migrations()]
        granted = "SELECT has_table_privilege($1, 'workspaces', 'DELETE')"
        assert await admin.fetchval(granted, 'an "odd" role')
    finally:
        await admin.execute('DROP OWNED BY "an ""odd"" role"; DROP ROLE "an ""odd"" role"')
        await admin.close()


async def test_an_unreachable_database_is_unavailable() -> None:
    with pytest.raises(StorageUnavailableError):
        await migrate("postgresql://nobody@127.0.0.1:1/nothing", APP_ROLE)


async def test_the_command_grants_to_the_role_of_the_settings(
    postgres: EmbeddedPostgres, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, role = empty_dsn.partition("@/")[2].partition("?")[0], f"app_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.superuser_dsn.replace("/agentapi?", f"/{name}?"))
    await admin.execute(f"CREATE ROLE {role}")
    monkeypatch.setenv("AGENTAPI_MIGRATION_DATABASE_URL", empty_dsn)
    monkeypatch.setenv("AGENTAPI_DATABASE_APP_ROLE", role)
    try:
        # In a thread, since the command runs an event loop of its own.
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["migrate"], catch_exceptions=False)
        assert f"applied {load_migrations()[0].name}" in result.output
        granted = "SELECT has_table_privilege($1, 'workspaces', 'SELECT, INSERT, UPDATE, DELETE')"
        assert await admin.fetchval(granted, role)
        assert not await admin.fetchval(granted, APP_ROLE)
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await admin.close()
