"""What the routes of organisations take."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentapi.principal import Role
from agentapi.tenancy.models import RESERVED, JoinRule, Plan

__all__ = [
    "AcceptInput",
    "InvitationInput",
    "NewOrganizationInput",
    "OrganizationInput",
    "PlatformInput",
    "RoleInput",
    "TransferInput",
    "WorkspaceInput",
]

_MAX_COUNT = 1_000_000


def _unreserved(slug: str) -> str:
    if slug in RESERVED:
        raise ValueError("the slug is reserved")
    return slug


Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63), AfterValidator(_unreserved)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Given = Literal[Role.ORG_ADMIN, Role.MEMBER, Role.VIEWER, Role.AGENT]
"""A role that an organisation gives; that of a platform admin comes from the deployment's own settings alone."""
_Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
_CountOrZero = Annotated[int, Field(ge=0, le=_MAX_COUNT)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class WorkspaceInput(_Strict):
    """Body of a workspace."""

    slug: Slug
    name: Name


class OrganizationInput(_Strict):
    """What an admin may change of the organisation."""

    slug: Slug
    name: Name
    join_rule: JoinRule = JoinRule.TOKEN


class TransferInput(_Strict):
    """Who is to own the organisation."""

    user_id: UUID


class RoleInput(_Strict):
    """The role of a member; null leaves it to their token."""

    role: Given | None


class InvitationInput(_Strict):
    """Body of an invitation."""

    role: Given = Role.MEMBER
    email: Annotated[str, Field(min_length=3, max_length=320, pattern=r"^[^\s@]+@[^\s@]+$")] | None = None
    subject: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    expires_in_s: Annotated[int, Field(ge=60, le=30 * 86_400)] = 7 * 86_400


class AcceptInput(_Strict):
    """The token of an invitation."""

    token: Annotated[str, Field(max_length=128)]


class PlatformInput(_Strict):
    """What the platform admin decides of an organisation."""

    suspended: bool = False
    owner_id: UUID | None = None
    requests_per_minute: _Count | None = None
    max_members: _Count | None = None
    max_upstreams: _CountOrZero | None = None
    max_sessions: _CountOrZero | None = None
    max_sessions_per_user: _CountOrZero | None = 20

    def plan(self) -> Plan:
        """Return the plan that it sets."""
        return Plan(
            requests_per_minute=self.requests_per_minute,
            max_members=self.max_members,
            max_upstreams=self.max_upstreams,
            max_sessions=self.max_sessions,
            max_sessions_per_user=self.max_sessions_per_user,
        )


class NewOrganizationInput(PlatformInput):
    """Body of a new organisation."""

    slug: Slug
    name: Name
