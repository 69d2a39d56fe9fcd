"""A session, what it may do, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from agentapi.identity.permissions import within

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from agentapi.identity.api_keys.models import KeyId
    from agentapi.principal import OrgId, Role, SessionId, UserId, WorkspaceId
    from agentapi.prompts.models import Value

__all__ = ["EndReason", "Session", "SessionToken", "Standing", "Started", "Wish"]


class EndReason(StrEnum):
    """Why a session lives no more."""

    ENDED = "ended"
    """Its user or an admin ended it."""
    IDLE = "idle"
    EXPIRED = "expired"
    QUOTA = "quota"
    """Its directory held more than it may."""
    KEY_REVOKED = "key_revoked"
    MEMBER_REMOVED = "member_removed"
    WORKSPACE_DELETED = "workspace_deleted"
    ORGANIZATION_DELETED = "organization_deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody asks of a new session; what is None is for the gateway to choose."""

    workspace: str
    name: str = ""
    role: Role | None = None
    scopes: frozenset[str] | None = None
    variables: Mapping[str, Value] = field(default_factory=dict)
    lifetime: timedelta | None = None
    idle: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A stored session."""

    org_id: OrgId
    id: SessionId
    user_id: UserId
    """Whom it acts for."""
    workspace: str
    """The slug of the only workspace that it is for."""
    key_id: KeyId | None = None
    """The API key that it was made with; where that ends, it does nothing any more."""
    name: str
    role: Role
    scopes: frozenset[str]
    idle: timedelta
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    end_reason: EndReason | None = None

    @property
    def idle_at(self) -> datetime:
        """When it ends unless it is used before."""
        return self.last_used_at + self.idle

    def over(self, now: datetime) -> EndReason | None:
        """Return why it lives no more, whether that was written down yet or not."""
        if self.end_reason is not None:
            return self.end_reason
        if self.expires_at <= now:
            return EndReason.EXPIRED
        return EndReason.IDLE if self.idle_at <= now else None


@dataclass(frozen=True, slots=True)
class Standing:
    """A stored session, and what of others its use depends on."""

    session: Session
    workspace_id: WorkspaceId
    org_slug: str
    issuer: str
    """Of the user that it acts for, as the subject is."""
    subject: str
    user_role: Role
    key_revoked: bool
    key_expires_at: datetime | None
    key_role: Role | None
    """Of the key that it was made with, as the role of whoever made that key is."""
    key_maker_role: Role | None

    def refusal(self, now: datetime) -> str | None:
        """Return why the session may do nothing although it has not ended: what it rests on carries it no more."""
        if self.key_revoked or (self.key_expires_at is not None and self.key_expires_at <= now):
            return "session_of_ended_api_key"
        if self.key_role is not None and (
            self.key_maker_role is None or not within(self.key_role, self.key_maker_role)
        ):
            return "session_of_api_key_wider_than_its_maker"
        return None if within(self.session.role, self.user_role) else "session_wider_than_its_user"


@dataclass(frozen=True, slots=True)
class SessionToken:
    """An access token of a session."""

    text: str = field(repr=False)
    expires_at: datetime
    mcp_url: str
    """Where it is good, and nowhere else (RFC 8707)."""


@dataclass(frozen=True, slots=True)
class Started:
    """A new session with all that an agent needs to begin."""

    session: Session
    token: SessionToken
    prompt: str
