"""What was read of an organisation's rows, served for a while without asking again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from agentapi.storage.notifier import DEAF, WITHIN_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from agentapi.principal import OrgId
    from agentapi.storage.notifier import ChangeFeed

__all__ = ["TenantViews"]

_V = TypeVar("_V")


@dataclass(slots=True, eq=False)
class _Read:
    outdated: bool = False


@dataclass(frozen=True, slots=True)
class _View(Generic[_V]):
    value: _V
    read_at: float
    """When it began to be read."""


class TenantViews(Generic[_V]):
    """Remembered views by organisation and key.

    A change of what they were read from drops them at once if it is made through this process (``forget``), and within
    ``WITHIN_S`` if through another: while changes are heard a view is served for ``ttl_s``, otherwise for that long.

    Args:
        ttl_s: How long a view is served.
        clock: Monotonic seconds.
        feed: Tells what others change.
        topics: Of what.
        max_views: Bound on remembered views; the least recently used goes first.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        ttl_s: float,
        feed: ChangeFeed = DEAF,
        topics: tuple[str, ...] = (),
        max_views: int = 10_000,
    ) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._feed = feed
        self._max_views = max_views
        self._reads: dict[OrgId, set[_Read]] = {}
        """What is being read just now, so that a change meanwhile can tell it to be forgotten."""
        self._views: OrderedDict[tuple[OrgId, Hashable], _View[_V]] = OrderedDict()
        self._keys: dict[OrgId, set[Hashable]] = {}
        feed.listen(topics, lambda change: self.forget(change.org_id), self.forget_all)

    def at_hand(self, org_id: OrgId, key: Hashable) -> _V | None:
        """Return the view of that key if it is remembered."""
        full = (org_id, key)
        remembered = self._views.get(full)
        if remembered is None or not self._is_good(remembered):
            return None
        self._views.move_to_end(full)
        return remembered.value

    async def get(self, org_id: OrgId, key: Hashable, load: Callable[[], Awaitable[_V]]) -> _V:
        """Return the view of that key, from memory or by ``load``."""
        at_hand = self.at_hand(org_id, key)
        if at_hand is not None:
            return at_hand
        full = (org_id, key)
        read, read_at = _Read(), self._clock()
        self._reads.setdefault(org_id, set()).add(read)
        try:
            value = await load()
        finally:
            self._end(org_id, read)
        if read.outdated:
            # Something changed while this was read: good for this call, stale for the next.
            return value
        self._views[full] = _View(value, read_at)
        self._views.move_to_end(full)
        self._keys.setdefault(org_id, set()).add(key)
        while len(self._views) > self._max_views:
            (oldest, old_key), _ = self._views.popitem(last=False)
            self._unlist(oldest, old_key)
        return value

    def forget(self, org_id: OrgId) -> None:
        """Drop every view of an organisation, those that are being read as well."""
        for read in self._reads.pop(org_id, ()):
            read.outdated = True
        for key in self._keys.pop(org_id, ()):
            del self._views[org_id, key]

    def forget_all(self) -> None:
        """Drop every view of every organisation."""
        for org_id in (*self._reads, *self._keys):
            self.forget(org_id)

    def _is_good(self, view: _View[_V]) -> bool:
        age_s = self._clock() - view.read_at
        return age_s < self._ttl_s and (age_s < WITHIN_S or self._feed.hears)

    def _end(self, org_id: OrgId, read: _Read) -> None:
        reads = self._reads.get(org_id, set())
        reads.discard(read)
        if not reads:
            self._reads.pop(org_id, None)

    def _unlist(self, org_id: OrgId, key: Hashable) -> None:
        keys = self._keys[org_id]
        keys.discard(key)
        if not keys:
            del self._keys[org_id]
