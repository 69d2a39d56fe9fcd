"""Keep a connection's access token fresh: one request to the provider for any number of callers and processes.

A refresh goes in three steps. First it is noted, and committed, that one is about to be asked for. Then the row is
locked, read again, and the provider asked while the lock is held, so that no other process asks for the same grant.
Then the answer is stored over the generation it replaces and the lock let go.

A provider that rotates refresh tokens has spent the old one when it answers. The answer is therefore committed at once
in a task that no caller can cancel; if the database is away it is kept and stored as soon as that is back, for as long
as ``_KEEP_S``. A crash between answer and commit cannot be undone, since OAuth knows no way to ask for the same answer
twice; but it is seen: the note of the first step still stands. The old refresh token is then tried once more, which
works where the provider does not rotate or grants a grace period, and otherwise the connection is marked
``reconnect_needed`` with the reason ``refresh_interrupted``, and its owner told. It never loops and never guesses.

Since the lock is held, a refresh that asks keeps a database connection. One that waits for its place, or is refused one
because the provider is down, keeps none.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from agentapi.errors import StorageUnavailableError, UpstreamNeedsConnectionError
from agentapi.oauth import store
from agentapi.oauth.changes import Changes
from agentapi.oauth.errors import AuthorizationServerError, ClientMissingError, GrantRefusedError, ReconnectNeededError
from agentapi.oauth.journal import Event
from agentapi.oauth.models import Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from agentapi.oauth.clients.registry import ClientRegistry
    from agentapi.oauth.journal import Journal
    from agentapi.oauth.models import Client, Connection, ConnectionId, Grant, Tokens
    from agentapi.oauth.places import Place, TokenPlaces
    from agentapi.oauth.protocol import AuthorizationClient
    from agentapi.oauth.vault import Vault
    from agentapi.storage.database import Connection as Transaction
    from agentapi.storage.database import Database

__all__ = ["Refresher", "due_at"]

_SPENT: Final = frozenset({"invalid_grant", "bad_refresh_token", "interaction_required", "consent_required"})
"""Errors that say that the grant is over; ``bad_refresh_token`` is GitHub's."""

_KEEP_S: Final = 30.0
_STORE_AGAIN_S: Final = 0.5
_MAX_BACKOFF_S: Final = 300
_SOON: Final = timedelta(seconds=1)
"""How much too early a refresh may be: the database's clock said that it was time, and this one may be behind."""
_PART_OF_LIFE: Final = 4
"""A token is refreshed ahead by a quarter of its life at most: one that lasts for minutes is used for most of them."""

_log = structlog.get_logger(__name__)


def due_at(connection: Connection, ahead: timedelta) -> datetime | None:
    """Return when a grant is to be refreshed, or None if its token has no end."""
    if connection.expires_at is None:
        return None
    lifetime = max(connection.expires_at - connection.updated_at, timedelta())
    return connection.expires_at - min(ahead, lifetime / _PART_OF_LIFE)


