"""SQL of idempotency keys.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the organisation and the
user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.idempotency.models import Claim
    from agentapi.storage.database import Connection

__all__ = ["enter", "find", "insert", "sweep", "try_lock"]

_ENTER = "SELECT set_config('app.org_id', $1, true), set_config('app.user_id', $2, true)"
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"
_FIND = """
SELECT fingerprint, answer FROM idempotency_keys WHERE user_id = $1 AND key_hash = $2 AND expires_at > $3
"""
_FORGET = "DELETE FROM idempotency_keys WHERE user_id = $1 AND key_hash = $2 AND expires_at <= $3"
_INSERT = """
INSERT INTO idempotency_keys (org_id, user_id, key_hash, fingerprint, answer, expires_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_SWEEP = "DELETE FROM idempotency_keys WHERE expires_at <= $1"


async def enter(connection: Connection, claim: Claim) -> None:
    """Let a transaction see the rows of a claim's user."""
    await connection.fetchrow(_ENTER, str(claim.org_id), str(claim.user_id))


async def try_lock(connection: Connection, claim: Claim) -> bool:
    """Take a key until the transaction ends; False if somebody else has it."""
    return bool(await connection.fetchval(_TRY_LOCK, claim.lock))


async def find(connection: Connection, claim: Claim, *, now: datetime) -> tuple[bytes, bytes] | None:
    """Return the fingerprint of the request that had a key first, and its sealed answer."""
    row = await connection.fetchrow(_FIND, claim.user_id, claim.key_hash, now)
    return None if row is None else (row["fingerprint"], row["answer"])


async def insert(connection: Connection, claim: Claim, sealed: bytes, *, now: datetime, until: datetime) -> None:
    """Keep an answer, in the place of one that is over."""
    await connection.execute(_FORGET, claim.user_id, claim.key_hash, now)
    await connection.execute(_INSERT, claim.org_id, claim.user_id, claim.key_hash, claim.fingerprint, sealed, until)


async def sweep(connection: Connection, *, now: datetime) -> None:
    """Forget the organisation's answers that are over."""
    await connection.execute(_SWEEP, now)
