"""The limits of one process: token buckets of the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentapi._core import Limit, TokenBuckets
from agentapi.limits.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.limits.standing import Asked

__all__ = ["LocalLimits", "per_minute"]

_MINUTE_NS: Final = 60_000_000_000


def per_minute(count: int, burst: int | None = None) -> Limit:
    """Return the limit of ``count`` requests a minute, of which ``burst`` (by default all) may come at once."""
    return Limit(count=count, period_ns=_MINUTE_NS, burst=burst or count)


class LocalLimits:
    """Counts the requests of this process.

    Args:
        buckets: Where the tokens are.
    """

    def __init__(self, buckets: TokenBuckets | None = None) -> None:
        self._buckets = buckets or TokenBuckets()

    def take(self, asked: Sequence[Asked], now_ns: int | None = None) -> Standing:
        """Take what a request costs from all its buckets, or from none if one of them has not enough.

        Args:
            asked: At least one.
            now_ns: Of any one clock, by default a monotonic one's.
        """
        if len(asked) == 1:
            decision = self._buckets.acquire(*asked[0], now_ns)
            return Standing(decision.allowed, asked[0], decision.remaining, decision.retry_after_ns, decision.reset_ns)
        decisions = self._buckets.acquire_many(asked, now_ns)
        each = decisions.each
        if decisions.allowed:
            at = _least([decision.remaining for decision in each])
        else:
            at = _least([-decision.retry_after_ns for decision in each])
        decision = each[at]
        return Standing(decisions.allowed, asked[at], decision.remaining, decision.retry_after_ns, decision.reset_ns)

    def look(self, asked: Asked, now_ns: int | None = None) -> Standing:
        """Return where a request stands with one limit; nothing is taken."""
        key, limit, cost = asked
        decision = self._buckets.acquire(key, limit, 0, now_ns)
        wait_ns = decision.reset_ns - (limit.burst - cost) * limit.interval_ns
        return Standing(wait_ns <= 0, asked, decision.remaining, max(wait_ns, 0), decision.reset_ns)

    def has(self, asked: Sequence[Asked], now_ns: int | None = None) -> bool:
        """Return whether all buckets have what a request costs; nothing is taken."""
        looked = self._buckets.acquire_many([(key, limit, 0) for key, limit, _ in asked], now_ns)
        return all(decision.remaining >= cost for decision, (_, _, cost) in zip(looked.each, asked, strict=True))


def _least(values: list[int]) -> int:
    """Return where the least of ``values`` is."""
    return values.index(min(values))
