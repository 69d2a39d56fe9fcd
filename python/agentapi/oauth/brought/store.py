"""SQL of what users bring.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the organisation and the
user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from agentapi.errors import NotFoundError
from agentapi.oauth.brought.models import BroughtId, Stored, StoredStatus
from agentapi.principal import OrgId, UpstreamId, UserId

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.storage.database import Connection

__all__ = ["delete", "delete_everything", "find", "mark", "put"]

_COLUMNS = "id, org_id, user_id, upstream_id, sealed, status, created_at, updated_at"
_PUT = f"""
INSERT INTO brought_credentials (id, org_id, user_id, upstream_id, sealed, status, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (org_id, user_id, upstream_id) DO UPDATE SET
    id = excluded.id, sealed = excluded.sealed, status = excluded.status, updated_at = excluded.updated_at
RETURNING {_COLUMNS}
"""  # noqa: S608 - the columns are the constant above
_FIND = f"SELECT {_COLUMNS} FROM brought_credentials WHERE user_id = $1 AND upstream_id = $2"  # noqa: S608
_DELETE = "DELETE FROM brought_credentials WHERE user_id = $1 AND upstream_id = $2 RETURNING id"
_DELETE_EVERYTHING = "DELETE FROM brought_credentials WHERE user_id = $1 RETURNING upstream_id"
_MARK = """
UPDATE brought_credentials SET status = $4, updated_at = $5
WHERE user_id = $1 AND upstream_id = $2 AND id = $3 AND status <> 'rejected'
"""


async def put(connection: Connection, stored: Stored) -> Stored:
    """Store values, in the place of those that were there.

    Raises:
        NotFoundError: The upstream is gone, or hidden from this user.
    """
    try:
        row = await connection.fetchrow(
            _PUT,
            stored.id,
            stored.org_id,
            stored.user_id,
            stored.upstream_id,
            stored.sealed,
            stored.status,
            stored.created_at,
            stored.updated_at,
        )
    except (asyncpg.ForeignKeyViolationError, asyncpg.InsufficientPrivilegeError) as error:
        raise NotFoundError("There is no such upstream.") from error
    if row is None:  # pragma: no cover - the statement returns what it wrote
        raise AssertionError
    return _stored(row)


async def find(connection: Connection, user_id: UserId, upstream_id: UpstreamId) -> Stored | None:
    """Return what the user brought for an upstream."""
    row = await connection.fetchrow(_FIND, user_id, upstream_id)
    return None if row is None else _stored(row)


async def delete(connection: Connection, user_id: UserId, upstream_id: UpstreamId) -> bool:
    """Remove what the user brought for an upstream; False if there was nothing."""
    return await connection.fetchval(_DELETE, user_id, upstream_id) is not None


async def delete_everything(connection: Connection, user_id: UserId) -> list[UpstreamId]:
    """Remove all that a user brought, and return what for."""
    return [row["upstream_id"] for row in await connection.fetch(_DELETE_EVERYTHING, user_id)]


async def mark(connection: Connection, stored: Stored, status: StoredStatus, *, now: datetime) -> None:
    """Note what the upstream said of those values, unless others are in their place."""
    await connection.execute(_MARK, stored.user_id, stored.upstream_id, stored.id, status, now)


def _stored(row: asyncpg.Record) -> Stored:
    return Stored(
        id=BroughtId(row["id"]),
        org_id=OrgId(row["org_id"]),
        user_id=UserId(row["user_id"]),
        upstream_id=UpstreamId(row["upstream_id"]),
        sealed=row["sealed"],
        status=StoredStatus(row["status"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
