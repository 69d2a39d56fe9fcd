"""What the gateway knows of one conversation with an upstream, whatever its transport and era.

Messages pass as JSON objects and never through models, so that members nobody here knows survive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from agentapi.errors import UpstreamError

if TYPE_CHECKING:
    from agentapi.principal import OrgId, SessionId, UserId

__all__ = ["MAX_ANSWER_DEPTH", "Bounds", "Caller", "Era", "Peer", "Profile", "ToldPeer"]

MAX_ANSWER_DEPTH: Final = 200
"""How deep an answer may nest. The SDK reads no deeper (pydantic 2), whether it is ours or the client's."""


class Era(StrEnum):
    """How two parties speak: statelessly (2026-07-28 and later), or within an initialized session."""

    MODERN = "modern"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class Profile:
    """What an upstream said of itself when it was connected to."""

    era: Era
    revision: str
    capabilities: dict[str, Any] = field(default_factory=dict)
    server_info: dict[str, Any] = field(default_factory=dict)
    instructions: str | None = None

    def require(self, era: Era | None) -> None:
        """Check that the upstream speaks as it was configured to, if it was.

        Raises:
            UpstreamError: It does not.
        """
        if era not in {None, self.era}:
            raise UpstreamError(f"it speaks {self.revision}, and is configured as a server of the {era} era")


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf an upstream is spoken to."""

    org_id: OrgId
    user_id: UserId
    conversation: str = ""
    """The session of a client of the older revisions; empty for what all requests of the user may share."""
    capabilities: dict[str, Any] = field(default_factory=dict, hash=False)
    """What the client declared that it can be asked for: sampling, elicitation, roots."""
    client_info: dict[str, Any] = field(default_factory=dict, hash=False)
    session_id: SessionId | None = None
    """The session of an agent, whose commands run in its directory and are nobody else's."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much the whole answer to a request may be, with all that comes before it."""

    time_s: float = math.inf
    """The time that a client takes to answer questions included."""
    size_bytes: int | None = None
    """Where the transport can tell what is part of it."""


class Peer(Protocol):
    """Where the messages go that an upstream sends while one request is under way."""

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Pass on a notification, such as progress or a log message."""

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Pass on a request of the upstream and return the client's result.

        Raises:
            MCPError: The client cannot be asked, or answered with an error.
        """


class ToldPeer:
    """A peer that knows whether it was told anything: progress that begins anew would confuse the client."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.anything = False

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Pass on a notification; see ``Peer``."""
        self.anything = True
        await self._peer.notify(method, params)

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Pass on a request; see ``Peer``."""
        self.anything = True
        return await self._peer.ask(method, params)
