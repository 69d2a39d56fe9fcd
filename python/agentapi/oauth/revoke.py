"""Take a grant back, at the provider and here.

The local row goes first: its deletion waits for a refresh that is under way and returns the newest tokens, so nothing
is left that nobody could revoke, and a provider that is down keeps nothing alive here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from agentapi._core import SealError
from agentapi.errors import AgentAPIError, NotFoundError
from agentapi.oauth import store
from agentapi.oauth.changes import Changes
from agentapi.oauth.journal import Event
from agentapi.oauth.models import Revocation
from agentapi.tenancy.store import list_member_ids

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from agentapi.oauth.clients.registry import ClientRegistry
    from agentapi.oauth.journal import Journal
    from agentapi.oauth.models import Connection, Grant
    from agentapi.oauth.protocol import AuthorizationClient
    from agentapi.oauth.vault import Vault
    from agentapi.principal import OrgId, Principal, UpstreamId, UserId
    from agentapi.storage.database import Database
    from agentapi.upstreams.models import Upstream

__all__ = ["AtProvider", "Revoker"]

_AT_ONCE: Final = 32
_EACH: Final = 8
"""How many ask the provider of one upstream: one that hangs must not keep the others from being told."""
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
        journal: Is told of what happens.
        patience_s: How long a deletion waits for all the providers of what goes with it.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        clients: ClientRegistry,
        protocol: AuthorizationClient,
        changes: Changes | None = None,
        journal: Journal,
        patience_s: float = 10.0,
    ) -> None:
        self._database = database
        self._vault = vault
        self._clients = clients
        self._protocol = protocol
        self._changes = changes or Changes()
        self._journal = journal
        self._patience_s = patience_s

    async def revoke(self, principal: Principal, upstream_id: UpstreamId) -> AtProvider:
        """Remove the principal's connection to an upstream.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.tenant_transaction(principal) as connection:
            held = await store.find_connection(connection, principal.user_id, upstream_id)
            removed = None if held is None else await store.delete_connection(connection, held.id)
            if removed is not None:
                await self._journal.record(connection, Event.REVOKED, removed)
        if removed is None:
            raise NotFoundError(_NO_CONNECTION)
        return await self._ended(removed)

    async def revoke_all(self, org_id: OrgId, user_id: UserId | None = None) -> Counter[AtProvider]:
        """Remove every connection of an organisation, or of one of its users, and say what became of the grants.

        All rows go first; then the providers are asked, all of them together, for a bounded time: who does not confirm
        by then is taken to have failed.

        To be called before the user or the organisation is deleted: whose connections there are is told by the members,
        and the grants are given back as the organisation's clients. Flows under way end with it, so that no connection
        comes of them afterwards.
        """
        if user_id is None:
            async with self._database.organization_transaction(org_id) as transaction:
                users = await list_member_ids(transaction)
        else:
            users = [user_id]
        gone: list[Connection] = []
        try:
            for user in users:
                async with self._database.user_transaction(org_id, user) as transaction:
                    removed = await store.delete_everything(transaction, user)
                    for each in removed:
                        await self._journal.record(transaction, Event.REVOKED, each)
                gone += removed
        finally:
            # Nobody else could give back what is gone already, should the rows of a later user fail to go.
            outcomes = await self._all_ended(gone)
        return outcomes

    async def take_for(self, upstream: Upstream) -> Callable[[], Awaitable[Counter[AtProvider]]]:
        """Remove every connection to an upstream, its users' flows with them, and return what gives back the grants.

        To be called within ``Database.together`` of the deletion of the upstream, so that either both are done or
        neither. What is returned is to be called once that is committed. It waits for the providers, all of them
        together, for a bounded time, and says what became of the grants: who does not confirm by then is taken to have
        failed.
        """
        org_id = upstream.org_id
        if upstream.owner_id is not None:
            users = [upstream.owner_id]
        else:
            async with self._database.organization_transaction(org_id) as transaction:
                users = await list_member_ids(transaction)
        gone: list[Connection] = []
        for user in users:
            async with self._database.user_transaction(org_id, user) as transaction:
                removed = await store.delete_for_upstream(transaction, user, upstream.id)
            if removed is not None:
                gone.append(removed)
        # Only once all rows are locked: a refresh under way holds its row while it waits to write down what it did.
        for each in gone:
            async with self._database.user_transaction(org_id, each.user_id) as transaction:
                await self._journal.record(transaction, Event.REVOKED, each)
        return partial(self._all_ended, gone)

    async def _all_ended(self, gone: list[Connection]) -> Counter[AtProvider]:
        """Give back, at the same time, what is not stored any more; each upstream's provider has places of its own."""
        until = asyncio.get_running_loop().time() + self._patience_s
        all_places = asyncio.Semaphore(_AT_ONCE)
        each = {removed.upstream_id: asyncio.Semaphore(_EACH) for removed in gone}
        return Counter(
            await asyncio.gather(
                *(self._ended(removed, (each[removed.upstream_id], all_places), until) for removed in gone)
            )
        )

    async def _ended(
        self, removed: Connection, places: Iterable[asyncio.Semaphore] = (), until: float | None = None
    ) -> AtProvider:
        """Give back what is not stored any more, and tell of it.

        Args:
            removed: The connection as it was.
            places: What bounds how many ask at once, in the order in which to wait.
            until: When the provider has had its time, on the loop's clock.
        """
        self._changes.tell(removed.org_id, removed.user_id, removed.upstream_id, gone=True)
        try:
            async with asyncio.timeout_at(until), AsyncExitStack() as taken:
                for place in places:
                    await taken.enter_async_context(place)
                outcome = await self.give_back(removed)
        except TimeoutError:
            outcome = AtProvider.FAILED
        if outcome is AtProvider.FAILED:
            self._journal.note(Event.REVOCATION_FAILED, removed)
        _log.info("oauth_revoked", provider=removed.provider, upstream_id=str(removed.upstream_id), at_provider=outcome)
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
