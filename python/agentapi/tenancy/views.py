"""What was read of an organisation's rows, served for a few seconds without asking again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from agentapi.principal import OrgId

__all__ = ["TenantViews"]

_V = TypeVar("_V")


@dataclass(slots=True, eq=False)
class _Read:
    outdated: bool = False


class TenantViews(Generic[_V]):
    """Remembered views by organisation and key.

    A change made through another process shows at most ``ttl_s`` later, one that was told to ``forget`` at once.

    Args:
        ttl_s: How long a view is served.
        clock: Monotonic seconds.
        max_views: Bound on remembered views; the least recently used goes first.
    """

    def __init__(self, *, clock: Callable[[], float], ttl_s: float, max_views: int = 10_000) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._max_views = max_views
        self._reads: dict[OrgId, set[_Read]] = {}
        """What is being read just now, so that a change meanwhile can tell it to be forgotten."""
        self._views: OrderedDict[tuple[OrgId, Hashable], tuple[float, _V]] = OrderedDict()

    async def get(self, org_id: OrgId, key: Hashable, load: Callable[[], Awaitable[_V]]) -> _V:
        """Return the view of that key, from memory or by ``load``."""
        full = (org_id, key)
        remembered = self._views.get(full)
        if remembered is not None and remembered[0] > self._clock():
            self._views.move_to_end(full)
            return remembered[1]
        read = _Read()
        self._reads.setdefault(org_id, set()).add(read)
        try:
            view = await load()
        finally:
            self._end(org_id, read)
        if read.outdated:
            # Something changed while this was read: good for this call, stale for the next.
            return view
        self._views[full] = (self._clock() + self._ttl_s, view)
        self._views.move_to_end(full)
        while len(self._views) > self._max_views:
            self._views.popitem(last=False)
        return view

    def forget(self, org_id: OrgId) -> None:
        """Drop every view of an organisation, those that are being read as well."""
        for read in self._reads.pop(org_id, ()):
            read.outdated = True
        for key in [key for key in self._views if key[0] == org_id]:
            del self._views[key]

    def _end(self, org_id: OrgId, read: _Read) -> None:
        reads = self._reads.get(org_id, set())
        reads.discard(read)
        if not reads:
            self._reads.pop(org_id, None)
