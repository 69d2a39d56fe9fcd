"""From a verified token of a session to whom it stands for, without asking the database for each request.

Invariants:

* The signature says which session a token is of; what that session may do is in its row, not in the token. What was
  read of a row is believed as that of an API key is: until the database tells that something changed, and for a second
  at most while that is not heard. So a session that ends through any process has ended in all of them a second later,
  and at once in the process that ended it, whatever its tokens say.
* A session carries no permission that its user's role lacks now, and does nothing once the key that it was made with
  (by the rule of keys: its maker may be gone, or be less than the key), its user's membership or its organisation is no
  good any more.
* Its times count exactly, whether the sweep has come by or not.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg
import structlog

from agentapi.audit.models import DEPLOYMENT
from agentapi.errors import StorageUnavailableError, UnauthenticatedError
from agentapi.principal import Principal, SessionId
from agentapi.sessions import store
from agentapi.sessions.models import EndReason
from agentapi.storage.notifier import DEAF
from agentapi.tenancy.views import TenantViews

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi._core import VerifiedToken
    from agentapi.principal import OrgId, UserId
    from agentapi.sessions.models import Standing
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.tenancy.models import Organization

__all__ = ["TOUCH_EVERY", "SessionGrants"]

TOUCH_EVERY: Final = timedelta(minutes=1)
_TOPICS: Final = ("sessions", "api_keys", "members", "member_roles", "organizations", "workspaces")
_MAX_TOUCHED: Final = 10_000

_log = structlog.get_logger(__name__)


class SessionGrants:
    """Knows whom tokens of sessions stand for.

    Args:
        database: Where sessions are.
        organization: Finds the organisation that a token names.
        clock: Monotonic seconds.
        now: The time.
        feed: Tells what other processes change.
        ttl_s: How long what was read of a session is believed, for as long as nothing is said to have changed.
    """

    def __init__(
        self,
        database: Database,
        *,
        organization: Callable[[VerifiedToken], Awaitable[Organization]],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        feed: ChangeFeed = DEAF,
        ttl_s: float = 30.0,
    ) -> None:
        self._database = database
        self._organization = organization
        self._now = now
        # The organisation is looked up by its slug to know whose row to read; whether it may be used is read with that.
        self._organizations: TenantViews[Organization] = TenantViews(clock=clock, ttl_s=ttl_s, feed=feed)
        self._standings: TenantViews[Standing | None] = TenantViews(clock=clock, ttl_s=ttl_s, feed=feed, topics=_TOPICS)
        feed.listen(
            ("organizations",), lambda _: self._organizations.forget(DEPLOYMENT), self._organizations.forget_all
        )
        self._reads: dict[SessionId, asyncio.Task[Standing | None]] = {}
        self._touched: dict[SessionId, datetime] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def principal(self, token: VerifiedToken) -> Principal:
        """Return whom a token of the gateway's own issuer stands for now.

        Raises:
            UnauthenticatedError: Its session has ended, or may do nothing any more; the reason is for the log.
            ForbiddenError: Its organisation is suspended.
            NotFoundError: Its organisation does not exist.
            StorageUnavailableError: The database cannot be asked.
        """
        session_id = _session_id(token)
        slug = token.organization or ""
        organization = await self._organizations.get(DEPLOYMENT, slug, lambda: self._organization(token))
        org_id = organization.id
        standing = await self._standings.get(org_id, session_id, lambda: self._read(org_id, session_id))
        now = self._now()
        if standing is not None and standing.session.over(now) is EndReason.IDLE:
            # It may have been used through another process, which nobody is told of.
            standing = await self._read(org_id, session_id)
        if standing is None:
            raise _refused("unknown_session")
        session = standing.session
        over = session.over(now)
        if over is not None:
            raise _refused(f"session_{over}")
        if standing.org_slug != slug:
            raise _refused("session_of_renamed_organization")
        refusal = standing.refusal(now)
        if refusal is not None:
            raise _refused(refusal)
        self._use(standing, now)
        return Principal(
            user_id=session.user_id,
            org_id=org_id,
            org_slug=slug,
            role=session.role,
            issuer=standing.issuer,
            subject=standing.subject,
            scopes=session.scopes & token.scopes,
            session_id=session.id,
            workspace_id=standing.workspace_id,
        )

    async def owner(self, org_id: OrgId, session_id: str) -> UserId | None:
        """Return whose a session of the organisation is or was, or None if it has no such session.

        Raises:
            StorageUnavailableError: The database cannot be asked.
        """
        try:
            standing = await self._read(org_id, SessionId(UUID(session_id)))
        except ValueError:
            return None
        return None if standing is None else standing.session.user_id

    def forget(self, org_id: OrgId) -> None:
        """Read the sessions of an organisation anew when they are used next, for one was changed by this process."""
        self._organizations.forget(DEPLOYMENT)
        self._standings.forget(org_id)
        self._reads.clear()

    async def aclose(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _read(self, org_id: OrgId, session_id: SessionId) -> Standing | None:
        """Read a session once for all who ask for it at the same time."""
        task = self._reads.get(session_id)
        if task is None:
            task = self._reads[session_id] = asyncio.ensure_future(self._query(org_id, session_id))
            task.add_done_callback(lambda done: self._read_ended(session_id, done))
        return await asyncio.shield(task)

    def _read_ended(self, session_id: SessionId, task: asyncio.Task[Standing | None]) -> None:
        if self._reads.get(session_id) is task:
            del self._reads[session_id]
        # Those who asked may all have left; what went wrong then concerns nobody.
        _ = task.cancelled() or task.exception()

    async def _query(self, org_id: OrgId, session_id: SessionId) -> Standing | None:
        async with self._database.organization_transaction(org_id) as connection:
            return await store.standing(connection, session_id)

    def _use(self, standing: Standing, now: datetime) -> None:
        """Note once in a while that a session is used, without anybody waiting for it."""
        session = standing.session
        last = max(session.last_used_at, self._touched.get(session.id, session.last_used_at))
        if now - last < TOUCH_EVERY:
            return
        if len(self._touched) >= _MAX_TOUCHED:
            self._touched.clear()
        self._touched[session.id] = now
        task = asyncio.ensure_future(self._write_use(session.org_id, session.id, now))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_use(self, org_id: OrgId, session_id: SessionId, now: datetime) -> None:
        try:
            async with self._database.organization_transaction(org_id) as connection:
                await store.touch(connection, session_id, now=now, every=TOUCH_EVERY)
        except (StorageUnavailableError, asyncpg.PostgresError) as error:
            _log.warning("use_of_session_not_written", error=type(error).__name__)


def _session_id(token: VerifiedToken) -> SessionId:
    try:
        return SessionId(UUID(token.session_id or ""))
    except ValueError:
        raise _refused("token_of_no_session") from None


def _refused(reason: str) -> UnauthenticatedError:
    return UnauthenticatedError(reason, presented=True)
