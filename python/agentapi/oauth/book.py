"""What users and administrators do with what is stored: list and renew connections, keep clients, choose providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentapi.errors import NotFoundError
from agentapi.identity.permissions import Permission, require
from agentapi.oauth import store
from agentapi.oauth.clients import store as client_store
from agentapi.oauth.errors import ReconnectNeededError
from agentapi.oauth.models import Binding, Status
from agentapi.oauth.providers import check_parameters
from agentapi.preconditions import ANY, IfMatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from agentapi.oauth.clients.registry import ClientRegistry
    from agentapi.oauth.clients.store import StoredClient
    from agentapi.oauth.models import Client, Connection
    from agentapi.oauth.refresh import Refresher
    from agentapi.oauth.requests import ProviderInput
    from agentapi.principal import Principal, UpstreamId
    from agentapi.storage.database import Connection as Transaction
    from agentapi.storage.database import Database

__all__ = ["ConnectionBook"]

_NO_CONNECTION: Final = "You have no connection to this upstream."


class ConnectionBook:
    """Reads and changes what is stored, always as a principal.

    Args:
        database: Where it is.
        clients: Seals the secrets of clients.
        refresher: Renews.
        clock: The time, with its zone.
    """

    def __init__(
        self,
        *,
        database: Database,
        clients: ClientRegistry,
        refresher: Refresher,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._clients = clients
        self._refresher = refresher
        self._clock = clock

    async def page(self, principal: Principal, *, limit: int, after: UpstreamId | None) -> list[Connection]:
        """Return the principal's connections in order of upstream, from behind ``after``."""
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_connections(connection, principal.user_id, limit=limit, after=after)

    async def refresh(self, principal: Principal, upstream_id: UpstreamId) -> Connection:
        """Renew the principal's connection to an upstream.

        Raises:
            NotFoundError: There is none.
            ReconnectNeededError: It is of no more use.
            AuthorizationServerError: The provider cannot renew it now.
        """
        async with self._database.tenant_transaction(principal) as connection:
            held = await store.find_connection(connection, principal.user_id, upstream_id)
        if held is None:
            raise NotFoundError(_NO_CONNECTION)
        if held.status is Status.RECONNECT_NEEDED:
            raise ReconnectNeededError("The connection has ended at the provider; connect again.")
        return await self._refresher.refresh(held)

    async def put_client(self, principal: Principal, client: Client) -> None:
        """Store the organisation's client of an issuer.

        Raises:
            ForbiddenError: The role may not.
        """
        require(principal, Permission.UPSTREAMS_WRITE_ORGANIZATION)
        await self._clients.put(principal, client)

    async def clients(self, principal: Principal, *, limit: int, after: str) -> list[StoredClient]:
        """Return up to ``limit`` clients of the organisation in order of issuer, from behind ``after``.

        Raises:
            ForbiddenError: The role may not.
        """
        require(principal, Permission.UPSTREAMS_WRITE_ORGANIZATION)
        async with self._database.tenant_transaction(principal) as connection:
            return await client_store.list_clients(connection, limit=limit, after=after)

    async def delete_client(self, principal: Principal, issuer: str) -> None:
        """Remove the organisation's client of an issuer; connections made with it cannot be refreshed any more.

        Raises:
            ForbiddenError: The role may not.
            NotFoundError: There is none.
        """
        require(principal, Permission.UPSTREAMS_WRITE_ORGANIZATION)
        async with self._database.tenant_transaction(principal) as connection:
            await client_store.delete_client(connection, issuer)

    async def choose(
        self, principal: Principal, upstream_id: UpstreamId, given: ProviderInput, *, expected: IfMatch = ANY
    ) -> int:
        """Store which provider an upstream uses, and return the version of that.

        The caller has checked that the principal may write the upstream.

        Raises:
            InvalidRequestError: The provider does not take these parameters.
            PreconditionFailedError: The stored version is not ``expected``.
            NotFoundError: There is no such upstream.
        """
        check_parameters(given.provider, given.parameters)
        binding = Binding(
            upstream_id=upstream_id, provider=given.provider, parameters=given.parameters, scopes=given.scopes
        )
        async with self._database.tenant_transaction(principal) as connection:
            await self._expect(connection, upstream_id, expected)
            return await client_store.put_binding(
                connection, binding, org_id=principal.org_id, updated_by=principal.user_id, now=self._clock()
            )

    async def chosen(self, principal: Principal, upstream_id: UpstreamId) -> Binding | None:
        """Return which provider somebody chose for an upstream."""
        async with self._database.tenant_transaction(principal) as connection:
            return await client_store.find_binding(connection, upstream_id)

    async def leave_to_metadata(
        self, principal: Principal, upstream_id: UpstreamId, *, expected: IfMatch = ANY
    ) -> None:
        """Forget which provider was chosen for an upstream.

        Raises:
            PreconditionFailedError: The stored version is not ``expected``.
            NotFoundError: None was.
        """
        async with self._database.tenant_transaction(principal) as connection:
            await self._expect(connection, upstream_id, expected)
            await client_store.delete_binding(connection, upstream_id)

    async def _expect(self, connection: Transaction, upstream_id: UpstreamId, expected: IfMatch) -> None:
        held = await client_store.find_binding(connection, upstream_id, hold=True)
        expected.check(0 if held is None else held.version)
