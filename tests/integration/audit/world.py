"""An organisation whose log can be attacked: as the application's role, and as the owner who lifts the guards."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agentapi._core import Keyring
from agentapi.audit import store
from agentapi.audit.models import Entry, Outcome
from agentapi.audit.signing import SigningKeys
from agentapi.audit.verify import Report, verify
from integration.audit.logs import rows_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from agentapi.audit.log import AuditLog
    from agentapi.audit.models import AuditRow
    from agentapi.storage.database import Database
    from tenants import Tenant

__all__ = ["CALLED", "KEYS", "World", "found"]

KEYS = SigningKeys.from_keyring(Keyring.generate("k1"))
CALLED = Entry("tools.call", Outcome.SUCCESS, "upstream:1", {"name": "clock"})


@dataclass
class World:
    """An organisation with 20 rows of one chain, the last of which a checkpoint names."""

    pool: Database
    tenant: Tenant
    owner: asyncpg.Connection[Any]
    log: AuditLog

    async def written(self, rows: int) -> None:
        for number in range(rows):
            await self.log.call(self.tenant.principal, replace(CALLED, details={"number": number}))

    async def checkpoint(self) -> None:
        assert self.log._checkpoints is not None
        await self.log._checkpoints.take(self.tenant.principal.org_id)

    async def rows(self) -> list[AuditRow]:
        return await rows_of(self.pool, self.tenant.principal.org_id)

    async def verified(self, **given: Any) -> Report:
        async with self.owner.transaction(isolation="repeatable_read", readonly=True):
            return await verify(self.owner, self.tenant.principal.org_id, KEYS.public, **given)

    @asynccontextmanager
    async def unguarded(self) -> AsyncIterator[None]:
        """As the owner can have it: no triggers, no row-level security."""
        tables = await self.owner.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent IN"
            " ('audit_log'::regclass, 'audit_checkpoints'::regclass)"
            " UNION SELECT unnest(ARRAY['audit_log', 'audit_checkpoints'])"
        )
        async with self.owner.transaction():
            for table in tables:
                await self.owner.execute(
                    f"ALTER TABLE {table['name']} DISABLE TRIGGER USER, DISABLE ROW LEVEL SECURITY"
                )
            yield
            for table in tables:
                await self.owner.execute(f"ALTER TABLE {table['name']} ENABLE TRIGGER USER, ENABLE ROW LEVEL SECURITY")

    async def put(self, row: AuditRow) -> None:
        await store.append(self.owner, row)

    async def attack(self, sql: str, *arguments: object) -> None:
        async with self.unguarded():
            await self.owner.execute(sql, *arguments)


def found(report: Report) -> list[tuple[str, int | None]]:
    return [(finding.kind, finding.sequence) for finding in report.findings]
