"""The bodies of the OAuth endpoints, as clients send them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from agentapi.oauth.models import ClientAuth, ProviderName

__all__ = ["ClientInput", "InitInput", "ProviderInput", "WhichUpstream"]

_Scope = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,256}$")]
_Scopes = Annotated[tuple[_Scope, ...], Field(max_length=100)]
_Text = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", max_length=2048)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class WhichUpstream(_Strict):
    """Which upstream a request is about."""

    upstream: str


class InitInput(WhichUpstream):
    """What to connect to."""

    return_to: str | None = None
    scopes: _Scopes = ()
    """Needed besides those that the connection has."""


class ProviderInput(_Strict):
    """Which provider an upstream uses."""

    provider: ProviderName
    parameters: Annotated[dict[str, _Text], Field(max_length=8)] = {}
    scopes: _Scopes = ()


class ClientInput(_Strict):
    """The organisation's client at one authorization server; the secret is write-only."""

    issuer: _Text
    client_id: _Text
    client_secret: Annotated[SecretStr, Field(min_length=1, max_length=4096)] | None = None
    auth_method: Literal[ClientAuth.BASIC, ClientAuth.POST] = ClientAuth.POST
