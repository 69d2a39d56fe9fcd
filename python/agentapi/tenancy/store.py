"""SQL of organisations, workspaces and members.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the
organisation, so no query names it except where a row is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from agentapi.errors import ConflictError
from agentapi.principal import OrgId, Role, UserId, WorkspaceId
from agentapi.tenancy.models import Member, Organization, Workspace

if TYPE_CHECKING:
    from agentapi.principal import Principal
    from agentapi.storage.database import Connection

__all__ = [
    "create_organization",
    "create_workspace",
    "find_members",
    "find_organization",
    "find_workspace",
    "list_member_ids",
    "list_workspaces",
    "upsert_member",
]

_FIND_ORGANIZATION = "SELECT id, slug, name, created_at FROM organizations WHERE slug = $1"
_CREATE_ORGANIZATION = """
INSERT INTO organizations (id, slug, name) VALUES ($1, $2, $3) RETURNING id, slug, name, created_at
"""
_FIND_WORKSPACE = "SELECT id, org_id, slug, name, created_at FROM workspaces WHERE slug = $1"
_LIST_WORKSPACES = """
SELECT id, org_id, slug, name, created_at FROM workspaces WHERE slug > $1 ORDER BY slug LIMIT $2
"""
_CREATE_WORKSPACE = """
INSERT INTO workspaces (id, org_id, slug, name) VALUES ($1, $2, $3, $4)
RETURNING id, org_id, slug, name, created_at
"""
_UPSERT_MEMBER = """
INSERT INTO members (org_id, user_id, issuer, subject, email, role) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (org_id, user_id) DO UPDATE SET email = EXCLUDED.email, role = EXCLUDED.role, last_seen_at = now()
RETURNING org_id, user_id, issuer, subject, email, role, created_at, last_seen_at
"""

_FIND_MEMBERS = """
SELECT org_id, user_id, issuer, subject, email, role, created_at, last_seen_at FROM members
WHERE subject = $1 OR email = $1 OR user_id = $2
ORDER BY user_id LIMIT 2
"""


_MEMBER_IDS = "SELECT user_id FROM members ORDER BY user_id"


async def find_organization(connection: Connection, slug: str) -> Organization | None:
    """Return the organisation of that slug, in a transaction that may see it."""
    row = await connection.fetchrow(_FIND_ORGANIZATION, slug)
    return None if row is None else _organization(row)


async def create_organization(connection: Connection, *, org_id: OrgId, slug: str, name: str) -> Organization:
    """Create an organisation, in the ``organization_transaction`` of its new id.

    Raises:
        ConflictError: the slug is taken.
    """
    try:
        row = await connection.fetchrow(_CREATE_ORGANIZATION, org_id, slug, name)
    except asyncpg.UniqueViolationError as error:
        raise ConflictError(f"There is an organization {slug} already.") from error
    return _organization(_returned(row))


async def find_workspace(connection: Connection, slug: str) -> Workspace | None:
    """Return the workspace of that slug in the organisation of the transaction."""
    row = await connection.fetchrow(_FIND_WORKSPACE, slug)
    return None if row is None else _workspace(row)


async def list_workspaces(connection: Connection, *, after: str = "", limit: int) -> list[Workspace]:
    """Return at most ``limit`` workspaces in the order of their slugs, from behind the slug ``after``."""
    return [_workspace(row) for row in await connection.fetch(_LIST_WORKSPACES, after, limit)]


async def create_workspace(
    connection: Connection, *, workspace_id: WorkspaceId, org_id: OrgId, slug: str, name: str
) -> Workspace:
    """Create a workspace in the organisation of the transaction.

    Raises:
        ConflictError: the slug is taken in this organisation.
    """
    try:
        row = await connection.fetchrow(_CREATE_WORKSPACE, workspace_id, org_id, slug, name)
    except asyncpg.UniqueViolationError as error:
        raise ConflictError(f"There is a workspace {slug} already.") from error
    return _workspace(_returned(row))


async def upsert_member(connection: Connection, principal: Principal, *, email: str | None) -> Member:
    """Record that the organisation has seen ``principal``, with the role and address of now."""
    row = await connection.fetchrow(
        _UPSERT_MEMBER,
        principal.org_id,
        principal.user_id,
        principal.issuer,
        principal.subject,
        email,
        principal.role,
    )
    return _member(_returned(row))


async def list_member_ids(connection: Connection) -> list[UserId]:
    """Return the ids of all members of the organisation."""
    return [UserId(row["user_id"]) for row in await connection.fetch(_MEMBER_IDS)]


async def find_members(connection: Connection, text: str) -> list[Member]:
    """Return at most two members of the organisation whose user id, subject or email address is ``text``."""
    try:
        user_id = UUID(text)
    except ValueError:
        user_id = None
    return [_member(row) for row in await connection.fetch(_FIND_MEMBERS, text, user_id)]


def _returned(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise AssertionError("INSERT ... RETURNING gives a row or raises")
    return row


def _organization(row: asyncpg.Record) -> Organization:
    return Organization(
        id=OrgId(row["id"]),
        slug=row["slug"],
        name=row["name"],
        created_at=row["created_at"],
    )


def _workspace(row: asyncpg.Record) -> Workspace:
    return Workspace(
        id=WorkspaceId(row["id"]),
        org_id=OrgId(row["org_id"]),
        slug=row["slug"],
        name=row["name"],
        created_at=row["created_at"],
    )


def _member(row: asyncpg.Record) -> Member:
    return Member(
        org_id=OrgId(row["org_id"]),
        user_id=UserId(row["user_id"]),
        issuer=row["issuer"],
        subject=row["subject"],
        email=row["email"],
        role=Role(row["role"]),
        created_at=row["created_at"],
        last_seen_at=row["last_seen_at"],
    )
