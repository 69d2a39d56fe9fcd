"""SQL of organisations, workspaces and members.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the
organisation, so no query names it except where a row is written.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from agentapi.errors import ConflictError
from agentapi.principal import OrgId, Role, UserId, WorkspaceId
from agentapi.tenancy.models import JoinRule, Member, Organization, Plan, Workspace

if TYPE_CHECKING:
    from agentapi.principal import Principal
    from agentapi.storage.database import Connection
    from agentapi.tenancy.models import Claimant

__all__ = [
    "assign_role",
    "change_workspace",
    "create_organization",
    "create_workspace",
    "delete_organization",
    "delete_workspace",
    "find_members",
    "find_organization",
    "find_workspace",
    "get_member",
    "has_other_admins",
    "hold_workspace",
    "join",
    "list_member_ids",
    "list_members",
    "list_organizations",
    "list_workspaces",
    "lock_organization",
    "organization_in",
    "remove_member",
    "update_organization",
    "upsert_member",
]

_FIND_ORGANIZATION = "SELECT * FROM organizations WHERE slug = $1"
_CREATE_ORGANIZATION = """
INSERT INTO organizations (id, slug, name) VALUES ($1, $2, $3) RETURNING *
"""
_FIND_WORKSPACE = "SELECT id, org_id, slug, name, created_at, version FROM workspaces WHERE slug = $1"
_HOLD_WORKSPACE = _FIND_WORKSPACE + " FOR UPDATE"
_LIST_WORKSPACES = """
SELECT id, org_id, slug, name, created_at, version FROM workspaces WHERE slug > $1 ORDER BY slug LIMIT $2
"""
_CREATE_WORKSPACE = """
INSERT INTO workspaces (id, org_id, slug, name) VALUES ($1, $2, $3, $4)
RETURNING id, org_id, slug, name, created_at, version
"""
_UPSERT_MEMBER = """
INSERT INTO members (org_id, user_id, issuer, subject, email, role) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (org_id, user_id) DO UPDATE SET email = EXCLUDED.email, role = EXCLUDED.role, last_seen_at = now()
RETURNING *
"""

_FIND_MEMBERS = """
SELECT * FROM members
WHERE subject = $1 OR email = $1 OR user_id = $2
ORDER BY user_id LIMIT 2
"""


_LOCK_ORGANIZATION = "SELECT * FROM organizations WHERE id = $1 FOR NO KEY UPDATE"
_LIST_ORGANIZATIONS = "SELECT * FROM organizations WHERE slug > $1 ORDER BY slug LIMIT $2"
_UPDATE_ORGANIZATION = """
UPDATE organizations SET slug = $2, name = $3, owner_id = $4, suspended_at = $5, join_rule = $6,
    requests_per_minute = $7, max_members = $8, max_upstreams = $9, max_sessions = $10, max_sessions_per_user = $11
WHERE id = $1 RETURNING *
"""
_DELETE_ORGANIZATION = "DELETE FROM organizations WHERE id = $1"
_DELETE_WORKSPACE = "DELETE FROM workspaces WHERE slug = $1 RETURNING id"
_RENAME_WORKSPACE = """
UPDATE workspaces SET slug = $2, name = $3 WHERE slug = $1 RETURNING id, org_id, slug, name, created_at, version
"""
_GET_MEMBER = "SELECT * FROM members WHERE user_id = $1"
_LIST_MEMBERS = """
SELECT * FROM members WHERE removed_at IS NULL AND user_id > $1 ORDER BY user_id LIMIT $2
"""
_ASSIGN_ROLE = "UPDATE members SET assigned_role = $2 WHERE user_id = $1 AND removed_at IS NULL RETURNING *"
_REMOVE_MEMBER = """
UPDATE members SET removed_at = now(), assigned_role = NULL WHERE user_id = $1 AND removed_at IS NULL RETURNING *
"""
_JOIN = """
INSERT INTO members (org_id, user_id, issuer, subject, email, role, assigned_role) VALUES ($1, $2, $3, $4, $5, $6, $6)
ON CONFLICT (org_id, user_id) DO UPDATE SET assigned_role = EXCLUDED.assigned_role, removed_at = NULL
RETURNING *
"""
_OTHER_ADMINS = """
SELECT count(*) FROM members
WHERE user_id <> $1 AND removed_at IS NULL AND COALESCE(assigned_role, role) = 'org_admin'
    AND NOT EXISTS (SELECT FROM api_keys k WHERE k.org_id = members.org_id AND k.id = members.user_id)
