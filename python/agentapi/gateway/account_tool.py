"""The tool that stands in a list for an upstream whose own tools its user cannot see before they have connected.

Without it nobody would learn that there is anything to connect to. Calling it is a call that needs a connection, and is
answered like any other such call; once there is one it says so, and the upstream's own tools are listed instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentapi.gateway.items import CatalogueItem
from agentapi.gateway.names import public_name
from agentapi.upstreams.models import Auth

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentapi.upstreams.models import Upstream

__all__ = ["account_tool", "connected", "upstream_to_connect"]

_NAME: Final = "connect_account"
_OWN: Final = frozenset({Auth.OAUTH, Auth.USER})
"""Upstreams that take a credential of each user's own."""


def account_tool(upstream: Upstream, *, bare: bool) -> CatalogueItem:
    """Return the tool that stands for ``upstream``."""
    name = public_name(upstream.name, _NAME, bare=bare)
    definition = {
        "name": name,
        "title": f"Connect an account to {upstream.name}",
        "description": (
            f"The user has not connected an account to {upstream.name} yet, so its tools cannot be listed. Call this to"
            " have them do so; then list the tools again."
        ),
        "inputSchema": {"type": "object", "properties": {}, "additionalProperties": False},
        "annotations": {"readOnlyHint": False, "idempotentHint": True},
    }
    return CatalogueItem(name, upstream, _NAME, definition)


def upstream_to_connect(upstreams: Iterable[Upstream], name: object, *, bare: bool) -> Upstream | None:
    """Return the upstream that the tool called ``name`` stands for."""
    for upstream in upstreams:
        if upstream.auth in _OWN and public_name(upstream.name, _NAME, bare=bare) == name:
            return upstream
    return None


def connected(upstream: Upstream) -> dict[str, Any]:
    """Return the result of a call once there is a connection."""
    text = f"An account is connected to {upstream.name}. List the tools again: those of {upstream.name} are there now."
    return {"content": [{"type": "text", "text": text}]}
