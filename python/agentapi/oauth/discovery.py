"""Find the authorization server of an MCP server, and become its client.

Invariants:

* The ``resource`` that tokens are asked for is the upstream's own URL or one that contains it, never another's.
* Metadata counts for the issuer that it names, and only where that is the one it was asked of; every endpoint passes
  the address policy when it is read and again when it is requested.
* A server that does not advertise PKCE with S256 is refused, unless an administrator chose the issuer.

Sources: MCP 2026-07-28, "Authorization"; RFC 9728, sections 3 and 5; RFC 8414, section 3; OpenID Connect Discovery 1.0,
section 4; RFC 9207; RFC 7591.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import httpx2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentapi.errors import UpstreamError
from agentapi.oauth.errors import AuthorizationServerError
from agentapi.oauth.models import AuthorizationServer, ClientAuth, Revocation
from agentapi.upstreams.challenges import Challenge, parse_challenge

if TYPE_CHECKING:
    from agentapi.egress.client import Egress

__all__ = ["Challenge", "Discovery", "ProtectedResource", "client_metadata", "parse_challenge", "union"]

_MAX_METADATA_BYTES: Final = 128 * 1024
_MAX_SERVERS: Final = 8
_SUPPORTED_AUTH: Final = tuple(method.value for method in ClientAuth)
_OFFLINE: Final = "offline_access"
_PROBE: Final = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
_PROBE_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}

_Url = Annotated[str, Field(max_length=2048, pattern=r"^[\x21-\x7e]+$")]
_Words = Annotated[tuple[Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")], ...], Field(max_length=1000)]


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """What an upstream says about who may call it."""

    resource: str
    issuers: tuple[str, ...]
    scopes: tuple[str, ...]
    """Those that the challenge names, or else all that the metadata lists."""


class _ResourceMetadata(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    resource: _Url
    authorization_servers: Annotated[tuple[_Url, ...], Field(min_length=1, max_length=_MAX_SERVERS)]
    scopes_supported: _Words | None = None


class _ServerMetadata(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    issuer: _Url
    authorization_endpoint: _Url
    token_endpoint: _Url
    revocation_endpoint: _Url | None = None
    registration_endpoint: _Url | None = None
    scopes_supported: _Words | None = None
    code_challenge_methods_supported: _Words | None = None
    token_endpoint_auth_methods_supported: _Words | None = None
    authorization_response_iss_parameter_supported: bool = False
    client_id_metadata_document_supported: bool = False


class Discovery:
    """Reads the metadata of MCP servers and authorization servers.

    Args:
        egress: The guarded way out.
        timeout_s: Bound on each request.
    """

    def __init__(self, egress: Egress, *, timeout_s: float) -> None:
        self._egress = egress
        self._timeout_s = timeout_s

    async def resource(self, endpoint: str) -> ProtectedResource:
        """Ask the MCP server at ``endpoint`` which authorization servers and scopes it wants.

        A server of the revision of 2025-03-26, which publishes no such metadata, is its own authorization server.

        Raises:
            AuthorizationServerError: What it publishes is malformed or is about something else.
            EgressRefusedError: An address may not be reached.
        """
        challenge = await self.challenge(endpoint)
        for url in _resource_metadata_urls(endpoint, challenge):
            body = await self._fetch(url)
            if body is None:
                continue
            try:
                metadata = _ResourceMetadata.model_validate_json(body)
            except ValidationError as error:
                raise AuthorizationServerError(
                    "The upstream's authorization metadata is malformed.", reason=_complaint(error)
                ) from None
            if not _contains(metadata.resource, endpoint):
                raise AuthorizationServerError(
                    "The upstream's authorization metadata is about another resource, so no token is asked for.",
                    claimed=metadata.resource,
                )
            scopes = challenge.scopes or metadata.scopes_supported or ()
            return ProtectedResource(metadata.resource, metadata.authorization_servers, scopes)
        return ProtectedResource(endpoint, (_origin(endpoint),), challenge.scopes)

    async def challenge(self, endpoint: str) -> Challenge:
        """Call the MCP server without a token and return what it asks for; nothing, if it asks for nothing.

        Raises:
            AuthorizationServerError: It cannot be reached.
            EgressRefusedError: Its address may not be reached.
        """
        try:
            with anyio.fail_after(self._timeout_s):
                async with (
                    self._egress.client() as client,
                    client.stream("POST", endpoint, content=_PROBE, headers=_PROBE_HEADERS) as response,
                ):
                    if response.status_code not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                        return Challenge()
                    return parse_challenge(response.headers.get_list("www-authenticate"))
        except (TimeoutError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise AuthorizationServerError(
                "The upstream could not be asked for its authorization server.", reason=type(error).__name__
            ) from None

    async def server(self, issuer: str, *, chosen: bool) -> AuthorizationServer:
        """Return the metadata of ``issuer``.

        Args:
            issuer: As the upstream or an administrator names it.
            chosen: Whether an administrator chose it, who then vouches for PKCE.

        Raises:
            AuthorizationServerError: There is none, it names another issuer, or it lacks PKCE.
            EgressRefusedError: An address may not be reached.
        """
        for url in _server_metadata_urls(issuer):
            body = await self._fetch(url)
            if body is None:
                continue
            try:
                metadata = _ServerMetadata.model_validate_json(body)
            except ValidationError as error:
                raise AuthorizationServerError(
                    "The authorization server's metadata is malformed.", reason=_complaint(error)
                ) from None
            if metadata.issuer != issuer:
                raise AuthorizationServerError(
                    "The authorization server's metadata names another issuer.", claimed=metadata.issuer, asked=issuer
                )
            if not chosen and "S256" not in (metadata.code_challenge_methods_supported or ()):
                raise AuthorizationServerError(
                    "The authorization server does not advertise PKCE with S256, without which a code can be stolen."
                )
            return self._server(metadata, chosen=chosen)
        raise AuthorizationServerError("The authorization server publishes no metadata.", asked=issuer)

    def _server(self, metadata: _ServerMetadata, *, chosen: bool) -> AuthorizationServer:
        endpoints = (
            metadata.authorization_endpoint,
            metadata.token_endpoint,
            metadata.revocation_endpoint,
            metadata.registration_endpoint,
        )
        for endpoint in endpoints:
            # The browser opens the first of them: it must be no script, and no address of this machine.
            if endpoint is not None and self._egress.policy.check_url(endpoint).fragment:
                raise AuthorizationServerError("An endpoint of the authorization server has a fragment.")
        offline = _OFFLINE in (metadata.scopes_supported or ())
        methods = metadata.token_endpoint_auth_methods_supported or (ClientAuth.BASIC.value,)
        return AuthorizationServer(
            issuer=metadata.issuer,
            authorization_endpoint=metadata.authorization_endpoint,
            token_endpoint=metadata.token_endpoint,
            revocation_endpoint=metadata.revocation_endpoint,
            registration_endpoint=metadata.registration_endpoint,
            revocation=Revocation.NONE if metadata.revocation_endpoint is None else Revocation.RFC7009,
            announces_issuer=metadata.authorization_response_iss_parameter_supported,
            takes_metadata_document=metadata.client_id_metadata_document_supported,
            takes_resource=not chosen,
            auth_methods=tuple(method for method in methods if method in _SUPPORTED_AUTH),
            offline_scope=_OFFLINE if offline else None,
            # Offline access is given only with consent (OpenID Connect Core 1.0, section 11).
            authorize_parameters=(("prompt", "consent"),) if offline else (),
        )

    async def _fetch(self, url: str) -> bytes | None:
        """Return a document, or None if there is none at that address."""
        try:
            return await self._egress.get_bytes(
                url, max_bytes=_MAX_METADATA_BYTES, timeout_s=self._timeout_s, headers={"Accept": "application/json"}
            )
        except UpstreamError as error:
            status = error.log_context.get("status")
            if isinstance(status, int) and HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return None
            raise AuthorizationServerError(
                "The authorization metadata could not be read.", status=status, reason=error.message
            ) from error


def union(held: tuple[str, ...], needed: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a step-up asks for: the scopes that are held and those that are missing, in that order."""
    return tuple(dict.fromkeys((*held, *needed)))


