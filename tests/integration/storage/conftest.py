"""A database in which every tenant table has rows of many organisations, whatever tables there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from integration.conftest import migrated_postgres
from support.filling import fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ORGANIZATIONS = 200
ROWS = 60
_ENTER = "SELECT set_config('app.org_id', md5('id1'), false), set_config('app.user_id', md5('user_id1'), false)"


@dataclass(frozen=True, slots=True)
class Filled:
    """The tables, and who can ask for them: the application as a user of one organisation, and the owner as nobody."""

    tables: frozenset[str]
    app: asyncpg.Connection[Any]
    owner: asyncpg.Connection[Any]
    superuser: asyncpg.Connection[Any]


@pytest.fixture(scope="session")
async def filled() -> AsyncIterator[Filled]:
    async with migrated_postgres() as postgres:
        superuser = await asyncpg.connect(postgres.superuser_dsn)
        tables = await fill(superuser, organizations=ORGANIZATIONS, rows=ROWS)
        app = await asyncpg.connect(postgres.app_dsn)
        await app.execute(_ENTER)
        filled = Filled(frozenset(tables), app, await asyncpg.connect(postgres.owner_dsn), superuser)
        yield filled
        for connection in (filled.app, filled.owner, filled.superuser):
            await connection.close()
