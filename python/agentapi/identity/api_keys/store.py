"""SQL of API keys.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the organisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from agentapi.identity.api_keys.models import KEY_ISSUER, ApiKey, KeyId, Standing
from agentapi.principal import OrgId, Role, UserId, WorkspaceId

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from agentapi.storage.database import Connection

__all__ = [
    "add_agent",
    "find",
    "find_workspace_id",
    "hold",
    "insert",
    "page",
    "page_of_maker",
    "revoke",
    "revoke_of_maker",
    "rotate",
    "standing",
    "touch",
]

_COLUMNS: Final = (
    "k.org_id, k.id, k.name, k.created_by, k.user_id, k.role, k.scopes, k.workspace_id, w.slug AS workspace, k.hash,"
    " k.previous_hash, k.previous_until, k.created_at, k.rotated_at, k.expires_at, k.last_used_at, k.revoked_at,"
    " k.version"
)
_KEYS: Final = "api_keys k LEFT JOIN workspaces w ON w.org_id = k.org_id AND w.id = k.workspace_id"
_FIND = f"SELECT {_COLUMNS} FROM {_KEYS} WHERE k.id = $1"  # noqa: S608 - constants, as below
_HOLD = f"{_FIND} FOR NO KEY UPDATE OF k"
_PAGE = f"""
SELECT {_COLUMNS} FROM {_KEYS} WHERE (k.name, k.id) > ($1, $2) ORDER BY k.name, k.id LIMIT $3
"""  # noqa: S608
_PAGE_OF_MAKER = f"""
SELECT {_COLUMNS} FROM {_KEYS} WHERE k.created_by = $4 AND (k.name, k.id) > ($1, $2) ORDER BY k.name, k.id LIMIT $3
"""  # noqa: S608
_STANDING = f"""
SELECT {_COLUMNS}, o.slug AS org_slug, o.requests_per_minute, m.issuer, m.subject,
    COALESCE(maker.assigned_role, maker.role) AS maker_role
FROM {_KEYS}
JOIN organizations o ON o.id = k.org_id
JOIN members m ON m.org_id = k.org_id AND m.user_id = k.user_id
JOIN members maker ON maker.org_id = k.org_id AND maker.user_id = k.created_by
WHERE k.id = $1 AND m.removed_at IS NULL AND maker.removed_at IS NULL AND o.suspended_at IS NULL
"""  # noqa: S608
_INSERT = """
INSERT INTO api_keys
    (org_id, id, name, created_by, user_id, role, scopes, workspace_id, hash, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
_ADD_AGENT = """
INSERT INTO members (org_id, user_id, issuer, subject, role) VALUES ($1, $2, $3, $4, $5)
"""
_WORKSPACE_ID = "SELECT id FROM workspaces WHERE slug = $1"
_ROTATE = """
UPDATE api_keys SET hash = $2, rotated_at = $3,
    previous_hash = CASE WHEN $4::timestamptz > $3 THEN hash END,
    previous_until = CASE WHEN $4::timestamptz > $3 THEN $4 END
WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)
RETURNING id
"""
_REVOKE = "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id"
_REVOKE_OF_MAKER = "UPDATE api_keys SET revoked_at = $2 WHERE created_by = $1 AND revoked_at IS NULL RETURNING id"
_TOUCH = """
UPDATE api_keys SET last_used_at = now()
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - make_interval(secs => $2))
"""
_FIRST: Final = ("", KeyId(UUID(int=0)))


async def find(connection: Connection, key_id: KeyId) -> ApiKey | None:
    """Return a key of the organisation."""
    row = await connection.fetchrow(_FIND, key_id)
    return None if row is None else _key(row)


async def hold(connection: Connection, key_id: KeyId) -> ApiKey | None:
    """Return a key of the organisation, which nobody else changes until the transaction ends."""
    row = await connection.fetchrow(_HOLD, key_id)
    return None if row is None else _key(row)


async def standing(connection: Connection, key_id: KeyId) -> Standing | None:
    """Return a key of the organisation with what its grant depends on."""
    row = await connection.fetchrow(_STANDING, key_id)
    if row is None:
        return None
    maker_role, planned = Role(row["maker_role"]), row["requests_per_minute"]
    return Standing(_key(row), row["org_slug"], row["issuer"], row["subject"], maker_role, planned)


async def page(connection: Connection, *, after: tuple[str, KeyId] | None, limit: int) -> list[ApiKey]:
    """Return up to ``limit`` keys of the organisation in order of name and id, from behind ``after``."""
    return [_key(row) for row in await connection.fetch(_PAGE, *(after or _FIRST), limit)]


async def page_of_maker(
    connection: Connection, maker: UserId, *, after: tuple[str, KeyId] | None, limit: int
) -> list[ApiKey]:
    """Return the same of the keys that ``maker`` made."""
    return [_key(row) for row in await connection.fetch(_PAGE_OF_MAKER, *(after or _FIRST), limit, maker)]


async def insert(connection: Connection, key: ApiKey) -> None:
    """Store a new key."""
    await connection.execute(
        _INSERT,
        key.org_id,
        key.id,
        key.name,
        key.created_by,
        key.user_id,
        key.role,
        sorted(key.scopes),
        key.workspace_id,
        key.hash,
        key.created_at,
        key.expires_at,
    )


async def add_agent(connection: Connection, key: ApiKey) -> None:
    """Make the agent that a key acts as a member of the organisation."""
    await connection.execute(_ADD_AGENT, key.org_id, key.user_id, KEY_ISSUER, str(key.id), key.role)


async def find_workspace_id(connection: Connection, slug: str) -> WorkspaceId | None:
    """Return the id of a workspace of the organisation."""
    found = await connection.fetchval(_WORKSPACE_ID, slug)
    return None if found is None else WorkspaceId(found)


async def rotate(connection: Connection, key_id: KeyId, hash_: bytes, *, now: datetime, until: datetime) -> bool:
    """Put a new hash in the place of the old one, which stays good ``until`` then; False if the key has ended."""
    return await connection.fetchval(_ROTATE, key_id, hash_, now, until) is not None


async def revoke(connection: Connection, key_id: KeyId, *, now: datetime) -> bool:
    """End a key; False if it was revoked before."""
    return await connection.fetchval(_REVOKE, key_id, now) is not None


async def revoke_of_maker(connection: Connection, user_id: UserId, *, now: datetime) -> list[KeyId]:
    """End all keys that a user made, and return those that had not ended."""
    return [KeyId(row["id"]) for row in await connection.fetch(_REVOKE_OF_MAKER, user_id, now)]


async def touch(connection: Connection, key_id: KeyId, *, every_s: float) -> None:
    """Note that a key is used now, unless that was noted less than ``every_s`` ago."""
    await connection.execute(_TOUCH, key_id, every_s)


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        org_id=OrgId(row["org_id"]),
        id=KeyId(row["id"]),
        name=row["name"],
        created_by=UserId(row["created_by"]),
        user_id=UserId(row["user_id"]),
        role=Role(row["role"]),
        scopes=frozenset(row["scopes"]),
        workspace_id=None if row["workspace_id"] is None else WorkspaceId(row["workspace_id"]),
        workspace=row["workspace"],
        hash=row["hash"],
        previous_hash=row["previous_hash"],
        previous_until=row["previous_until"],
        created_at=row["created_at"],
        rotated_at=row["rotated_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
        version=row["version"],
    )
