"""SQL of prompts and their versions.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the organisation, hides
what is another user's, and lets global prompts be read by all and written in the deployment's context alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from agentapi.errors import ConflictError, NotFoundError
from agentapi.principal import OrgId, UserId, WorkspaceId
from agentapi.prompts.models import Content, Prompt, PromptId, PromptVersion, Scope
from agentapi.prompts.requests import VARIABLES, VariableInput

if TYPE_CHECKING:
    from agentapi.storage.database import Connection

__all__ = [
    "count",
    "delete",
    "get",
    "get_version",
    "hold",
    "insert",
    "list_global",
    "list_tenant",
    "page",
    "page_of_versions",
    "update",
]

_CONTENT = "text, variables, priority, description, enabled"
_COLUMNS = (
    f"id, org_id, workspace_id, owner_id, name, {_CONTENT}, version, created_by, created_at, updated_by, updated_at"
)
_INSERT = f"""
INSERT INTO prompts ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""  # noqa: S608 - the columns are the constants above
_GET = f"SELECT {_COLUMNS} FROM prompts WHERE (org_id = $1 OR org_id IS NULL) AND id = $2"  # noqa: S608
_PAGE = f"""
SELECT {_COLUMNS} FROM prompts
WHERE (org_id = $1 OR org_id IS NULL) AND (name, id) > ($2, $3) ORDER BY name, id LIMIT $4
"""  # noqa: S608
_GLOBAL = f"SELECT {_COLUMNS} FROM prompts WHERE org_id IS NULL AND enabled"  # noqa: S608
_OF_TENANT = f"""
SELECT {_COLUMNS} FROM prompts WHERE org_id = $1 AND (workspace_id IS NULL OR workspace_id = $2) AND enabled
"""  # noqa: S608
_COUNT = "SELECT count(*) FROM prompts WHERE org_id = $1 OR ($1::uuid IS NULL AND org_id IS NULL)"
_SAME_ORG = "(org_id = $2 OR ($2::uuid IS NULL AND org_id IS NULL))"
_HOLD = f"SELECT version FROM prompts WHERE id = $1 AND {_SAME_ORG} FOR NO KEY UPDATE"  # noqa: S608
_UPDATE = f"""
UPDATE prompts SET text = $4, variables = $5, priority = $6, description = $7, enabled = $8, updated_by = $9,
    version = version + 1, updated_at = now()
WHERE id = $1 AND {_SAME_ORG} AND version = $3
RETURNING {_COLUMNS}
"""  # noqa: S608
_DELETE = f"DELETE FROM prompts WHERE id = $1 AND {_SAME_ORG} RETURNING id"  # noqa: S608

_VERSION_COLUMNS = f"version, {_CONTENT}, updated_by, updated_at"
_KEEP = f"""
INSERT INTO prompt_versions (org_id, prompt_id, {_VERSION_COLUMNS})
SELECT org_id, id, {_VERSION_COLUMNS} FROM prompts WHERE id = $1 AND {_SAME_ORG}
"""  # noqa: S608
_PRUNE = f"DELETE FROM prompt_versions WHERE prompt_id = $1 AND {_SAME_ORG} AND version <= $3"  # noqa: S608
_PAGE_OF_VERSIONS = f"""
SELECT {_VERSION_COLUMNS} FROM prompt_versions WHERE prompt_id = $1 AND {_SAME_ORG} AND version < $3
ORDER BY version DESC LIMIT $4
"""  # noqa: S608

_BEFORE_ALL = ("", UUID(int=0))
_KEPT_VERSIONS = 100
_LAST = 2**63 - 1
_NO_PROMPT = "There is no such prompt."


async def insert(connection: Connection, prompt: Prompt) -> None:
    """Store a new prompt and its first version.

    Raises:
        ConflictError: The name is taken where the prompt would hold.
        NotFoundError: Its workspace is gone.
    """
    try:
        await connection.execute(
            _INSERT,
            prompt.id,
            prompt.org_id,
            prompt.workspace_id,
            prompt.owner_id,
            prompt.name,
            *_values(prompt.content),
            prompt.version,
            prompt.created_by,
            prompt.created_at,
            prompt.updated_by,
            prompt.updated_at,
        )
    except asyncpg.UniqueViolationError as error:
        raise ConflictError(f"There is a prompt {prompt.name} of this scope already.") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError("There is no such workspace.") from error
    await connection.execute(_KEEP, prompt.id, prompt.org_id)


async def get(connection: Connection, org_id: OrgId, prompt_id: PromptId) -> Prompt:
    """Return a prompt of the organisation or of the deployment.

    Raises:
        NotFoundError: There is none of that id, or it is another user's.
    """
    row = await connection.fetchrow(_GET, org_id, prompt_id)
    if row is None:
        raise NotFoundError(_NO_PROMPT)
    return _prompt(row)


