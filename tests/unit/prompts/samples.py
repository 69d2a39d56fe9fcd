"""Prompts to compose."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from agentapi.principal import OrgId, UserId, WorkspaceId
from agentapi.prompts.models import Content, Prompt, PromptId, Scope, Variable

__all__ = ["prompt"]

_THEN = datetime(2026, 11, 22, tzinfo=UTC)
_ORG = OrgId(UUID(int=1))
_WORKSPACE = WorkspaceId(UUID(int=2))
_USER = UserId(UUID(int=3))


def prompt(
    text: str,
    scope: Scope = Scope.ORGANIZATION,
    *,
    name: str = "rules",
    priority: int = 0,
    variables: tuple[Variable, ...] = (),
) -> Prompt:
    return Prompt(
        id=PromptId(uuid4()),
        org_id=None if scope is Scope.GLOBAL else _ORG,
        scope=scope,
        workspace_id=_WORKSPACE if scope is Scope.WORKSPACE else None,
        owner_id=_USER if scope is Scope.USER else None,
        name=name,
        content=Content(text, variables, priority),
        version=1,
        created_by=_USER,
        created_at=_THEN,
        updated_by=_USER,
        updated_at=_THEN,
    )
