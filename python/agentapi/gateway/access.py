"""What of a workspace's items a principal may see and use beyond what its role permits: the hook for a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentapi.gateway.items import CatalogueItem, ListedItem
    from agentapi.gateway.listing import Kind
    from agentapi.principal import Principal
    from agentapi.upstreams.registry import WorkspaceView

__all__ = ["AccessPolicy", "AllItems"]

_Listed = TypeVar("_Listed", bound="ListedItem")


class AccessPolicy(Protocol):
    """Decides on tools, and on what a toolset selects. Each method raises ``NotFoundError`` for an unknown toolset."""

    async def apply(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, tools: Sequence[CatalogueItem]
    ) -> Sequence[CatalogueItem]:
        """Return those of ``tools`` that ``principal`` may see, in their order and under the names it sees."""

    async def original(self, view: WorkspaceView, principal: Principal, name: str) -> str:
        """Return the catalogue's name of the tool that the client calls ``name``.

        Raises:
            UnknownToolError: No tool can have that name.
        """

    async def require(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, tool: CatalogueItem
    ) -> CatalogueItem:
        """Return ``tool`` under the name that the client knows it by.

        Raises:
            AgentAPIError: ``principal`` may not call it.
        """

    async def search_mode(self, view: WorkspaceView, toolset: str | None, principal: Principal) -> bool:
        """Return whether the client sees two tools, to find and to call, in the place of all."""

    async def selected(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, kind: Kind, items: Sequence[_Listed]
    ) -> list[_Listed]:
        """Return those of the prompts, resources or templates ``items`` that the toolset selects."""

    async def selects(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, kind: Kind, names: Iterable[str]
    ) -> bool:
        """Return whether the toolset selects the prompt or resource that goes by ``names``."""


class AllItems:
    """The policy of a workspace that has none."""

    async def apply(
        self,
        view: WorkspaceView,  # noqa: ARG002 - of the protocol, as below
        toolset: str | None,  # noqa: ARG002
        principal: Principal,  # noqa: ARG002
        tools: Sequence[CatalogueItem],
    ) -> Sequence[CatalogueItem]:
        """Return ``tools``."""
        return tools

    async def original(self, view: WorkspaceView, principal: Principal, name: str) -> str:  # noqa: ARG002
        """Return ``name``."""
        return name

    async def require(
        self,
        view: WorkspaceView,  # noqa: ARG002
        toolset: str | None,  # noqa: ARG002
        principal: Principal,  # noqa: ARG002
        tool: CatalogueItem,
    ) -> CatalogueItem:
        """Let every call pass."""
        return tool

    async def search_mode(self, view: WorkspaceView, toolset: str | None, principal: Principal) -> bool:  # noqa: ARG002
        """Show every tool."""
        return False

    async def selected(
        self,
        view: WorkspaceView,  # noqa: ARG002
        toolset: str | None,  # noqa: ARG002
        principal: Principal,  # noqa: ARG002
        kind: Kind,  # noqa: ARG002
        items: Sequence[_Listed],
    ) -> list[_Listed]:
        """Return ``items``."""
        return list(items)

    async def selects(
        self,
        view: WorkspaceView,  # noqa: ARG002
        toolset: str | None,  # noqa: ARG002
        principal: Principal,  # noqa: ARG002
        kind: Kind,  # noqa: ARG002
        names: Iterable[str],  # noqa: ARG002
    ) -> bool:
        """Select everything."""
        return True
