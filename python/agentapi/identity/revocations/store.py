"""SQL of revoked tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from agentapi.storage.database import Connection

__all__ = ["forget_over", "insert", "since"]

_INSERT = "INSERT INTO revoked_tokens (issuer, token_id, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_SINCE = """
SELECT issuer, token_id, expires_at, revoked_at FROM revoked_tokens
WHERE revoked_at >= $1 AND expires_at > now() ORDER BY revoked_at
"""
_NOW = "SELECT now()"
_FORGET_OVER = "DELETE FROM revoked_tokens WHERE expires_at < $1"


async def insert(connection: Connection, issuer: str, token_id: str, *, expires_at: datetime) -> None:
    """Refuse a token from now on, in the transaction of any organisation."""
    await connection.execute(_INSERT, issuer, token_id, expires_at)


async def since(connection: Connection, moment: datetime) -> tuple[list[asyncpg.Record], datetime]:
    """Return what was revoked from ``moment`` on and is not over, and the time, in the context of the deployment."""
    return await connection.fetch(_SINCE, moment), await connection.fetchval(_NOW)


async def forget_over(connection: Connection, before: datetime) -> None:
    """Drop what ended before a time, in the context of the deployment."""
    await connection.execute(_FORGET_OVER, before)
