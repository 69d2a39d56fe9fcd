"""Severities of log messages (RFC 5424, section 6.2.1, as the protocol names them)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LEVELS", "passes"]

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""From the least to the most severe."""


def passes(params: Mapping[str, Any], level: str) -> bool:
    """Return whether a ``notifications/message`` with ``params`` is at least as severe as ``level``."""
    given = params.get("level")
    return given in LEVELS and LEVELS.index(given) >= LEVELS.index(level)
