"""SQL of the registry of upstream servers.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the
organisation and hides what belongs to another user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from agentapi.errors import ConflictError, NotFoundError
from agentapi.principal import OrgId, UpstreamId, UserId, WorkspaceId
from agentapi.upstreams.forms import CredentialForm
from agentapi.upstreams.models import Auth, ProtocolChoice, Scope, Transport, Upstream

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.storage.database import Connection

__all__ = [
    "delete_upstream",
    "find_upstream",
    "get_upstream",
    "hold_upstream",
    "insert_upstream",
    "list_for_workspace",
    "list_upstreams",
    "update_upstream",
]

_COLUMNS = (
    "id, org_id, workspace_id, name, transport, endpoint, command, auth, auth_header, secret, credential_form,"
    " scope, owner_id, enabled, description, version, created_by, created_at, updated_at, protocol"
)
_INSERT = f"""
INSERT INTO upstreams ({_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
"""  # noqa: S608 - the columns are the constant above
_GET = f"SELECT {_COLUMNS} FROM upstreams WHERE id = $1"  # noqa: S608
_HOLD = f"{_GET} FOR NO KEY UPDATE"
_PAGE_OF_ORGANIZATION = f"""
SELECT {_COLUMNS} FROM upstreams WHERE (name, id) > ($2, $3) ORDER BY name, id LIMIT $1
"""  # noqa: S608
_PAGE_OF_WORKSPACE = f"""
SELECT {_COLUMNS} FROM upstreams WHERE workspace_id = $4 AND (name, id) > ($2, $3) ORDER BY name, id LIMIT $1
"""  # noqa: S608
_HOLD_WORKSPACE = "SELECT FROM workspaces WHERE id = $1 FOR NO KEY UPDATE"
"""Two that take one name side by side would each wait for the other: an exclusion constraint lets both write first."""
_BEFORE_ALL = ("", UpstreamId(UUID(int=0)))
"""No name is empty, so every pair of name and id sorts behind this one."""

_LIST_FOR_WORKSPACE = f"""
SELECT {_COLUMNS} FROM upstreams WHERE workspace_id = $1 AND enabled ORDER BY name, id
"""  # noqa: S608
_UPDATE = f"""
UPDATE upstreams SET
    name = $3, transport = $4, endpoint = $5, command = $6, auth = $7, auth_header = $8, secret = $9,
    credential_form = $10, enabled = $11, description = $12, version = version + 1, updated_at = $13,
    protocol = $14
WHERE id = $1 AND version = $2
RETURNING {_COLUMNS}
"""  # noqa: S608
_FIND = f"SELECT {_COLUMNS} FROM upstreams WHERE workspace_id = $1 AND name = $2"  # noqa: S608
_DELETE = "DELETE FROM upstreams WHERE id = $1 RETURNING id"

_MISSING = "There is no such upstream."


async def insert_upstream(connection: Connection, upstream: Upstream) -> None:
    """Register an upstream.

    Raises:
        ConflictError: its name is taken in the workspace, for the whole organisation or for somebody who would see
            both. The message does not say whose the other one is.
        NotFoundError: there is no such workspace in the organisation.
    """
    await connection.execute(_HOLD_WORKSPACE, upstream.workspace_id)
    try:
        await connection.execute(
            _INSERT,
            upstream.id,
            upstream.org_id,
            upstream.workspace_id,
            upstream.name,
            upstream.transport,
            upstream.endpoint,
            upstream.command,
            upstream.auth,
            upstream.auth_header,
            upstream.secret,
            _form(upstream),
            upstream.scope,
            upstream.owner_id,
            upstream.enabled,
            upstream.description,
            upstream.version,
            upstream.created_by,
            upstream.created_at,
            upstream.updated_at,
            upstream.protocol,
        )
    except (asyncpg.UniqueViolationError, asyncpg.ExclusionViolationError) as error:
        raise _name_taken(upstream.name) from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError("There is no such workspace.") from error


async def get_upstream(connection: Connection, upstream_id: UpstreamId) -> Upstream:
    """Return an upstream that the caller may see.

    Raises:
        NotFoundError: there is none.
    """
    row = await connection.fetchrow(_GET, upstream_id)
    if row is None:
        raise NotFoundError(_MISSING)
    return _upstream(row)


async def hold_upstream(connection: Connection, upstream_id: UpstreamId) -> Upstream:
    """Return an upstream that the caller may see and nobody else changes until the transaction ends.

    Raises:
        NotFoundError: there is none.
    """
    row = await connection.fetchrow(_HOLD, upstream_id)
    if row is None:
        raise NotFoundError(_MISSING)
    return _upstream(row)


async def list_upstreams(
    connection: Connection,
    *,
    workspace_id: WorkspaceId | None = None,
    after: tuple[str, UpstreamId] | None = None,
    limit: int,
) -> list[Upstream]:
    """Return at most ``limit`` upstreams by name and id, from behind the pair ``after``.

    They are those of the workspace, or of the whole organisation where none is given.
    """
    arguments = (limit, *(after or _BEFORE_ALL))
    if workspace_id is None:
        rows = await connection.fetch(_PAGE_OF_ORGANIZATION, *arguments)
    else:
        rows = await connection.fetch(_PAGE_OF_WORKSPACE, *arguments, workspace_id)
    return [_upstream(row) for row in rows]


async def list_for_workspace(connection: Connection, workspace_id: WorkspaceId) -> list[Upstream]:
    """Return the enabled upstreams of a workspace that the caller sees, by name; no name occurs twice."""
    return [_upstream(row) for row in await connection.fetch(_LIST_FOR_WORKSPACE, workspace_id)]


async def find_upstream(connection: Connection, workspace_id: WorkspaceId, name: str) -> Upstream | None:
    """Return the upstream of that name in a workspace, enabled or not, if the caller sees one."""
    row = await connection.fetchrow(_FIND, workspace_id, name)
    return None if row is None else _upstream(row)


async def update_upstream(connection: Connection, upstream: Upstream, *, now: datetime) -> Upstream:
    """Store ``upstream`` over the version that it carries, and return it with the next one.

    Workspace, scope and owner are not changed: what belongs to whom is settled when it is registered.

    Raises:
        ConflictError: it was changed since that version, or its new name is taken.
        NotFoundError: there is none that the caller may see.
    """
    await connection.execute(_HOLD_WORKSPACE, upstream.workspace_id)
    try:
        row = await connection.fetchrow(
            _UPDATE,
            upstream.id,
            upstream.version,
            upstream.name,
            upstream.transport,
            upstream.endpoint,
            upstream.command,
            upstream.auth,
            upstream.auth_header,
            upstream.secret,
            _form(upstream),
            upstream.enabled,
            upstream.description,
            now,
            upstream.protocol,
        )
    except asyncpg.ExclusionViolationError as error:
        raise _name_taken(upstream.name) from error
    if row is not None:
        return _upstream(row)
    await get_upstream(connection, upstream.id)
    raise ConflictError("The upstream was changed meanwhile; read it again and repeat the change.")


async def delete_upstream(connection: Connection, upstream_id: UpstreamId) -> None:
    """Remove an upstream from the registry.

    Raises:
        NotFoundError: there is none that the caller may see.
    """
    if await connection.fetchval(_DELETE, upstream_id) is None:
        raise NotFoundError(_MISSING)


def _name_taken(name: str) -> ConflictError:
    return ConflictError(f"The name {name} is taken in this workspace.")


def _form(upstream: Upstream) -> str | None:
    form = upstream.credential_form
    return None if form is None else form.model_dump_json(exclude_defaults=True)


def _upstream(row: asyncpg.Record) -> Upstream:
    form = row["credential_form"]
    return Upstream(
        id=UpstreamId(row["id"]),
        org_id=OrgId(row["org_id"]),
        workspace_id=WorkspaceId(row["workspace_id"]),
        name=row["name"],
        transport=Transport(row["transport"]),
        endpoint=row["endpoint"],
        command=row["command"],
        protocol=ProtocolChoice(row["protocol"]),
        auth=Auth(row["auth"]),
        auth_header=row["auth_header"],
        secret=row["secret"],
        credential_form=None if form is None else CredentialForm.model_validate_json(form),
        scope=Scope(row["scope"]),
        owner_id=None if row["owner_id"] is None else UserId(row["owner_id"]),
        enabled=row["enabled"],
        description=row["description"],
        version=row["version"],
        created_by=UserId(row["created_by"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
