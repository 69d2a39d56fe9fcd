"""A connection to an upstream as a caller wants it, and the bounds on all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentapi.upstreams.breakers import UNGUARDED, Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.principal import OrgId, SessionId, UpstreamId, UserId
    from agentapi.settings import Settings
    from agentapi.upstreams.channel import OpenChannel
    from agentapi.upstreams.link import Era, Profile

__all__ = ["ConnectionKey", "Limits", "Wanted"]


@dataclass(frozen=True, slots=True)
class ConnectionKey:
    """What a connection is bound to; a change of the upstream's configuration bumps ``version``."""

    org_id: OrgId
    upstream_id: UpstreamId
    version: int
    user_id: UserId
    conversation: str = ""
    """The session of a legacy client; empty for what the user's requests share."""
    declared: str = ""
    """What was declared to a legacy server, as JSON; empty for nothing."""
    alone: bool = False
    """Whether one request at a time has the connection to itself."""
    credential: str = ""
    """The version of the credential that it was opened with."""
    session_id: SessionId | None = None
    """The session that has a process of its own; None for what has none, and for servers elsewhere."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A connection as a caller wants it."""

    key: ConnectionKey
    name: str
    open_channel: OpenChannel
    era: Era | None = None
    capabilities: dict[str, Any] = field(default_factory=dict)
    client_info: dict[str, Any] = field(default_factory=dict)
    opened: Callable[[Profile], None] = lambda _profile: None
    """Called with what the server said of itself."""
    hear: Callable[[str, dict[str, Any]], None] = lambda _method, _params: None
    """Called with every change that it reports."""
    opening: Guard = UNGUARDED
    """Begun when a connection has to be opened, and told how that went."""
    parting: Guard = UNGUARDED
    """Likewise when it is closed, where the server is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on open connections, and on their time."""

    connect_timeout_s: float = 10.0
    """On opening one, handshake included."""
    idle_s: float = 300.0
    """One without a call for this long is closed."""
    ping_after_s: float = 30.0
    """One to a legacy server that was not used for this long is asked whether it is alive before it is used."""
    ping_timeout_s: float = 5.0
    connecting: int = 16
    """Side by side, to one upstream."""
    in_all: int = 500
    per_upstream: int = 200
    per_organization: int = 250
    per_user: int = 100
    """Of one user in one organisation, over all upstreams; a credential is a user's or narrower."""
    requests_per_connection: int = 32
    """Requests under way; a listener is none, since a connection has few."""
    requests_per_user: int = 50
    """The same of one user in one organisation, over all connections."""
    requests_per_organization: int = 200

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        """Build from the ``upstream_*`` settings."""
        return cls(
            connect_timeout_s=settings.upstream_connect_timeout_s,
            idle_s=settings.upstream_idle_s,
            ping_after_s=settings.upstream_ping_after_s,
            connecting=settings.upstream_max_connecting_per_upstream,
            in_all=settings.upstream_max_connections,
            per_upstream=settings.upstream_max_connections_per_upstream,
            per_organization=settings.upstream_max_connections_per_organization,
            per_user=settings.upstream_max_connections_per_user,
            requests_per_connection=settings.upstream_max_requests_per_connection,
            requests_per_user=settings.upstream_max_requests_per_user,
            requests_per_organization=settings.upstream_max_requests_per_organization,
        )
