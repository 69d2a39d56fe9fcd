"""The rate limit of one process: token buckets of the core for each user and each organisation.

A request takes a token of both or of neither. What is shared between processes is not decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from agentapi._core import Limit, TokenBuckets
from agentapi.errors import RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.principal import OrgId, Principal
    from agentapi.settings import Settings

__all__ = ["LocalRateLimit", "per_minute"]

_MINUTE_NS: Final = 60_000_000_000


def per_minute(count: int, burst: int | None = None) -> Limit:
    """Return the limit of ``count`` requests a minute, of which ``burst`` (by default all) may come at once."""
    return Limit(count=count, period_ns=_MINUTE_NS, burst=burst or count)


class LocalRateLimit:
    """Counts the requests of this process.

    Args:
        user: Limit of one user in one organisation; without it there is none.
        organization: Limit of all users of an organisation together; likewise.
        plan: Tells how many requests a minute an organisation's own plan allows, if that is limited.
        buckets: Where the tokens are.
    """

    def __init__(
        self,
        *,
        user: Limit | None,
        organization: Limit | None,
        plan: Callable[[OrgId], int | None] | None = None,
        buckets: TokenBuckets | None = None,
    ) -> None:
        self._plan = plan
        self._user = user
        self._organization = organization
        self._buckets = buckets or TokenBuckets()

    @classmethod
    def from_settings(cls, settings: Settings, plan: Callable[[OrgId], int | None] | None = None) -> Self:
        """Build from the ``rate_limit_*`` settings."""

        def limit(count: int | None, burst: int | None) -> Limit | None:
            return None if count is None else per_minute(count, burst)

        return cls(
            user=limit(settings.rate_limit_per_minute, settings.rate_limit_burst),
            organization=limit(settings.rate_limit_org_per_minute, settings.rate_limit_org_burst),
            plan=plan,
        )

    def take(self, principal: Principal, now_ns: int | None = None) -> None:
        """Count one request of ``principal``; ``now_ns`` is any one clock's, by default a monotonic one's.

        Raises:
            RateLimitedError: It has to wait.
        """
        wanted: list[tuple[str, Limit, int]] = []
        if self._user is not None:
            wanted.append((f"user/{principal.org_id.int:x}/{principal.user_id.int:x}", self._user, 1))
        if self._organization is not None:
            wanted.append((f"organization/{principal.org_id.int:x}", self._organization, 1))
        planned = None if self._plan is None else self._plan(principal.org_id)
        if planned is not None:
            wanted.append((f"plan/{principal.org_id.int:x}", per_minute(planned), 1))
        if not wanted:
            return
        decisions = self._buckets.acquire_many(wanted, now_ns)
        if not decisions.allowed:
            raise RateLimitedError(decisions.retry_after_s)
