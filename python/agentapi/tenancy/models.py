"""Organisations, their workspaces, their members."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType, Self
from uuid import UUID, uuid5

from agentapi.principal import UserId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentapi._core import VerifiedToken
    from agentapi.principal import OrgId, Role, WorkspaceId

__all__ = [
    "RESERVED",
    "UNLIMITED",
    "Claimant",
    "Invitation",
    "InvitationId",
    "JoinRule",
    "Joined",
    "Member",
    "Offer",
    "Organization",
    "Plan",
    "Workspace",
    "is_slug",
    "user_id_of",
]

InvitationId = NewType("InvitationId", UUID)

RESERVED: Final = frozenset(
    {
        "admin",
        "api",
        "connect",
        "current",
        "docs",
        "health",
        "join",
        "live",
        "mcp",
        "metrics",
        "new",
        "openapi",
        "platform",
        "ready",
        "settings",
        "status",
        "system",
        "well-known",
        "www",
    }
)
"""Slugs that nobody may take, since they read like parts of the gateway."""

_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_MAX_SLUG = 63
_USER_NAMESPACE = UUID("6f1f1a0e-6d0b-4d0e-9c5a-6f5d2a1c7b90")


class JoinRule(StrEnum):
    """How somebody becomes a member."""

    TOKEN = "token"  # noqa: S105 - a kind of rule
    """By the first token of an issuer whose rules give a role."""
    INVITATION = "invitation"
    """By an invitation alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an organisation may have of each; None is without a limit."""

    requests_per_minute: int | None = None
    max_members: int | None = None
    max_upstreams: int | None = None
    max_sessions: int | None = None
    """Sessions that live at once."""
    max_sessions_per_user: int | None = None


UNLIMITED: Final = Plan()


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant."""

    id: OrgId
    slug: str
    name: str
    created_at: datetime
    owner_id: UserId | None = None
    suspended_at: datetime | None = None
    join_rule: JoinRule = JoinRule.TOKEN
    plan: Plan = UNLIMITED
    version: int = 1


@dataclass(frozen=True, slots=True)
class Workspace:
    """A set of upstream servers that has a URL of its own."""

    id: WorkspaceId
    org_id: OrgId
    slug: str
    name: str
    created_at: datetime
    version: int = 1


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody that an organisation has seen: a subject of an issuer."""

    org_id: OrgId
    user_id: UserId
    issuer: str
    subject: str
    email: str | None
    role: Role
    created_at: datetime
    last_seen_at: datetime
    assigned_role: Role | None = None
    """What an admin or an invitation gave, over what tokens say."""
    removed_at: datetime | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class Invitation:
    """An offer of membership, good once; whoever has the token may take it, unless it names who."""

    id: InvitationId
    org_id: OrgId
    role: Role
    email: str | None
    subject: str | None
    created_by: UserId
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Claimant:
    """Somebody who may take an invitation: what their issuer says of them, and no more."""

    issuer: str
    subject: str
    email: str | None
    organization: str | None
    """The slug of the one that the issuer names."""

    @classmethod
    def of(cls, token: VerifiedToken) -> Self:
        """Return the owner of a token."""
        return cls(token.issuer, token.subject, token.email, token.organization)

    @property
    def user_id(self) -> UserId:
        """Their id, wherever they are a member."""
        return user_id_of(self.issuer, self.subject)


@dataclass(frozen=True, slots=True)
class Offer:
    """An invitation that may still be taken, as whoever has its link is told of it."""

    invitation: Invitation
    organization: Organization
    inviter: str | None
    """The e-mail address or subject of who made it, as far as the organisation has seen them."""

    def is_for(self, claimant: Claimant) -> bool:
        """Return whether the invitation is good for them: in their organisation, and for whom it names."""
        email, subject = self.invitation.email, self.invitation.subject
        if claimant.organization != self.organization.slug or subject not in {None, claimant.subject}:
            return False
        return email is None or (claimant.email is not None and email.lower() == claimant.email.lower())


@dataclass(frozen=True, slots=True)
class Joined:
    """Somebody's place in an organisation: what they are told once they have it."""

    organization: Organization
    role: Role
    workspaces: Sequence[Workspace]


def user_id_of(issuer: str, subject: str) -> UserId:
    """Return the id of a subject of an issuer: the same in every process and organisation (UUID version 5).

    The length of the issuer stands first, so no two pairs are written alike.
    """
    return UserId(uuid5(_USER_NAMESPACE, f"{len(issuer)}:{issuer}{subject}"))


def is_slug(text: str) -> bool:
    """Return whether ``text`` can be the slug of anything; what cannot need not be looked for."""
    return len(text) <= _MAX_SLUG and _SLUG.fullmatch(text) is not None
