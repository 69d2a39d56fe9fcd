"""What the routes of organisations answer."""

from __future__ import annotations

from typing_extensions import TypedDict

from agentapi.operation import Id, Slug, Time
from agentapi.principal import Role
from agentapi.tenancy.models import JoinRule

__all__ = [
    "InvitationDocument",
    "InvitationPage",
    "MemberDocument",
    "MemberPage",
    "NewInvitationDocument",
    "OrganizationDocument",
    "OrganizationPage",
    "WorkspaceDocument",
    "WorkspacePage",
]


class OrganizationDocument(TypedDict):
    """An organisation; a limit that is null is none."""

    id: Id
    slug: Slug
    name: str
    owner_id: Id | None
    suspended: bool
    join_rule: JoinRule
    requests_per_minute: int | None
    max_members: int | None
    max_upstreams: int | None
    max_sessions: int | None
    max_sessions_per_user: int | None
    created_at: Time
    version: int


class OrganizationPage(TypedDict):
    """One page of organisations."""

    items: list[OrganizationDocument]
    next_cursor: str | None


class WorkspaceDocument(TypedDict):
    """A workspace, and where MCP clients find it."""

    id: Id
    slug: Slug
    name: str
    mcp_url: str
    created_at: Time
    version: int


class WorkspacePage(TypedDict):
    """One page of workspaces."""

    items: list[WorkspaceDocument]
    next_cursor: str | None


class MemberDocument(TypedDict):
    """A member; ``version`` does not count when they were last seen."""

    id: Id
    issuer: str
    subject: str
    email: str | None
    role: Role
    assigned_role: Role | None
    created_at: Time
    last_seen_at: Time
    version: int


class MemberPage(TypedDict):
    """One page of members."""

    items: list[MemberDocument]
    next_cursor: str | None


class InvitationDocument(TypedDict):
    """An invitation that may still be taken."""

    id: Id
    role: Role
    email: str | None
    subject: str | None
    created_by: Id
    created_at: Time
    expires_at: Time


class NewInvitationDocument(InvitationDocument):
    """An invitation with its token, which is shown this once."""

    token: str
    accept_url: str


class InvitationPage(TypedDict):
    """One page of invitations."""

    items: list[InvitationDocument]
    next_cursor: str | None
