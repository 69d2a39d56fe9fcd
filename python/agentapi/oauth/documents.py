"""What the routes of connections, clients, providers and brought credentials answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from agentapi.oauth.brought.models import Standing
from agentapi.oauth.models import ClientAuth, ProviderName, Registration, Status
from agentapi.oauth.revoke import AtProvider
from agentapi.operation import Id, Time
from agentapi.upstreams.forms import FieldKind

__all__ = [
    "BegunDocument",
    "ClientDocument",
    "ClientPage",
    "ConnectionDocument",
    "ConnectionPage",
    "CredentialDocument",
    "CredentialFieldDocument",
    "ProviderDocument",
    "RevokedDocument",
]

_Url = Annotated[str, WithJsonSchema({"type": "string", "format": "uri"})]


class BegunDocument(TypedDict):
    """Where to send the browser: to the provider, or to the gateway's own page, which any browser may follow."""

    authorization_url: _Url
    expires_at: Time
    connect_url: _Url


class ConnectionDocument(TypedDict):
    """A user's connection to an upstream, without its tokens."""

    upstream: Id
    provider: ProviderName
    status: Status
    status_reason: str | None
    scopes: list[str]
    expires_at: Time | None
    created_at: Time
    updated_at: Time


class ConnectionPage(TypedDict):
    """One page of connections."""

    items: list[ConnectionDocument]
    next_cursor: str | None


class RevokedDocument(TypedDict):
    """Whether the provider took the tokens back, too."""

    at_provider: AtProvider


class ClientDocument(TypedDict):
    """The organisation's client at one authorization server, without its secret."""

    issuer: str
    client_id: str
    has_secret: bool
    auth_method: ClientAuth
    registration: Registration


class ClientPage(TypedDict):
    """One page of clients, and where providers are to send browsers back to."""

    items: list[ClientDocument]
    next_cursor: str | None
    redirect_uri: _Url


class ProviderDocument(TypedDict):
    """Which provider an upstream uses."""

    provider: ProviderName
    parameters: dict[str, str]
    scopes: list[str]


class CredentialFieldDocument(TypedDict):
    """One thing that an upstream asks each user for, and whether it is there; its value never comes out."""

    name: str
    label: str
    kind: FieldKind
    pattern: str | None
    min_length: int
    max_length: int
    help: str
    help_url: str | None
    is_set: bool


class CredentialDocument(TypedDict):
    """How a user's own credential for an upstream stands."""

    upstream: Id
    name: str
    status: Standing
    fields: list[CredentialFieldDocument]
    created_at: Time | None
    updated_at: Time | None
