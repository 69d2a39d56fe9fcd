"""Fixtures for tests that need a server of their own, since signing keys belong to a whole deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentapi.storage.database import Database
from integration.conftest import migrated_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.storage.embedded import EmbeddedPostgres


@pytest.fixture(scope="package")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    async with migrated_postgres() as server:
        yield server


@pytest.fixture(scope="package")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=2, timeout_s=5.0)
    yield database
    await database.close()
