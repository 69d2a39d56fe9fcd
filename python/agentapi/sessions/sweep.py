"""What each host looks after by itself: directories that hold too much, and those that belong to no session.

The database alone says which sessions live, so this is right whether a host has directories of its own or shares them
with others: the directory of a living session is removed by nobody, one without is removed by whoever sees it. One that
was made a moment ago may be that of a session whose transaction is about to commit, and is left alone.

What a directory holds is measured now and then; between two measurements it may grow over its quota by as much as the
sandbox lets a process write. Who finds no room is the file system: a host that runs commands of strangers gives the
state directory a volume of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

from agentapi.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.principal import OrgId, SessionId
    from agentapi.sessions.book import SessionBook
    from agentapi.sessions.directories import Found, SessionDirectories

__all__ = ["SessionSweep"]

_YOUNG_S: Final = 600.0
"""Longer than any transaction lasts, and any difference between two clocks that matters."""

_log = structlog.get_logger(__name__)


class SessionSweep:
    """Sweeps the directories of a host.

    Args:
        book: Knows the sessions.
        directories: Has the directories.
        every_s: How often.
        max_size: Bytes that a directory may hold.
        max_entries: Files, directories and links that it may hold.
        young_s: Age below which a directory without a session is left alone.
    """

    def __init__(
        self,
        book: SessionBook,
        directories: SessionDirectories,
        *,
        every_s: float,
        max_size: int,
        max_entries: int,
        young_s: float = _YOUNG_S,
    ) -> None:
        self._book = book
        self._directories = directories
        self._every_s = every_s
        self._max_size = max_size
        self._max_entries = max_entries
        self._young_s = young_s

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Sweep now and then, from the beginning of the context to its end."""
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def sweep(self) -> None:
        """Go through the directories once.

        Raises:
            OSError: The directories cannot be looked at.
            StorageUnavailableError: The database cannot be asked, so nothing is known and nothing is removed.
        """
        by_organization: defaultdict[OrgId, list[Found]] = defaultdict(list)
        for each in await asyncio.to_thread(self._directories.found):
            by_organization[each.org_id].append(each)
        for org_id, found in by_organization.items():
            live = await self._book.live_among(org_id, [each.session_id for each in found])
            for each in found:
                if each.session_id in live:
                    await self._measure(org_id, each.session_id)
                elif each.age_s >= self._young_s:
                    await self._remove(org_id, each.session_id)

    async def _measure(self, org_id: OrgId, session_id: SessionId) -> None:
        usage = await asyncio.to_thread(
            self._directories.measure,
            org_id,
            session_id,
            max_size=self._max_size,
            max_entries=self._max_entries,
        )
        if usage.size > self._max_size or usage.entries > self._max_entries:
            _log.warning("session_over_quota", session_id=str(session_id), size=usage.size, entries=usage.entries)
            await self._book.end_for_quota(org_id, session_id)

    async def _remove(self, org_id: OrgId, session_id: SessionId) -> None:
        try:
            await asyncio.to_thread(self._directories.remove, org_id, session_id)
        except OSError as error:
            _log.warning("session_directory_left_behind", session_id=str(session_id), reason=error.strerror)
        else:
            _log.info("session_directory_without_session_removed", session_id=str(session_id))

    async def _work(self) -> None:
        while True:
            # One process of a host sweeps for as long as it lives; the others wait to take its place.
            with contextlib.suppress(OSError), self._directories.alone() as alone:
                while alone:
                    await self._sweep_or_say()
                    await asyncio.sleep(self._every_s)
            await asyncio.sleep(self._every_s)

    async def _sweep_or_say(self) -> None:
        try:
            await self.sweep()
        except (OSError, StorageUnavailableError, asyncpg.PostgresError) as error:
            _log.warning("session_sweep_failed", error=type(error).__name__)