class Refresher:
    """Refreshes connections.

    Args:
        database: Where they are.
        vault: Opens and seals them.
        clients: Knows the clients that they were given to.
        protocol: Asks for tokens.
        places: Bounds how many ask, and says when a provider is not to be asked.
        clock: The time, with its zone.
        changes: Is told of connections that were renewed or given up.
        ahead_s: How long before its end a token is refreshed in the background, while it is still used.
        skew_s: How far clocks may differ: this long before its end a token is not used any more.
        lock_wait_s: How long to wait for another process that refreshes the same connection.
        plan: Called in the transaction that stores a new grant.
        journal: Is told of what happens.
    """

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        clients: ClientRegistry,
        protocol: AuthorizationClient,
        places: TokenPlaces,
        clock: Callable[[], datetime],
        changes: Changes | None = None,
        ahead_s: float = 300.0,
        skew_s: float = 30.0,
        lock_wait_s: float = 20.0,
        plan: Callable[[Transaction, Connection], Awaitable[None]],
        journal: Journal,
    ) -> None:
        self._database = database
        self._vault = vault
        self._clients = clients
        self._protocol = protocol
        self._places = places
        self._clock = clock
        self._changes = changes or Changes()
        self._ahead = timedelta(seconds=ahead_s)
        self._skew = timedelta(seconds=skew_s)
        self._lock_wait_s = lock_wait_s
        self._plan = plan
        self._journal = journal
        self._running: dict[ConnectionId, asyncio.Task[Connection]] = {}

    async def usable(self, connection: Connection) -> Connection:
        """Return ``connection`` with a token that is good now.

        Raises:
            ReconnectNeededError: Only its owner can renew it.
            AuthorizationServerError: It is to be refreshed and the provider cannot do so now.
        """
        if connection.status is Status.RECONNECT_NEEDED:
            raise _reconnect(connection.status_reason)
        now = self._clock()
        due = due_at(connection, self._ahead)
        if due is None or connection.expires_at is None:
            return connection
        if connection.expires_at - now <= self._skew:
            return await self.refresh(connection)
        if due > now:
            return connection
        if self._vault.open_grant(connection).refresh_token is not None and self._may_try(connection):
            self._started(connection)
        return connection

    async def refresh(self, connection: Connection) -> Connection:
        """Refresh ``connection`` now, or join a refresh that is under way.

        Raises:
            ReconnectNeededError: Only its owner can renew it.
            AuthorizationServerError: The provider cannot do so now.
        """
        return await asyncio.shield(self._started(connection))

    async def give_up(self, connection: Connection, reason: str) -> NoReturn:
        """Mark that grant of ``connection`` as of no more use.

        Raises:
            ReconnectNeededError: Always.
        """
        await self._require_reconnect(connection, reason)
        raise _reconnect(reason)

    async def refresh_if_due(self, connection: Connection) -> timedelta | None:
        """Refresh ``connection`` ahead of its end, or return how long that still has time; None if it never will be.

        Raises:
            ReconnectNeededError: Only its owner can renew it.
            AuthorizationServerError: The provider cannot do so now.
        """
        due = due_at(connection, self._ahead)
        if due is None or connection.status is not Status.ACTIVE:
            return None
        if self._vault.open_grant(connection).refresh_token is None:
            return None
        now = self._clock()
        if not self._may_try(connection) and connection.refresh_not_before is not None:
            return connection.refresh_not_before - now
        if due - now > _SOON:
            return due - now
        await self.refresh(connection)
        return None

    async def aclose(self) -> None:
        """Wait for the refreshes under way: their answers must not be lost."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=_KEEP_S)

    def _started(self, connection: Connection) -> asyncio.Task[Connection]:
        task = self._running.get(connection.id)
        if task is None:
            task = asyncio.ensure_future(self._refresh(connection))
            self._running[connection.id] = task
            task.add_done_callback(lambda done: self._ended(connection.id, done))
        return task

    def _ended(self, id_: ConnectionId, task: asyncio.Task[Connection]) -> None:
        del self._running[id_]
        if not task.cancelled():
            task.exception()  # Read, since nobody may be waiting; the log has it.

    def _may_try(self, connection: Connection) -> bool:
        return connection.refresh_not_before is None or connection.refresh_not_before <= self._clock()

    async def _refresh(self, connection: Connection) -> Connection:
        grant = self._vault.open_grant(connection)
        if grant.refresh_token is None:
            await self.give_up(connection, "no_refresh_token")
        self._require_due(connection)
        async with self._places.take(connection.org_id, grant.server.issuer) as place:
            try:
                client = await self._clients.of_grant(
                    connection.org_id, connection.user_id, grant.server, grant.client_id
                )
            except ClientMissingError:
                await self.give_up(connection, "client_gone")
            async with self._database.user_transaction(connection.org_id, connection.user_id) as transaction:
                # The row itself knows what somebody else found out meanwhile: a note that no request follows would make
                # a later refusal look like a refresh that was interrupted.
                is_noted = await store.begin_refresh(
                    transaction, connection.id, connection.generation, now=self._clock()
                )
            return await self._ask(connection, grant, client, place, is_noted=is_noted)

    async def _ask(
        self, connection: Connection, grant: Grant, client: Client, place: Place, *, is_noted: bool
    ) -> Connection:
        """Ask the provider with the row locked; what it says is stored in the same transaction, then raised."""
        made: Connection | None = None
        refreshed: Connection | None = None
        failure: AuthorizationServerError | ReconnectNeededError | None = None
        try:
            async with self._database.user_transaction(connection.org_id, connection.user_id) as transaction:
                locked = await store.lock_connection(transaction, connection.id, wait_s=self._lock_wait_s)
                if locked is None:
                    raise UpstreamNeedsConnectionError("The connection was revoked.")
                if locked.generation != connection.generation:
                    return locked
                self._require_due(locked)
                if not is_noted:  # It was not due when it was to be noted, and nothing is asked without a note.
                    raise _rests()
                try:
                    tokens = await place.ask(self._tokens(grant, client))
                except AuthorizationServerError as error:
                    # Within the transaction, so that whoever waits for the row finds the outcome.
                    failure = await self._failed(transaction, connection, locked, error)
                else:
                    made = self._with(connection, grant, tokens)
                    refreshed = await self._stored(transaction, made)
        except StorageUnavailableError:
            if made is None:
                raise
            # Not what the transaction returned: that names the generation which it failed to commit.
            return await self._store_late(made)
        self._tell(connection)
        if failure is not None:
            raise failure
        if refreshed is None:
            raise AssertionError(connection.id)
        _log.info("oauth_refreshed", provider=connection.provider, upstream_id=str(connection.upstream_id))
        return refreshed

    def _require_due(self, held: Connection) -> None:
        """Refuse where nobody is to be asked: what an earlier refresh found out, be it while this one waited."""
        if held.status is Status.RECONNECT_NEEDED:
            raise _reconnect(held.status_reason)
        if not self._may_try(held):
            raise _rests()

    async def _tokens(self, grant: Grant, client: Client) -> Tokens:
        if grant.refresh_token is None:
            raise AssertionError(grant.server.issuer)
        return await self._protocol.refresh(
            grant.server, client, refresh_token=grant.refresh_token, resource=grant.resource
        )

    def _with(self, connection: Connection, grant: Grant, tokens: Tokens) -> Connection:
        now = self._clock()
        renewed = replace(
            grant, access_token=tokens.access_token, refresh_token=tokens.refresh_token or grant.refresh_token
        )
        lifetime = tokens.expires_in_s
        return replace(
            connection,
            sealed=self._vault.seal_grant(
                renewed,
                id_=connection.id,
                org_id=connection.org_id,
                user_id=connection.user_id,
                provider=connection.provider,
            ),
            scopes=connection.scopes if tokens.scopes is None else tokens.scopes,
            expires_at=None if lifetime is None else now + timedelta(seconds=lifetime),
            updated_at=now,
        )

    async def _failed(
        self, transaction: Transaction, connection: Connection, locked: Connection, error: AuthorizationServerError
    ) -> AuthorizationServerError | ReconnectNeededError:
        now = self._clock()
        answered = isinstance(error, GrantRefusedError)
        spent = isinstance(error, GrantRefusedError) and error.error in _SPENT
        _log.info("oauth_refresh_failed", provider=connection.provider, upstream_id=str(connection.upstream_id),
                  spent=spent, **error.log_context)  # fmt: skip
        if spent:
            # As it was read before this refresh noted itself: an earlier one may have spent the token unseen.
            reason = "refresh_refused" if connection.refresh_begun_at is None else "refresh_interrupted"
            await store.require_reconnect(transaction, connection.id, connection.generation, reason=reason, now=now)
            await self._journal.record(transaction, Event.REFRESH_FAILED, connection, reason=reason)
            return _reconnect(reason)
        wait_s = min(_MAX_BACKOFF_S, 2 ** min(locked.refresh_failures, 10))
        await store.record_refresh_failure(
            transaction,
            connection.id,
            connection.generation,
            not_before=now + timedelta(seconds=wait_s),
            begun_at=None if answered else now,
        )
        await self._journal.record(transaction, Event.REFRESH_FAILED, connection, reason=error.code)
        return error

    async def _require_reconnect(self, connection: Connection, reason: str) -> None:
        async with self._database.user_transaction(connection.org_id, connection.user_id) as transaction:
            if await store.require_reconnect(
                transaction, connection.id, connection.generation, reason=reason, now=self._clock()
            ):
                await self._journal.record(transaction, Event.REFRESH_FAILED, connection, reason=reason)
        self._tell(connection)

    def _tell(self, connection: Connection) -> None:
        self._changes.tell(connection.org_id, connection.user_id, connection.upstream_id)

    async def _store_late(self, refreshed: Connection) -> Connection:
        """Store an answer whose commit failed; the refresh token that it replaces may be spent."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _KEEP_S
        while True:
            try:
                async with self._database.user_transaction(refreshed.org_id, refreshed.user_id) as transaction:
                    stored = await self._stored(transaction, refreshed)
            except StorageUnavailableError:
                if loop.time() >= deadline:
                    _log.error("oauth_refresh_lost", upstream_id=str(refreshed.upstream_id))
                    raise
                await asyncio.sleep(_STORE_AGAIN_S)
            else:
                self._tell(refreshed)
                return stored

    async def _stored(self, transaction: Transaction, refreshed: Connection) -> Connection:
        stored = await store.store_refreshed(transaction, refreshed)
        if stored is None:
            return refreshed
        await self._plan(transaction, stored)
        await self._journal.record(transaction, Event.REFRESHED, stored)
        return stored


def _reconnect(reason: str | None) -> ReconnectNeededError:
    return ReconnectNeededError("The connection has ended at the provider; connect again.", reason=reason)


def _rests() -> AuthorizationServerError:
    return AuthorizationServerError("The connection could not be refreshed; it is tried again shortly.")
