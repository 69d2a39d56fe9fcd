"""An upstream MCP server as an organisation has registered it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.principal import OrgId, UpstreamId, UserId, WorkspaceId
    from agentapi.upstreams.forms import CredentialForm

__all__ = ["RESERVED_NAME", "Auth", "ProtocolChoice", "Scope", "Transport", "Upstream", "secret_aad"]

RESERVED_NAME: Final = "agentapi"
"""What no upstream is called: names that begin with it are the gateway's own."""


class Transport(StrEnum):
    """How the upstream is spoken to."""

    HTTP = "http"
    SSE = "sse"
    STDIO = "stdio"


class ProtocolChoice(StrEnum):
    """In which era of the protocol the upstream is spoken to."""

    AUTO = "auto"
    """It is asked what it speaks."""
    MODERN = "modern"
    LEGACY = "legacy"


class Auth(StrEnum):
    """Which credential the upstream wants."""

    NONE = "none"
    BEARER = "bearer"
    API_KEY = "api_key"
    OAUTH = "oauth"
    USER = "user"
    """Each user's own, asked for by the upstream's form."""


class Scope(StrEnum):
    """Who sees the upstream: everybody in the organisation, or its owner alone."""

    ORGANIZATION = "organization"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One registered server. ``secret`` is sealed with ``secret_aad``."""

    id: UpstreamId
    org_id: OrgId
    workspace_id: WorkspaceId
    name: str
    transport: Transport
    endpoint: str | None = None
    """URL; set unless the transport is stdio."""
    command: str | None = None
    """Name of an allowed command; set if the transport is stdio."""
    protocol: ProtocolChoice = ProtocolChoice.AUTO
    auth: Auth = Auth.NONE
    auth_header: str | None = None
    secret: bytes | None = field(default=None, repr=False)
    credential_form: CredentialForm | None = None
    """What each user is asked for; set if auth is user."""
    scope: Scope = Scope.ORGANIZATION
    owner_id: UserId | None = None
    """Set if the scope is user."""
    enabled: bool = True
    description: str = ""
    version: int = 1
    created_by: UserId
    created_at: datetime
    updated_at: datetime

    @property
    def pinned_era(self) -> Era | None:
        """The only era in which it is spoken to; None where it is asked."""
        if self.transport is Transport.SSE:
            return Era.LEGACY
        return None if self.protocol is ProtocolChoice.AUTO else Era(self.protocol.value)


def secret_aad(org_id: OrgId, upstream_id: UpstreamId) -> bytes:
    """Return what a sealed secret is bound to, so that it opens nowhere else: table, tenant, row."""
    return f"upstreams.secret/{org_id}/{upstream_id}".encode()
