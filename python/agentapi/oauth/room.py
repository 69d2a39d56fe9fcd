"""The OAuth room put together, for the composition root: routes to mount and credentials to give."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from agentapi.oauth.ahead import RefreshAhead, RefreshPlan
from agentapi.oauth.book import ConnectionBook
from agentapi.oauth.changes import Changes
from agentapi.oauth.clients.registry import ClientRegistry
from agentapi.oauth.connect.browser import Browsers
from agentapi.oauth.connect.door import Door
from agentapi.oauth.connect.links import Links
from agentapi.oauth.connect.routes import ConnectRoutes
from agentapi.oauth.connect.sign_in import SignIns
from agentapi.oauth.connect.tickets import Tickets
from agentapi.oauth.connect.ways import OAuthWay
from agentapi.oauth.credentials import ConnectionCredentials
from agentapi.oauth.discovery import Discovery
from agentapi.oauth.flow import Flows
from agentapi.oauth.join.routes import JoinRoutes
from agentapi.oauth.journal import Journal
from agentapi.oauth.models import Client, ClientAuth, Registration
from agentapi.oauth.outcome import Outcomes
from agentapi.oauth.places import TokenPlaces
from agentapi.oauth.protocol import AuthorizationClient
from agentapi.oauth.providers import PRESETS
from agentapi.oauth.refresh import Refresher
from agentapi.oauth.revoke import Revoker
from agentapi.oauth.routes import OAuthRoutes
from agentapi.oauth.vault import Vault
from agentapi.storage.notifier import DEAF
from agentapi.upstreams.models import Auth

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.routing import Route

    from agentapi._core import Keyring
    from agentapi.audit.log import AuditLog
    from agentapi.egress.client import Egress
    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.jobs.queue import JobQueue
    from agentapi.oauth.connect.ways import Way
    from agentapi.oauth.models import ProviderName
    from agentapi.oauth.providers import Preset
    from agentapi.principal import Principal
    from agentapi.settings import BrowserSignIn, Settings
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.tenancy.admission import Admission
    from agentapi.tenancy.book import Tenancy
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["OAuthRoom"]

_log = structlog.get_logger(__name__)


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
    tickets: Tickets
    links: Links
    ways: dict[Auth, Way]
    """Where ``/connect/{id}`` leads, by the kind of upstream; the composition root adds those of other rooms."""
    keyring: Keyring
    discovery: Discovery
    protocol: AuthorizationClient
    database: Database
    clock: Callable[[], datetime]
    public_url: str
    takes_tokens: bool
    """Whether people without a client to sign in by may show a token of theirs instead."""

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        database: Database,
        egress: Egress,
        keyring: Keyring,
        jobs: JobQueue,
        audit: AuditLog,
        feed: ChangeFeed = DEAF,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        presets: Mapping[ProviderName, Preset] = PRESETS,
    ) -> OAuthRoom:
        """Put the room together."""
        vault, public_url = Vault(keyring), str(settings.public_url).rstrip("/")
        discovery = Discovery(egress, timeout_s=settings.egress_timeout_s)
        protocol = AuthorizationClient(egress, timeout_s=settings.egress_timeout_s)
        clients = ClientRegistry(
            database=database,
            vault=vault,
            discovery=discovery,
            protocol=protocol,
            public_url=public_url,
            metadata_url=settings.oauth_client_metadata_url,
            clock=clock,
            defaults=_defaults(settings),
            presets=presets,
        )
        changes = Changes()
        journal = Journal(audit)
        plan = RefreshPlan(jobs, clock=clock, ahead_s=settings.oauth_refresh_ahead_s).plan
        revoker = Revoker(
            database=database, vault=vault, clients=clients, protocol=protocol, changes=changes, journal=journal
        )
        refresher = Refresher(
            database=database,
            vault=vault,
            clients=clients,
            protocol=protocol,
            # Each keeps a database connection, and calls need some too.
            places=TokenPlaces(at_once=max(settings.database_pool_max // 2, 1), wait_s=settings.egress_timeout_s),
            clock=clock,
            changes=changes,
            ahead_s=settings.oauth_refresh_ahead_s,
            lock_wait_s=settings.egress_timeout_s * 2,
            plan=plan,
            journal=journal,
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
            journal=journal,
            clock=clock,
            changes=changes,
        )
        credentials = ConnectionCredentials(
            database=database,
            vault=vault,
            refresher=refresher,
            clock=clock,
            ahead_s=settings.oauth_refresh_ahead_s,
            feed=feed,
        )
        changes.listen(credentials.changed)
        tickets = Tickets(keyring, public_url=public_url, clock=clock)
        ways: dict[Auth, Way] = {Auth.OAUTH: OAuthWay(flows=flows, clients=clients, database=database, vault=vault)}
        return cls(
            flows=flows,
            book=ConnectionBook(database=database, clients=clients, refresher=refresher, clock=clock),
            revoker=revoker,
            refresher=refresher,
            clients=clients,
            credentials=credentials,
            changes=changes,
            tickets=tickets,
            links=Links(tickets, ways),
            ways=ways,
            keyring=keyring,
            discovery=discovery,
            protocol=protocol,
            database=database,
            clock=clock,
            public_url=public_url,
            takes_tokens=settings.takes_tokens_to_connect,
        )

    def browser_routes(
        self,
        *,
        issuers: IssuerDirectory,
        admission: Admission,
        tenancy: Tenancy,
        clients: Mapping[str, BrowserSignIn],
    ) -> list[Route]:
        """Return the routes of the pages at which people sign in: to connect, and to join.

        Args:
            issuers: Verify the tokens that people show.
            admission: Admits their owners.
            tenancy: Lets in who was invited.
            clients: The gateway as a client at which people sign in, by issuer.
        """
        closed = [issuer for issuer in issuers.issuers if issuer not in clients]
        if closed and not self.takes_tokens:
            _log.warning("connect_page_without_sign_in", issuers=closed, mend="set sign_in of these issuers")
        sign_ins = SignIns(
            keyring=self.keyring,
            issuers=issuers,
            admission=admission,
            clients=clients,
            takes_tokens=self.takes_tokens,
            discovery=self.discovery,
            protocol=self.protocol,
            public_url=self.public_url,
            clock=self.clock,
        )
        browsers = Browsers(self.keyring, self.clock)
        door = Door(browsers, sign_ins)
        connect = ConnectRoutes(
            database=self.database,
            tickets=self.tickets,
            door=door,
            browsers=browsers,
            sign_ins=sign_ins,
            links=self.links,
            admission=admission,
        )
        join = JoinRoutes(
            invitations=tenancy.invitations, door=door, browsers=browsers, sign_ins=sign_ins, public_url=self.public_url
        )
        return [*connect.routes(), *join.routes()]

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
            tickets=self.tickets,
            outcomes=Outcomes(database=self.database, keyring=self.keyring, clock=self.clock),
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
