"""What a client may send about an upstream, checked field by field; every complaint names its field."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from agentapi.api_input import INVALID_BODY
from agentapi.errors import FieldError, InvalidRequestError
from agentapi.upstreams.models import Auth, Scope, Transport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentapi.upstreams.models import Upstream

__all__ = ["ConnectionTest", "UpstreamInput", "carries_credential", "check_input", "is_header_value"]

_SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
_TEXT = r"^[^\x00]*$"
"""PostgreSQL stores every character but one."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""Field names and values of RFC 9110, section 5, without the obsolete forms."""

_RESERVED_HEADERS = frozenset(
    {
        "accept", "connection", "content-length", "content-type", "cookie", "host", "last-event-id", "mcp-method",
        "mcp-name", "mcp-protocol-version", "mcp-session-id", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class UpstreamInput(BaseModel):
    """Body of a create or a replace."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    workspace: Annotated[str, Field(pattern=_SLUG, max_length=63)] = "main"
    name: Annotated[str, Field(pattern=_SLUG, max_length=32)]
    transport: Transport
    endpoint: Annotated[str, Field(max_length=2048)] | None = None
    command: Annotated[str, Field(max_length=64)] | None = None
    auth: Auth = Auth.NONE
    auth_header: Annotated[str, Field(max_length=64)] | None = None
    secret: Annotated[SecretStr, Field(max_length=8192)] | None = None
    scope: Scope = Scope.ORGANIZATION
    enabled: bool = True
    description: Annotated[str, Field(max_length=1000, pattern=_TEXT)] = ""


class ConnectionTest(BaseModel):
    """Body of a connection test: a stored configuration, or one that is not stored yet."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str | None = None
    configuration: UpstreamInput | None = None


def check_input(
    given: UpstreamInput,
    *,
    stored: Upstream | None,
    refusal: str | None,
    commands: Iterable[str],
) -> None:
    """Check what depends on more than one field.

    Args:
        given: The body.
        stored: What it replaces, or None for a new one.
        refusal: Why the address guard refuses the endpoint, or None where it does not.
        commands: Names of the allowed stdio commands.

    Raises:
        InvalidRequestError: All complaints at once.
    """
    complaints = [*_target(given, refusal, commands), *_credential(given, stored)]
    if stored is not None and given.scope is not stored.scope:
        complaints.append(FieldError("/scope", "The scope of a configuration cannot change; create another one."))
    if complaints:
        raise InvalidRequestError(INVALID_BODY, tuple(complaints))


def carries_credential(header: str) -> bool:
    """Return whether an upstream's credential may travel in ``header``: a field name that the transport leaves free."""
    return _HEADER_NAME.fullmatch(header) is not None and header.lower() not in _RESERVED_HEADERS


def is_header_value(text: str) -> bool:
    """Return whether ``text`` can be sent as it is in a header field (RFC 9110, section 5.5)."""
    return _HEADER_VALUE.fullmatch(text) is not None


def _target(given: UpstreamInput, refusal: str | None, commands: Iterable[str]) -> Iterable[FieldError]:
    if given.transport is Transport.STDIO:
        if given.endpoint is not None:
            yield FieldError("/endpoint", "A stdio server has no endpoint; name an allowed command instead.")
        allowed = sorted(commands)
        if given.command not in allowed:
            names = ", ".join(allowed) or "none"
            yield FieldError("/command", f"The platform admin allows these commands: {names}.")
        return
    if given.command is not None:
        yield FieldError("/command", f"A server reached by {given.transport} has no command.")
    if given.endpoint is None:
        yield FieldError("/endpoint", f"A server reached by {given.transport} needs an endpoint URL.")
    elif refusal is not None:
        yield FieldError("/endpoint", refusal)


def _credential(given: UpstreamInput, stored: Upstream | None) -> Iterable[FieldError]:
    if given.transport is Transport.STDIO and given.auth is not Auth.NONE:
        yield FieldError("/auth", "A stdio server takes its credential from the allowed command's environment.")
        return
    if given.auth_header is not None:
        if given.auth is not Auth.API_KEY:
            yield FieldError("/auth_header", "Only auth 'api_key' takes a header name.")
        elif not carries_credential(given.auth_header):
            yield FieldError("/auth_header", "This is not a header that can carry a credential.")
    yield from _secret(given, stored)


def _secret(given: UpstreamInput, stored: Upstream | None) -> Iterable[FieldError]:
    needed = given.auth in {Auth.BEARER, Auth.API_KEY}
    if given.secret is not None:
        if not needed:
            yield FieldError("/secret", f"Auth '{given.auth}' takes no secret.")
        elif not is_header_value(given.secret.get_secret_value()):
            yield FieldError("/secret", "A secret is visible ASCII without spaces at its ends.")
    elif needed:
        if "secret" in given.model_fields_set or stored is None or stored.secret is None:
            yield FieldError("/secret", f"Auth '{given.auth}' needs a secret.")
        elif _destination(given) != _destination(stored):
            # Whoever may edit must not thereby learn: a kept secret never follows to another address.
            yield FieldError("/secret", "Give the secret again: the stored one goes only where it was meant to go.")


def _destination(upstream: UpstreamInput | Upstream) -> tuple[object, ...]:
    return upstream.endpoint, upstream.transport, upstream.auth, upstream.auth_header
