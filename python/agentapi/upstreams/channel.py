"""An open transport, as a link sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentapi.upstreams.models import Transport

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

    from agentapi.upstreams.calls import Call
    from agentapi.upstreams.challenges import Challenge

__all__ = ["Channel", "OpenChannel"]


@dataclass(frozen=True, slots=True)
class Channel:
    """The streams of one transport of the SDK, and what it knows besides."""

    streams: AbstractAsyncContextManager[TransportStreams]
    kind: Transport = Transport.HTTP
    last_status: Callable[[], int | None] = lambda: None
    """The last HTTP status, for words about a failure."""
    refusal: Callable[[], Challenge | None] = lambda: None
    """What the last HTTP answer said of the user's own credential, if it refused it."""
    ending: Callable[[], str | None] = lambda: None
    """Why the transport ended, in words, where it knows."""
    alive: Callable[[], bool] = lambda: True
    """Whether it is worth sending anything."""
    calls: dict[str | int, Call] = field(default_factory=dict)
    """The requests under way, by id, for a transport that cannot tell otherwise how long an answer may be."""


OpenChannel = Callable[[], AbstractAsyncContextManager[Channel]]
"""Opens the transport of one upstream with the credential already attached."""
