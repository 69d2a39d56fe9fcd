"""What calls need of the connect page: its address, and whether what it is for has been done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentapi._core import SealError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentapi.oauth.connect.tickets import Tickets
    from agentapi.oauth.connect.ways import Way
    from agentapi.principal import Principal, UpstreamId
    from agentapi.upstreams.models import Auth, Upstream

__all__ = ["Links"]


class Links:
    """Makes links and looks where they lead.

    Args:
        tickets: Seal the ids.
        ways: How each kind of upstream is connected to; one that is added later counts.
    """

    def __init__(self, tickets: Tickets, ways: Mapping[Auth, Way]) -> None:
        self._tickets = tickets
        self.ways = ways

    def url(
        self, principal: Principal, upstream_id: UpstreamId, *, workspace: str = "", scopes: tuple[str, ...] = ()
    ) -> str:
        """Return where ``principal`` can connect to an upstream."""
        return self._tickets.url(principal, upstream_id, workspace=workspace, scopes=scopes)

    async def is_connected(self, principal: Principal, upstream: Upstream, scopes: tuple[str, ...]) -> bool:
        """Return whether ``principal`` has connected to ``upstream``, with these scopes."""
        way = self.ways.get(upstream.auth)
        if way is None:
            return False
        try:
            return await way.is_connected(principal, upstream, scopes)
        except SealError:
            # What does not open is of no use, so there is something left to do.
            return False
