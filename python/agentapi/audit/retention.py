"""Drop the months that are older than the log is kept, and make room for those to come; both as the schema's owner.

Before a month goes, a signed checkpoint of each organisation in it names the last row of each chain that goes with it,
so that verification goes on behind it. A log in which something is wrong is not dropped from: the evidence would go,
and the signature would vouch for the rest.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from agentapi.audit import store
from agentapi.audit.checkpoints import heads_json, insert_signed
from agentapi.audit.verify import verify
from agentapi.errors import ConflictError

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.audit.signing import PublicKeys, SigningKeys
    from agentapi.principal import OrgId
    from agentapi.storage.database import Connection

__all__ = ["MONTHS_AHEAD", "drop_old_months"]

MONTHS_AHEAD: Final = 24


async def drop_old_months(
    connection: Connection, keys: SigningKeys, public: PublicKeys, *, now: datetime, keep: timedelta
) -> list[str]:
    """Drop every month that ended before ``keep`` ago, and return them as ``YYYY-MM``.

    Args:
        connection: As the owner of the schema, outside a transaction.
        keys: Sign the checkpoints.
        public: Check what was signed before.
        now: The time.
        keep: How long rows are kept at least.

    Raises:
        ConflictError: Something is wrong with a log that has rows to drop; nothing of that month is dropped.
    """
    dropped = []
    for month in await store.partitioned_months(connection):
        end = (month + timedelta(days=32)).replace(day=1)
        if end > now - keep:
            break
        organizations = await store.organizations_between(connection, month, end)
        await _require_intact(connection, organizations, public)
        async with connection.transaction():
            for org_id in organizations:
                await store.enter(connection, org_id)
                await _vouch(connection, keys, org_id, (month, end), now)
            await store.drop_month(connection, month)
        dropped.append(f"{month:%Y-%m}")
    return dropped


async def _require_intact(connection: Connection, organizations: list[OrgId], public: PublicKeys) -> None:
    for org_id in organizations:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            report = await verify(connection, org_id, public)
        if report.findings:
            finding = report.findings[0]
            raise ConflictError(
                f"The audit log of {org_id} is not intact ({finding.kind}: {finding.message}), so nothing is dropped;"
                " see `agentapi audit verify`."
            )


async def _vouch(
    connection: Connection, keys: SigningKeys, org_id: OrgId, going: tuple[datetime, datetime], now: datetime
) -> None:
    await store.lock_checkpoints(connection, org_id)
    signed = await store.last_checkpoint_between(connection, org_id, *going)
    statement = {
        "checkpoints": None if signed is None else [signed.sequence, signed.hash.hex()],
        "dropped": heads_json(await store.chain_heads(connection, org_id, since=going[0], until=going[1])),
    }
    last = await store.last_checkpoint(connection, org_id)
    await insert_signed(
        connection, keys, last, org_id=org_id, kind="retention", statement=statement, now_us=store.to_us(now)
    )
