"""The settings about rate limits, and about the Redis that processes count them in together."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings

__all__ = ["LimitSettings", "Network", "ToolRate"]

Network = IPv4Network | IPv6Network
"""An address range in CIDR notation."""

_USER_PER_MINUTE: Final = 60
_USER_BURST: Final = 10


class ToolRate(BaseModel):
    """What calls of some tools cost, and how often each of these may be called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tools: Annotated[str, Field(min_length=1, max_length=128)]
    """Name of a tool with its upstream's prefix, as the catalogue has it; ``*`` stands for any characters."""
    cost: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """How many requests a call counts for, under every limit."""
    per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Calls a minute of one tool by all users of a workspace together. Unset: no limit of its own."""
    burst: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many may come at once. Unset: all."""


class LimitSettings(BaseSettings):
    """Limits and Redis; ``Settings`` has them among its own."""

    environment: Literal["production", "development"] = "production"

    rate_limit_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Requests a minute of one user. Unset: 60 in production, and no limit in ``agentapi dev``. 0: no limit."""
    rate_limit_burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many of them may come at once. Unset: 10 of the 60, or all where a number is set."""
    rate_limit_org_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Requests a minute of all users of an organisation together. Unset, as those below: no limit."""
    rate_limit_org_burst: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many of them may come at once. Unset, as those below: all."""
    rate_limit_key_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests a minute with one API key."""
    rate_limit_key_burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    rate_limit_workspace_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Requests a minute to one workspace, of all its users together."""
    rate_limit_workspace_burst: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    rate_limit_address_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Requests a minute from one client address (IPv6: from one network of 64 bits), authenticated or not."""
    rate_limit_address_burst: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    rate_limit_tools: Annotated[tuple[ToolRate, ...], Field(max_length=500)] = ()
    """What calls of tools cost and how often they may come; the first entry that fits counts."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of the proxies in front, whose ``X-Forwarded-For`` is believed. Unset: the peer is the client."""

    redis_url: SecretStr | None = None
    """Redis or Valkey that the processes share, ``redis://`` or ``rediss://``. Unset: each counts for itself."""
    redis_timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Within which an answer has to be there, connecting included; after two that were not it is left alone a while."""
    redis_required: bool = False
    """Answer 503 while Redis is away, in place of counting in each process by itself."""
    redis_max_connections: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Open connections of one process."""
    redis_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "agentapi"
    """Begins every key; deployments that share a Redis have one each."""

    @property
    def user_rate(self) -> tuple[int | None, int | None]:
        """What ``rate_limit_per_minute`` and ``rate_limit_burst`` come to; 0 or None is no limit."""
        if self.rate_limit_per_minute is not None:
            return self.rate_limit_per_minute, self.rate_limit_burst
        if self.environment == "development":
            return None, None
        return _USER_PER_MINUTE, self.rate_limit_burst or _USER_BURST
