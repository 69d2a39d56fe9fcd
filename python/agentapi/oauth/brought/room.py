"""The folder put together, for the composition root: routes to mount, credentials to give, a way to connect."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agentapi.oauth.brought.book import BroughtBook
from agentapi.oauth.brought.credentials import BroughtCredentials
from agentapi.oauth.brought.routes import BroughtRoutes
from agentapi.oauth.brought.vault import BroughtVault
from agentapi.oauth.brought.way import BroughtWay
from agentapi.storage.notifier import DEAF
from agentapi.upstreams.probe import probe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.routing import Route

    from agentapi._core import Keyring
    from agentapi.audit.log import AuditLog
    from agentapi.oauth.changes import Changes
    from agentapi.principal import Principal
    from agentapi.settings import Settings
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.upstreams.credentials import Credential
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.probe import ProbeResult
    from agentapi.upstreams.registry import UpstreamRegistry
    from agentapi.upstreams.transports import TransportFactory

__all__ = ["BroughtRoom"]


@dataclass(frozen=True, slots=True)
class BroughtRoom:
    """What the rest of the application needs of brought credentials."""

    book: BroughtBook
    credentials: BroughtCredentials
    way: BroughtWay

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        database: Database,
        keyring: Keyring,
        transports: TransportFactory,
        changes: Changes,
        audit: AuditLog,
        feed: ChangeFeed = DEAF,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> BroughtRoom:
        """Put it together."""
        vault = BroughtVault(keyring)
        timeout_s = settings.upstream_connect_timeout_s * 2

        async def check(upstream: Upstream, credential: Credential) -> ProbeResult:
            return await probe(transports.open(upstream, credential), timeout_s=timeout_s)

        book = BroughtBook(database=database, vault=vault, changes=changes, check=check, audit=audit, clock=clock)
        return cls(
            book=book,
            credentials=BroughtCredentials(
                database=database,
                vault=vault,
                changes=changes,
                audit=audit,
                clock=clock,
                monotonic=time.monotonic,
                feed=feed,
            ),
            way=BroughtWay(book),
        )

    def routes(
        self, *, authorize: Callable[[Request], Awaitable[Principal]], upstreams: UpstreamRegistry
    ) -> list[Route]:
        """Return the routes, for the application to mount."""
        return BroughtRoutes(authorize=authorize, upstreams=upstreams, book=self.book).routes()