"""
"""People: what acts by an API key ends with whoever made the key."""
_MEMBER_IDS = "SELECT user_id FROM members ORDER BY user_id"


async def find_organization(connection: Connection, slug: str) -> Organization | None:
    """Return the organisation of that slug, in a transaction that may see it."""
    row = await connection.fetchrow(_FIND_ORGANIZATION, slug)
    return None if row is None else organization_in(row)


async def create_organization(connection: Connection, *, org_id: OrgId, slug: str, name: str) -> Organization:
    """Create an organisation, in the ``organization_transaction`` of its new id.

    Raises:
        ConflictError: the slug is taken.
    """
    try:
        row = await connection.fetchrow(_CREATE_ORGANIZATION, org_id, slug, name)
    except asyncpg.UniqueViolationError as error:
        raise ConflictError(f"There is an organization {slug} already.") from error
    return organization_in(_returned(row))


async def find_workspace(connection: Connection, slug: str) -> Workspace | None:
    """Return the workspace of that slug in the organisation of the transaction."""
    row = await connection.fetchrow(_FIND_WORKSPACE, slug)
    return None if row is None else _workspace(row)


async def hold_workspace(connection: Connection, slug: str) -> Workspace | None:
    """Return the workspace of that slug, which nobody else changes until the transaction ends."""
    row = await connection.fetchrow(_HOLD_WORKSPACE, slug)
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


async def lock_organization(connection: Connection, org_id: OrgId) -> Organization | None:
    """Return an organisation, which nobody else changes until the transaction ends."""
    row = await connection.fetchrow(_LOCK_ORGANIZATION, org_id)
    return None if row is None else organization_in(row)


async def list_organizations(connection: Connection, *, after: str, limit: int) -> list[Organization]:
    """Return organisations in the order of their slugs, in a ``platform_transaction``."""
    return [organization_in(row) for row in await connection.fetch(_LIST_ORGANIZATIONS, after, limit)]


async def update_organization(connection: Connection, changed: Organization) -> Organization:
    """Store all that can change of an organisation.

    Raises:
        ConflictError: the slug is taken.
    """
    try:
        row = await connection.fetchrow(
            _UPDATE_ORGANIZATION,
            changed.id,
            changed.slug,
            changed.name,
            changed.owner_id,
            changed.suspended_at,
            changed.join_rule,
            *astuple(changed.plan),
        )
    except asyncpg.UniqueViolationError as error:
        raise ConflictError(f"There is an organization {changed.slug} already.") from error
    return organization_in(_returned(row))


async def delete_organization(connection: Connection, org_id: OrgId) -> None:
    """Delete an organisation; all rows that name it go along, but for the audit log's."""
    await connection.execute(_DELETE_ORGANIZATION, org_id)


async def delete_workspace(connection: Connection, slug: str) -> WorkspaceId | None:
    """Delete a workspace and return its id, or None if there was none.

    Raises:
        ConflictError: it has upstreams.
    """
    try:
        id_ = await connection.fetchval(_DELETE_WORKSPACE, slug)
    except asyncpg.ForeignKeyViolationError as error:
        raise ConflictError("The workspace has upstream servers; delete them first.") from error
    return None if id_ is None else WorkspaceId(id_)


async def change_workspace(connection: Connection, slug: str, *, to: str, name: str) -> Workspace | None:
    """Give a workspace another slug and name, and return it, or None if there is none.

    Raises:
        ConflictError: the slug is taken.
    """
    try:
        row = await connection.fetchrow(_RENAME_WORKSPACE, slug, to, name)
    except asyncpg.UniqueViolationError as error:
        raise ConflictError(f"There is a workspace {to} already.") from error
    return None if row is None else _workspace(row)


async def get_member(connection: Connection, user_id: UserId) -> Member | None:
    """Return a member, a removed one too."""
    row = await connection.fetchrow(_GET_MEMBER, user_id)
    return None if row is None else _member(row)


async def list_members(connection: Connection, *, after: UUID, limit: int) -> list[Member]:
    """Return members in the order of their ids."""
    return [_member(row) for row in await connection.fetch(_LIST_MEMBERS, after, limit)]


async def assign_role(connection: Connection, user_id: UserId, role: Role | None) -> Member | None:
    """Give a member a role over what tokens say, or leave it to them again."""
    row = await connection.fetchrow(_ASSIGN_ROLE, user_id, role)
    return None if row is None else _member(row)


async def remove_member(connection: Connection, user_id: UserId) -> Member | None:
    """Take the membership back; the row stays, so that no token makes another one."""
    row = await connection.fetchrow(_REMOVE_MEMBER, user_id)
    return None if row is None else _member(row)


async def join(connection: Connection, org_id: OrgId, claimant: Claimant, role: Role) -> Member:
    """Make somebody a member with that role."""
    row = await connection.fetchrow(
        _JOIN, org_id, claimant.user_id, claimant.issuer, claimant.subject, claimant.email, role
    )
    return _member(_returned(row))


async def has_other_admins(connection: Connection, user_id: UserId) -> bool:
    """Return whether the organisation has an admin besides this user."""
    return bool(await connection.fetchval(_OTHER_ADMINS, user_id))


def _returned(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise AssertionError("INSERT ... RETURNING gives a row or raises")
    return row


def organization_in(row: asyncpg.Record) -> Organization:
    """Return the organisation whose columns a row holds."""
    return Organization(
        id=OrgId(row["id"]),
        slug=row["slug"],
        name=row["name"],
        created_at=row["created_at"],
        owner_id=row["owner_id"],
        suspended_at=row["suspended_at"],
        join_rule=JoinRule(row["join_rule"]),
        plan=Plan(
            requests_per_minute=row["requests_per_minute"],
            max_members=row["max_members"],
            max_upstreams=row["max_upstreams"],
            max_sessions=row["max_sessions"],
            max_sessions_per_user=row["max_sessions_per_user"],
        ),
        version=row["version"],
    )


def _workspace(row: asyncpg.Record) -> Workspace:
    return Workspace(
        id=WorkspaceId(row["id"]),
        org_id=OrgId(row["org_id"]),
        slug=row["slug"],
        name=row["name"],
        created_at=row["created_at"],
        version=row["version"],
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
        assigned_role=None if row["assigned_role"] is None else Role(row["assigned_role"]),
        removed_at=row["removed_at"],
        version=row["version"],
    )
