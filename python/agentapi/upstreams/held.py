"""One connection of the pool, and which of them give way where a bound on their number is reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from agentapi.errors import UpstreamUnaskedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentapi.errors import UpstreamError
    from agentapi.upstreams.channel import Channel
    from agentapi.upstreams.session import Link
    from agentapi.upstreams.turns import Turn
    from agentapi.upstreams.wanted import ConnectionKey, Limits, Wanted

__all__ = ["Held", "giving_way"]


@dataclass(slots=True, eq=False)
class Held:
    """A connection that is being opened, is open, or is being closed."""

    wanted: Wanted
    ready: anyio.Event = field(default_factory=anyio.Event)
    closing: anyio.Event = field(default_factory=anyio.Event)
    closed: anyio.Event = field(default_factory=anyio.Event)
    channel: Channel | None = None
    link: Link | None = None
    failure: UpstreamError | None = None
    crashed: bool = False
    """Whether its process ended, if it has one, and nobody told it to."""
    retired: bool = False
    """Whether no further call gets it, so that it ends with the last of those that have it."""
    turn: Turn | None = None
    """While it is being opened."""
    in_flight: int = 0
    last_used: float = 0.0
    after: list[Held] = field(default_factory=list)
    """Those that give way to it: it is opened once they are closed."""
    gives_way: bool = False
    """Whether another one is opened after it, and is counted in its place."""

    @property
    def key(self) -> ConnectionKey:
        """What it is bound to."""
        return self.wanted.key

    @property
    def is_idle(self) -> bool:
        """Whether no call has it or waits for it."""
        return self.in_flight == 0 and self.ready.is_set()

    def end_turn(self, failure: UpstreamError | None = None) -> None:
        """Let the next one be opened; a ``failure`` is everybody's who waits for that."""
        if self.turn is not None:
            self.turn.end(failure)


def giving_way(key: ConnectionKey, limits: Limits, connections: Iterable[Held]) -> list[Held]:
    """Return which of ``connections`` have to be closed before one more for ``key`` is opened.

    What is being closed counts until it is. The organisation's own come first, then those that are being closed
    already, then the longest idle.

    Raises:
        UpstreamUnaskedError: All that could give way are in use.
    """
    everything = [each for each in connections if not each.gives_way]
    own = [each for each in everything if each.key.org_id == key.org_id]
    bounds = (
        (limits.per_user, [each for each in own if each.key.user_id == key.user_id], " of yours"),
        (limits.per_upstream, [each for each in own if each.key.upstream_id == key.upstream_id], " to it"),
        (limits.per_organization, own, " of your organisation"),
        (limits.in_all, everything, ""),
    )
    chosen: list[Held] = []
    for bound, those, whose in bounds:
        counted = [each for each in those if each not in chosen]
        if len(counted) < bound:
            continue
        ready = [each for each in counted if each.is_idle or each.closing.is_set()]
        if not ready:
            raise UpstreamUnaskedError(f"All upstream connections{whose} are in use; try again shortly.")
        chosen.append(min(ready, key=lambda c: (c.key.org_id != key.org_id, not c.closing.is_set(), c.last_used)))
    return chosen
