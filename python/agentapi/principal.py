"""Who calls: a frozen type that knows nothing of tokens, HTTP or storage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType
from uuid import UUID

__all__ = ["Bearer", "OrgId", "Principal", "Role", "SessionId", "UpstreamId", "UserId", "WorkspaceId"]

OrgId = NewType("OrgId", UUID)
UserId = NewType("UserId", UUID)
WorkspaceId = NewType("WorkspaceId", UUID)
UpstreamId = NewType("UpstreamId", UUID)
SessionId = NewType("SessionId", UUID)


class Role(StrEnum):
    """What a principal is within its organisation, from most to least trusted."""

    PLATFORM_ADMIN = "platform_admin"
    ORG_ADMIN = "org_admin"
    MEMBER = "member"
    VIEWER = "viewer"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Bearer:
    """Of which session a token of the gateway's own issuer says that it is; it may be good no more."""

    issuer: str
    organization: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Principal:
    """One authenticated user or agent, acting in exactly one organisation."""

    user_id: UserId
    org_id: OrgId
    org_slug: str
    role: Role
    issuer: str
    subject: str
    scopes: frozenset[str] = frozenset()
    key_id: UUID | None = None
    """The API key that it came with, if it came with one."""
    session_id: SessionId | None = None
    """The session that it acts in, if its token is one of a session."""
    workspace_id: WorkspaceId | None = None
    """The only workspace that the session is for, whatever its slug has become."""
