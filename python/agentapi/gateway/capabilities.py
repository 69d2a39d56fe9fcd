"""Capabilities: what a workspace offers as a whole, and what of a client a question needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentapi.upstreams.link import Profile

__all__ = ["QUESTIONS", "missing_capability_error", "required_capability", "union"]

QUESTIONS: Final = frozenset({"elicitation/create", "roots/list", "sampling/createMessage"})
"""The requests that a server can make of a client."""

_FLAGS: Final[dict[str, tuple[str, ...]]] = {
    "completions": (),
    "logging": (),
    "prompts": ("listChanged",),
    "resources": ("listChanged", "subscribe"),
    "tools": ("listChanged",),
}
"""What the gateway passes on; a capability that is not here could be announced and not kept."""

_ASSUMED: Final[dict[str, Any]] = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True},
    "prompts": {"listChanged": True},
}
"""Of an upstream that cannot be asked now: a session of the older revisions is told once and never again."""


def union(profiles: Iterable[Profile | None], own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the capabilities of a workspace from those of its upstreams, None for one that cannot be asked now.

    ``own`` are those of what the gateway offers itself. There are always tools: they may come later, and a client that
    was told of none would never look.
    """
    found: dict[str, dict[str, Any]] = {"tools": {"listChanged": True}}
    each = (_ASSUMED if profile is None else profile.capabilities for profile in profiles)
    for offered in (*each, own or {}):
        for name, flags in _FLAGS.items():
            given = offered.get(name)
            if not isinstance(given, dict):
                continue
            mine = found.setdefault(name, {})
            mine.update({flag: True for flag in flags if given.get(flag) is True})
    return {name: dict(sorted(found[name].items())) for name in _FLAGS if name in found}


def required_capability(declared: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the client capability that one of ``QUESTIONS`` needs and ``declared`` lacks, or None.

    A bare ``elicitation: {}`` counts as support of forms: there was nothing else before modes existed.
    """
    if method == "elicitation/create":
        given = declared.get("elicitation")
        mode = "url" if params.get("mode") == "url" else "form"
        if not isinstance(given, dict):
            return {"elicitation": {mode: {}}}
        supported = given.get(mode) is not None or (mode == "form" and given.get("url") is None)
        return None if supported else {"elicitation": {mode: {}}}
    if method == "sampling/createMessage":
        given = declared.get("sampling")
        wants_tools = params.get("tools") is not None or params.get("toolChoice") is not None
        if isinstance(given, dict) and (not wants_tools or given.get("tools") is not None):
            return None
        return {"sampling": {"tools": {}} if wants_tools else {}}
    return None if isinstance(declared.get("roots"), dict) else {"roots": {}}


def missing_capability_error(required: dict[str, Any]) -> MCPError:
    """Return the error for a client that lacks ``required`` (specification 2026-07-28, error -32021)."""
    names = ", ".join(required)
    return MCPError(
        MISSING_REQUIRED_CLIENT_CAPABILITY,
        f"The upstream asks for what the client did not declare: {names}.",
        {"requiredCapabilities": required},
    )
