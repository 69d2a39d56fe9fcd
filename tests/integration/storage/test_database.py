from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from agentapi.errors import StartupError, StorageUnavailableError
from agentapi.storage.database import Database

if TYPE_CHECKING:
    from agentapi.storage.embedded import EmbeddedPostgres


async def connect(dsn: str, timeout_s: float = 5.0) -> Database:
    return await Database.connect(dsn, pool_min=1, pool_max=1, timeout_s=timeout_s)


async def test_a_superuser_is_refused(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(StartupError, match=r"role postgres is a superuser.*owns nothing"):
        await connect(postgres.superuser_dsn)


async def test_the_owner_is_refused(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(StartupError, match="role agentapi_owner owns tables"):
        await connect(postgres.owner_dsn)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ("CREATE ROLE odd LOGIN PASSWORD 'odd' BYPASSRLS", "can bypass"),
        (
            "CREATE ROLE odd LOGIN PASSWORD 'odd'; CREATE ROLE strong BYPASSRLS; GRANT strong TO odd",
            "can bypass",
        ),
        ("CREATE ROLE odd LOGIN PASSWORD 'odd' NOINHERIT; GRANT agentapi_owner TO odd", "owns tables"),
    ],
)
async def test_a_role_with_borrowed_power_is_refused(postgres: EmbeddedPostgres, make: str, reason: str) -> None:
    admin = await asyncpg.connect(postgres.superuser_dsn)
    try:
        await admin.execute(make)
        await admin.execute("GRANT CONNECT ON DATABASE agentapi TO odd")
        host = postgres.app_dsn.partition("@")[2]
        with pytest.raises(StartupError, match=f"role odd {reason}"):
            await connect(f"postgresql://odd:odd@{host}")
    finally:
        await admin.execute("REVOKE ALL ON DATABASE agentapi FROM odd; DROP ROLE odd; DROP ROLE IF EXISTS strong")
        await admin.close()


async def test_a_wrong_password_is_a_startup_error(postgres: EmbeddedPostgres) -> None:
    host = postgres.app_dsn.partition("@")[2]
    with pytest.raises(StartupError, match="refuses the login") as refused:
        await connect(f"postgresql://agentapi_app:hunter2@{host}")
    assert "hunter2" not in refused.value.message


async def test_an_unreachable_database_is_unavailable() -> None:
    with pytest.raises(StorageUnavailableError):
        await connect("postgresql://nobody@127.0.0.1:1/nothing")


async def test_waiting_for_a_connection_is_bounded(postgres: EmbeddedPostgres) -> None:
    database = await connect(postgres.app_dsn, timeout_s=0.2)
    try:
        async with database.directory_transaction("x"):
            with pytest.raises(StorageUnavailableError):
                await database.ping()
        await database.ping()
    finally:
        await database.close()


async def test_a_cut_connection_is_unavailable_and_then_replaced(postgres: EmbeddedPostgres) -> None:
    database = await connect(postgres.app_dsn)
    admin = await asyncpg.connect(postgres.superuser_dsn)
    try:
        with pytest.raises(StorageUnavailableError):  # noqa: PT012 - the end of the transaction is part of it
            async with database.directory_transaction("x") as connection:
                backend: Any = await connection.fetchval("SELECT pg_backend_pid()")
                await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", backend)
                await connection.fetchval("SELECT 1")
        await database.ping()
    finally:
        await admin.close()
        await database.close()


async def test_a_slow_statement_is_cut_off(postgres: EmbeddedPostgres) -> None:
    database = await connect(postgres.app_dsn, timeout_s=0.2)
    try:
        with pytest.raises(StorageUnavailableError):
            async with database.directory_transaction("x") as connection:
                await connection.fetchval("SELECT pg_sleep(30)")
        await database.ping()
    finally:
        await database.close()


async def test_an_error_of_the_caller_passes_through_and_rolls_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.directory_transaction("x"):
            raise ZeroDivisionError
    with pytest.raises(asyncpg.InterfaceError):
        async with database.directory_transaction("x") as connection:
            await asyncio.gather(connection.fetchval("SELECT 1"), connection.fetchval("SELECT 2"))
    await database.ping()


async def test_a_closed_database_is_unavailable(postgres: EmbeddedPostgres) -> None:
    database = await connect(postgres.app_dsn)
    await database.close()
    with pytest.raises(StorageUnavailableError):
        await database.ping()


async def test_closing_does_not_wait_for_ever(postgres: EmbeddedPostgres) -> None:
    database = await connect(postgres.app_dsn, timeout_s=0.2)
    with pytest.raises(StorageUnavailableError):  # noqa: PT012 - the end of the transaction is part of it
        async with database.directory_transaction("x") as connection:
            await database.close()
            await connection.fetchval("SELECT 1")
