"""Who decides about a request: Redis where there is one, this process where there is none or it cannot be asked.

What this process admits it counts in its own buckets in any case, and what they do not have it refuses without asking
anybody. So whatever becomes of Redis, no process by itself ever admits more than the limits allow; and Redis, where it
answers, makes that true of all of them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentapi.errors import RedisUnavailableError
from agentapi.limits.local import LocalLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.limits.shared import SharedLimits
    from agentapi.limits.standing import Asked, Standing

__all__ = ["RateLimiter"]


class RateLimiter:
    """Decides.

    Args:
        shared: The limits of all processes; without them each has its own.
        required: Refuse what cannot be counted together, rather than count it alone.
        local: The limits of this process.
    """

    def __init__(
        self, shared: SharedLimits | None = None, *, required: bool = False, local: LocalLimits | None = None
    ) -> None:
        self._shared = shared
        self._required = required
        self._local = local or LocalLimits()

    async def health(self) -> dict[str, bool]:
        """Return whether limits are now those of all processes together."""
        return {"shared": self._shared is not None and self._shared.available}

    def look(self, asked: Asked) -> Standing:
        """Return where a request stands with one limit as far as this process knows; nothing is taken."""
        return self._local.look(asked)

    async def take(self, asked: Sequence[Asked]) -> Standing:
        """Take what a request costs from all its buckets, or from none if one of them has not enough.

        Raises:
            RedisUnavailableError: Nobody may say without Redis.
        """
        if self._shared is None:
            return self._local.take(asked)
        alone = None if self._local.has(asked) else self._local.take(asked)
        if alone is not None and not alone.allowed:
            return alone
        # Where it is allowed after all, a token came back in between, and has been taken here.
        try:
            standing = await self._shared.take(asked)
        except RedisUnavailableError:
            if self._required:
                raise
            return alone or self._local.take(asked)
        if standing.allowed and alone is None:
            self._local.take(asked)
        return standing
