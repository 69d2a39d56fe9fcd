"""How many requests are under way over the connections of the process, and who may begin another one.

One connection carries any number of requests, and over HTTP each holds a socket for as long as its server likes. So
requests are bounded of themselves: nobody takes the sockets of all, neither over one connection nor over many.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from agentapi.errors import UpstreamUnaskedError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from agentapi.upstreams.wanted import ConnectionKey, Limits

__all__ = ["InFlight"]


class InFlight:
    """Counts requests by connection, by user and by organisation.

    Args:
        limits: Bounds on each.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._counts: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    @contextlib.contextmanager
    def request(self, key: ConnectionKey) -> Iterator[None]:
        """Count one request over the connection of ``key`` for the length of the context.

        Raises:
            UpstreamUnaskedError: There are too many already.
        """
        limits = self._limits
        bounds: list[tuple[Hashable, int, str]] = [
            ((key.org_id, key.user_id), limits.requests_per_user, "of yours"),
            (key.org_id, limits.requests_per_organization, "of your organisation"),
        ]
        if not key.alone:
            bounds.insert(0, (key, limits.requests_per_connection, "of yours to this upstream"))
        for place, bound, whose in bounds:
            if self._counts[place] >= bound:
                raise UpstreamUnaskedError(
                    f"As many requests {whose} are under way as may be ({bound}); try again when one has ended."
                )
        places = [place for place, _, _ in bounds]
        self._counts.update(places)
        try:
            yield
        finally:
            self._counts.subtract(places)
            for place in places:
                if not self._counts[place]:
                    del self._counts[place]
