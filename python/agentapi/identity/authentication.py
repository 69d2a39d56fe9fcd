"""From the headers of a request to a verified token; everything before the tenant is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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

__all__ = ["authenticate", "bearer_token", "key_grant", "presented_token", "require_api_scope", "verified_token"]

_BEARER: Final = b"bearer "
_CHARACTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/"
"""Of a ``b64token`` (RFC 6750, section 2.1), before the equals signs at its end."""


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
    scheme, token = values[0][: len(_BEARER)], values[0][len(_BEARER) :].strip(b" ")
    # A regular expression says the same, at several times the price for each of the hundreds of characters.
    before = token.rstrip(b"=")
    if scheme.lower() != _BEARER or not before or before.translate(None, _CHARACTERS):
        raise UnauthenticatedError("not_a_bearer_token", presented=True)
    return token.decode("ascii")


def presented_token(scope: Scope) -> str:
    """Return the access token or API key of a request.

    Raises:
        UnauthenticatedError: It presents none, or more than one; or a key stands in the address, where it has no
            business (RFC 6750, section 2.3).
    """
    if holds_key(scope["query_string"]):
        raise UnauthenticatedError("api_key_in_query", presented=True)
    return bearer_token(scope["headers"])


async def key_grant(keys: KeyDirectory, token: str) -> KeyGrant | None:
    """Return what ``token`` grants if it is an API key, or None if it is none.

    Raises:
        UnauthenticatedError: The key is not good.
        RateLimitedError: Too many keys are being looked up.
        StorageUnavailableError: The database cannot be asked.
    """
    return await keys.grant(token) if token.startswith(PREFIX) else None


def require_api_scope(grant: KeyGrant, method: str) -> None:
    """Refuse a key that is not good for a request of that method to the API.

    Raises:
        InsufficientScopeError: It is not.
    """
    needed = API_READ if method in {"GET", "HEAD"} else API_WRITE
    if needed not in grant.scopes:
        raise InsufficientScopeError((needed,))


async def verified_token(issuers: IssuerDirectory, token: str, *, audiences: tuple[str, ...]) -> VerifiedToken:
    """Return ``token`` once it is verified for a resource that goes by one of ``audiences``.

    Its scopes are for the caller to check.

    Raises:
        UnauthenticatedError: It is not acceptable here.
    """
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
    verified = await verified_token(issuers, bearer_token(headers), audiences=(audience,))
    required = issuers.required_scopes(verified.issuer)
    if not verified.scopes.issuperset(required):
        raise InsufficientScopeError(required)
    return verified
