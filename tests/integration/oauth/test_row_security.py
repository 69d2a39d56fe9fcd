"""What one user's transaction does to the rows of another of the same organisation: nothing, whatever the SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from agentapi.tenancy.store import upsert_member

if TYPE_CHECKING:
    from integration.oauth.conftest import Bench

_BRING = """
INSERT INTO brought_credentials (org_id, user_id, upstream_id, id, sealed) VALUES ($1, $2, $3, $4, 'sealed')
"""
# Without WHERE and RETURNING nothing is read, so that a policy for SELECT cannot stand in for those of the others.
_CHANGES = {
    "oauth_flows": None,
    "oauth_connections": "UPDATE oauth_connections SET status = 'reconnect_needed'",
    "brought_credentials": "UPDATE brought_credentials SET status = 'rejected'",
}
"""An update of each table that the application's role may make; of flows it may make none."""


@pytest.fixture
async def kept(bench: Bench) -> Bench:
    """A user with a connection, another under way, and a credential that they brought."""
    await bench.connect()
    await bench.init()
    owner = bench.principal
    async with bench.database.tenant_transaction(owner) as connection:
        await upsert_member(connection, owner, email=None)
        await connection.execute(_BRING, owner.org_id, owner.user_id, bench.upstream.id, uuid4())
    return bench


@pytest.mark.parametrize("table", _CHANGES)
async def test_another_user_of_the_organisation_reads_changes_and_deletes_nothing(kept: Bench, table: str) -> None:
    owner, other = kept.principal, kept.tenant.colleague("bob").principal
    async with kept.database.user_transaction(other.org_id, other.user_id) as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - a table of the test's
        assert await connection.execute(f"DELETE FROM {table}") == "DELETE 0"  # noqa: S608
        if (change := _CHANGES[table]) is not None:
            assert await connection.execute(change) == "UPDATE 0"
    async with kept.database.organization_transaction(owner.org_id) as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
        assert await connection.execute(f"DELETE FROM {table}") == "DELETE 0"  # noqa: S608
    async with kept.database.user_transaction(owner.org_id, owner.user_id) as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 1  # noqa: S608
        if change is not None:
            assert await connection.execute(change) == "UPDATE 1"
        assert await connection.execute(f"DELETE FROM {table}") == "DELETE 1"  # noqa: S608


async def test_nobody_writes_a_row_for_another_user(kept: Bench) -> None:
    owner, other = kept.principal, kept.tenant.colleague("bob").principal
    for user in (owner.user_id, uuid4()):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with kept.database.user_transaction(other.org_id, other.user_id) as connection:
                await connection.execute(_BRING, owner.org_id, user, kept.upstream.id, uuid4())
