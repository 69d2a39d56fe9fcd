"""What the routes of upstream servers answer."""

from __future__ import annotations

from typing import Annotated, Any

from typing_extensions import TypedDict

from agentapi.operation import DumpOf, Id, Slug, Time
from agentapi.upstreams.forms import CredentialForm
from agentapi.upstreams.models import Auth, ProtocolChoice, Scope, Transport

__all__ = ["ConfigurationDocument", "ConfigurationPage"]


class ConfigurationDocument(TypedDict):
    """An upstream server, without its secret."""

    id: Id
    workspace: Slug
    name: Slug
    transport: Transport
    endpoint: str | None
    command: str | None
    protocol: ProtocolChoice
    auth: Auth
    auth_header: str | None
    credential_form: Annotated[dict[str, Any], DumpOf(CredentialForm)] | None
    has_secret: bool
    scope: Scope
    enabled: bool
    description: str
    version: int
    created_at: Time
    updated_at: Time


class ConfigurationPage(TypedDict):
    """One page of upstream servers."""

    items: list[ConfigurationDocument]
    next_cursor: str | None
