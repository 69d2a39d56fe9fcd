"""Who is told that a user's connection has changed: whatever keeps something of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.principal import OrgId, UpstreamId, UserId

    Listener = Callable[[OrgId, UserId, UpstreamId, bool], None]

__all__ = ["Changes"]


class Changes:
    """Tells of connections that were made, renewed, given up or ended through this process."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with organisation, user and upstream of each change, and whether the connection is gone.

        It returns at once and does not raise.
        """
        self._listeners.append(listener)

    def tell(self, org_id: OrgId, user_id: UserId, upstream_id: UpstreamId, *, gone: bool = False) -> None:
        """Say that a connection has changed, once that is committed."""
        for listener in self._listeners:
            listener(org_id, user_id, upstream_id, gone)
