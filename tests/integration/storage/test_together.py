"""Transactions that are committed together, on a real database."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from agentapi.errors import ConflictError
from agentapi.principal import WorkspaceId
from agentapi.storage.database import Database
from agentapi.tenancy.store import create_workspace, find_workspace
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.storage.database import Connection
    from agentapi.storage.embedded import EmbeddedPostgres
    from tenants import Tenant


@pytest.fixture
async def two(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A pool of two connections: one to work with, one to look at it from outside."""
    database = await Database.connect(postgres.app_dsn, pool_min=2, pool_max=2, timeout_s=5.0)
    yield database
    await database.close()


async def nothing(_: Connection) -> None:
    pass


async def make(database: Database, tenant: Tenant, slug: str) -> None:
    async with database.tenant_transaction(tenant.principal) as connection:
        await create_workspace(
            connection, workspace_id=WorkspaceId(uuid4()), org_id=tenant.principal.org_id, slug=slug, name=slug
        )


async def exists(database: Database, tenant: Tenant, slug: str) -> bool:
    async with database.tenant_transaction(tenant.principal) as connection:
        return await find_workspace(connection, slug) is not None


async def seen_from_outside(database: Database, tenant: Tenant, slug: str) -> bool:
    return await asyncio.create_task(exists(database, tenant, slug))


async def test_all_parts_are_committed_at_once(two: Database) -> None:
    tenant = await make_tenant(two)
    called: list[str] = []
    async with two.together(nothing) as together:
        await make(two, tenant, "one")
        await make(two, tenant, "more")
        two.when_committed(lambda: called.append("told"))
        assert await exists(two, tenant, "one")
        assert not await seen_from_outside(two, tenant, "one")
        assert called == []
        await together.commit()
        assert called == ["told"]
    assert await exists(two, tenant, "one")
    assert await exists(two, tenant, "more")
    two.when_committed(lambda: called.append("at once"))
    assert called == ["told", "at once"]


@pytest.mark.parametrize("raises", [True, False])
async def test_what_is_not_committed_is_undone(two: Database, raises: bool) -> None:
    tenant = await make_tenant(two)
    called: list[str] = []

    @asynccontextmanager
    async def expected() -> AsyncIterator[None]:
        if not raises:
            yield
            return
        with pytest.raises(KeyError):
            yield

    async with expected(), two.together(nothing):
        await make(two, tenant, "one")
        two.when_committed(lambda: called.append("told"))
        if raises:
            raise KeyError
    assert called == []
    assert not await exists(two, tenant, "one")


async def test_a_part_that_fails_takes_no_other_along(two: Database) -> None:
    tenant = await make_tenant(two)
    async with two.together(nothing) as together:
        await make(two, tenant, "one")
        with pytest.raises(ConflictError):
            await make(two, tenant, "one")
        await make(two, tenant, "more")
        await together.commit()
    assert await exists(two, tenant, "more")


async def test_each_part_sees_the_rows_of_its_own_tenant(two: Database) -> None:
    mine, other = await make_tenant(two), await make_tenant(two, "bob")
    async with two.together(nothing) as together:
        await make(two, mine, "mine")
        assert not await exists(two, other, "mine")
        async with two.tenant_transaction(other.principal) as connection:
            assert await connection.fetchval("SELECT count(*) FROM organizations") == 1
        assert await exists(two, mine, "mine")
        await together.commit()


async def test_a_task_that_is_started_meanwhile_has_transactions_of_its_own(two: Database) -> None:
    tenant = await make_tenant(two)
    async with two.together(nothing):
        await make(two, tenant, "one")
        await asyncio.create_task(make(two, tenant, "by-another"))
    assert not await exists(two, tenant, "one")
    assert await exists(two, tenant, "by-another")


async def test_the_beginning_comes_before_everything_and_stops_it(two: Database) -> None:
    tenant = await make_tenant(two)

    async def refuse(_: Connection) -> None:
        raise ConflictError("no")

    async with two.together(refuse) as together:
        for _ in range(2):
            with pytest.raises(ConflictError):
                await make(two, tenant, "one")
        await together.commit()
    assert not await exists(two, tenant, "one")


async def test_the_connection_returns_to_the_pool_without_a_tenant(database: Database) -> None:
    tenant = await make_tenant(database)
    async with database.together(nothing) as together:
        await make(database, tenant, "one")
        await together.commit()
    async with database.statements() as connection:
        assert await connection.fetchval("SELECT current_setting('app.org_id', true)") == ""
        assert await connection.fetchval("SELECT count(*) FROM workspaces") == 0
