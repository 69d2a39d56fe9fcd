"""An audit log over a pool of its own, as one process has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from agentapi.storage.database import Database
from integration.audit.logs import running
from integration.audit.world import KEYS, World
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.audit.log import AuditLog
    from agentapi.storage.embedded import EmbeddedPostgres


@pytest.fixture
async def pool(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """More than one connection, so that transactions can meet."""
    database = await Database.connect(postgres.app_dsn, pool_min=0, pool_max=8, timeout_s=5.0)
    yield database
    await database.close()


@pytest.fixture
async def log(pool: Database) -> AsyncIterator[AuditLog]:
    async with running(pool) as log:
        yield log


@pytest.fixture
async def world(pool: Database, postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    tenant = await make_tenant(pool)
    owner = await asyncpg.connect(postgres.owner_dsn)
    async with running(pool, keys=KEYS, checkpoint_s=3600.0) as log:
        world = World(pool, tenant, owner, log)
        await world.written(20)
        await world.checkpoint()
        yield world
    await owner.close()
