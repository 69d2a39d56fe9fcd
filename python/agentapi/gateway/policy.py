"""The policy of a workspace applied to its catalogue: what is listed, under which name, and what may be called.

A tool that a policy hides reads like one that does not exist.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from agentapi.errors import ForbiddenError, InsufficientScopeError
from agentapi.gateway.listing import Kind
from agentapi.gateway.names import SEPARATOR
from agentapi.gateway.unknown import UnknownToolError, unknown_tool
from agentapi.identity.permissions import Permission, require
from agentapi.policy.decisions import decide
from agentapi.policy.models import Actor, Subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from agentapi.gateway.items import CatalogueItem, ListedItem
    from agentapi.policy.decisions import Verdict
    from agentapi.policy.models import Toolset
    from agentapi.policy.patterns import Patterns
    from agentapi.policy.registry import PolicyRegistry, WorkspacePolicy
    from agentapi.principal import Principal, UpstreamId
    from agentapi.upstreams.registry import WorkspaceView

__all__ = ["HiddenToolError", "Policy", "subject_of"]

_Listed = TypeVar("_Listed", bound="ListedItem")

_MAX_VERDICTS = 20_000
_TURN = 16
"""New decisions after which other requests have their turn."""


class HiddenToolError(UnknownToolError):
    """There is such a tool; its caller is not told, the audit log is."""


class Policy:
    """Decides for the catalogue, and remembers what it decided.

    Args:
        registry: What holds in each workspace.
    """

    def __init__(self, registry: PolicyRegistry) -> None:
        self._registry = registry
        self._verdicts: dict[tuple[object, ...], Verdict] = {}
        self._decisions = 0
        self._recording: set[tuple[UpstreamId, str, bytes]] = set()
        """Definitions that are being recorded just now, which one request does for all."""

    def holds(self, view: WorkspaceView, principal: Principal) -> Awaitable[WorkspacePolicy]:
        """Return what holds in the workspace of ``view``."""
        return self._registry.view(principal, view.workspace.id)

    async def has_toolset(self, principal: Principal, view: WorkspaceView, name: str) -> bool:
        """Return whether the workspace of ``view`` has a toolset of that name."""
        return name in (await self.holds(view, principal)).toolsets

    async def selected(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, kind: Kind, items: Sequence[_Listed]
    ) -> list[_Listed]:
        """Return those of the prompts, resources or templates ``items`` that the toolset selects.

        Raises:
            NotFoundError: The workspace has no such toolset.
        """
        if toolset is None:
            return list(items)
        patterns = await self._patterns(view, toolset, principal, kind)
        return [item for item in items if patterns.match((item.name, item.upstream_name))]

    async def selects(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, kind: Kind, names: Iterable[str]
    ) -> bool:
        """Return whether the toolset selects the prompt or resource that goes by ``names``.

        Raises:
            NotFoundError: The workspace has no such toolset.
        """
        return toolset is None or (await self._patterns(view, toolset, principal, kind)).match(names)

    async def _patterns(self, view: WorkspaceView, toolset: str, principal: Principal, kind: Kind) -> Patterns:
        chosen = (await self.holds(view, principal)).toolset(toolset)
        if chosen is None:
            raise AssertionError(toolset)
        return chosen.prompts if kind is Kind.PROMPTS else chosen.resources

    async def search_mode(self, view: WorkspaceView, toolset: str | None, principal: Principal) -> bool:
        """Return whether the client sees two tools, to find and to call, in the place of all.

        Raises:
            NotFoundError: The workspace has no such toolset.
        """
        holds = await self.holds(view, principal)
        chosen = holds.toolset(toolset)
        return holds.policy.search_mode if chosen is None else chosen.search_mode

    async def apply(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, tools: Sequence[CatalogueItem]
    ) -> list[CatalogueItem]:
        """Return those of ``tools`` that ``principal`` sees, in their order and under the names it sees them by.

        Raises:
            NotFoundError: The workspace has no such toolset.
        """
        holds = await self.holds(view, principal)
        await self._meet(holds, principal, tools)
        chosen = holds.toolset(toolset)
        begun = self._decisions
        shown = []
        for tool in tools:
            if self._decisions - begun >= _TURN:
                # Many rules over many tools take their time; others have theirs in between.
                begun = self._decisions
                await asyncio.sleep(0)
            name = holds.policy.renames.renamed(tool.name)
            if name is not None and self._verdict(holds, chosen, principal, tool).visible:
                shown.append(tool.called(name))
        return shown

    async def original(self, view: WorkspaceView, principal: Principal, name: str) -> str:
        """Return the catalogue's name of the tool that the client calls ``name``.

        Raises:
            UnknownToolError: No tool can have that name.
        """
        original = (await self.holds(view, principal)).policy.renames.original(name)
        if original is None:
            raise unknown_tool(name)
        return original

    async def require(
        self, view: WorkspaceView, toolset: str | None, principal: Principal, tool: CatalogueItem
    ) -> CatalogueItem:
        """Return ``tool``, found by its name in the catalogue, under the name by which the client knows it.

        Raises:
            UnknownToolError: It is hidden.
            ForbiddenError: The role may not call tools.
            InsufficientScopeError: The token lacks scopes that the policy asks for.
            NotFoundError: The workspace has no such toolset.
        """
        holds = await self.holds(view, principal)
        chosen = holds.toolset(toolset)
        terms = (holds, chosen, principal)
        cleared = tool.cleared(terms)
        if cleared is not None:
            return cleared
        await self._meet(holds, principal, (tool,))
        name = holds.policy.renames.renamed(tool.name)
        verdict = self._verdict(holds, chosen, principal, tool)
        if name is None or not verdict.visible:
            raise unknown_tool(tool.name if name is None else name, HiddenToolError)
        if not verdict.callable:
            require(principal, Permission.TOOLS_CALL)
            if verdict.missing_scopes:
                raise InsufficientScopeError(tuple(sorted(verdict.required_scopes)))
            raise ForbiddenError("This tool may not be called.")
        called = tool.called(name)
        # A definition that could not be recorded is to be met again.
        if tool.profile.fingerprint in holds.known(tool.upstream, tool.upstream_name):
            tool.clear(terms, called)
        return called

    async def _meet(self, holds: WorkspacePolicy, principal: Principal, tools: Iterable[CatalogueItem]) -> None:
        """Record the definitions that nobody has met.

        Most lists hold none: this compares what is in memory, and writes nothing.
        """
        new = [
            tool
            for tool in tools
            if tool.profile.fingerprint not in holds.known(tool.upstream, tool.upstream_name)
            and _met_key(tool) not in self._recording
        ]
        for upstream in {tool.upstream.id: tool.upstream for tool in new}.values():
            listed = [tool for tool in reversed(new) if tool.upstream.id == upstream.id]
            keys = {_met_key(tool) for tool in listed}
            met = {tool.upstream_name: (tool.profile.fingerprint, tool.definition) for tool in listed}
            # Until it is written, requests that come meanwhile leave it to this one.
            self._recording |= keys
            try:
                await self._registry.record(principal, holds, upstream, met)
            finally:
                self._recording -= keys

    def _verdict(
        self, holds: WorkspacePolicy, toolset: Toolset | None, principal: Principal, tool: CatalogueItem
    ) -> Verdict:
        digest = tool.profile.fingerprint
        # All that a decision depends on; whoever shares it shares the verdict.
        key = (
            (holds.workspace_id, holds.version),
            None if toolset is None else (toolset.id, toolset.version),
            (principal.role, principal.scopes),
            (tool.name, tool.upstream.name, tool.upstream_name, digest),
            holds.state(tool.upstream, tool.upstream_name, digest),
        )
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= _MAX_VERDICTS:
                self._verdicts.clear()
            actor = Actor(principal.role, principal.scopes)
            # The reasons are for who asks for them; kept for every tool they would fill the memory.
            verdict = replace(decide(holds.policy, actor, subject_of(holds, tool), toolset), reasons=())
            self._verdicts[key] = verdict
            self._decisions += 1
        return verdict


def subject_of(holds: WorkspacePolicy, tool: CatalogueItem) -> Subject:
    """Return ``tool`` as a policy looks at it."""
    qualified = f"{tool.upstream.name}{SEPARATOR}{tool.upstream_name}"
    renamed = holds.policy.renames.renamed(tool.name)
    names = dict.fromkeys((qualified, tool.name, renamed or tool.name))
    return Subject(
        upstream=tool.upstream.name,
        names=tuple(names),
        hints=tool.profile.hints,
        approval=holds.state(tool.upstream, tool.upstream_name, tool.profile.fingerprint),
    )


def _met_key(tool: CatalogueItem) -> tuple[UpstreamId, str, bytes]:
    return tool.upstream.id, tool.upstream_name, tool.profile.fingerprint
