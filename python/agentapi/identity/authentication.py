"""From the headers of a request to a verified token; everything before the tenant is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agentapi.errors import InsufficientScopeError, UnauthenticatedError
from agentapi.identity.api_keys.models import API_READ, API_WRITE
from agentapi.identity.api_keys.text import PREFIX, holds_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

    from agentapi._core import VerifiedToken
    from agentapi.identity.api_keys.directory import KeyDirectory
    from agentapi.identity.api_keys.models import KeyGrant
    from agentapi.identity.issuers import IssuerDirectory

__all__ = ["authenticate", "bearer_token", "key_grant", "require_api_scope", "verified_token"]

_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9\-._~+/]+=*) *")
"""``credentials`` of RFC 6750, section 2.1. Only the scheme ignores case, which costs a step for each character."""


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the bearer token of ASGI ``headers``.

    Raises:
        UnauthenticatedError: There is none, more than one, or it is not a bearer token.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise UnauthenticatedError("no_authorization_header", presented=False)
    if len(values) > 1:
        raise UnauthenticatedError("several_authorization_headers", presented=True)
    match = _BEARER.fullmatch(values[0].decode("latin-1"))
    if match is None:
        raise UnauthenticatedError("not_a_bearer_token", presented=True)
    return match.group(1)


async def key_grant(keys: KeyDirectory, scope: Scope) -> KeyGrant | None:
    """Return what the API key of a request grants, or None if its credential is none.

    Raises:
        UnauthenticatedError: The key is not good, or stands in the address, where it has no business (RFC 6750,
            section 2.3).
        RateLimitedError: Too many keys are being looked up.
        StorageUnavailableError: The database cannot be asked.
    """
    if holds_key(scope["query_string"]):
        raise UnauthenticatedError("api_key_in_query", presented=True)
    token = bearer_token(scope["headers"])
    return await keys.grant(token) if token.startswith(PREFIX) else None


def require_api_scope(grant: KeyGrant, method: str) -> None:
    """Refuse a key that is not good for a request of that method to the API.

    Raises:
        InsufficientScopeError: It is not.
    """
    needed = API_READ if method in {"GET", "HEAD"} else API_WRITE
    if needed not in grant.scopes:
        raise InsufficientScopeError((needed,))


async def verified_token(
    issuers: IssuerDirectory, headers: Iterable[tuple[bytes, bytes]], *, audiences: tuple[str, ...]
) -> VerifiedToken:
    """Return the verified token of a request to a resource that goes by one of ``audiences``.

    Its scopes are for the caller to check.

    Raises:
        UnauthenticatedError: The token is missing or not acceptable here.
    """
    token = bearer_token(headers)
    *others, last = audiences
    for audience in others:
        try:
            return await issuers.verify(token, audience)
        except UnauthenticatedError as error:
            if error.reason != "wrong_audience":
                raise
    return await issuers.verify(token, last)


async def authenticate(
    issuers: IssuerDirectory, headers: Iterable[tuple[bytes, bytes]], *, audience: str
) -> VerifiedToken:
    """Return the verified token of a request to the resource ``audience``.

    Raises:
        UnauthenticatedError: The token is missing or not acceptable here.
        InsufficientScopeError: The token lacks a scope that its issuer's tokens must carry.
    """
    verified = await verified_token(issuers, headers, audiences=(audience,))
    required = issuers.required_scopes(verified.issuer)
    if not verified.scopes.issuperset(required):
        raise InsufficientScopeError(required)
    return verified
