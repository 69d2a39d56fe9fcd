"""Authorization servers, clients, flows and connections as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NewType
from uuid import UUID

if TYPE_CHECKING:
    from datetime import datetime

    from pydantic import SecretStr

    from agentapi.principal import OrgId, UpstreamId, UserId

__all__ = [
    "AuthorizationServer",
    "Binding",
    "Client",
    "ClientAuth",
    "Connection",
    "ConnectionId",
    "Flow",
    "FlowId",
    "Grant",
    "ProviderName",
    "Registration",
    "Revocation",
    "Status",
    "Tokens",
]

FlowId = NewType("FlowId", UUID)
ConnectionId = NewType("ConnectionId", UUID)


class ProviderName(StrEnum):
    """Where the description of an authorization server comes from."""

    GITHUB = "github"
    GOOGLE = "google"
    ENTRA = "entra"
    AUTH0 = "auth0"
    OIDC = "oidc"
    """Any issuer with a discovery document."""
    MCP = "mcp"
    """The authorization metadata that the upstream itself publishes."""


class Revocation(StrEnum):
    """How a grant is taken back at the provider."""

    RFC7009 = "rfc7009"
    REFRESH_TOKENS = "refresh_tokens"
    """As RFC 7009 has it, for refresh tokens: of any other it says that it is done and does nothing."""
    GITHUB = "github"
    NONE = "none"


class Registration(StrEnum):
    """How the gateway became a client of an authorization server."""

    MANUAL = "manual"
    METADATA_DOCUMENT = "metadata_document"
    DYNAMIC = "dynamic"


class ClientAuth(StrEnum):
    """How the client authenticates at the token endpoint (RFC 7591, section 2)."""

    BASIC = "client_secret_basic"
    POST = "client_secret_post"
    NONE = "none"


class Status(StrEnum):
    """Whether a connection can be used."""

    ACTIVE = "active"
    RECONNECT_NEEDED = "reconnect_needed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationServer:
    """What is known of one authorization server. A flow keeps the one it began with to its end."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str | None = None
    registration_endpoint: str | None = None
    revocation: Revocation = Revocation.NONE
    announces_issuer: bool = False
    """Whether every authorization response carries ``iss`` (RFC 9207)."""
    takes_metadata_document: bool = False
    """Whether a client id may be the URL of a client's own metadata."""
    takes_resource: bool = False
    """Whether requests name the resource (RFC 8707); some providers refuse what they do not know."""
    auth_methods: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    """Scopes to ask for where nobody names any."""
    offline_scope: str | None = None
    """Scope without which no refresh token is given."""
    authorize_parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The gateway as a client of one issuer."""

    issuer: str
    client_id: str
    secret: SecretStr | None
    auth_method: ClientAuth
    registration: Registration
    redirect_uri: str | None = None
    """Set where the registration holds for this one alone."""
    secret_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Which provider an administrator chose for an upstream, and with what."""

    upstream_id: UpstreamId
    provider: ProviderName
    parameters: dict[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()
    version: int = 0
    """Of what is stored; 0 where that is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One authorization under way, from ``init`` until its callback takes it away."""

    id: FlowId
    org_id: OrgId
    user_id: UserId
    upstream_id: UpstreamId
    endpoint: str
    """Where the upstream was when the user agreed."""
    provider: ProviderName
    server: AuthorizationServer
    client_id: str
    verifier: SecretStr
    resource: str | None
    scopes: tuple[str, ...]
    return_to: str | None
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A successful answer of a token endpoint (RFC 6749, section 5.1)."""

    access_token: SecretStr
    refresh_token: SecretStr | None
    scopes: tuple[str, ...] | None
    """None where the answer does not name them: they are those that were asked for."""
    expires_in_s: int | None
    """None where the provider does not say: the token is used until it is refused."""
    id_token: SecretStr | None = None
    """For whoever signs in; a connection has no use for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a connection seals: the tokens, and everything that says where they may be sent."""

    access_token: SecretStr
    refresh_token: SecretStr | None
    client_id: str
    server: AuthorizationServer
    endpoint: str
    resource: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One user's grant for one upstream."""

    id: ConnectionId
    org_id: OrgId
    user_id: UserId
    upstream_id: UpstreamId
    provider: ProviderName
    sealed: bytes = field(repr=False)
    scopes: tuple[str, ...]
    status: Status
    status_reason: str | None = None
    expires_at: datetime | None
    generation: int = 1
    """Counts the grants that were stored: whoever refreshes names the one that it replaces."""
    refresh_begun_at: datetime | None = None
    """Set before a refresh is asked for and cleared with its outcome: if it stands, the outcome is unknown."""
    refresh_failures: int = 0
    refresh_not_before: datetime | None = None
    created_at: datetime
    updated_at: datetime
