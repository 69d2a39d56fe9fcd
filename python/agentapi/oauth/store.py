"""SQL of flows and connections.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the organisation and the
user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from agentapi.errors import NotFoundError
from agentapi.oauth.models import (
    Connection,
    ConnectionId,
    FlowId,
    ProviderName,
    Status,
)
from agentapi.principal import OrgId, UpstreamId, UserId

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.storage.database import Connection as Database

__all__ = [
    "StoredFlow",
    "begin_refresh",
    "delete_connection",
    "delete_everything",
    "delete_for_upstream",
    "find_connection",
    "insert_flow",
    "list_connections",
    "lock_connection",
    "put_connection",
    "record_refresh_failure",
    "require_reconnect",
    "store_refreshed",
    "sweep_flows",
    "take_flow",
]

_INSERT_FLOW = """
INSERT INTO oauth_flows (id, org_id, user_id, upstream_id, state_hash, browser_hash, sealed, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
# Of two callbacks one deletes the row; the other waits for it and finds nothing.
_TAKE_FLOW = """
DELETE FROM oauth_flows WHERE user_id = $1 AND state_hash = $2 AND browser_hash = $3 AND expires_at > $4
RETURNING id, org_id, user_id, upstream_id, state_hash, browser_hash, sealed, expires_at
"""
_SWEEP_FLOWS = """
DELETE FROM oauth_flows WHERE user_id = $1 AND (
    expires_at <= $2
    OR id IN (SELECT id FROM oauth_flows WHERE user_id = $1 ORDER BY expires_at DESC, id OFFSET $3)
)
"""

_CONNECTION = (
    "id, org_id, user_id, upstream_id, provider, sealed, scopes, status, status_reason, expires_at, generation,"
    " refresh_begun_at, refresh_failures, refresh_not_before, created_at, updated_at"
)
_PUT_CONNECTION = f"""
INSERT INTO oauth_connections
    (id, org_id, user_id, upstream_id, provider, sealed, scopes, expires_at, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
ON CONFLICT (org_id, user_id, upstream_id) DO UPDATE SET
    provider = excluded.provider, sealed = excluded.sealed, scopes = excluded.scopes, status = 'active',
    status_reason = NULL, expires_at = excluded.expires_at, generation = oauth_connections.generation + 1,
    refresh_begun_at = NULL, refresh_failures = 0, refresh_not_before = NULL, updated_at = excluded.updated_at
RETURNING {_CONNECTION}
"""  # noqa: S608
_FIND_CONNECTION = f"""
SELECT {_CONNECTION} FROM oauth_connections WHERE user_id = $1 AND upstream_id = $2
"""  # noqa: S608
_LOCK_CONNECTION = f"SELECT {_CONNECTION} FROM oauth_connections WHERE id = $1 FOR UPDATE"  # noqa: S608
_LIST_CONNECTIONS = f"""
SELECT {_CONNECTION} FROM oauth_connections
WHERE user_id = $1 AND upstream_id > $3 ORDER BY upstream_id LIMIT $2
"""  # noqa: S608
_DELETE_CONNECTION = f"DELETE FROM oauth_connections WHERE id = $1 RETURNING {_CONNECTION}"  # noqa: S608
_DELETE_CONNECTIONS = f"DELETE FROM oauth_connections WHERE user_id = $1 RETURNING {_CONNECTION}"  # noqa: S608
_DELETE_FLOWS = "DELETE FROM oauth_flows WHERE user_id = $1"
_DELETE_CONNECTION_TO = f"""
DELETE FROM oauth_connections WHERE user_id = $1 AND upstream_id = $2 RETURNING {_CONNECTION}
"""  # noqa: S608
_DELETE_FLOWS_TO = "DELETE FROM oauth_flows WHERE user_id = $1 AND upstream_id = $2"
_BEGIN_REFRESH = """
UPDATE oauth_connections SET refresh_begun_at = $3
WHERE id = $1 AND generation = $2 AND status = 'active' AND (refresh_not_before IS NULL OR refresh_not_before <= $3)
RETURNING id
"""
_STORE_REFRESHED = f"""
UPDATE oauth_connections SET
    sealed = $3, scopes = $4, expires_at = $5, generation = generation + 1, status = 'active', status_reason = NULL,
    refresh_begun_at = NULL, refresh_failures = 0, refresh_not_before = NULL, updated_at = $6
WHERE id = $1 AND generation = $2
RETURNING {_CONNECTION}
"""  # noqa: S608
_REQUIRE_RECONNECT = """
UPDATE oauth_connections SET
    status = 'reconnect_needed', status_reason = $3, refresh_begun_at = NULL, updated_at = $4
WHERE id = $1 AND generation = $2
RETURNING id
"""
_RECORD_FAILURE = """
UPDATE oauth_connections SET
    refresh_begun_at = $4, refresh_failures = refresh_failures + 1, refresh_not_before = $3
WHERE id = $1 AND generation = $2
RETURNING id
"""

_BEFORE_ALL = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFlow:
    """A flow as its row has it."""

    id: FlowId
    org_id: OrgId
    user_id: UserId
    upstream_id: UpstreamId
    state_hash: bytes = field(repr=False)
    browser_hash: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    expires_at: datetime


async def insert_flow(connection: Database, flow: StoredFlow) -> None:
    """Keep a flow until its callback."""
    await connection.execute(
        _INSERT_FLOW,
        flow.id,
        flow.org_id,
        flow.user_id,
        flow.upstream_id,
        flow.state_hash,
        flow.browser_hash,
        flow.sealed,
        flow.expires_at,
    )


async def take_flow(
    connection: Database, user_id: UserId, *, state_hash: bytes, browser_hash: bytes, now: datetime
) -> StoredFlow | None:
    """Take a flow away and return it: of any number of callbacks exactly one gets it."""
    row = await connection.fetchrow(_TAKE_FLOW, user_id, state_hash, browser_hash, now)
    if row is None:
        return None
    return StoredFlow(
        id=FlowId(row["id"]),
        org_id=OrgId(row["org_id"]),
        user_id=UserId(row["user_id"]),
        upstream_id=UpstreamId(row["upstream_id"]),
        state_hash=row["state_hash"],
        browser_hash=row["browser_hash"],
        sealed=row["sealed"],
        expires_at=row["expires_at"],
    )


async def sweep_flows(connection: Database, user_id: UserId, *, now: datetime, keep: int) -> None:
    """Drop a user's flows that have expired, and the oldest beyond ``keep``."""
    await connection.execute(_SWEEP_FLOWS, user_id, now, keep)


async def put_connection(connection: Database, made: Connection) -> Connection:
    """Store a new connection, or a new grant in the place of the one that was there.

    Raises:
        NotFoundError: The upstream is gone.
    """
    try:
        row = await connection.fetchrow(
            _PUT_CONNECTION,
            made.id,
            made.org_id,
            made.user_id,
            made.upstream_id,
            made.provider,
            made.sealed,
            list(made.scopes),
            made.expires_at,
            made.updated_at,
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError("There is no such upstream.") from error
    if row is None:  # pragma: no cover - the statement returns what it wrote
        raise AssertionError
    return _connection(row)


async def find_connection(connection: Database, user_id: UserId, upstream_id: UpstreamId) -> Connection | None:
    """Return the user's connection to an upstream."""
    row = await connection.fetchrow(_FIND_CONNECTION, user_id, upstream_id)
    return None if row is None else _connection(row)


async def lock_connection(connection: Database, id_: ConnectionId, *, wait_s: float) -> Connection | None:
    """Return a connection and keep its row from everybody else until the transaction ends.

    Raises:
        StorageUnavailableError: Somebody else kept it for longer than ``wait_s``.
    """
    row = await connection.fetchrow(_LOCK_CONNECTION, id_, timeout=wait_s)
    return None if row is None else _connection(row)


async def list_connections(
    connection: Database, user_id: UserId, *, limit: int, after: UpstreamId | None = None
) -> list[Connection]:
    """Return the user's connections in order of upstream, from behind ``after``."""
    rows = await connection.fetch(_LIST_CONNECTIONS, user_id, limit, after or _BEFORE_ALL)
    return [_connection(row) for row in rows]


async def delete_connection(connection: Database, id_: ConnectionId) -> Connection | None:
    """Remove a connection and return it as it was."""
    row = await connection.fetchrow(_DELETE_CONNECTION, id_)
    return None if row is None else _connection(row)


async def delete_everything(connection: Database, user_id: UserId) -> list[Connection]:
    """Remove a user's flows and connections, and return these as they were."""
    await connection.execute(_DELETE_FLOWS, user_id)
    return [_connection(row) for row in await connection.fetch(_DELETE_CONNECTIONS, user_id)]


async def delete_for_upstream(connection: Database, user_id: UserId, upstream_id: UpstreamId) -> Connection | None:
    """Remove a user's flows and connection to one upstream, and return this as it was."""
    await connection.execute(_DELETE_FLOWS_TO, user_id, upstream_id)
    row = await connection.fetchrow(_DELETE_CONNECTION_TO, user_id, upstream_id)
    return None if row is None else _connection(row)


async def begin_refresh(connection: Database, id_: ConnectionId, generation: int, *, now: datetime) -> bool:
    """Note that a refresh of that grant is about to be asked for; False if it is not to be asked for now, or gone."""
    return await connection.fetchval(_BEGIN_REFRESH, id_, generation, now) is not None


async def store_refreshed(connection: Database, refreshed: Connection) -> Connection | None:
    """Store the new grant over the generation that ``refreshed`` carries; None if another is in its place."""
    row = await connection.fetchrow(
        _STORE_REFRESHED,
        refreshed.id,
        refreshed.generation,
        refreshed.sealed,
        list(refreshed.scopes),
        refreshed.expires_at,
        refreshed.updated_at,
    )
    return None if row is None else _connection(row)


async def require_reconnect(
    connection: Database, id_: ConnectionId, generation: int, *, reason: str, now: datetime
) -> bool:
    """Mark that grant as of no more use; False if another is in its place."""
    return await connection.fetchval(_REQUIRE_RECONNECT, id_, generation, reason, now) is not None


async def record_refresh_failure(
    connection: Database,
    id_: ConnectionId,
    generation: int,
    *,
    not_before: datetime,
    begun_at: datetime | None,
) -> bool:
    """Note that a refresh failed and may be tried again from ``not_before``; ``begun_at`` if its outcome is unknown."""
    return await connection.fetchval(_RECORD_FAILURE, id_, generation, not_before, begun_at) is not None


def _connection(row: asyncpg.Record) -> Connection:
    return Connection(
        id=ConnectionId(row["id"]),
        org_id=OrgId(row["org_id"]),
        user_id=UserId(row["user_id"]),
        upstream_id=UpstreamId(row["upstream_id"]),
        provider=ProviderName(row["provider"]),
        sealed=row["sealed"],
        scopes=tuple(row["scopes"]),
        status=Status(row["status"]),
        status_reason=row["status_reason"],
        expires_at=row["expires_at"],
        generation=row["generation"],
        refresh_begun_at=row["refresh_begun_at"],
        refresh_failures=row["refresh_failures"],
        refresh_not_before=row["refresh_not_before"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
