"""SQL of policies, toolsets and approvals.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the organisation and
hides what is about another user's private upstream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from agentapi.errors import ConflictError, NotFoundError
from agentapi.policy.models import Approval, ApprovalId, ApprovalState, StoredPolicy, Toolset, ToolsetId
from agentapi.policy.patterns import Patterns
from agentapi.policy.requests import PolicyInput
from agentapi.principal import OrgId, UpstreamId, UserId, WorkspaceId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentapi.principal import Principal
    from agentapi.storage.database import Connection
    from agentapi.upstreams.models import Upstream

__all__ = [
    "approval_revision",
    "decide_approval",
    "delete_toolset",
    "get_approval",
    "get_policy",
    "get_toolset",
    "insert_toolset",
    "known_definitions",
    "list_approvals",
    "list_toolsets",
    "put_policy",
    "record_definitions",
    "update_toolset",
]

_POLICY_COLUMNS = "document, version, updated_at, updated_by"
_GET_POLICY = f"SELECT {_POLICY_COLUMNS} FROM tool_policies WHERE workspace_id = $1"  # noqa: S608
_HOLD_POLICY = f"{_GET_POLICY} FOR NO KEY UPDATE"
_INSERT_POLICY = f"""
INSERT INTO tool_policies (org_id, workspace_id, document, updated_by) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, workspace_id) DO NOTHING
RETURNING {_POLICY_COLUMNS}
"""  # noqa: S608 - the columns are the constant above
_UPDATE_POLICY = f"""
UPDATE tool_policies SET document = $3, updated_by = $4, version = version + 1, updated_at = now()
WHERE org_id = $1 AND workspace_id = $2 AND version = $5
RETURNING {_POLICY_COLUMNS}
"""  # noqa: S608

_TOOLSET_COLUMNS = (
    "id, org_id, workspace_id, name, description, tools, prompts, resources, search_mode, version, created_by,"
    " created_at, updated_at"
)
_INSERT_TOOLSET = f"""
INSERT INTO toolsets ({_TOOLSET_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""  # noqa: S608
_GET_TOOLSET = f"SELECT {_TOOLSET_COLUMNS} FROM toolsets WHERE id = $1"  # noqa: S608
_HOLD_TOOLSET = f"{_GET_TOOLSET} FOR NO KEY UPDATE"
_PAGE_OF_TOOLSETS = f"""
SELECT {_TOOLSET_COLUMNS} FROM toolsets
WHERE workspace_id = $1 AND (name, id) > ($2, $3) ORDER BY name, id LIMIT $4
"""  # noqa: S608
_UPDATE_TOOLSET = f"""
UPDATE toolsets SET name = $3, description = $4, tools = $5, prompts = $6, resources = $7, search_mode = $8,
    version = version + 1, updated_at = now()
WHERE id = $1 AND version = $2
RETURNING {_TOOLSET_COLUMNS}
"""  # noqa: S608
_DELETE_TOOLSET = "DELETE FROM toolsets WHERE id = $1 RETURNING id"

_BUMP_REVISION = """
INSERT INTO tool_approval_revisions (org_id, workspace_id) VALUES ($1, $2)
ON CONFLICT (org_id, workspace_id) DO UPDATE SET revision = tool_approval_revisions.revision + 1
"""
_GET_REVISION = "SELECT revision FROM tool_approval_revisions WHERE workspace_id = $1"
_KNOWN_DEFINITIONS = """
SELECT upstream_id, tool, fingerprint, state FROM tool_approvals
WHERE workspace_id = $1 AND owner_id IS NOT DISTINCT FROM $2
"""
_RECORD_DEFINITIONS = """
INSERT INTO tool_approvals (id, org_id, workspace_id, upstream_id, owner_id, tool, fingerprint, definition, state)
SELECT met.id, $1, $2, $3, $4, met.tool, met.fingerprint, met.definition,
    (SELECT CASE WHEN bool_or(known.state = 'held') THEN 'held' WHEN count(*) > 0 THEN 'changed' ELSE $5::text END
     FROM tool_approvals known WHERE known.upstream_id = $3 AND known.tool = met.tool)
FROM unnest($6::uuid[], $7::text[], $8::bytea[], $9::text[]) AS met (id, tool, fingerprint, definition)
ON CONFLICT (org_id, upstream_id, tool, fingerprint) DO NOTHING
RETURNING tool, state
"""
_FORGET_SURPLUS = """
DELETE FROM tool_approvals WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY tool ORDER BY first_seen_at DESC, id) AS age FROM tool_approvals
        WHERE upstream_id = $1 AND tool = ANY($2::text[]) AND state <> 'approved' AND decided_at IS NULL
    ) undecided WHERE age > $3
)
"""
_APPROVAL_COLUMNS = (
    "a.id, a.workspace_id, a.upstream_id, u.name AS upstream, a.owner_id, a.tool, a.fingerprint, a.definition, a.state,"
    " a.first_seen_at, a.decided_by, a.decided_at"
)
_APPROVALS = f"""
SELECT {_APPROVAL_COLUMNS} FROM tool_approvals a
JOIN upstreams u ON u.org_id = a.org_id AND u.id = a.upstream_id
"""  # noqa: S608
_GET_APPROVAL = f"{_APPROVALS} WHERE a.id = $1"
_PAGE_OF_APPROVALS = f"""
{_APPROVALS}
WHERE a.workspace_id = $1 AND (a.tool, a.id) > ($2, $3) AND ($5::text IS NULL OR a.state = $5)
    AND (NOT $6::boolean OR a.owner_id IS NOT NULL)
ORDER BY a.tool, a.id LIMIT $4
"""
_DECIDE = "UPDATE tool_approvals SET state = $2, decided_by = $3, decided_at = now() WHERE id = $1"

_BEFORE_ALL = ("", UUID(int=0))
"""No name is empty, so every pair of name and id sorts behind this one."""
_MAX_UNDECIDED = 8
"""Definitions of one tool that wait for a decision; an upstream that never says the same twice must not fill a disk."""
_NO_TOOLSET = "There is no such toolset."
_CHANGED_MEANWHILE = "It was changed meanwhile; read it again and repeat the change."


async def get_policy(connection: Connection, workspace_id: WorkspaceId, *, hold: bool = False) -> StoredPolicy:
    """Return the policy of a workspace, or the empty one of version 0; ``hold`` keeps others from changing it."""
    row = await connection.fetchrow(_HOLD_POLICY if hold else _GET_POLICY, workspace_id)
    return StoredPolicy(PolicyInput()) if row is None else _policy(row)


async def put_policy(
    connection: Connection, principal: Principal, workspace_id: WorkspaceId, document: PolicyInput, *, over: int
) -> StoredPolicy:
    """Store ``document`` over version ``over`` of the workspace's policy.

    Raises:
        ConflictError: The policy is of another version by now.
    """
    arguments = (principal.org_id, workspace_id, document.model_dump_json(exclude_defaults=True), principal.user_id)
    if over == 0:
        row = await connection.fetchrow(_INSERT_POLICY, *arguments)
    else:
        row = await connection.fetchrow(_UPDATE_POLICY, *arguments, over)
    if row is None:
        raise ConflictError(_CHANGED_MEANWHILE)
    return _policy(row)


async def insert_toolset(connection: Connection, toolset: Toolset) -> None:
    """Store a new toolset.

    Raises:
        ConflictError: The workspace has one of that name.
    """
    try:
        await connection.execute(
            _INSERT_TOOLSET,
            toolset.id,
            toolset.org_id,
            toolset.workspace_id,
            toolset.name,
            toolset.description,
            toolset.tools.texts,
            toolset.prompts.texts,
            toolset.resources.texts,
            toolset.search_mode,
            toolset.version,
            toolset.created_by,
            toolset.created_at,
            toolset.updated_at,
        )
    except asyncpg.UniqueViolationError as error:
        raise _name_taken(toolset.name) from error


async def get_toolset(connection: Connection, toolset_id: ToolsetId, *, hold: bool = False) -> Toolset:
    """Return a toolset; ``hold`` keeps others from changing it until the transaction ends.

    Raises:
        NotFoundError: The organisation has none of that id.
    """
    row = await connection.fetchrow(_HOLD_TOOLSET if hold else _GET_TOOLSET, toolset_id)
    if row is None:
        raise NotFoundError(_NO_TOOLSET)
    return _toolset(row)


async def list_toolsets(
    connection: Connection, workspace_id: WorkspaceId, *, after: tuple[str, UUID] | None = None, limit: int
) -> list[Toolset]:
    """Return at most ``limit`` toolsets of a workspace by name and id, from behind the pair ``after``."""
    rows = await connection.fetch(_PAGE_OF_TOOLSETS, workspace_id, *(after or _BEFORE_ALL), limit)
    return [_toolset(row) for row in rows]


async def update_toolset(connection: Connection, toolset: Toolset) -> Toolset:
    """Store ``toolset`` over the version that it carries, and return it with the next one.

    Raises:
        ConflictError: It was changed since that version, or its new name is taken.
        NotFoundError: The organisation has none of that id.
    """
    try:
        row = await connection.fetchrow(
            _UPDATE_TOOLSET,
            toolset.id,
            toolset.version,
            toolset.name,
            toolset.description,
            toolset.tools.texts,
            toolset.prompts.texts,
            toolset.resources.texts,
            toolset.search_mode,
        )
    except asyncpg.UniqueViolationError as error:
        raise _name_taken(toolset.name) from error
    if row is not None:
        return _toolset(row)
    await get_toolset(connection, toolset.id)
    raise ConflictError(_CHANGED_MEANWHILE)


async def delete_toolset(connection: Connection, toolset_id: ToolsetId) -> None:
    """Remove a toolset.

    Raises:
        NotFoundError: The organisation has none of that id.
    """
    if await connection.fetchval(_DELETE_TOOLSET, toolset_id) is None:
        raise NotFoundError(_NO_TOOLSET)


async def approval_revision(connection: Connection, workspace_id: WorkspaceId) -> int:
    """Return the number that grows with every change to the workspace's approvals."""
    revision = await connection.fetchval(_GET_REVISION, workspace_id)
    return 0 if revision is None else int(revision)


async def known_definitions(
    connection: Connection, workspace_id: WorkspaceId, owner_id: UserId | None
) -> dict[tuple[UpstreamId, str], dict[bytes, ApprovalState]]:
    """Return how each definition of each tool stands, by upstream and stored name.

    Those of the organisation's upstreams where ``owner_id`` is None, else those of that user's private ones.
    """
    known: dict[tuple[UpstreamId, str], dict[bytes, ApprovalState]] = {}
    for row in await connection.fetch(_KNOWN_DEFINITIONS, workspace_id, owner_id):
        definitions = known.setdefault((UpstreamId(row["upstream_id"]), row["tool"]), {})
        definitions[row["fingerprint"]] = ApprovalState(row["state"])
    return known


async def record_definitions(
    connection: Connection,
    upstream: Upstream,
    met: Iterable[tuple[str, bytes, str | None]],
    *,
    first: ApprovalState,
) -> list[tuple[str, ApprovalState]]:
    """Record definitions of an upstream's tools and return those that nobody had recorded, with their state.

    A tool's first definition becomes ``first``, another one changed, or held where one of the tool is held. Whoever
    records waits for the one before, so that of two who meet a tool for the first time one is second.

    Args:
        connection: In a transaction of somebody who sees the upstream.
        upstream: Whose tools they are.
        met: Stored name, fingerprint and definition of each.
        first: The state of a tool's first definition.
    """
    entries = list(met)
    await connection.execute(_BUMP_REVISION, upstream.org_id, upstream.workspace_id)
    try:
        rows = await connection.fetch(
            _RECORD_DEFINITIONS,
            upstream.org_id,
            upstream.workspace_id,
            upstream.id,
            upstream.owner_id,
            first,
            [uuid4() for _ in entries],
            [tool for tool, _, _ in entries],
            [digest for _, digest, _ in entries],
            [definition for _, _, definition in entries],
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFoundError("There is no such upstream.") from None
    await connection.execute(_FORGET_SURPLUS, upstream.id, [tool for tool, _, _ in entries], _MAX_UNDECIDED)
    return [(row["tool"], ApprovalState(row["state"])) for row in rows]


async def list_approvals(
    connection: Connection,
    workspace_id: WorkspaceId,
    *,
    state: ApprovalState | None,
    private_only: bool,
    after: tuple[str, UUID] | None,
    limit: int,
) -> list[Approval]:
    """Return at most ``limit`` definitions of a workspace's tools by stored name and id, from behind ``after``."""
    rows = await connection.fetch(_PAGE_OF_APPROVALS, workspace_id, *(after or _BEFORE_ALL), limit, state, private_only)
    return [_approval(row) for row in rows]


async def get_approval(connection: Connection, approval_id: ApprovalId) -> Approval:
    """Return one definition of a tool.

    Raises:
        NotFoundError: There is none that the caller may see.
    """
    row = await connection.fetchrow(_GET_APPROVAL, approval_id)
    if row is None:
        raise NotFoundError("There is no such approval.")
    return _approval(row)


async def decide_approval(
    connection: Connection, principal: Principal, approval: Approval, state: ApprovalState
) -> None:
    """Store what ``principal`` decided about a definition."""
    await connection.execute(_BUMP_REVISION, principal.org_id, approval.workspace_id)
    await connection.execute(_DECIDE, approval.id, state, principal.user_id)


def _name_taken(name: str) -> ConflictError:
    return ConflictError(f"There is a toolset {name} in this workspace already.")


def _policy(row: asyncpg.Record) -> StoredPolicy:
    return StoredPolicy(
        document=PolicyInput.model_validate_json(row["document"]),
        version=row["version"],
        updated_at=row["updated_at"],
        updated_by=UserId(row["updated_by"]),
    )


def _toolset(row: asyncpg.Record) -> Toolset:
    return Toolset(
        id=ToolsetId(row["id"]),
        org_id=OrgId(row["org_id"]),
        workspace_id=WorkspaceId(row["workspace_id"]),
        name=row["name"],
        description=row["description"],
        tools=Patterns(row["tools"]),
        prompts=Patterns(row["prompts"]),
        resources=Patterns(row["resources"]),
        search_mode=row["search_mode"],
        version=row["version"],
        created_by=UserId(row["created_by"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _approval(row: asyncpg.Record) -> Approval:
    return Approval(
        id=ApprovalId(row["id"]),
        workspace_id=WorkspaceId(row["workspace_id"]),
        upstream_id=UpstreamId(row["upstream_id"]),
        upstream=row["upstream"],
        owner_id=None if row["owner_id"] is None else UserId(row["owner_id"]),
        tool=row["tool"],
        fingerprint=row["fingerprint"],
        definition=row["definition"],
        state=ApprovalState(row["state"]),
        first_seen_at=row["first_seen_at"],
        decided_by=None if row["decided_by"] is None else UserId(row["decided_by"]),
        decided_at=row["decided_at"],
    )
