"""Settle which authorization server an upstream uses, and as which client the gateway comes to it.

A client comes, in this order, from the organisation, from the deployment's settings, from the gateway's own metadata
document, and from dynamic registration. Clients are kept by issuer. One that was made by hand serves only upstreams for
which somebody chose that issuer: otherwise an upstream could name Google as its authorization server and be handed a
token that the organisation's own application was given. To have chosen the upstream's own metadata, for its scopes say,
is not to have chosen whatever issuer that names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agentapi.errors import InvalidRequestError
from agentapi.oauth.clients import store
from agentapi.oauth.discovery import client_metadata
from agentapi.oauth.errors import AuthorizationServerError, ClientMissingError
from agentapi.oauth.models import Binding, Client, ClientAuth, ProviderName, Registration
from agentapi.oauth.providers import PRESETS, known_server, offline_scopes
from agentapi.upstreams.models import Auth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from agentapi.oauth.clients.store import StoredClient
    from agentapi.oauth.discovery import Discovery
    from agentapi.oauth.models import AuthorizationServer
    from agentapi.oauth.protocol import AuthorizationClient
    from agentapi.oauth.providers import Preset
    from agentapi.oauth.vault import Vault
    from agentapi.principal import OrgId, Principal, UserId
    from agentapi.storage.database import Database
    from agentapi.upstreams.models import Upstream

__all__ = ["CALLBACK_PATH", "METADATA_PATH", "ClientRegistry", "Target"]

CALLBACK_PATH: Final = "/api/v1/mcp/oauth/callback"
METADATA_PATH: Final = "/.well-known/oauth-client.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Everything that one authorization is about."""

    provider: ProviderName
    server: AuthorizationServer
    client: Client
    resource: str | None
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is known of an authorization before the gateway is a client there."""

    provider: ProviderName
    server: AuthorizationServer
    resource: str | None
    scopes: tuple[str, ...]
    by_hand: bool
    """Somebody chose the server, so that clients which were made by hand may serve."""


class ClientRegistry:
    """Finds and makes clients.

    Args:
        database: Where the organisations' own are.
        vault: Opens their secrets.
        discovery: Reads metadata.
        protocol: Registers.
        public_url: Where browsers reach the gateway.
        metadata_url: Where authorization servers read ``document``, if not at the public URL's ``METADATA_PATH``.
        clock: The time, with its zone.
        defaults: The deployment's clients by issuer.
        presets: The known providers.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        discovery: Discovery,
        protocol: AuthorizationClient,
        public_url: str,
        metadata_url: str | None,
        clock: Callable[[], datetime],
        defaults: Mapping[str, Client],
        presets: Mapping[ProviderName, Preset] = PRESETS,
    ) -> None:
        self._database = database
        self._vault = vault
        self._discovery = discovery
        self._protocol = protocol
        self._public_url = public_url
        self._metadata_url = metadata_url or public_url + METADATA_PATH
        self._clock = clock
        self._defaults = defaults
        self._presets = presets
        self.redirect_uri = public_url + CALLBACK_PATH

    async def target(self, principal: Principal, upstream: Upstream) -> Target:
        """Return where a user of ``upstream`` is to be sent, and as which client.

        Raises:
            InvalidRequestError: The upstream takes no OAuth connections.
            ClientMissingError: An administrator has to register a client first.
            AuthorizationServerError: The authorization server cannot be found or must not be trusted.
            EgressRefusedError: An address may not be reached.
        """
        asked = await self._asked(principal, upstream)
        client = await self._client(principal, asked.server, by_hand=asked.by_hand)
        scopes = offline_scopes(asked.server, asked.scopes) if asked.scopes else ()
        return Target(
            provider=asked.provider, server=asked.server, client=client, resource=asked.resource, scopes=scopes
        )

    async def server(self, principal: Principal, upstream: Upstream) -> AuthorizationServer:
        """Return where a user of ``upstream`` is to be sent, without becoming a client there.

        Raises:
            InvalidRequestError: The upstream takes no OAuth connections.
            AuthorizationServerError: The authorization server cannot be found or must not be trusted.
            EgressRefusedError: An address may not be reached.
        """
        return (await self._asked(principal, upstream)).server

    async def _asked(self, principal: Principal, upstream: Upstream) -> _Asked:
        if upstream.auth is not Auth.OAUTH or upstream.endpoint is None:
            raise InvalidRequestError("This upstream takes no OAuth connections.")
        async with self._database.tenant_transaction(principal) as connection:
            binding = await store.find_binding(connection, upstream.id)
        chosen = binding or Binding(upstream_id=upstream.id, provider=ProviderName.MCP)
        known = known_server(chosen, self._presets)
        if known is not None:
            return _Asked(chosen.provider, known, None, chosen.scopes or known.scopes, by_hand=True)
        if chosen.provider is ProviderName.OIDC:
            server = await self._discovery.server(chosen.parameters["issuer"], chosen=True)
            audience = chosen.parameters.get("audience")
            if audience is not None:
                server = replace(server, authorize_parameters=(*server.authorize_parameters, ("audience", audience)))
            return _Asked(chosen.provider, server, None, chosen.scopes or ("openid",), by_hand=True)
        found = await self._discovery.resource(upstream.endpoint)
        named = chosen.parameters.get("issuer")
        server = await self._discovery.server(named if named in found.issuers else found.issuers[0], chosen=False)
        scopes = chosen.scopes or found.scopes
        return _Asked(chosen.provider, server, found.resource, scopes, by_hand=server.issuer == named)

    async def _client(self, principal: Principal, server: AuthorizationServer, *, by_hand: bool) -> Client:
        async with self._database.tenant_transaction(principal) as connection:
            stored = await store.find_client(connection, server.issuer)
        if stored is not None and (by_hand or stored.registration is Registration.DYNAMIC) and self._is_good(stored):
            return self._opened(stored)
        if by_hand and server.issuer in self._defaults:
            return self._defaults[server.issuer]
        document = self._document_client(server.issuer)
        if server.takes_metadata_document and document is not None:
            return document
        if server.registration_endpoint is not None and (stored is None or stored.registration is Registration.DYNAMIC):
            return await self._register(principal, server, None if stored is None else stored.client_id)
        raise ClientMissingError(
            f"The authorization server {server.issuer} knows no client of this organisation;"
            " an administrator has to register one and choose this issuer for the upstream."
        )

    async def of_grant(self, org_id: OrgId, user_id: UserId, server: AuthorizationServer, client_id: str) -> Client:
        """Return the client that a grant was given to.

        Raises:
            ClientMissingError: It is not registered any more.
        """
        document = self._document_client(server.issuer)
        if document is not None and document.client_id == client_id:
            return document
        async with self._database.user_transaction(org_id, user_id) as connection:
            stored = await store.find_client(connection, server.issuer)
        if stored is not None and stored.client_id == client_id:
            return self._opened(stored)
        default = self._defaults.get(server.issuer)
        if default is not None and default.client_id == client_id:
            return default
        raise ClientMissingError("The client that this connection was made with is not registered any more.")

    def document(self) -> dict[str, object]:
        """Return the gateway's client metadata, as it is served at ``METADATA_PATH``."""
        metadata = client_metadata(self._public_url, self.redirect_uri, ClientAuth.NONE)
        return {"client_id": self._metadata_url, **metadata}

    def _document_client(self, issuer: str) -> Client | None:
        """Return the client whose id is the URL of its metadata, which has to be https to be believed."""
        if not self._metadata_url.startswith("https://"):
            return None
        return Client(
            issuer=issuer,
            client_id=self._metadata_url,
            secret=None,
            auth_method=ClientAuth.NONE,
            registration=Registration.METADATA_DOCUMENT,
        )

    async def _register(self, principal: Principal, server: AuthorizationServer, replacing: str | None) -> Client:
        preferred = (ClientAuth.BASIC, ClientAuth.POST, ClientAuth.NONE)
        method = next((method for method in preferred if method.value in server.auth_methods), None)
        if method is None:
            raise AuthorizationServerError(
                "The authorization server takes no way of authentication that is known here."
            )
        metadata = client_metadata(self._public_url, self.redirect_uri, method)
        made = await self._protocol.register(server, metadata, self.redirect_uri)
        await self.put(principal, made, replacing=replacing)
        async with self._database.tenant_transaction(principal) as connection:
            stored = await store.find_client(connection, server.issuer)
        # Of two registrations at once the first stands, and both flows use it.
        return made if stored is None else self._opened(stored)

    async def put(self, principal: Principal, client: Client, *, replacing: str | None = None) -> None:
        """Store the organisation's client of an issuer; see ``store.put_client``."""
        secret = client.secret
        stored = store.StoredClient(
            org_id=principal.org_id,
            issuer=client.issuer,
            client_id=client.client_id,
            secret=None if secret is None else self._vault.seal_client_secret(principal.org_id, client.issuer, secret),
            auth_method=client.auth_method,
            registration=client.registration,
            redirect_uri=client.redirect_uri,
            secret_expires_at=client.secret_expires_at,
            updated_by=principal.user_id,
            updated_at=self._clock(),
        )
        async with self._database.tenant_transaction(principal) as connection:
            await store.put_client(connection, stored, replacing=replacing)

    def _is_good(self, stored: StoredClient) -> bool:
        if stored.redirect_uri is not None and stored.redirect_uri != self.redirect_uri:
            return False
        return stored.secret_expires_at is None or stored.secret_expires_at > self._clock()

    def _opened(self, stored: StoredClient) -> Client:
        sealed = stored.secret
        return Client(
            issuer=stored.issuer,
            client_id=stored.client_id,
            secret=None if sealed is None else self._vault.open_client_secret(stored.org_id, stored.issuer, sealed),
            auth_method=stored.auth_method,
            registration=stored.registration,
            redirect_uri=stored.redirect_uri,
            secret_expires_at=stored.secret_expires_at,
        )
