"""What is said of a name that nothing has, or nothing that the caller may know of: the two read alike."""

from __future__ import annotations

from typing import Final

from agentapi.errors import NotFoundError

__all__ = ["UnknownItemError", "UnknownPromptError", "UnknownToolError", "unknown_prompt", "unknown_tool"]

_MAX_ECHO: Final = 128
"""How much of a name that came from outside is repeated in an error."""


class UnknownItemError(NotFoundError):
    """No upstream of the workspace offers a thing of this name to this caller."""

    code = "unknown_item"


class UnknownToolError(UnknownItemError):
    """There is no such tool."""

    code = "unknown_tool"


class UnknownPromptError(UnknownItemError):
    """There is no such prompt."""

    code = "unknown_prompt"


def unknown_tool(name: str, kind: type[UnknownToolError] = UnknownToolError) -> UnknownToolError:
    """Return the error for a name that no tool has, or none that the caller may know of."""
    return kind(f"Unknown tool: {name[:_MAX_ECHO]}")


def unknown_prompt(name: str) -> UnknownPromptError:
    """Return the error for a name that no prompt has, or none that the caller may know of."""
    return UnknownPromptError(f"Unknown prompt: {name[:_MAX_ECHO]}")
