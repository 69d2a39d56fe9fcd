"""The room of rate limits, put together."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from agentapi.errors import RedisUnavailableError
from agentapi.limits.client_address import ClientAddresses
from agentapi.limits.limiter import RateLimiter
from agentapi.limits.rules import Rules
from agentapi.observability.health import Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.principal import OrgId
    from agentapi.settings import Settings

__all__ = ["LimitsRoom"]


@dataclass(frozen=True, slots=True)
class LimitsRoom:
    """What there is to pass, who decides, where requests come from, and how to ask after all that."""

    rules: Rules
    limiter: RateLimiter
    addresses: ClientAddresses
    probes: tuple[Probe, ...]

    @classmethod
    async def open(
        cls, settings: Settings, stack: contextlib.AsyncExitStack, *, plan: Callable[[OrgId], int | None]
    ) -> Self:
        """Build from the settings; what is opened is closed with ``stack``.

        Raises:
            StartupError: The address of Redis is not one.
        """
        limiter = RateLimiter()
        probes: tuple[Probe, ...] = ()
        if settings.redis_url is not None:
            # The client takes a tenth of a second to import, which nobody waits for who has no Redis.
            from agentapi.limits.shared import SharedLimits  # noqa: PLC0415
            from agentapi.storage.redis import RedisStore  # noqa: PLC0415

            redis = RedisStore.from_settings(settings)
            stack.push_async_callback(redis.aclose)
            limiter = RateLimiter(SharedLimits(redis), required=settings.redis_required)
            probes = (Probe("redis", redis.check, critical=settings.redis_required),)
            # Whether it is there does not keep the gateway from starting.
            with contextlib.suppress(RedisUnavailableError):
                await redis.check()
        return cls(
            rules=Rules.from_settings(settings, plan=plan),
            limiter=limiter,
            addresses=ClientAddresses(settings.trusted_proxies),
            probes=(*probes, Probe("limits", limiter.health, critical=False)),
        )
