"""Start, show, touch and end sessions.

Invariants:

* A session carries no permission that its maker's role lacks, when it is made and whenever it is used, and no scope
  that the maker's own credential had to carry and did not. It is never a platform admin.
* Whoever comes in a session starts none, and gets no token of one: what leaks can neither outlive itself nor multiply.
* Only whom a session acts for gets a token of it, since a token acts as that user; an admin may end it.
* A row and its entry in the audit log commit together, and so does the job that removes the directory of one that
  ended. That of a new one is made before its row is committed: a crash in between leaves a directory without a
  session, which the sweep removes.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from agentapi.errors import ConflictError, ForbiddenError, LimitReachedError, NotFoundError, StorageUnavailableError
from agentapi.identity.api_keys.models import MCP_SCOPES, KeyId
from agentapi.identity.permissions import Permission, permits, within
from agentapi.principal import OrgId, Role, SessionId
from agentapi.sessions import store
from agentapi.sessions.ends import SessionEnds, entry_of
from agentapi.sessions.models import EndReason, Session, SessionToken, Started

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.audit.log import AuditLog
    from agentapi.identity.signing_keys.ring import SigningRing
    from agentapi.jobs.queue import JobQueue
    from agentapi.principal import Principal
    from agentapi.prompts.registry import PromptRegistry
    from agentapi.sessions.directories import SessionDirectories
    from agentapi.sessions.grants import SessionGrants
    from agentapi.sessions.models import Wish
    from agentapi.settings import Settings
    from agentapi.storage.database import Database

__all__ = ["NO_SESSION", "SessionBook"]

NO_SESSION: Final = "There is no such session."
_AT_ONCE: Final = 2
"""One whose transaction commits, and one that has its connection by then."""


class SessionBook(SessionEnds):
    """The sessions of organisations.

    Args:
        settings: Say how long sessions and their tokens live, and where the gateway is.
        database: Where they are.
        audit: Where their beginnings and ends are recorded.
        jobs: Takes what is left to do when one has ended.
        directories: Has their directories.
        grants: Is told of those that end.
        ring: Signs their tokens.
        prompts: Composes their prompts.
        asks_scopes: Whether the tokens of an issuer must carry scopes by operation.
        now: The time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database,
        audit: AuditLog,
        jobs: JobQueue,
        directories: SessionDirectories,
        grants: SessionGrants,
        ring: SigningRing,
        prompts: PromptRegistry,
        asks_scopes: Callable[[str], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lifetime = timedelta(seconds=settings.sessions_lifetime_s)
        self._idle = timedelta(seconds=settings.sessions_idle_s)
        self._token_life = timedelta(seconds=settings.sessions_token_s)
        self._public_url = str(settings.public_url).rstrip("/")
        super().__init__(database, audit=audit, jobs=jobs, directories=directories, grants=grants, now=now)
        self._ring = ring
        self._prompts = prompts
        self._asks_scopes = asks_scopes
        self._turns: WeakValueDictionary[OrgId, asyncio.Semaphore] = WeakValueDictionary()

    async def create(self, principal: Principal, wish: Wish) -> Started:
        """Start a session with a directory, a composed prompt and a token.

        Raises:
            ForbiddenError: It would be good for more than its maker.
            NotFoundError: There is no such workspace.
            InvalidRequestError: The values do not fit the variables of the prompts.
            LimitReachedError: The organisation, or the user, has as many as the plan allows.
            StorageUnavailableError: The database cannot be asked, or there is no room for the directory.
        """
        _require_no_session(principal)
        role = wish.role or Role.AGENT
        if role is Role.PLATFORM_ADMIN or not within(role, principal.role):
            raise ForbiddenError(f"A session with the role '{role}' would be good for more than you are.")
        session = self._drafted(principal, wish, role)
        composed = await self._prompts.compose(principal, wish.workspace, wish.variables)
        # Before anything is stored: what is stored has a token.
        token = await self._token(principal.org_slug, session)
        try:
            await self._insert(principal, session)
        except LimitReachedError:
            # Those whose time has come count until the sweep comes by, and nobody should wait for it.
            if not await self._expire(session.org_id):
                raise
            await self._insert(principal, session)
        return Started(session, token, composed.text)

    async def page(self, principal: Principal, *, before: tuple[datetime, UUID] | None, limit: int) -> list[Session]:
        """Return up to ``limit`` sessions, the newest first, from behind ``before``: an admin's list has all."""
        place = before or (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))
        async with self._database.tenant_transaction(principal) as connection:
            if permits(principal, Permission.SESSIONS_ALL):
                return await store.page(connection, before=place, limit=limit)
            return await store.page_of_user(connection, principal.user_id, before=place, limit=limit)

    async def get(self, principal: Principal, session_id: SessionId) -> Session:
        """Return a session.

        Raises:
            NotFoundError: There is none that the principal may know of.
        """
        async with self._database.tenant_transaction(principal) as connection:
            session = await store.find(connection, session_id)
        if session is None or not (session.user_id == principal.user_id or permits(principal, Permission.SESSIONS_ALL)):
            raise NotFoundError(NO_SESSION)
        return session

    async def touch(self, principal: Principal, session_id: SessionId) -> Session:
        """Note that a session is in use.

        Raises:
            ConflictError: It has ended.
            ForbiddenError: It acts for somebody else.
            NotFoundError: There is none that the principal may know of.
        """
        session = await self._own_and_live(principal, session_id)
        async with self._database.tenant_transaction(principal) as connection:
            await store.touch(connection, session.id, now=self._now(), every=timedelta())
        self._grants.forget(session.org_id)
        return await self.get(principal, session_id)

    async def mint(self, principal: Principal, session_id: SessionId) -> SessionToken:
        """Return another token of a session, that it may go on when the one before ends.

        Raises:
            ConflictError: It has ended, or what it rests on has.
            ForbiddenError: It acts for somebody else, or the principal is one of a session itself.
            NotFoundError: There is none that the principal may know of.
        """
        _require_no_session(principal)
        session = await self._own_and_live(principal, session_id)
        if not within(session.role, principal.role) or not session.scopes <= self._allowed(principal):
            raise ForbiddenError("The session is good for more than you are.")
        async with self._database.tenant_transaction(principal) as connection:
            standing = await store.standing(connection, session.id)
        if standing is None or standing.refusal(self._now()) is not None:
            raise ConflictError("What the session rests on, such as its API key, is no good any more.")
        token = await self._token(principal.org_slug, session)
        async with self._database.tenant_transaction(principal) as connection:
            await self._audit.record(connection, principal, entry_of("token_minted", session.id))
        return token

    async def end(self, principal: Principal, session_id: SessionId) -> None:
        """End a session; a second time changes nothing.

        Raises:
            NotFoundError: There is none that the principal may know of.
        """
        _require_no_session(principal)
        session = await self.get(principal, session_id)
        async with self._database.tenant_transaction(principal) as connection:
            if await store.end(connection, session.id, now=self._now(), reason=EndReason.ENDED):
                await self._ended(connection, principal, session.id, EndReason.ENDED)
        await self._quiet(session.org_id, [session.id])

    def _drafted(self, principal: Principal, wish: Wish, role: Role) -> Session:
        allowed = self._allowed(principal)
        wider = (wish.scopes or frozenset()) - allowed
        if wider:
            raise ForbiddenError(f"Your own credential lacks the scopes: {' '.join(sorted(wider))}.")
        now = self._now()
        return Session(
            org_id=principal.org_id,
            id=SessionId(uuid4()),
            user_id=principal.user_id,
            workspace=wish.workspace,
            key_id=None if principal.key_id is None else KeyId(principal.key_id),
            name=wish.name,
            role=role,
            scopes=allowed if wish.scopes is None else wish.scopes,
            idle=min(wish.idle or self._idle, self._idle),
            created_at=now,
            last_used_at=now,
            expires_at=now + min(wish.lifetime or self._lifetime, self._lifetime),
        )

    def _allowed(self, principal: Principal) -> frozenset[str]:
        """Return the scopes that the principal may pass on: its own, where its credential has to carry them."""
        if principal.key_id is not None or self._asks_scopes(principal.issuer):
            return principal.scopes & {*MCP_SCOPES}
        return frozenset(MCP_SCOPES)

    async def _insert(self, principal: Principal, session: Session) -> None:
        granted = " ".join(sorted(session.scopes))
        details = {"workspace": session.workspace, "role": session.role.value, "scopes": granted, "name": session.name}
        entry = entry_of("created", session.id, **details)
        try:
            self._make(session)
            async with self._turn(session.org_id), self._database.tenant_statement(principal) as connection:
                # One statement: others of the organisation wait for its commit, and for nothing that is done here.
                recording = self._audit.record_arguments(principal, entry)
                sequence = _in_workspace(await store.insert(connection, session, recording))
        except BaseException:
            await self._unmake(session)
            raise
        self._audit.recorded(principal, sequence)

    def _turn(self, org_id: OrgId) -> asyncio.Semaphore:
        """Return what lets a few of an organisation begin at the same time.

        Its limits make them wait for each other in any case, and in the database each who waits holds a connection
        that others need.
        """
        turn = self._turns.get(org_id)
        if turn is None:
            turn = self._turns[org_id] = asyncio.Semaphore(_AT_ONCE)
        return turn

    def _make(self, session: Session) -> None:
        # A handful of system calls takes less time than to hand them to a thread.
        try:
            self._directories.make(session.org_id, session.id)
        except OSError as error:
            reason = f"{type(error).__name__}: {error.strerror}"
            raise StorageUnavailableError("The directory of the session cannot be made now.", reason=reason) from error

    async def _unmake(self, session: Session) -> None:
        """Take the directory back of a session that came to nothing; what fails here is left to the sweep."""
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.to_thread(self._directories.remove, session.org_id, session.id)

    async def _own_and_live(self, principal: Principal, session_id: SessionId) -> Session:
        session = await self.get(principal, session_id)
        if session.user_id != principal.user_id:
            raise ForbiddenError("Only the user that a session acts for may do this.")
        if session.over(self._now()) is not None:
            raise ConflictError("The session has ended.")
        return session

    async def _token(self, org_slug: str, session: Session) -> SessionToken:
        now = self._now()
        expires_at = min(now + self._token_life, session.expires_at)
        mcp_url = f"{self._public_url}/mcp/{org_slug}/{session.workspace}"
        issued = int(now.timestamp())
        text = (await self._ring.signer()).mint(
            subject=str(session.user_id),
            audiences=[mcp_url],
            organization=org_slug,
            role=session.role,
            lifetime_s=int(expires_at.timestamp()) - issued,
            scopes=sorted(session.scopes),
            session_id=str(session.id),
            now=issued,
        )
        return SessionToken(text, expires_at.replace(microsecond=0), mcp_url)


def _require_no_session(principal: Principal) -> None:
    if principal.session_id is not None:
        raise ForbiddenError("A session starts, changes and ends no sessions.")


def _in_workspace(sequence: int | None) -> int:
    if sequence is None:
        raise NotFoundError("There is no such workspace.")
    return sequence
