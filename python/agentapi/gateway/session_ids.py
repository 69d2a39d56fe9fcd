"""``Mcp-Session-Id`` of clients of the older revisions: a sealed token, so that any replica serves the session.

Invariants:
    * An id is good for the organisation, workspace, toolset, user, agent session and API key it was issued to, and
      until it expires.
    * Whoever else presents it gets the answer for an id that was never issued; the log alone has the reason.
    * It holds what the client declared and nothing secret, and the client can neither read nor change it.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError
from mcp_types import INVALID_PARAMS

from agentapi._core import SealError
from agentapi.errors import NotFoundError
from agentapi.gateway.exchange import ClientTraits
from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi._core import Keyring
    from agentapi.gateway.call import Call

__all__ = ["Session", "SessionIds", "UnknownSessionError"]

_AAD: Final = b"agentapi/mcp-session-id/1"
_MAX_CAPABILITIES_BYTES: Final = 2048
_MAX_INFO_BYTES: Final = 512
_MAX_NAME: Final = 64
_MAX_ID_CHARS: Final = 8192


class UnknownSessionError(NotFoundError):
    """The session id is none that the caller can use here."""

    code = "unknown_session"

    def __init__(self, reason: str) -> None:
        super().__init__("There is no such session; begin another one with initialize.", reason=reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Session:
    """What an id stands for."""

    client: ClientTraits
    expires_at: int


class SessionIds:
    """Issues and opens session ids.

    Args:
        keyring: Seals them.
        ttl_s: How long one is good.
        clock: Unix seconds.
    """

    def __init__(self, keyring: Keyring, *, ttl_s: int, clock: Callable[[], float] = time.time) -> None:
        self._keyring = keyring
        self._ttl_s = ttl_s
        self._clock = clock

    def issue(self, call: Call, *, revision: str, capabilities: dict[str, Any], info: dict[str, Any]) -> str:
        """Return the id of a new session.

        Raises:
            MCPError: The client declares more than an id can hold.
        """
        if _size(capabilities) > _MAX_CAPABILITIES_BYTES:
            message = f"The declared capabilities exceed {_MAX_CAPABILITIES_BYTES} bytes."
            raise MCPError(code=INVALID_PARAMS, message=message)
        if _size(info) > _MAX_INFO_BYTES:
            # Icons and descriptions are for people; what a server may act upon is the name.
            info = {name: str(info.get(name, ""))[:_MAX_NAME] for name in ("name", "version")}
        expires_at = int(self._clock()) + self._ttl_s
        claims = {
            **_binding(call),
            "revision": revision,
            "capabilities": capabilities,
            "info": info,
            "conversation": secrets.token_urlsafe(16),
            "expires_at": expires_at,
        }
        return self._keyring.seal_text_until(json.dumps(claims, separators=(",", ":")).encode(), _AAD, expires_at)

    def open(self, session_id: str, call: Call) -> Session:
        """Return the session of ``session_id``.

        Raises:
            UnknownSessionError: It is none, has ended, or is not this caller's at this address.
        """
        if len(session_id) > _MAX_ID_CHARS:
            raise UnknownSessionError("too_long")
        try:
            claims = json.loads(self._keyring.open_text_unexpired(session_id, _AAD, int(self._clock())))
        except SealError:
            raise UnknownSessionError("forged_or_expired") from None
        for name, value in _binding(call).items():
            # An id from before there were so many claims has no value for the newer ones.
            if claims.get(name) != value:
                raise UnknownSessionError(f"other_{name}")
        client = ClientTraits(
            era=Era.LEGACY,
            revision=claims["revision"],
            capabilities=claims["capabilities"],
            info=claims["info"],
            conversation=claims["conversation"],
        )
        return Session(client, claims["expires_at"])


def _binding(call: Call) -> dict[str, str | None]:
    """Return what an id is bound to, in the order in which it is compared."""
    principal = call.principal
    return {
        "organization": str(principal.org_id),
        "user": str(principal.user_id),
        "session": str(principal.session_id) if principal.session_id is not None else None,
        "key": str(principal.key_id) if principal.key_id is not None else None,
        "workspace": str(call.view.workspace.id),
        "toolset": call.toolset,
    }


def _size(value: dict[str, Any]) -> int:
    return len(json.dumps(value))