def client_metadata(public_url: str, redirect_uri: str, auth_method: ClientAuth) -> dict[str, Any]:
    """Return the gateway's own description as a client (RFC 7591, section 2)."""
    return {
        "client_name": "AgentAPI",
        "client_uri": public_url,
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "application_type": "web",
        "token_endpoint_auth_method": auth_method.value,
    }


def _resource_metadata_urls(endpoint: str, challenge: Challenge) -> list[str]:
    url = httpx2.URL(endpoint)
    root = f"{_origin(endpoint)}/.well-known/oauth-protected-resource"
    path = url.path.rstrip("/")
    named = [] if challenge.resource_metadata is None else [challenge.resource_metadata]
    return list(dict.fromkeys([*named, f"{root}{path}", root]))


def _server_metadata_urls(issuer: str) -> list[str]:
    url = httpx2.URL(issuer)
    if url.query or url.fragment:
        raise AuthorizationServerError("An issuer has neither query nor fragment.", asked=issuer)
    origin, path = _origin(issuer), url.path.rstrip("/")
    urls = [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
    ]
    return list(dict.fromkeys([*urls, f"{origin}{path}/.well-known/openid-configuration"]))


def _contains(resource: str, endpoint: str) -> bool:
    """Tell whether ``endpoint`` is the resource or lies below it, segment by segment, at the same origin."""
    try:
        outer, inner = httpx2.URL(resource), httpx2.URL(endpoint)
    except httpx2.InvalidURL:
        return False
    if resource == endpoint:
        return True
    if _origin(resource) != _origin(endpoint) or outer.query or outer.fragment or outer.userinfo:
        return False
    return f"{inner.path.rstrip('/')}/".startswith(f"{outer.path.rstrip('/')}/")


def _origin(text: str) -> str:
    url = httpx2.URL(text)
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _complaint(error: ValidationError) -> str:
    return "; ".join(
        f"{'/'.join(str(part) for part in detail['loc'])}: {detail['type']}"
        for detail in error.errors(include_url=False, include_context=False, include_input=False)
    )
