"""The keys of the own issuer as a process has them: read from the database, opened, and rotated.

Invariants:

* A private key is in the database sealed, bound to its id, and in memory of processes that have the keyring; it is in
  no answer, log or error.
* What a process knows is at most ``ttl_s`` old when it signs, as long as the database answers; while it does not, what
  is known goes on signing, which ``models.SLACK`` leaves room for.
* Keys are added and removed under a lock, so that of many processes one adds the next key.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from agentapi._core import SealError
from agentapi.audit.models import DEPLOYMENT, Actor, Entry, Outcome
from agentapi.errors import AgentAPIError, StorageUnavailableError
from agentapi.identity.signing_keys import store
from agentapi.identity.signing_keys.models import PUBLISHED_AHEAD, SigningKey, is_over, needs_next, signing_now
from agentapi.identity.token_issuer import TokenIssuer, new_signing_key
from agentapi.storage.resealing import SealedColumn

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi._core import Keyring
    from agentapi.audit.log import AuditLog
    from agentapi.settings import Settings
    from agentapi.storage.database import Connection, Database

__all__ = ["SEALED", "NoSigningKeyError", "SigningRing"]

SEALED: Final = (SealedColumn(table="signing_keys", column="private", key=("id",), aad=lambda row: _aad(row["id"])),)
"""What this room keeps sealed, for the rotation of the sealing keys."""

_log = structlog.get_logger(__name__)


class NoSigningKeyError(AgentAPIError):
    """The gateway has no key that it could sign with."""

    code = "no_signing_key"


@dataclass(frozen=True, slots=True)
class _Known:
    keys: tuple[SigningKey, ...]
    until: float


class SigningRing:
    """Signs as the own issuer.

    Args:
        database: Where the keys are.
        keyring: Seals them.
        audit: Where changes of them are recorded, in the log of the deployment.
        issuer: Value of ``iss``.
        rotate_after: How long a key signs.
        clock: Monotonic seconds.
        now: The time.
        ttl_s: How long what was read is believed.
    """

    def __init__(
        self,
        database: Database,
        *,
        keyring: Keyring,
        audit: AuditLog,
        issuer: str,
        rotate_after: timedelta,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        ttl_s: float = 5.0,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._audit = audit
        self.issuer = issuer
        self._rotate_after = rotate_after
        self._clock = clock
        self._now = now
        self._ttl_s = ttl_s
        self._known = _Known((), 0.0)
        self._signers: dict[str, TokenIssuer] = {}

    @classmethod
    def from_settings(cls, settings: Settings, database: Database, *, keyring: Keyring, audit: AuditLog) -> Self:
        """Return the ring of a deployment, whose issuer is its public URL."""
        return cls(
            database,
            keyring=keyring,
            audit=audit,
            issuer=str(settings.public_url).rstrip("/"),
            rotate_after=timedelta(days=settings.issuer_key_days),
        )

    async def signer(self) -> TokenIssuer:
        """Return what signs now.

        Raises:
            NoSigningKeyError: There is no key yet, or the keyring does not open the one that signs.
            StorageUnavailableError: The database cannot be asked, and nothing is known from before.
        """
        await self._freshen()
        key = signing_now(self._known.keys, self._now())
        if key is None:
            raise NoSigningKeyError("The gateway has no key to sign with yet; try again in a minute.")
        signer = self._signers.get(key.id)
        if signer is None:
            signer = self._signers[key.id] = TokenIssuer(self.issuer, self._opened(key))
        return signer

    async def published(self) -> bytes:
        """Return the key set as it is now in the database (RFC 7517, section 5).

        Raises:
            StorageUnavailableError: The database cannot be asked.
        """
        await self.load()
        return self._key_set()

    async def current_key_set(self) -> bytes:
        """Return the key set as it was a few seconds ago at most, or as it is known while the database is away.

        Raises:
            StorageUnavailableError: The database cannot be asked, and nothing is known from before.
        """
        await self._freshen()
        return self._key_set()

    async def _freshen(self) -> None:
        if self._known.until > self._clock():
            return
        try:
            await self.load()
        except StorageUnavailableError:
            if not self._known.keys:
                raise

    def _key_set(self) -> bytes:
        return json.dumps({"keys": [key.public for key in self._known.keys]}).encode()

    async def load(self) -> tuple[SigningKey, ...]:
        """Read the keys.

        Raises:
            StorageUnavailableError: The database cannot be asked.
        """
        until = self._clock() + self._ttl_s
        async with self._database.organization_transaction(DEPLOYMENT) as connection:
            keys = tuple(await store.find_all(connection))
        self._know(keys, until)
        return keys

    async def rotate_if_due(self) -> None:
        """Add the next key where it is time, and remove those that are over: what is done at start and by a job."""
        now = self._now()
        async with self._database.organization_transaction(DEPLOYMENT) as connection:
            await store.lock(connection)
            keys = await store.find_all(connection)
            over = [key.id for key in keys if is_over(key, keys, now)]
            if over:
                await self._remove(connection, over)
            if needs_next(keys, now, rotate_after=self._rotate_after):
                await self._add(connection, signs_from=now + PUBLISHED_AHEAD if keys else now)
        await self.load()

    async def rotate(self) -> SigningKey:
        """Add the next key now; it signs once it has been published for long enough, and the old ones fade out."""
        now = self._now()
        async with self._database.organization_transaction(DEPLOYMENT) as connection:
            await store.lock(connection)
            key = await self._add(connection, signs_from=now + PUBLISHED_AHEAD)
        await self.load()
        return key

    async def replace(self) -> SigningKey:
        """Put a new key in the place of all: every token that was signed before is refused within seconds."""
        now = self._now()
        async with self._database.organization_transaction(DEPLOYMENT) as connection:
            await store.lock(connection)
            await self._remove(connection, [key.id for key in await store.find_all(connection)])
            key = await self._add(connection, signs_from=now)
        await self.load()
        return key

    async def _add(self, connection: Connection, *, signs_from: datetime) -> SigningKey:
        made = new_signing_key()
        private = json.dumps(made.as_dict(private=True)).encode()
        key = SigningKey(
            id=str(made.kid),
            public=dict(made.as_dict(private=False)),
            private=self._keyring.seal(private, _aad(str(made.kid))),
            created_at=self._now(),
            signs_from=signs_from,
        )
        await store.insert(connection, key)
        details = {"signs_from": signs_from.isoformat()}
        entry = Entry("issuer.key_added", Outcome.SUCCESS, f"signing_key:{key.id}", details)
        await self._audit.record(connection, Actor(DEPLOYMENT), entry)
        return key

    async def _remove(self, connection: Connection, key_ids: list[str]) -> None:
        await store.delete(connection, key_ids)
        for key_id in key_ids:
            entry = Entry("issuer.key_removed", Outcome.SUCCESS, f"signing_key:{key_id}")
            await self._audit.record(connection, Actor(DEPLOYMENT), entry)

    def _know(self, keys: tuple[SigningKey, ...], until: float) -> None:
        self._known = _Known(keys, until)
        for gone in self._signers.keys() - {key.id for key in keys}:
            del self._signers[gone]

    def _opened(self, key: SigningKey) -> ECKey:
        try:
            return ECKey.import_key(json.loads(self._keyring.open(key.private, _aad(key.id))))
        except (SealError, ValueError, TypeError, JoseError) as error:
            _log.error("signing_key_not_opened", key_id=key.id, error=type(error).__name__)
            raise NoSigningKeyError("The gateway cannot sign now; its log says why.") from None


def _aad(key_id: str) -> bytes:
    return f"signing_keys.private/{key_id}".encode()
