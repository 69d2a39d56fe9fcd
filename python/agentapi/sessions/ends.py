"""How sessions end by themselves or with what they rest on, and what is done then.

Invariants:

* An end and its entry in the audit log commit together, and so does the job that removes the directory.
* Before a directory is removed nobody acts in its session any more, and what was started in it by this process has
  ended. The other processes hear of the end through the change feed, and see to theirs.
* The directory of a session that has ended is made by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agentapi.audit.models import Actor, Entry, Outcome
from agentapi.principal import OrgId, SessionId
from agentapi.sessions import store
from agentapi.sessions.models import EndReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from agentapi.audit.log import AuditLog
    from agentapi.audit.models import Doer
    from agentapi.identity.api_keys.models import KeyId
    from agentapi.jobs.queue import JobQueue
    from agentapi.principal import UserId, WorkspaceId
    from agentapi.sessions.directories import SessionDirectories
    from agentapi.sessions.grants import SessionGrants
    from agentapi.storage.database import Connection, Database

__all__ = ["SessionEnds", "entry_of"]

_REMOVE: Final = "sessions.remove"
_BATCH: Final = 100
_PAGE: Final = 1000
_KEPT: Final = timedelta(days=7)
"""How long the row of a session stays behind its end, for whoever asks what became of it."""


class SessionEnds:
    """Ends the sessions of organisations.

    Args:
        database: Where they are.
        audit: Where their ends are recorded.
        jobs: Takes what is left to do when one has ended.
        directories: Has their directories.
        grants: Is told of those that end.
        now: The time.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        jobs: JobQueue,
        directories: SessionDirectories,
        grants: SessionGrants,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._jobs = jobs
        self._directories = directories
        self._grants = grants
        self._now = now
        self._closers: list[Callable[[SessionId], Awaitable[None]]] = []

    def attach(self) -> None:
        """Have the queue do what is left to do; to be said before it runs."""
        self._jobs.handle(_REMOVE, self._remove)
        self._jobs.every("sessions.expire", "* * * * *", self.expire)
        self._jobs.every("sessions.forget", "17 3 * * *", self.forget_over)

    def before_removal(self, close: Callable[[SessionId], Awaitable[None]]) -> None:
        """Have ``close`` end what runs of a session, whenever one has ended and before its directory is removed."""
        self._closers.append(close)

    async def directory(self, org_id: OrgId, session_id: SessionId) -> Path:
        """Return where the directory of a session is, made on a host that lacks it as long as the session lives.

        Raises:
            OSError: It cannot be made.
            StorageUnavailableError: The database cannot be asked.
        """
        path = self._directories.of(org_id, session_id)
        if not await asyncio.to_thread(path.is_dir) and await self.live_among(org_id, [session_id]):
            await asyncio.to_thread(self._directories.make, org_id, session_id)
        return path

    async def end_for_quota(self, org_id: OrgId, session_id: SessionId) -> None:
        """End a session whose directory holds more than it may."""
        actor = Actor(org_id)
        async with self._database.organization_transaction(org_id) as connection:
            if await store.end(connection, session_id, now=self._now(), reason=EndReason.QUOTA):
                await self._ended(connection, actor, session_id, EndReason.QUOTA)
        await self._quiet(org_id, [session_id])

    async def end_all(self, org_id: OrgId, user_id: UserId | None = None) -> None:
        """End all sessions of an organisation that is about to go, or of a user whose membership has ended.

        With a user end those of keys that the user made, whomever they act as.

        Their directories on this host are gone when this returns, as far as that can be; the queue tries the others.
        """
        reason = EndReason.ORGANIZATION_DELETED if user_id is None else EndReason.MEMBER_REMOVED
        async with self._database.organization_transaction(org_id) as connection:
            ended = await store.end_of_user(connection, user_id, now=self._now(), reason=reason)
            for session_id in ended:
                await self._ended(connection, Actor(org_id), session_id, reason)
        await self._quiet(org_id, ended)
        await asyncio.to_thread(self._remove_all, org_id, ended)

    async def end_of_key(self, org_id: OrgId, key_id: KeyId) -> None:
        """End the sessions that were made with an API key that is good no more."""
        async with self._database.organization_transaction(org_id) as connection:
            ended = await store.end_of_key(connection, key_id, now=self._now(), reason=EndReason.KEY_REVOKED)
            for session_id in ended:
                await self._ended(connection, Actor(org_id), session_id, EndReason.KEY_REVOKED)
        await self._quiet(org_id, ended)

    async def end_in_workspace(self, connection: Connection, doer: Doer, workspace_id: WorkspaceId) -> None:
        """End the sessions in a workspace that is deleted in this transaction, with which their rows go."""
        reason = EndReason.WORKSPACE_DELETED
        for session_id in await store.end_of_workspace(connection, workspace_id, now=self._now(), reason=reason):
            await self._ended(connection, doer, session_id, reason)

    async def expire(self) -> None:
        """End the sessions of all organisations whose time has come: what a periodic job does."""
        async for org_id in self._organizations(living=True):
            while await self._expire(org_id) == _BATCH:
                pass

    async def forget_over(self) -> None:
        """Drop the rows of sessions that ended long ago: what a periodic job does."""
        async for org_id in self._organizations(living=False):
            async with self._database.organization_transaction(org_id) as connection:
                await store.forget_over(connection, self._now() - _KEPT)

    async def _organizations(self, *, living: bool) -> AsyncIterator[OrgId]:
        """Go through the organisations of the deployment, or those that have a living session."""
        last = OrgId(UUID(int=0))
        while True:
            async with self._database.platform_transaction() as connection:
                found = await store.organizations(connection, after=last, limit=_PAGE, living=living)
            for org_id in found:
                yield org_id
            if len(found) < _PAGE:
                return
            last = found[-1]

    async def live_among(self, org_id: OrgId, session_ids: Iterable[SessionId]) -> set[SessionId]:
        """Return those of ``session_ids`` that live."""
        async with self._database.organization_transaction(org_id) as connection:
            return await store.live_among(connection, list(session_ids))

    async def _expire(self, org_id: OrgId) -> int:
        async with self._database.organization_transaction(org_id) as connection:
            due = await store.end_due(connection, now=self._now(), limit=_BATCH)
            for session_id, reason in due:
                await self._ended(connection, Actor(org_id), session_id, reason)
        if due:
            await self._quiet(org_id, [session_id for session_id, _ in due])
        return len(due)

    async def _quiet(self, org_id: OrgId, session_ids: Sequence[SessionId]) -> None:
        """Have nobody act in sessions that have ended, and then nothing run that was started in them."""
        self._grants.forget(org_id)
        await asyncio.gather(*(close(each) for each in session_ids for close in self._closers))

    async def _ended(self, connection: Connection, doer: Doer, session_id: SessionId, reason: EndReason) -> None:
        """Queue what is left to do for a session that ends in this transaction, and record that it does."""
        payload = {"org": str(doer.org_id), "session": str(session_id)}
        await self._jobs.put(connection, _REMOVE, payload, after=timedelta())
        verb = "expired" if reason in {EndReason.IDLE, EndReason.EXPIRED} else "ended"
        await self._audit.record(connection, doer, entry_of(verb, session_id, reason=reason.value))

    async def _remove(self, payload: Mapping[str, Any]) -> None:
        """Remove the directory of a session that has ended; what is left is tried again."""
        org_id, session_id = OrgId(UUID(payload["org"])), SessionId(UUID(payload["session"]))
        if session_id not in await self.live_among(org_id, [session_id]):
            await self._quiet(org_id, [session_id])
            await asyncio.to_thread(self._directories.remove, org_id, session_id)

    def _remove_all(self, org_id: OrgId, session_ids: Iterable[SessionId]) -> None:
        for session_id in session_ids:
            with contextlib.suppress(OSError):
                self._directories.remove(org_id, session_id)


def entry_of(verb: str, session_id: SessionId, **details: str) -> Entry:
    """Return what the audit log is to have of a session."""
    return Entry(f"session.{verb}", Outcome.SUCCESS, f"session:{session_id}", details)
