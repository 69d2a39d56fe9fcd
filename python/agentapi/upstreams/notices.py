"""What a server may tell a client while its request is under way: one answer for the relay and the session path.

Progress belongs to a request if it comes under the token that came with the request, a log message if the request asked
for messages that severe. Whatever else comes on its way is for nobody: other requests' progress, cancellations of what
the client may have under way elsewhere, methods that no server sends. Changes of lists and resources travel on ways of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mcp_types import LOG_LEVEL_META_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LEVELS", "LOG_MESSAGE", "PROGRESS", "Asked", "passes"]

PROGRESS: Final = "notifications/progress"
LOG_MESSAGE: Final = "notifications/message"
_ELICITED: Final = "notifications/elicitation/complete"

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Severities of log messages, from the least on (RFC 5424, section 6.2.1, as the protocol names them)."""


def passes(params: Mapping[str, object], level: str) -> bool:
    """Return whether a log message with ``params`` is at least as severe as ``level``."""
    given = params.get("level")
    return isinstance(given, str) and given in LEVELS and LEVELS.index(given) >= LEVELS.index(level)


@dataclass(slots=True)
class Asked:
    """What a request asked to be told before its answer."""

    progress_token: str | int | None = None
    """As the server knows it."""
    log_level: str | None = None
    """The least severe level that is wanted."""
    elicitations: set[str] = field(default_factory=set)
    """Addresses that the client was asked to visit; servers of revision 2025-11-25 say when that is done."""

    @classmethod
    def of(cls, meta: object) -> Asked:
        """Return what the ``_meta`` of a request asks for; members of the wrong type ask for nothing."""
        given = meta if isinstance(meta, dict) else {}
        token, level = given.get("progressToken"), given.get(LOG_LEVEL_META_KEY)
        return cls(
            token if isinstance(token, str | int) and not isinstance(token, bool) else None,
            level if level in LEVELS else None,
        )

    def hears_of(self, method: str) -> bool:
        """Return whether a notification of that method can belong to the request, so that it is worth reading."""
        if method == PROGRESS:
            return self.progress_token is not None
        return (method == LOG_MESSAGE and self.log_level is not None) or (
            method == _ELICITED and bool(self.elicitations)
        )

    def hears(self, method: str, params: object) -> bool:
        """Return whether a notification belongs to the request."""
        if not self.hears_of(method) or not isinstance(params, dict):
            return False
        if method == PROGRESS:
            token, progress = params.get("progressToken"), params.get("progress")
            own = type(token) is type(self.progress_token) and token == self.progress_token
            return own and isinstance(progress, int | float) and not isinstance(progress, bool)
        if method == LOG_MESSAGE:
            return self.log_level is not None and passes(params, self.log_level)
        return params.get("elicitationId") in self.elicitations
