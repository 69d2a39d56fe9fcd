"""The room of sessions as one process has it, with clocks of its own."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agentapi._core import Keyring, VerifiedToken
from agentapi.audit.log import AuditLog
from agentapi.identity.issuers import IssuerDirectory, OwnIssuer
from agentapi.identity.signing_keys.ring import SigningRing
from agentapi.jobs.queue import JobQueue
from agentapi.prompts.registry import PromptRegistry
from agentapi.sessions.book import SessionBook
from agentapi.sessions.directories import SessionDirectories
from agentapi.sessions.grants import SessionGrants
from agentapi.sessions.models import Started, Wish
from agentapi.sessions.sweep import SessionSweep
from agentapi.settings import load_settings
from agentapi.tenancy.admission import Admission
from agentapi.tenancy.store import upsert_member
from tenants import make_tenant

if TYPE_CHECKING:
    from pathlib import Path

    from agentapi.principal import Principal
    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres
    from support.clock import Clock

__all__ = ["PUBLIC_URL", "Process"]

PUBLIC_URL = "http://gateway.example"


class Process:
    """What one process of a gateway knows of sessions."""

    def __init__(self, database: Database, postgres: EmbeddedPostgres, root: Path, keyring: str, clock: Clock) -> None:
        settings = load_settings(public_url=PUBLIC_URL)
        audit = AuditLog(database)
        opened = Keyring.parse(keyring)
        self.database = database
        self.clock = clock
        self.jobs = JobQueue(postgres.app_dsn, keyring=opened, timeout_s=5.0, poll_s=0.5)
        self.ring = SigningRing(
            database, keyring=opened, audit=audit, issuer=PUBLIC_URL, rotate_after=timedelta(days=90)
        )
        self.issuers = IssuerDirectory(
            (),
            fetch=_nowhere,
            leeway_s=30,
            cache_entries=100,
            ttl_s=600,
            min_interval_s=60,
            clock=clock.seconds,
            own=OwnIssuer(PUBLIC_URL, self.ring.published),
        )
        self.admission = Admission(database, clock=clock.seconds)
        self.directories = SessionDirectories(root)
        self.grants = SessionGrants(
            database, organization=self.admission.organization, clock=clock.seconds, now=clock.now
        )
        self.book = SessionBook(
            settings,
            database=database,
            audit=audit,
            jobs=self.jobs,
            directories=self.directories,
            grants=self.grants,
            ring=self.ring,
            prompts=PromptRegistry(database, audit=audit, clock=clock.seconds),
            asks_scopes=lambda _: False,
            now=clock.now,
        )
        self.book.attach()
        self.sweep = self.sweep_of(young_s=600)

    def sweep_of(self, *, young_s: float) -> SessionSweep:
        """Return a sweep with small quotas."""
        return SessionSweep(
            self.book, self.directories, every_s=30, max_size=1_000_000, max_entries=50, young_s=young_s
        )

    async def member(self, **changes: Any) -> Principal:
        """Return somebody of a new organisation."""
        principal = (await make_tenant(self.database, **changes)).principal
        async with self.database.tenant_transaction(principal) as connection:
            await upsert_member(connection, principal, email=None)
        return principal

    async def start(self, principal: Principal, **changes: Any) -> Started:
        """Start a session in the workspace of that organisation."""
        return await self.book.create(principal, Wish(workspace="main", **changes))

    async def verified(self, started: Started) -> VerifiedToken:
        """Return the token of a session as this process verifies it."""
        return await self.issuers.verify(started.token.text, started.token.mcp_url)

    async def principal(self, started: Started) -> Principal:
        """Return whom the token of a session stands for."""
        return await self.grants.principal(await self.verified(started))


async def _nowhere(url: str) -> bytes:
    raise AssertionError(url)
