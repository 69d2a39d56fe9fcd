"""One request of a client under way, as the fronts of both eras hand it to the router."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentapi._core import Envelope
    from agentapi.principal import Principal
    from agentapi.upstreams.link import Era, Peer
    from agentapi.upstreams.registry import WorkspaceView

__all__ = ["ClientTraits", "Exchange"]


@dataclass(frozen=True, slots=True)
class ClientTraits:
    """What a client said of itself, with this request or when its session began."""

    era: Era
    revision: str
    capabilities: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    conversation: str = ""
    """The session of a client of the older revisions, empty for a modern one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Who asks for what, and where messages go that come before the answer."""

    principal: Principal
    view: WorkspaceView
    toolset: str | None
    client: ClientTraits
    request_id: str | int
    method: str
    params: dict[str, Any]
    peer: Peer
    body: bytes = field(repr=False)
    """The message as it came, and what the scan found in it."""
    envelope: Envelope = field(repr=False)
