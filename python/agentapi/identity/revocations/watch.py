"""What was revoked through any process, told to this one's verifier.

The database is asked as soon as it tells that there is something, and once a second while what it tells is not heard:
through a pooler that passes no notifications on, or while a connection is being made anew.

A row's time is that of the beginning of its transaction, so that it may become visible later than one that is younger.
So each question goes back by ``_OVERLAP``, longer than any transaction lasts; the core takes a revocation twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

from agentapi._core import RevocationError
from agentapi.audit.models import DEPLOYMENT
from agentapi.errors import StorageUnavailableError
from agentapi.identity.revocations import store
from agentapi.storage.notifier import DEAF, WITHIN_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import ChangeFeed

__all__ = ["RevocationWatch"]

_OVERLAP: Final = timedelta(minutes=1)
_EVER: Final = datetime(2000, 1, 1, tzinfo=UTC)
_KEPT: Final = timedelta(hours=1)
"""How long a row stays behind the end of its token, for clocks that differ."""

_log = structlog.get_logger(__name__)


class RevocationWatch:
    """Keeps the verifier of a process told.

    Args:
        database: Where revocations are.
        issuers: Whose verifier it is.
        feed: Tells what other processes change.
        every_s: How often the database is asked while the feed does not hear.
    """

    def __init__(
        self, database: Database, issuers: IssuerDirectory, *, feed: ChangeFeed = DEAF, every_s: float = WITHIN_S
    ) -> None:
        self._database = database
        self._issuers = issuers
        self._feed = feed
        self._every_s = every_s
        self._told = asyncio.Event()
        feed.listen(("revoked_tokens",), lambda _: self._told.set(), self._told.set)
        self._since = _EVER
        self._away = False

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Read all that stands, and then what comes, for the length of the context.

        Raises:
            StorageUnavailableError: The database cannot be asked: without what stands no token may be believed.
        """
        await self.catch_up()
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def catch_up(self) -> None:
        """Tell the verifier what was revoked since it was told last.

        Raises:
            StorageUnavailableError: The database cannot be asked.
        """
        async with self._database.organization_transaction(DEPLOYMENT) as connection:
            rows, now = await store.since(connection, self._since)
        for row in rows:
            try:
                self._issuers.revoke(row["issuer"], row["token_id"], int(row["expires_at"].timestamp()))
            except RevocationError as error:
                # Of an issuer that is not accepted any more, or one too many.
                _log.error("revocation_not_taken_on", issuer=row["issuer"], reason=str(error))
        self._since = now - _OVERLAP

    async def forget_over(self) -> None:
        """Drop the rows of tokens that have ended by themselves: what a periodic job does."""
        async with self._database.organization_transaction(DEPLOYMENT) as connection:
            await store.forget_over(connection, datetime.now(UTC) - _KEPT)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), self._every_s)
            if self._feed.hears and not self._told.is_set() and not self._away:
                continue
            self._told.clear()
            try:
                await self.catch_up()
            except (StorageUnavailableError, asyncpg.PostgresError) as error:
                if not self._away:
                    _log.error("revocations_not_read", error=type(error).__name__)
                self._away = True
            else:
                self._away = False
