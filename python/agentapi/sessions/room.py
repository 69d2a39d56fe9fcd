"""Sessions, put together."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from agentapi.sessions.book import SessionBook
from agentapi.sessions.directories import SessionDirectories
from agentapi.sessions.grants import SessionGrants
from agentapi.sessions.routes import SessionRoutes
from agentapi.sessions.sweep import SessionSweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.routing import Route

    from agentapi.audit.log import AuditLog
    from agentapi.identity.signing_keys.ring import SigningRing
    from agentapi.jobs.queue import JobQueue
    from agentapi.principal import Principal
    from agentapi.prompts.registry import PromptRegistry
    from agentapi.settings import Settings
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.tenancy.admission import Admission

__all__ = ["SessionRoom"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SessionRoom:
    """What the composition root needs of the room."""

    book: SessionBook
    grants: SessionGrants
    directories: SessionDirectories
    sweep: SessionSweep

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        database: Database,
        audit: AuditLog,
        jobs: JobQueue,
        ring: SigningRing,
        prompts: PromptRegistry,
        admission: Admission,
        asks_scopes: Callable[[str], bool],
        feed: ChangeFeed,
    ) -> Self:
        """Build the room, have ``admission`` ask it about tokens of the own issuer, and ``jobs`` do its work."""
        directories = SessionDirectories(settings.state_dir / "sessions")
        grants = SessionGrants(database, organization=admission.organization, feed=feed)
        book = SessionBook(
            settings,
            database=database,
            audit=audit,
            jobs=jobs,
            directories=directories,
            grants=grants,
            ring=ring,
            prompts=prompts,
            asks_scopes=asks_scopes,
        )
        book.attach()
        admission.leave_to(ring.issuer, grants.principal, owner=grants.owner)
        sweep = SessionSweep(
            book,
            directories,
            every_s=settings.sessions_sweep_s,
            max_size=settings.sessions_disk_mb * _MIB,
            max_entries=settings.sessions_disk_entries,
        )
        return cls(book, grants, directories, sweep)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Sweep for the length of the context, and at its end wait for what is being written."""
        async with self.sweep.run():
            try:
                yield
            finally:
                await self.grants.aclose()

    def routes(self, authorize: Callable[[Request], Awaitable[Principal]]) -> list[Route]:
        """Return the routes, for the application to mount."""
        return SessionRoutes(authorize=authorize, book=self.book).routes()
