"""What a client may send about an upstream, checked field by field; every complaint names its field."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from agentapi.api_input import INVALID_BODY
from agentapi.errors import FieldError, InvalidRequestError
from agentapi.upstreams.forms import CredentialForm, form_complaints
from agentapi.upstreams.headers import carries_credential, is_header_value
from agentapi.upstreams.models import RESERVED_NAME, Auth, ProtocolChoice, Scope, Transport

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from agentapi.upstreams.models import Upstream

__all__ = ["ConnectionTest", "UpstreamInput", "check_input"]

_SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
_TEXT = r"^[^\x00]*$"
"""PostgreSQL stores every character but one."""


_URL = re.compile(r"""[^\s\x00-\x20\x7f#"<>\\^`{|}]+""")
"""What a URL may hold (RFC 3986, section 2; an international host name may come as it is spoken). A fragment is never
sent, and other characters would be escaped without a word, so that not what is stored would be requested."""


class UpstreamInput(BaseModel):
    """Body of a create or a replace."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    workspace: Annotated[str, Field(pattern=_SLUG, max_length=63)] = "main"
    name: Annotated[str, Field(pattern=_SLUG, max_length=32)]
    transport: Transport
    endpoint: Annotated[str, Field(max_length=2048)] | None = None
    command: Annotated[str, Field(max_length=64)] | None = None
    protocol: ProtocolChoice = ProtocolChoice.AUTO
    auth: Auth = Auth.NONE
    auth_header: Annotated[str, Field(max_length=64)] | None = None
    secret: Annotated[SecretStr, Field(max_length=8192)] | None = None
    credential_form: CredentialForm | None = None
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
    commands: Mapping[str, Collection[str]],
) -> None:
    """Check what depends on more than one field.

    Args:
        given: The body.
        stored: What it replaces, or None for a new one.
        refusal: Why the address guard refuses the endpoint, or None where it does not.
        commands: The allowed stdio commands, each with the variables that users may bring to it.

    Raises:
        InvalidRequestError: All complaints at once.
    """
    complaints = [
        *_name(given, stored),
        *_target(given, refusal, commands),
        *_credential(given, stored),
        *_form(given, commands),
    ]
    if stored is not None and given.scope is not stored.scope:
        complaints.append(FieldError("/scope", "The scope of a configuration cannot change; create another one."))
    if complaints:
        raise InvalidRequestError(INVALID_BODY, tuple(complaints))


def _name(given: UpstreamInput, stored: Upstream | None) -> Iterable[FieldError]:
    # One that was called so before the name was reserved may still be changed.
    if given.name == RESERVED_NAME and (stored is None or stored.name != RESERVED_NAME):
        yield FieldError("/name", "This name is the gateway's own; choose another one.")


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
    elif _URL.fullmatch(given.endpoint) is None:
        yield FieldError(
            "/endpoint", "The endpoint URL has a fragment (#), a space, or another character that must be escaped."
        )
    if given.transport is Transport.SSE and given.protocol is ProtocolChoice.MODERN:
        yield FieldError("/protocol", "HTTP+SSE belongs to the older revisions; a modern server is reached by http.")


def _credential(given: UpstreamInput, stored: Upstream | None) -> Iterable[FieldError]:
    if given.transport is Transport.STDIO and given.auth not in {Auth.NONE, Auth.USER}:
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


def _form(given: UpstreamInput, commands: Mapping[str, Collection[str]]) -> Iterable[FieldError]:
    if (given.auth is Auth.USER) is not (given.credential_form is not None):
        yield FieldError("/credential_form", "Auth 'user' needs a form, and no other takes one.")
    elif given.credential_form is not None:
        yield from form_complaints(
            given.credential_form,
            is_command=given.transport is Transport.STDIO,
            endpoint=given.endpoint,
            variables=commands.get(given.command or "", ()),
        )


def _destination(upstream: UpstreamInput | Upstream) -> tuple[object, ...]:
    return upstream.endpoint, upstream.transport, upstream.auth, upstream.auth_header
