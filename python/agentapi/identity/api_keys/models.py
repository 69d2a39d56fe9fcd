"""What is known of an API key, and what it grants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NewType
from uuid import UUID

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.principal import OrgId, Principal, Role, UserId, WorkspaceId

__all__ = [
    "API_READ",
    "API_WRITE",
    "KEY_ISSUER",
    "MCP_SCOPES",
    "SCOPES",
    "STREAM_S",
    "ApiKey",
    "KeyGrant",
    "KeyId",
    "Standing",
]

KeyId = NewType("KeyId", UUID)

KEY_ISSUER: Final = "urn:agentapi:api-keys"
"""Stands where a token has its issuer; no issuer may be called so."""

STREAM_S: Final = 300
"""Streams end this long after they were opened, so that none goes on for long with a credential that has ended."""

API_READ: Final = "api:read"
API_WRITE: Final = "api:write"
MCP_SCOPES: Final = ("mcp:prompts", "mcp:resources", "mcp:tools")
SCOPES: Final = (API_READ, API_WRITE, *MCP_SCOPES)
"""All that a key may be good for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A stored key."""

    org_id: OrgId
    id: KeyId
    name: str
    created_by: UserId
    user_id: UserId
    """Whom it acts as: its maker, or an agent whose id is that of the key."""
    role: Role
    scopes: frozenset[str]
    workspace_id: WorkspaceId | None
    """The only workspace that it is for."""
    workspace: str | None
    """That one's slug."""
    hash: bytes = field(repr=False)
    previous_hash: bytes | None = field(default=None, repr=False)
    """Of the key before the last rotation, while both are good."""
    previous_until: datetime | None = None
    created_at: datetime
    rotated_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    version: int = 1

    @property
    def is_agent(self) -> bool:
        """Whether it acts as an agent of its own rather than as its maker."""
        return self.user_id == self.id


@dataclass(frozen=True, slots=True)
class Standing:
    """A stored key, and what of others its grant depends on."""

    key: ApiKey
    org_slug: str
    issuer: str
    subject: str
    maker_role: Role
    requests_per_minute: int | None = None
    """Of the organisation's plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyGrant:
    """What a key that was verified grants; it is read like a verified token."""

    principal: Principal
    workspace: str | None
    expires_at: int
    """When streams that it opened end at the latest, in Unix seconds."""
    issuer: str = KEY_ISSUER

    @property
    def organization(self) -> str:
        """The slug of its organisation."""
        return self.principal.org_slug

    @property
    def scopes(self) -> frozenset[str]:
        """What it is good for."""
        return self.principal.scopes