async def page(
    connection: Connection, org_id: OrgId, *, after: tuple[str, UUID] | None = None, limit: int
) -> list[Prompt]:
    """Return at most ``limit`` prompts by name and id, global ones among them, from behind the pair ``after``."""
    return [_prompt(row) for row in await connection.fetch(_PAGE, org_id, *(after or _BEFORE_ALL), limit)]


async def list_global(connection: Connection) -> list[Prompt]:
    """Return every global prompt that is on."""
    return [_prompt(row) for row in await connection.fetch(_GLOBAL)]


async def list_tenant(connection: Connection, org_id: OrgId, workspace_id: WorkspaceId) -> list[Prompt]:
    """Return every prompt that is on and holds in a workspace for the user of the transaction, but for global ones."""
    return [_prompt(row) for row in await connection.fetch(_OF_TENANT, org_id, workspace_id)]


async def count(connection: Connection, org_id: OrgId | None) -> int:
    """Return how many prompts of the organisation the user sees; without one, how many are global."""
    return int(await connection.fetchval(_COUNT, org_id))


async def hold(connection: Connection, prompt: Prompt) -> int:
    """Return the version of a prompt that nobody else changes until the transaction ends.

    Raises:
        NotFoundError: It is gone.
    """
    version = await connection.fetchval(_HOLD, prompt.id, prompt.org_id)
    if version is None:
        raise NotFoundError(_NO_PROMPT)
    return int(version)


async def update(connection: Connection, stored: Prompt, content: Content, by: UserId) -> Prompt:
    """Store ``content`` as the version behind that of ``stored``.

    Raises:
        ConflictError: The prompt is of another version by now, or gone.
    """
    row = await connection.fetchrow(_UPDATE, stored.id, stored.org_id, stored.version, *_values(content), by)
    if row is None:
        raise ConflictError("It was changed meanwhile; read it again and repeat the change.")
    updated = _prompt(row)
    await connection.execute(_KEEP, updated.id, updated.org_id)
    await connection.execute(_PRUNE, updated.id, updated.org_id, updated.version - _KEPT_VERSIONS)
    return updated


async def delete(connection: Connection, prompt: Prompt) -> None:
    """Remove a prompt and its versions.

    Raises:
        NotFoundError: It is gone.
    """
    await connection.execute(_PRUNE, prompt.id, prompt.org_id, _LAST)
    if await connection.fetchval(_DELETE, prompt.id, prompt.org_id) is None:
        raise NotFoundError(_NO_PROMPT)


async def page_of_versions(
    connection: Connection, prompt: Prompt, *, before: int | None, limit: int
) -> list[PromptVersion]:
    """Return at most ``limit`` versions of a prompt, the newest first, from before the version ``before``."""
    rows = await connection.fetch(_PAGE_OF_VERSIONS, prompt.id, prompt.org_id, before or _LAST, limit)
    return [PromptVersion(row["version"], _content(row), UserId(row["updated_by"]), row["updated_at"]) for row in rows]


async def get_version(connection: Connection, prompt: Prompt, version: int) -> PromptVersion:
    """Return one version of a prompt.

    Raises:
        NotFoundError: There is none of that number, or it is older than those that are kept.
    """
    found = await page_of_versions(connection, prompt, before=version + 1, limit=1) if version < _LAST else []
    if not found or found[0].version != version:
        raise NotFoundError("There is no such version of the prompt.")
    return found[0]


def _values(content: Content) -> tuple[str, str, int, str, bool]:
    variables = VARIABLES.dump_json(tuple(map(VariableInput.of, content.variables)), exclude_defaults=True).decode()
    return content.text, variables, content.priority, content.description, content.enabled


def _content(row: asyncpg.Record) -> Content:
    variables = tuple(given.variable() for given in VARIABLES.validate_json(row["variables"]))
    return Content(row["text"], variables, row["priority"], row["description"], row["enabled"])


def _prompt(row: asyncpg.Record) -> Prompt:
    org_id, workspace_id, owner_id = row["org_id"], row["workspace_id"], row["owner_id"]
    return Prompt(
        id=PromptId(row["id"]),
        org_id=None if org_id is None else OrgId(org_id),
        scope=_scope(row),
        workspace_id=None if workspace_id is None else WorkspaceId(workspace_id),
        owner_id=None if owner_id is None else UserId(owner_id),
        name=row["name"],
        content=_content(row),
        version=row["version"],
        created_by=UserId(row["created_by"]),
        created_at=row["created_at"],
        updated_by=UserId(row["updated_by"]),
        updated_at=row["updated_at"],
    )


def _scope(row: asyncpg.Record) -> Scope:
    if row["org_id"] is None:
        return Scope.GLOBAL
    if row["owner_id"] is not None:
        return Scope.USER
    return Scope.ORGANIZATION if row["workspace_id"] is None else Scope.WORKSPACE
