"""Where ``/connect/{id}`` goes on to, by the kind of credential that the upstream takes.

A way is asked only once it is certain that the one at the browser is the one who asked for the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from agentapi.oauth import pages, store
from agentapi.oauth.models import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response

    from agentapi.oauth.clients.registry import ClientRegistry
    from agentapi.oauth.flow import Flows
    from agentapi.oauth.vault import Vault
    from agentapi.principal import Principal
    from agentapi.storage.database import Database
    from agentapi.upstreams.models import Upstream

__all__ = ["OAuthWay", "Visit", "Way"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Somebody at a browser who is the one who asked for the connection."""

    principal: Principal
    name: str
    """Of that somebody, for the page to say."""
    upstream: Upstream
    scopes: tuple[str, ...]
    """Needed besides those that a connection has already."""
    browser: str
    """The browser's own cookie, which binds a flow to it."""
    path: str
    """Where a form is posted to."""
    csrf: str
    """What a form carries in a field ``csrf``."""


class Way(Protocol):
    """How users connect to the upstreams of one kind. What it raises of ``AgentAPIError`` becomes a page."""

    async def is_connected(self, principal: Principal, upstream: Upstream, scopes: tuple[str, ...]) -> bool:
        """Return whether there is nothing left to do."""

    async def show(self, visit: Visit) -> Response:
        """Return the page that says what is about to happen, with a form."""

    async def submit(self, visit: Visit, form: Mapping[str, str]) -> Response:
        """Act on the form, which this browser was given; return the next page."""


class OAuthWay:
    """Leads to the authorization server.

    Args:
        flows: Begins authorizations.
        clients: Knows where.
        database: Where connections are.
        vault: Opens them.
    """

    def __init__(self, *, flows: Flows, clients: ClientRegistry, database: Database, vault: Vault) -> None:
        self._flows = flows
        self._clients = clients
        self._database = database
        self._vault = vault

    async def is_connected(self, principal: Principal, upstream: Upstream, scopes: tuple[str, ...]) -> bool:
        """Return whether there is a connection that is good for the upstream as it is, with the scopes."""
        async with self._database.tenant_transaction(principal) as connection:
            held = await store.find_connection(connection, principal.user_id, upstream.id)
        if held is None or held.status is not Status.ACTIVE or not set(scopes) <= set(held.scopes):
            return False
        return self._vault.open_grant(held).endpoint == upstream.endpoint

    async def show(self, visit: Visit) -> Response:
        """Return the page that names user, upstream and authorization server, with a button that goes on."""
        server = await self._clients.server(visit.principal, visit.upstream)
        return pages.connect(
            visit.upstream.name,
            visit.name,
            host=urlsplit(visit.upstream.endpoint or "").netloc,
            server=urlsplit(server.authorization_endpoint).netloc,
            scopes=visit.scopes,
            path=visit.path,
            csrf=visit.csrf,
        )

    async def submit(self, visit: Visit, form: Mapping[str, str]) -> Response:
        """Begin the authorization and send the browser there."""
        del form
        begun = await self._flows.init(visit.principal, visit.upstream, browser=visit.browser, more_scopes=visit.scopes)
        return pages.going_on(begun.url)
