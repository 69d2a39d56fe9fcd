"""What the upstreams of a workspace say of themselves, put together into what the workspace says of itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentapi.errors import AgentAPIError
from agentapi.gateway.capabilities import union
from agentapi.upstreams.link import Caller

if TYPE_CHECKING:
    from agentapi.gateway.exchange import Visitor
    from agentapi.gateway.own_prompts import OwnPrompts
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.link import Profile
    from agentapi.upstreams.models import Upstream

__all__ = ["Discovery"]

_MAX_INSTRUCTIONS: Final = 4096
"""How much of one upstream's instructions is passed on, in characters."""


class Discovery:
    """Asks the upstreams of a workspace what they are.

    Args:
        client: Speaks to the upstreams.
        own: What the gateway offers itself.
        timeout_s: How long one is waited for.
    """

    def __init__(self, client: UpstreamClient, own: OwnPrompts, *, timeout_s: float) -> None:
        self._client = client
        self._own = own
        self._timeout_s = timeout_s

    async def answer(self, visitor: Visitor, *, ttl_s: float) -> dict[str, Any]:
        """Return the result of ``server/discover``, good for ``ttl_s``."""
        profiles = await self._profiles(visitor)
        result: dict[str, Any] = {
            "resultType": "complete",
            "supportedVersions": list(MODERN_PROTOCOL_VERSIONS),
            "capabilities": union(profiles, await self._own.capabilities(visitor)),
            # What an upstream that is down cannot say is a guess, good for this moment.
            "ttlMs": 0 if None in profiles else int(ttl_s * 1000),
            "cacheScope": "private",
        }
        instructions = _instructions(visitor, profiles)
        return result if instructions is None else {**result, "instructions": instructions}

    async def capabilities(self, visitor: Visitor) -> dict[str, Any]:
        """Return what the upstreams of the workspace can do together."""
        return union(await self._profiles(visitor), await self._own.capabilities(visitor))

    async def instructions(self, visitor: Visitor) -> str | None:
        """Return what the upstreams have a client's model told, each under its name where there are several."""
        return _instructions(visitor, await self._profiles(visitor))

    async def _profiles(self, visitor: Visitor) -> list[Profile | None]:
        caller = Caller(visitor.principal.org_id, visitor.principal.user_id)
        return list(await asyncio.gather(*(self._profile(each, caller) for each in visitor.view.upstreams)))

    async def _profile(self, upstream: Upstream, caller: Caller) -> Profile | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._client.profile(upstream, caller)
        except (AgentAPIError, MCPError, TimeoutError):
            return None


def _instructions(visitor: Visitor, profiles: list[Profile | None]) -> str | None:
    """Return the upstreams' instructions in the order of their names."""
    named = {
        upstream.name: profile.instructions[:_MAX_INSTRUCTIONS]
        for upstream, profile in zip(visitor.view.upstreams, profiles, strict=True)
        if profile is not None and profile.instructions
    }
    if len(visitor.view.upstreams) == 1:
        return next(iter(named.values()), None)
    return "\n\n".join(f"{name}: {named[name]}" for name in sorted(named)) or None
