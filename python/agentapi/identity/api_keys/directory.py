"""From the text of a key to what it grants, without asking the database for each request.

Invariants:

* A key that is revoked, rotated or narrowed through any process is so in all of them a second later at the latest,
  whatever becomes of the network between them; in the process that did it, at once. What is known of a key is believed
  for a second from before it was read, and longer only while each change of a second ago is known to have been heard.
* A key that is wrong costs what a right one costs: one look-up, or none while the answer for its id is remembered. No
  look-up happens for what has no form, and few happen at the same time, however many wrong keys arrive.
* Hashes are compared in constant time, and one is compared where there is no such key.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from agentapi.errors import RateLimitedError, StorageUnavailableError, UnauthenticatedError
from agentapi.identity.api_keys import store
from agentapi.identity.api_keys.models import STREAM_S, KeyGrant, KeyId
from agentapi.identity.api_keys.text import hash_of, ids_of
from agentapi.identity.permissions import within
from agentapi.principal import OrgId, Principal
from agentapi.storage.notifier import DEAF, WITHIN_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.identity.api_keys.models import Standing
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import Change, ChangeFeed

__all__ = ["KeyDirectory"]

_Place = tuple[OrgId, KeyId]

_TOUCH_EVERY_S: Final = 60.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    standing: Standing | None
    grant: KeyGrant | None
    """Absent where there is no such key, or its maker may no longer give what it would."""
    read_at: float
    used_at: float


class KeyDirectory:
    """Verifies API keys.

    Args:
        database: Where they are.
        clock: Monotonic seconds.
        now: Unix seconds.
        feed: Tells what other processes change.
        ttl_s: How long what was read of a key is believed, for as long as nothing is said to have changed.
        max_known: Bound on remembered keys; the least recently used goes first.
        max_unknown: The same for ids that no key has, so that strangers crowd out no key.
        at_once: Look-ups at the same time.
        max_waiting: Look-ups that may wait for their turn.
        on_plan: Told how many requests a minute an organisation's plan allows, whenever that is read.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        feed: ChangeFeed = DEAF,
        ttl_s: float = 30.0,
        max_known: int = 10_000,
        max_unknown: int = 1_000,
        at_once: int = 4,
        max_waiting: int = 256,
        on_plan: Callable[[OrgId, int | None], None] = lambda _, __: None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._now = now
        self._feed = feed
        self._ttl_s = ttl_s
        self._known: OrderedDict[_Place, _Known] = OrderedDict()
        self._unknown: OrderedDict[_Place, _Known] = OrderedDict()
        self._max_known = max_known
        self._max_unknown = max_unknown
        self._reads: dict[_Place, asyncio.Task[_Known]] = {}
        self._turns = asyncio.Semaphore(at_once)
        self._max_reads = at_once + max_waiting
        self._on_plan = on_plan
        self._touches: set[asyncio.Task[None]] = set()
        self._no_hash = secrets.token_bytes(32)
        feed.listen(
            ("api_keys", "members", "member_roles", "organizations", "workspaces"), self._told, self._forget_all
        )

    async def grant(self, text: str) -> KeyGrant:
        """Return what the key ``text`` grants now.

        Raises:
            UnauthenticatedError: It is no key, or not one that is good; the reason is for the log.
            RateLimitedError: Too many keys are being looked up.
            StorageUnavailableError: The database cannot be asked.
        """
        place = ids_of(text)
        known = self._remembered(place) or await self._look_up(place)
        key = None if known.standing is None else known.standing.key
        digest, now = hash_of(text), self._now()
        current = hmac.compare_digest(digest, self._no_hash if key is None else key.hash)
        previous = hmac.compare_digest(digest, (key and key.previous_hash) or self._no_hash)
        if key is None:
            raise _refused("unknown_api_key")
        overlap = key.previous_until
        if not (current or (previous and overlap is not None and now < overlap.timestamp())):
            raise _refused("wrong_api_key")
        if key.revoked_at is not None:
            raise _refused("revoked_api_key")
        if key.expires_at is not None and key.expires_at.timestamp() <= now:
            raise _refused("expired_api_key")
        if known.grant is None:
            raise _refused("api_key_wider_than_its_maker")
        if now - known.used_at >= _TOUCH_EVERY_S:
            known.used_at = now
            self._touch(place)
        return known.grant

    def forget(self, org_id: OrgId, key_id: KeyId) -> None:
        """Read a key anew when it is shown next, for it was changed through this process."""
        self._known.pop((org_id, key_id), None)
        self._unknown.pop((org_id, key_id), None)
        self._reads.pop((org_id, key_id), None)

    async def aclose(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._touches, return_exceptions=True)

    def _told(self, change: Change) -> None:
        if change.id is not None:
            self.forget(change.org_id, KeyId(change.id))
            return
        # Who made it, whom it acts as, or where: of all keys of the organisation.
        for entries in (self._known, self._unknown, self._reads):
            for place in [place for place in entries if place[0] == change.org_id]:
                del entries[place]

    def _forget_all(self) -> None:
        self._known.clear()
        self._unknown.clear()
        self._reads.clear()

    def _is_good(self, known: _Known) -> bool:
        age_s = self._clock() - known.read_at
        return age_s < self._ttl_s and (age_s < WITHIN_S or self._feed.hears)

    def _remembered(self, place: _Place) -> _Known | None:
        for entries in (self._known, self._unknown):
            found = entries.get(place)
            if found is not None and self._is_good(found):
                entries.move_to_end(place)
                return found
        return None

    async def _look_up(self, place: _Place) -> _Known:
        """Read a key once for all who ask for it at the same time."""
        task = self._reads.get(place)
        if task is None:
            if len(self._reads) >= self._max_reads:
                raise RateLimitedError(1)
            task = self._reads[place] = asyncio.ensure_future(self._read(place))
            # Those who asked may all have left; what went wrong then concerns nobody.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _read(self, place: _Place) -> _Known:
        org_id, key_id = place
        try:
            async with self._turns:
                read_at = self._clock()
                async with self._database.organization_transaction(org_id) as connection:
                    standing = await store.standing(connection, key_id)
        finally:
            # A read that is no longer the one of its key began before a change, and is not remembered.
            fresh = self._reads.get(place) is asyncio.current_task()
            if fresh:
                del self._reads[place]
        if standing is not None:
            self._on_plan(org_id, standing.requests_per_minute)
        used = None if standing is None else standing.key.last_used_at
        known = _Known(
            standing,
            None if standing is None else self._granted(standing),
            read_at,
            0.0 if used is None else used.timestamp(),
        )
        if fresh:
            self._remember(place, known)
        return known

    def _remember(self, place: _Place, known: _Known) -> None:
        entries, bound = (
            (self._unknown, self._max_unknown) if known.standing is None else (self._known, self._max_known)
        )
        entries[place] = known
        entries.move_to_end(place)
        while len(entries) > bound:
            entries.popitem(last=False)

    def _granted(self, standing: Standing) -> KeyGrant | None:
        key = standing.key
        if not within(key.role, standing.maker_role):
            return None
        ends = int(self._now()) + STREAM_S
        return KeyGrant(
            principal=Principal(
                user_id=key.user_id,
                org_id=key.org_id,
                org_slug=standing.org_slug,
                role=key.role,
                issuer=standing.issuer,
                subject=standing.subject,
                scopes=key.scopes,
                key_id=key.id,
            ),
            workspace=key.workspace,
            expires_at=ends if key.expires_at is None else min(ends, int(key.expires_at.timestamp())),
        )

    def _touch(self, place: _Place) -> None:
        task = asyncio.ensure_future(self._write_use(place))
        self._touches.add(task)
        task.add_done_callback(self._touches.discard)

    async def _write_use(self, place: _Place) -> None:
        org_id, key_id = place
        try:
            async with self._database.organization_transaction(org_id) as connection:
                await store.touch(connection, key_id, every_s=_TOUCH_EVERY_S)
        except StorageUnavailableError as error:
            _log.warning("use_of_api_key_not_written", reason=str(error))


def _refused(reason: str) -> UnauthenticatedError:
    return UnauthenticatedError(reason, presented=True)
