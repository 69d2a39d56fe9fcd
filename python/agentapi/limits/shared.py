"""The limits of all processes together: the same buckets in Redis, decided by one script in one round trip.

The server's clock is the one that counts, so those of the processes need not agree. Decisions are the core's
(``tests/vectors/token_bucket.json``).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from agentapi.limits.standing import Standing
from agentapi.storage.redis import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.limits.standing import Asked
    from agentapi.storage.redis import RedisStore

__all__ = ["SharedDecision", "SharedLimits"]

_SCRIPT: Final = Script((resources.files("agentapi.limits") / "gcra.lua").read_text(encoding="utf-8"))
_US_NS: Final = 1000
_HEAD: Final = 2
_EACH: Final = 4


@dataclass(frozen=True, slots=True)
class SharedDecision:
    """What one limit says, or all of them together; times are in microseconds."""

    outcome: int
    """0: allowed; 1: refused; 2: the cost is more than the burst."""
    remaining: int
    retry_after_us: int
    reset_us: int


class SharedLimits:
    """Counts the requests of all processes.

    Args:
        redis: Where the tokens are.
    """

    def __init__(self, redis: RedisStore) -> None:
        self._redis = redis

    @property
    def available(self) -> bool:
        """Whether decisions can be had."""
        return self._redis.available

    async def take(self, asked: Sequence[Asked]) -> Standing:
        """Take what a request costs from all its buckets, or from none if one of them has not enough.

        Raises:
            RedisUnavailableError: Nobody can say; it may have been taken.
        """
        outcome, _, each = await self.decide(asked)
        pairs = zip(asked, each, strict=True)
        if outcome == 0:
            which, decision = min(pairs, key=lambda pair: pair[1].remaining)
        else:
            which, decision = max(pairs, key=lambda pair: pair[1].retry_after_us)
        wait_ns, reset_ns = decision.retry_after_us * _US_NS, decision.reset_us * _US_NS
        return Standing(outcome == 0, which, decision.remaining, wait_ns, reset_ns)

    async def decide(self, asked: Sequence[Asked], now_us: int | None = None) -> tuple[int, int, list[SharedDecision]]:
        """Return how a request ended, how long it has to wait, and what each limit says of it.

        Args:
            asked: Those with one key share its bucket.
            now_us: A time to decide at, for tests; the server's own otherwise.

        Raises:
            RedisUnavailableError: Nobody can say.
        """
        arguments: list[str | int] = ["" if now_us is None else now_us]
        for _, limit, cost in asked:
            arguments += (limit.interval_ns // _US_NS, limit.burst, cost)
        told: list[int] = await self._redis.run(_SCRIPT, [f"limit:{key}" for key, _, _ in asked], arguments)
        each = []
        for at in range(_HEAD, len(told), _EACH):
            outcome, remaining, wait, reset = told[at : at + _EACH]
            each.append(SharedDecision(outcome, remaining, wait, reset))
        return told[0], told[1], each
