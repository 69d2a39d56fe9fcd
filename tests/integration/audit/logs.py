"""What tests of the audit log share: a log that runs, and the rows it wrote."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agentapi.audit.chain import NO_HASH, hash_of
from agentapi.audit.log import AuditLog
from agentapi.audit.store import audit_row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.audit.models import AuditRow
    from agentapi.principal import OrgId
    from agentapi.storage.database import Database


@asynccontextmanager
async def running(database: Database, **options: Any) -> AsyncIterator[AuditLog]:
    log = AuditLog(database, **options)
    async with log.run():
        yield log


async def rows_of(database: Database, org_id: OrgId) -> list[AuditRow]:
    async with database.organization_transaction(org_id) as connection:
        found = await connection.fetch("SELECT * FROM audit_log ORDER BY writer_id, sequence")
    return [audit_row(row) for row in found]


def assert_one_chain(rows: list[AuditRow]) -> None:
    previous = NO_HASH
    for number, row in enumerate(rows, 1):
        assert (row.writer_id, row.sequence) == (rows[0].writer_id, number)
        assert row.previous == previous
        assert row.hash == hash_of(row)
        previous = row.hash
