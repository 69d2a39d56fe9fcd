"""Take a grant back, at the provider and here.

The local row goes first: its deletion waits for a refresh that is under way and returns the newest tokens, so nothing
is left that nobody could revoke, and a provider that is down keeps nothing alive here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog

from agentapi._core import SealError
from agentapi.errors import AgentAPIError, NotFoundError
from agentapi.oauth import store
from agentapi.oauth.changes import Changes
from agentapi.oauth.models import Revocation

if TYPE_CHECKING:
    from agentapi.oauth.clients.registry import ClientRegistry
    from agentapi.oauth.models import Connection, Grant
    from agentapi.oauth.protocol import AuthorizationClient
    from agentapi.oauth.vault import Vault
    from agentapi.principal import Principal, UpstreamId
    from agentapi.storage.database import Database

__all__ = ["AtProvider", "Revoker"]

_NO_CONNECTION: Final = "You have no connection to this upstream."

_log = structlog.get_logger(__name__)


class AtProvider(StrEnum):
    """What became of a grant at its provider."""

    REVOKED = "revoked"
    NOT_SUPPORTED = "not_supported"
    """The provider has no way to revoke one grant; its tokens end by themselves."""
    FAILED = "failed"
    """The provider did not confirm; its account page is where to look."""


class Revoker:
    """Revokes connections.

    Args:
        database: Where they are.
        vault: Opens them.
        clients: Knows the clients that they were given to.
        protocol: Speaks to the providers.
        changes: Is told of connections that are gone.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        clients: ClientRegistry,
        protocol: AuthorizationClient,
        changes: Changes | None = None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._clients = clients
        self._protocol = protocol
        self._changes = changes or Changes()

    async def revoke(self, principal: Principal, upstream_id: UpstreamId) -> AtProvider:
        """Remove the principal's connection to an upstream.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.tenant_transaction(principal) as connection:
            held = await store.find_connection(connection, principal.user_id, upstream_id)
            removed = None if held is None else await store.delete_connection(connection, held.id)
        if removed is None:
            raise NotFoundError(_NO_CONNECTION)
        self._changes.tell(removed.org_id, removed.user_id, removed.upstream_id, gone=True)
        outcome = await self.give_back(removed)
        _log.info("oauth_revoked", provider=removed.provider, upstream_id=str(upstream_id), at_provider=outcome)
        return outcome

    async def give_back(self, connection: Connection) -> AtProvider:
        """Revoke a grant that is not stored, or not any more, at its provider; never raises for what that answers."""
        try:
            grant = self._vault.open_grant(connection)
            return await self._at_provider(connection, grant)
        except (AgentAPIError, SealError) as error:
            _log.info("oauth_revocation_failed", provider=connection.provider, reason=type(error).__name__)
            return AtProvider.FAILED

    async def _at_provider(self, connection: Connection, grant: Grant) -> AtProvider:
        server = grant.server
        if server.revocation is Revocation.NONE or server.revocation_endpoint is None:
            return AtProvider.NOT_SUPPORTED
        client = await self._clients.of_grant(connection.org_id, connection.user_id, server, grant.client_id)
        if server.revocation is Revocation.GITHUB:
            await self._protocol.revoke_at_github(server.revocation_endpoint, client, token=grant.access_token)
        elif grant.refresh_token is not None:
            # The server should end the access tokens of the grant with it (RFC 7009, section 2.1); one that does not
            # leaves them until they end by themselves.
            await self._protocol.revoke(
                server.revocation_endpoint, client, token=grant.refresh_token, hint="refresh_token"
            )
        elif server.revocation is Revocation.REFRESH_TOKENS:
            return AtProvider.NOT_SUPPORTED
        else:
            await self._protocol.revoke(
                server.revocation_endpoint, client, token=grant.access_token, hint="access_token"
            )
        return AtProvider.REVOKED
