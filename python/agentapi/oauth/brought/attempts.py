"""How often values may be tried, so that nobody finds out by asking which token of somebody else's is good.

Each attempt makes the gateway call an upstream with what somebody typed. The bounds are per process.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from agentapi._core import TokenBuckets
from agentapi.errors import RateLimitedError
from agentapi.limits.local import per_minute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

__all__ = ["Attempts"]

_OF_A_USER: Final = per_minute(6)
_OF_AN_ORGANIZATION: Final = per_minute(120)
_AT_ONCE: Final = 16
_BUSY_S: Final = 1


class Attempts:
    """Counts attempts by user, and by organisation and upstream, and bounds those under way."""

    def __init__(self) -> None:
        self._buckets = TokenBuckets()
        self._under_way: set[tuple[object, object]] = set()

    @contextlib.contextmanager
    def one(self, caller: Caller, upstream: Upstream) -> Iterator[None]:
        """Count one attempt for the length of the context.

        Raises:
            RateLimitedError: There were too many, or this user's last one, or too many of others, are not over.
        """
        user = (caller.org_id, caller.user_id)
        if user in self._under_way or len(self._under_way) >= _AT_ONCE:
            raise RateLimitedError(_BUSY_S)
        organization = caller.org_id.hex
        decisions = self._buckets.acquire_many(
            [
                (f"user/{organization}/{caller.user_id.hex}", _OF_A_USER, 1),
                (f"organization/{organization}/{upstream.id.hex}", _OF_AN_ORGANIZATION, 1),
            ]
        )
        if not decisions.allowed:
            raise RateLimitedError(decisions.retry_after_s)
        self._under_way.add(user)
        try:
            yield
        finally:
            self._under_way.discard(user)
