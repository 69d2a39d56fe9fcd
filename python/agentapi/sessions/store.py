"""SQL of sessions.

Each function takes a connection inside a transaction of ``Database``, but for ``insert``, which takes one for a single
statement; row-level security picks the organisation. Which of its sessions a user may see is for the caller to say.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from agentapi.audit.store import RECORD
from agentapi.identity.api_keys.models import KeyId
from agentapi.principal import OrgId, Role, SessionId, UserId, WorkspaceId
from agentapi.sessions.models import EndReason, Session, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from agentapi.storage.database import Connection

__all__ = [
    "end",
    "end_due",
    "end_of_key",
    "end_of_user",
    "end_of_workspace",
    "find",
    "forget_over",
    "insert",
    "live_among",
    "organizations",
    "page",
    "page_of_user",
    "standing",
    "touch",
]

_COLUMNS: Final = (
    "s.org_id, s.id, s.user_id, w.slug AS workspace, s.key_id, s.name, s.role, s.scopes, s.idle_s, s.created_at,"
    " s.last_used_at, s.expires_at, s.ended_at, s.end_reason"
)
_SESSIONS: Final = "sessions s JOIN workspaces w ON w.org_id = s.org_id AND w.id = s.workspace_id"
# The organisation is what set_config returned, so that the context is set before row-level security looks; what is
# recorded is recorded of the row that was made, so that its limits are counted before the chain of the log is locked.
_INSERT = f"""
SELECT {RECORD} FROM (
    SELECT set_config('app.org_id', $15, true) AS org_id, set_config('app.user_id', $16, true) AS user_id OFFSET 0
) AS context CROSS JOIN LATERAL session_start(
    context.org_id::uuid, $17, context.user_id::uuid, $18, $19, $20, $21, $22, $23, $24, $25
)
"""  # noqa: S608 - constants, as below
_FIND = f"SELECT {_COLUMNS} FROM {_SESSIONS} WHERE s.id = $1"  # noqa: S608
_PAGE = f"""
SELECT {_COLUMNS} FROM {_SESSIONS} WHERE (s.created_at, s.id) < ($1, $2) ORDER BY s.created_at DESC, s.id DESC LIMIT $3
"""  # noqa: S608
_PAGE_OF_USER = f"""
SELECT {_COLUMNS} FROM {_SESSIONS} WHERE s.user_id = $4 AND (s.created_at, s.id) < ($1, $2)
ORDER BY s.created_at DESC, s.id DESC LIMIT $3
"""  # noqa: S608
_STANDING = f"""
SELECT {_COLUMNS}, s.workspace_id, o.slug AS org_slug, m.issuer, m.subject,
       COALESCE(m.assigned_role, m.role) AS user_role, k.revoked_at IS NOT NULL AS key_revoked,
       k.expires_at AS key_expires_at, k.role AS key_role,
       COALESCE(maker.assigned_role, maker.role) AS key_maker_role
FROM {_SESSIONS}
JOIN organizations o ON o.id = s.org_id
JOIN members m ON m.org_id = s.org_id AND m.user_id = s.user_id
LEFT JOIN api_keys k ON k.org_id = s.org_id AND k.id = s.key_id
LEFT JOIN members maker ON maker.org_id = k.org_id AND maker.user_id = k.created_by
WHERE s.id = $1 AND m.removed_at IS NULL AND maker.removed_at IS NULL AND o.suspended_at IS NULL
"""  # noqa: S608
_TOUCH = """
UPDATE sessions SET last_used_at = $2
WHERE id = $1 AND ended_at IS NULL AND last_used_at <= $2::timestamptz - $3::interval
"""
_END = "UPDATE sessions SET ended_at = $2, end_reason = $3 WHERE id = $1 AND ended_at IS NULL RETURNING id"
_END_OF_USER = """
UPDATE sessions SET ended_at = $1, end_reason = $2
WHERE ended_at IS NULL AND (
    $3::uuid IS NULL OR user_id = $3
    OR (org_id, key_id) IN (SELECT k.org_id, k.id FROM api_keys k WHERE k.created_by = $3)
) RETURNING id
"""
_END_OF_KEY = """
UPDATE sessions SET ended_at = $1, end_reason = $2 WHERE ended_at IS NULL AND key_id = $3 RETURNING id
"""
_END_OF_WORKSPACE = """
UPDATE sessions SET ended_at = $1, end_reason = $2 WHERE ended_at IS NULL AND workspace_id = $3 RETURNING id
"""
# What somebody else holds locked has its turn in the next sweep.
_END_DUE = """
UPDATE sessions s SET ended_at = $1, end_reason = CASE WHEN s.expires_at <= $1 THEN 'expired' ELSE 'idle' END
FROM (
    SELECT org_id, id FROM sessions
    WHERE ended_at IS NULL AND (expires_at <= $1 OR last_used_at + make_interval(secs => idle_s) <= $1)
    LIMIT $2 FOR UPDATE SKIP LOCKED
) due WHERE s.org_id = due.org_id AND s.id = due.id
RETURNING s.id, s.end_reason
"""
_FORGET_OVER = "DELETE FROM sessions WHERE ended_at < $1"
_LIVE_AMONG = "SELECT id FROM sessions WHERE id = ANY ($1) AND ended_at IS NULL"
_ORGANIZATIONS = "SELECT id FROM organizations WHERE id > $1 ORDER BY id LIMIT $2"
_WITH_SESSIONS = "SELECT id FROM organizations WHERE id > $1 AND sessions_used > 0 ORDER BY id LIMIT $2"


async def insert(connection: Connection, session: Session, recording: tuple[object, ...]) -> int | None:
    """Store a new session and record it with the arguments of ``RECORD``, in one statement that sets its own context.

    Returned is the sequence of what was recorded; None if the organisation has no such workspace.

    Raises:
        asyncpg.PostgresError: With the code of a plan's limit, which ``Database`` knows.
    """
    recorded: int | None = await connection.fetchval(
        _INSERT,
        *recording,
        str(session.org_id),
        str(session.user_id),
        session.id,
        session.workspace,
        session.key_id,
        session.name,
        session.role,
        sorted(session.scopes),
        int(session.idle.total_seconds()),
        session.created_at,
        session.expires_at,
    )
    return recorded


async def find(connection: Connection, session_id: SessionId) -> Session | None:
    """Return a session of the organisation, one that has ended too."""
    row = await connection.fetchrow(_FIND, session_id)
    return None if row is None else _session(row)


async def standing(connection: Connection, session_id: SessionId) -> Standing | None:
    """Return a session with what its use depends on; None where its user, organisation or key has none any more."""
    row = await connection.fetchrow(_STANDING, session_id)
    if row is None:
        return None
    return Standing(
        session=_session(row),
        workspace_id=WorkspaceId(row["workspace_id"]),
        org_slug=row["org_slug"],
        issuer=row["issuer"],
        subject=row["subject"],
        user_role=Role(row["user_role"]),
        key_revoked=row["key_revoked"],
        key_expires_at=row["key_expires_at"],
        key_role=None if row["key_role"] is None else Role(row["key_role"]),
        key_maker_role=None if row["key_maker_role"] is None else Role(row["key_maker_role"]),
    )


async def page(connection: Connection, *, before: tuple[datetime, UUID], limit: int) -> list[Session]:
    """Return up to ``limit`` sessions of the organisation, the newest first, from behind ``before``."""
    return [_session(row) for row in await connection.fetch(_PAGE, *before, limit)]


async def page_of_user(
    connection: Connection, user_id: UserId, *, before: tuple[datetime, UUID], limit: int
) -> list[Session]:
    """Return the same of one user's sessions."""
    return [_session(row) for row in await connection.fetch(_PAGE_OF_USER, *before, limit, user_id)]


