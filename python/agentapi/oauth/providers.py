"""The providers that publish no authorization metadata for MCP, and generic OpenID Connect, as data.

docs/reference/oauth-providers.md names the documents that the presets were written from, and that the stand-ins of the
tests answer by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agentapi.errors import FieldError, InvalidRequestError
from agentapi.oauth.models import AuthorizationServer, ClientAuth, ProviderName, Revocation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentapi.oauth.models import Binding

__all__ = ["PRESETS", "Preset", "check_parameters", "known_server", "offline_scopes"]

_HOST: Final = re.compile(
    r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?)+(?::\d{1,5})?"
)
_TENANT: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,126}[A-Za-z0-9])?")
_TEXT: Final = re.compile(r"[\x21-\x7e]{1,512}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One provider. ``{domain}`` and ``{tenant}`` in a URL stand for what the binding gives."""

    base: str
    issuer: str
    authorization_path: str
    token_path: str
    token_base: str | None = None
    """Where the token and revocation endpoints are, if not at ``base``."""
    revocation_path: str | None = None
    revocation_base: str | None = None
    revocation: Revocation = Revocation.NONE
    required: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    optional: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    """Parameters of the binding, and what their values look like."""
    scopes: tuple[str, ...] = ()
    offline_scope: str | None = None
    authorize_parameters: tuple[tuple[str, str], ...] = ()
    auth_methods: tuple[ClientAuth, ...] = (ClientAuth.POST,)


PRESETS: Final[Mapping[ProviderName, Preset]] = MappingProxyType(
    {
        # Answers errors with status 200 and, unless asked for JSON, as a form; scopes come separated by commas. The
        # tokens of an OAuth app do not expire; those of a GitHub app do, and its refresh tokens rotate.
        ProviderName.GITHUB: Preset(
            base="https://github.com/login/oauth",
            issuer="https://github.com/login/oauth",
            authorization_path="/authorize",
            token_path="/access_token",  # noqa: S106 - a path
            revocation_base="https://api.github.com",
            revocation_path="/applications/{client_id}/grant",
            revocation=Revocation.GITHUB,
        ),
        # A refresh token comes with the first consent alone, and only for offline access; asking for consent again
        # makes every connection a first one.
        ProviderName.GOOGLE: Preset(
            base="https://accounts.google.com",
            issuer="https://accounts.google.com",
            authorization_path="/o/oauth2/v2/auth",
            token_base="https://oauth2.googleapis.com",  # noqa: S106 - an address
            token_path="/token",  # noqa: S106 - a path
            revocation_path="/revoke",
            revocation=Revocation.RFC7009,
            scopes=("openid", "email"),
            authorize_parameters=(("access_type", "offline"), ("prompt", "consent")),
        ),
        # The tenant is part of the path; "organizations", "consumers" and "common" take accounts of several. The v2
        # endpoints take scopes of one resource at a time and refuse the parameter "resource". There is no endpoint
        # to revoke one grant.
        ProviderName.ENTRA: Preset(
            base="https://login.microsoftonline.com",
            issuer="https://login.microsoftonline.com/{tenant}/v2.0",
            authorization_path="/{tenant}/oauth2/v2.0/authorize",
            token_path="/{tenant}/oauth2/v2.0/token",  # noqa: S106 - a path
            required=MappingProxyType({"tenant": _TENANT}),
            scopes=("openid", "https://graph.microsoft.com/User.Read"),
            offline_scope="offline_access",
        ),
        # Without an audience the access token is opaque and good for the profile alone; revocation ends refresh tokens,
        # and the whole grant where the tenant is set so.
        ProviderName.AUTH0: Preset(
            base="https://{domain}",
            issuer="https://{domain}/",
            authorization_path="/authorize",
            token_path="/oauth/token",  # noqa: S106 - a path
            revocation_path="/oauth/revoke",
            revocation=Revocation.REFRESH_TOKENS,
            required=MappingProxyType({"domain": _HOST}),
            optional=MappingProxyType({"audience": _TEXT}),
            scopes=("openid",),
            offline_scope="offline_access",
        ),
    }
)


def check_parameters(provider: ProviderName, parameters: Mapping[str, str]) -> None:
    """Refuse parameters that the provider does not take, or cannot do without.

    Raises:
        InvalidRequestError: Names each.
    """
    preset = PRESETS.get(provider)
    if preset is not None:
        required, known = dict(preset.required), {**preset.required, **preset.optional}
    elif provider is ProviderName.OIDC:
        required, known = {"issuer": _TEXT}, {"issuer": _TEXT, "audience": _TEXT}
    else:
        required, known = {}, {"issuer": _TEXT}
    wrong = [
        FieldError(f"/parameters/{name}", f"The provider '{provider}' needs this parameter.")
        for name in required
        if name not in parameters
    ]
    for name, value in parameters.items():
        pattern = known.get(name)
        if pattern is None:
            wrong.append(FieldError("/parameters", f"The provider '{provider}' does not take every parameter given."))
        elif pattern.fullmatch(value) is None:
            wrong.append(FieldError(f"/parameters/{name}", "The value is not of the form that the provider uses."))
    if wrong:
        raise InvalidRequestError("The parameters of the provider are not valid.", tuple(wrong))


def known_server(binding: Binding, presets: Mapping[ProviderName, Preset] = PRESETS) -> AuthorizationServer | None:
    """Return the authorization server of a preset, or None where it has to be discovered.

    Raises:
        InvalidRequestError: A parameter of the binding is missing or malformed.
    """
    preset = presets.get(binding.provider)
    check_parameters(binding.provider, binding.parameters)
    if preset is None:
        return None
    given = binding.parameters
    token_base = preset.token_base or preset.base

    def url(base: str, path: str) -> str:
        return (base + path).format_map({**given, "client_id": "{client_id}"})

    audience = (("audience", given["audience"]),) if "audience" in given else ()
    return AuthorizationServer(
        issuer=url(preset.issuer, ""),
        authorization_endpoint=url(preset.base, preset.authorization_path),
        token_endpoint=url(token_base, preset.token_path),
        revocation_endpoint=(
            None
            if preset.revocation_path is None
            else url(preset.revocation_base or token_base, preset.revocation_path)
        ),
        revocation=preset.revocation,
        auth_methods=preset.auth_methods,
        scopes=preset.scopes,
        offline_scope=preset.offline_scope,
        authorize_parameters=(*preset.authorize_parameters, *audience),
    )


def offline_scopes(server: AuthorizationServer, scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``scopes`` with the one without which ``server`` gives no refresh token."""
    if server.offline_scope is None or server.offline_scope in scopes:
        return scopes
    return (*scopes, server.offline_scope)
