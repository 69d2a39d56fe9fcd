"""The OAuth room put together, for the composition root: routes to mount and credentials to give."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agentapi.oauth.ahead import RefreshAhead, RefreshPlan
from agentapi.oauth.book import ConnectionBook
from agentapi.oauth.changes import Changes
from agentapi.oauth.clients.registry import ClientRegistry
from agentapi.oauth.credentials import ConnectionCredentials
from agentapi.oauth.discovery import Discovery
from agentapi.oauth.flow import Flows
from agentapi.oauth.models import Client, ClientAuth, Registration
from agentapi.oauth.protocol import AuthorizationClient
from agentapi.oauth.providers import PRESETS
from agentapi.oauth.refresh import Refresher
from agentapi.oauth.revoke import Revoker
from agentapi.oauth.routes import OAuthRoutes
from agentapi.oauth.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.routing import Route

    from agentapi._core import Keyring
    from agentapi.egress.client import Egress
    from agentapi.jobs.queue import JobQueue
    from agentapi.oauth.models import ProviderName
    from agentapi.oauth.providers import Preset
    from agentapi.principal import Principal
    from agentapi.settings import Settings
    from agentapi.storage.database import Database
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["OAuthRoom"]


@dataclass(frozen=True, slots=True)
class OAuthRoom:
    """What the rest of the application needs of this room."""

    flows: Flows
    book: ConnectionBook
    revoker: Revoker
    refresher: Refresher
    clients: ClientRegistry
    credentials: ConnectionCredentials
    changes: Changes

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        database: Database,
        egress: Egress,
        keyring: Keyring,
        jobs: JobQueue,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        presets: Mapping[ProviderName, Preset] = PRESETS,
    ) -> OAuthRoom:
        """Put the room together."""
        vault = Vault(keyring)
        protocol = AuthorizationClient(egress, timeout_s=settings.egress_timeout_s)
        clients = ClientRegistry(
            database=database,
            vault=vault,
            discovery=Discovery(egress, timeout_s=settings.egress_timeout_s),
            protocol=protocol,
            public_url=str(settings.public_url).rstrip("/"),
            metadata_url=settings.oauth_client_metadata_url,
            clock=clock,
            defaults=_defaults(settings),
            presets=presets,
        )
        changes = Changes()
        plan = RefreshPlan(jobs, clock=clock, ahead_s=settings.oauth_refresh_ahead_s).plan
        revoker = Revoker(database=database, vault=vault, clients=clients, protocol=protocol, changes=changes)
        refresher = Refresher(
            database=database,
            vault=vault,
            clients=clients,
            protocol=protocol,
            clock=clock,
            changes=changes,
            ahead_s=settings.oauth_refresh_ahead_s,
            lock_wait_s=settings.egress_timeout_s * 2,
            plan=plan,
        )
        RefreshAhead(database=database, refresher=refresher, clock=clock).attach(jobs)
        flows = Flows(
            database=database,
            keyring=keyring,
            vault=vault,
            clients=clients,
            protocol=protocol,
            revoker=revoker,
            return_urls=settings.oauth_return_urls,
            plan=plan,
            clock=clock,
            changes=changes,
        )
        credentials = ConnectionCredentials(
            database=database, vault=vault, refresher=refresher, clock=clock, ahead_s=settings.oauth_refresh_ahead_s
        )
        changes.listen(credentials.changed)
        return cls(
            flows=flows,
            book=ConnectionBook(database=database, clients=clients, refresher=refresher, clock=clock),
            revoker=revoker,
            refresher=refresher,
            clients=clients,
            credentials=credentials,
            changes=changes,
        )

    def routes(
        self, *, authorize: Callable[[Request], Awaitable[Principal]], upstreams: UpstreamRegistry
    ) -> list[Route]:
        """Return the routes, for the application to mount."""
        return OAuthRoutes(
            authorize=authorize,
            upstreams=upstreams,
            flows=self.flows,
            book=self.book,
            revoker=self.revoker,
            clients=self.clients,
        ).routes()


def _defaults(settings: Settings) -> dict[str, Client]:
    return {
        given.issuer: Client(
            issuer=given.issuer,
            client_id=given.client_id,
            secret=given.client_secret,
            auth_method=ClientAuth.NONE if given.client_secret is None else ClientAuth(given.auth_method),
            registration=Registration.MANUAL,
        )
        for given in settings.oauth_clients
    }