async def touch(connection: Connection, session_id: SessionId, *, now: datetime, every: timedelta) -> None:
    """Note that a session is used, unless that was noted less than ``every`` ago."""
    await connection.execute(_TOUCH, session_id, now, every)


async def end(connection: Connection, session_id: SessionId, *, now: datetime, reason: EndReason) -> bool:
    """End a session; False if it had ended before."""
    return await connection.fetchval(_END, session_id, now, reason) is not None


async def end_of_user(
    connection: Connection, user_id: UserId | None, *, now: datetime, reason: EndReason
) -> list[SessionId]:
    """End the sessions of a user and of keys that the user made, or all of the organisation; return their ids."""
    return [SessionId(row["id"]) for row in await connection.fetch(_END_OF_USER, now, reason, user_id)]


async def end_of_key(connection: Connection, key_id: KeyId, *, now: datetime, reason: EndReason) -> list[SessionId]:
    """End the sessions that were made with an API key, and return their ids."""
    return [SessionId(row["id"]) for row in await connection.fetch(_END_OF_KEY, now, reason, key_id)]


async def end_of_workspace(
    connection: Connection, workspace_id: WorkspaceId, *, now: datetime, reason: EndReason
) -> list[SessionId]:
    """End the sessions in a workspace, and return their ids."""
    return [SessionId(row["id"]) for row in await connection.fetch(_END_OF_WORKSPACE, now, reason, workspace_id)]


async def end_due(connection: Connection, *, now: datetime, limit: int) -> list[tuple[SessionId, EndReason]]:
    """End up to ``limit`` sessions whose time has come."""
    rows = await connection.fetch(_END_DUE, now, limit)
    return [(SessionId(row["id"]), EndReason(row["end_reason"])) for row in rows]


async def forget_over(connection: Connection, before: datetime) -> None:
    """Drop the rows of sessions that ended before a time."""
    await connection.execute(_FORGET_OVER, before)


async def live_among(connection: Connection, session_ids: Sequence[SessionId]) -> set[SessionId]:
    """Return those of ``session_ids`` that live as far as was written down."""
    return {SessionId(row["id"]) for row in await connection.fetch(_LIVE_AMONG, session_ids)}


async def organizations(connection: Connection, *, after: OrgId, limit: int, living: bool) -> list[OrgId]:
    """Return organisations by id, or those of them that have a living session, in a ``platform_transaction``."""
    query = _WITH_SESSIONS if living else _ORGANIZATIONS
    return [OrgId(row["id"]) for row in await connection.fetch(query, after, limit)]


def _session(row: asyncpg.Record) -> Session:
    return Session(
        org_id=OrgId(row["org_id"]),
        id=SessionId(row["id"]),
        user_id=UserId(row["user_id"]),
        workspace=row["workspace"],
        key_id=None if row["key_id"] is None else KeyId(row["key_id"]),
        name=row["name"],
        role=Role(row["role"]),
        scopes=frozenset(row["scopes"]),
        idle=timedelta(seconds=row["idle_s"]),
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
        end_reason=None if row["end_reason"] is None else EndReason(row["end_reason"]),
    )
