"""Identity, put together: whose tokens and keys are believed, and the gateway's own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from agentapi.identity.api_keys.book import KeyBook
from agentapi.identity.api_keys.directory import KeyDirectory
from agentapi.identity.api_keys.routes import KeyRoutes
from agentapi.identity.issuers import IssuerDirectory, OwnIssuer
from agentapi.identity.revocations.routes import RevocationRoutes
from agentapi.identity.revocations.watch import RevocationWatch
from agentapi.identity.signing_keys.ring import SigningRing
from agentapi.identity.signing_keys.routes import key_set_route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.routing import Route

    from agentapi._core import Keyring, VerifiedToken
    from agentapi.audit.log import AuditLog
    from agentapi.egress.client import Egress
    from agentapi.identity.api_keys.models import KeyId
    from agentapi.jobs.queue import JobQueue
    from agentapi.principal import OrgId, Principal, UserId
    from agentapi.settings import IssuerSettings, Settings
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import ChangeFeed

__all__ = ["IdentityRoom"]

_MAX_KEY_SET_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class IdentityRoom:
    """What the composition root needs of the room."""

    issuers: IssuerDirectory
    keys: KeyDirectory
    ring: SigningRing
    _database: Database
    _audit: AuditLog
    _public_url: str

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        issuers: Sequence[IssuerSettings],
        *,
        database: Database,
        keyring: Keyring,
        audit: AuditLog,
        egress: Egress,
        jobs: JobQueue,
        feed: ChangeFeed,
        on_plan: Callable[[OrgId, int | None], None],
    ) -> AsyncIterator[Self]:
        """Open the room for the length of the context: the gateway has a key of its own, and knows what is revoked.

        ``on_plan`` is told how many requests a minute the plan of an organisation allows, wherever that was read.

        Raises:
            StartupError: The issuers cannot be as they are configured.
            StorageUnavailableError: The database cannot be asked.
        """
        ring = SigningRing.from_settings(settings, database, keyring=keyring, audit=audit)
        await ring.rotate_if_due()
        jobs.every("issuer.rotate", "23 * * * *", ring.rotate_if_due)
        directory = IssuerDirectory.from_settings(
            settings,
            issuers,
            fetch=partial(egress.get_bytes, max_bytes=_MAX_KEY_SET_BYTES),
            own=OwnIssuer(ring.issuer, ring.published, feed),
        )
        revocations = RevocationWatch(database, directory, feed=feed)
        jobs.every("revocations.forget", "37 * * * *", revocations.forget_over)
        keys = KeyDirectory(database, feed=feed, on_plan=on_plan)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(directory.close)
            stack.push_async_callback(keys.aclose)
            await stack.enter_async_context(revocations.run())
            yield cls(directory, keys, ring, database, audit, ring.issuer)

    def routes(
        self,
        authorize: Callable[[Request], Awaitable[Principal]],
        *,
        admit: Callable[[VerifiedToken], Awaitable[Principal]],
        after_revocation: Sequence[Callable[[OrgId, KeyId], Awaitable[object]]],
    ) -> list[Route]:
        """Return the routes, for the application to mount.

        ``admit`` gives the principal of a verified token; ``after_revocation`` runs with every API key that is revoked.
        """
        book = self._book(after_revocation)
        revoking = RevocationRoutes(
            authorize=authorize,
            admit=admit,
            database=self._database,
            audit=self._audit,
            issuers=self.issuers,
            public_url=self._public_url,
        )
        return [key_set_route(self.ring), *KeyRoutes(authorize=authorize, book=book).routes(), *revoking.routes()]

    async def end_keys_of(self, org_id: OrgId, user_id: UserId) -> None:
        """End all keys that somebody made who is no member any more."""
        await self._book().revoke_of_maker(org_id, user_id)

    def _book(self, after_revocation: Sequence[Callable[[OrgId, KeyId], Awaitable[object]]] = ()) -> KeyBook:
        return KeyBook(
            self._database,
            audit=self._audit,
            directory=self.keys,
            asks_scopes=self.issuers.asks_operation_scopes,
            after_revocation=after_revocation,
        )
