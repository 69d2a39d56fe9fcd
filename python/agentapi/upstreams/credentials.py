"""What upstreams are given instead of asking for it: the credential of whoever calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

__all__ = ["Credentials"]


class Credentials(Protocol):
    """Gives the headers that authenticate a caller to an upstream."""

    async def credential(self, upstream: Upstream, caller: Caller) -> dict[str, str]:
        """Return the headers of one request.

        Raises:
            UpstreamNeedsConnectionError: The caller has to connect, or to connect again.
        """
