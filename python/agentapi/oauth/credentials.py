"""The credential of a call: the caller's own connection, fresh, and sent to no other address than it was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.oauth import store
from agentapi.oauth.errors import ReconnectNeededError

if TYPE_CHECKING:
    from agentapi.oauth.refresh import Refresher
    from agentapi.oauth.vault import Vault
    from agentapi.storage.database import Database
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

__all__ = ["ConnectionCredentials"]


class ConnectionCredentials:
    """Gives upstreams the credential of whoever calls; satisfies ``upstreams.credentials.Credentials``.

    Args:
        database: Where connections are.
        vault: Opens them.
        refresher: Keeps them fresh.
    """

    def __init__(self, *, database: Database, vault: Vault, refresher: Refresher) -> None:
        self._database = database
        self._vault = vault
        self._refresher = refresher

    async def credential(self, upstream: Upstream, caller: Caller) -> dict[str, str]:
        """Return the headers that authenticate ``caller`` to ``upstream``.

        Raises:
            UpstreamNeedsConnectionError: The caller has no connection.
            ReconnectNeededError: The caller's connection is of no more use.
            AuthorizationServerError: It is to be refreshed and the provider cannot do so now.
        """
        async with self._database.user_transaction(caller.org_id, caller.user_id) as connection:
            held = await store.find_connection(connection, caller.user_id, upstream.id)
        if held is None:
            raise UpstreamNeedsConnectionError(
                f"Upstream '{upstream.name}' needs an OAuth connection of yours, and you have none."
            )
        grant = self._vault.open_grant(await self._refresher.usable(held))
        if grant.endpoint != upstream.endpoint:
            raise ReconnectNeededError(
                f"Upstream '{upstream.name}' is at another address than when you connected; connect again."
            )
        return {"Authorization": f"Bearer {grant.access_token.get_secret_value()}"}
