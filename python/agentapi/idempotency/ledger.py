"""Which requests were answered already, and how.

Invariants:

* An answer is committed with what it answers for, in one transaction: a process that dies leaves both or neither.
* Of any number of requests with one key, in any number of processes, one is worked on. The others are told so at once
  and wait for nothing.
* An answer is given again to whoever came with the same credential and to nobody else, and is sealed for its row.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from agentapi.errors import IdempotencyKeyInUseError, IdempotencyKeyReusedError
from agentapi.idempotency import store
from agentapi.idempotency.models import Answer
from agentapi.storage.resealing import SealedColumn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from uuid import UUID

    from agentapi._core import Keyring
    from agentapi.idempotency.models import Claim
    from agentapi.principal import OrgId
    from agentapi.storage.database import Connection, Database

__all__ = ["SEALED", "AnsweredError", "Ledger"]

SEALED: Final = (
    SealedColumn(
        table="idempotency_keys",
        column="answer",
        key=("org_id", "user_id", "key_hash"),
        aad=lambda row: _aad(row["org_id"], row["user_id"], row["key_hash"]),
    ),
)
"""What this room keeps sealed, for the rotation of keys."""

_KEPT: Final = timedelta(hours=24)


class AnsweredError(Exception):
    """The request was answered already; nothing is to be done."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answered already")
        self.answer = answer


class Ledger:
    """Keeps answers.

    Args:
        database: Where they are, and where what they answer for is done.
        keyring: Seals them.
        now: The time.
    """

    def __init__(
        self, database: Database, *, keyring: Keyring, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now

    async def answered(self, claim: Claim) -> Answer | None:
        """Return the answer to a request that was made before.

        Raises:
            IdempotencyKeyReusedError: The key belongs to another request.
        """
        async with self._database.user_transaction(claim.org_id, claim.user_id) as connection:
            return await self._find(connection, claim)

    @asynccontextmanager
    async def once(self, claim: Claim) -> AsyncIterator[Callable[[Answer], Awaitable[None]]]:
        """Let the running task do what the request asks for, and yield what keeps its answer and commits both.

        Without that everything is undone. Whatever the task does first in the database raises:

        Raises:
            AnsweredError: Somebody else was faster.
            IdempotencyKeyInUseError: Somebody else is at it.
            IdempotencyKeyReusedError: The key belongs to another request.
        """

        async def begin(connection: Connection) -> None:
            await store.enter(connection, claim)
            if not await store.try_lock(connection, claim):
                raise IdempotencyKeyInUseError
            found = await self._find(connection, claim)
            if found is not None:
                raise AnsweredError(found)

        async with self._database.together(begin) as together:

            async def keep(answer: Answer) -> None:
                sealed = self._keyring.seal(answer.dump(), _aad(claim.org_id, claim.user_id, claim.key_hash))
                now = self._now()
                async with self._database.user_transaction(claim.org_id, claim.user_id) as connection:
                    await store.insert(connection, claim, sealed, now=now, until=now + _KEPT)
                await together.commit()

            yield keep

    async def sweep(self, org_id: OrgId) -> None:
        """Forget an organisation's answers that are older than a day."""
        async with self._database.organization_transaction(org_id) as connection:
            await store.sweep(connection, now=self._now())

    async def _find(self, connection: Connection, claim: Claim) -> Answer | None:
        found = await store.find(connection, claim, now=self._now())
        if found is None:
            return None
        fingerprint, sealed = found
        if fingerprint != claim.fingerprint:
            raise IdempotencyKeyReusedError
        return Answer.load(self._keyring.open(sealed, _aad(claim.org_id, claim.user_id, claim.key_hash)))


def _aad(org_id: UUID, user_id: UUID, key_hash: bytes) -> bytes:
    return f"idempotency_keys.answer/{org_id}/{user_id}/{key_hash.hex()}".encode()
