from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentapi.errors import ForbiddenError
from agentapi.gateway.items import named
from agentapi.gateway.listing import Kind
from agentapi.gateway.policy import Policy
from agentapi.gateway.unknown import UnknownToolError
from agentapi.policy.fingerprints import stored_name
from agentapi.policy.models import ApprovalState, Effect, ToolPolicy
from agentapi.policy.registry import WorkspacePolicy
from agentapi.principal import Role
from agentapi.upstreams.registry import WorkspaceView
from unit.gateway.doubles import WORKSPACE, tool
from unit.upstreams.doubles import PRINCIPAL, drain, upstream

if TYPE_CHECKING:
    from agentapi.policy.registry import PolicyRegistry

VIEW = WorkspaceView(WORKSPACE, (upstream(),))
TOOLS = list(named(upstream(), Kind.TOOLS, (tool("a"), tool("b")), bare=True).values())


class Registry:
    """What holds in a workspace where nobody has met a tool, and what is recorded there, one at a time."""

    def __init__(self, *, succeeds: bool = True) -> None:
        self.recorded: list[set[str]] = []
        self.gate = asyncio.Event()
        self.succeeds = succeeds
        self.holds = WorkspacePolicy(WORKSPACE.id, 0, ToolPolicy(), {}, {}, {})

    @property
    def typed(self) -> PolicyRegistry:
        return cast("PolicyRegistry", self)

    async def view(self, *_: Any) -> WorkspacePolicy:
        return self.holds

    async def record(self, _principal: Any, _holds: Any, _upstream: Any, met: dict[str, Any]) -> bool:
        self.recorded.append(set(met))
        await self.gate.wait()
        return self.succeeds


async def test_of_requests_that_meet_a_tool_together_one_records_it() -> None:
    registry = Registry()
    policy = Policy(registry.typed)
    first = asyncio.create_task(policy.apply(VIEW, None, PRINCIPAL, TOOLS))
    await drain()
    # Nobody waits for the one who writes.
    async with asyncio.timeout(5):
        assert await policy.apply(VIEW, None, PRINCIPAL, TOOLS) == TOOLS
        assert await policy.require(VIEW, None, PRINCIPAL, TOOLS[0]) is TOOLS[0]
    registry.gate.set()
    assert await first == TOOLS
    assert registry.recorded == [{"a", "b"}]


async def test_what_could_not_be_recorded_is_tried_again() -> None:
    registry = Registry(succeeds=False)
    registry.gate.set()
    policy = Policy(registry.typed)
    for _ in range(2):
        await policy.require(VIEW, None, PRINCIPAL, TOOLS[0])
    assert registry.recorded == [{"a"}, {"a"}]


async def test_who_leaves_while_recording_keeps_nobody_from_it() -> None:
    registry = Registry()
    policy = Policy(registry.typed)
    gone = asyncio.create_task(policy.require(VIEW, None, PRINCIPAL, TOOLS[0]))
    await drain()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    registry.gate.set()
    await policy.require(VIEW, None, PRINCIPAL, TOOLS[0])
    assert registry.recorded == [{"a"}, {"a"}]


async def test_a_clearance_ends_with_what_it_was_given_under() -> None:
    registry = Registry()
    policy = Policy(registry.typed)
    (item,) = named(upstream(), Kind.TOOLS, (tool("a"),), bare=True).values()
    known = {(item.upstream.id, stored_name("a")): {item.profile.fingerprint: ApprovalState.APPROVED}}
    open_to_all = WorkspacePolicy(WORKSPACE.id, 0, ToolPolicy(), {}, known, {})
    hidden = replace(open_to_all, version=1, policy=ToolPolicy(default=Effect.DENY))
    for _ in range(2):
        registry.holds = open_to_all
        for _ in range(2):
            assert await policy.require(VIEW, None, PRINCIPAL, item) is item
        with pytest.raises(ForbiddenError):
            await policy.require(VIEW, None, replace(PRINCIPAL, role=Role.VIEWER), item)
        registry.holds = hidden
        with pytest.raises(UnknownToolError):
            await policy.require(VIEW, None, PRINCIPAL, item)
