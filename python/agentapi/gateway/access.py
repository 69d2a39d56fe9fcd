"""Which tools a principal may see and call beyond what its role permits: the hook for a tool policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.gateway.items import CatalogueItem
    from agentapi.principal import Principal
    from agentapi.upstreams.registry import WorkspaceView

__all__ = ["AllTools", "ToolPolicy"]


class ToolPolicy(Protocol):
    """Decides on tools."""

    def apply(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, tools: Sequence[CatalogueItem]
    ) -> Sequence[CatalogueItem]:
        """Return those of ``tools`` that ``principal`` may see, in their order."""

    def require(self, view: WorkspaceView, toolset: str | None, principal: Principal, tool: CatalogueItem) -> None:
        """Refuse unless ``principal`` may call ``tool``.

        Raises:
            AgentAPIError: It may not.
        """


class AllTools:
    """The policy of a workspace that has none."""

    def apply(
        self,
        view: WorkspaceView,  # noqa: ARG002 - of the protocol, as below
        toolset: str | None,  # noqa: ARG002
        principal: Principal,  # noqa: ARG002
        tools: Sequence[CatalogueItem],
    ) -> Sequence[CatalogueItem]:
        """Return ``tools``."""
        return tools

    def require(self, view: WorkspaceView, toolset: str | None, principal: Principal, tool: CatalogueItem) -> None:
        """Let every call pass."""
