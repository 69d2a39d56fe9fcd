"""Changes of the gateway's own, told to the streams that are open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast
from uuid import UUID

import pytest

from agentapi.errors import UpstreamError
from agentapi.gateway.exchange import Interest
from agentapi.gateway.rewrite import Rewriter
from agentapi.gateway.subscriptions import Audience, Source, Subscriptions
from agentapi.principal import OrgId, Principal, Role, UpstreamId, UserId, WorkspaceId
from agentapi.upstreams.models import Transport, Upstream
from tenants import NOW

if TYPE_CHECKING:
    from agentapi.upstreams.client import UpstreamClient

MAIN, OTHER = WorkspaceId(UUID(int=1)), WorkspaceId(UUID(int=2))
ALICE = Principal(UserId(UUID(int=3)), OrgId(UUID(int=4)), "acme", Role.MEMBER, "https://issuer.example", "alice")
CHANGED = "notifications/tools/list_changed"
UPSTREAM = Upstream(
    id=UpstreamId(UUID(int=5)),
    org_id=ALICE.org_id,
    workspace_id=MAIN,
    name="one",
    transport=Transport.HTTP,
    endpoint="https://upstream.example/mcp",
    created_by=ALICE.user_id,
    created_at=NOW,
    updated_at=NOW,
)


class SilentClient:
    """Reaches no upstream."""

    async def profile(self, *_: Any) -> NoReturn:
        raise UpstreamError("down")


async def heard(workspace: WorkspaceId, interest: Interest, *upstreams: str) -> list[str]:
    """What a stream of a workspace with these upstreams hears of a change in ``workspace``."""
    sources = [
        Source(replace(UPSTREAM, id=UpstreamId(UUID(int=number)), name=name), Rewriter(name, bare=False))
        for number, name in enumerate(upstreams, 6)
    ]
    methods: list[str] = []
    subscriptions = Subscriptions(cast("UpstreamClient", SilentClient()), ready_s=5.0)
    async with (
        subscriptions.run(),
        subscriptions.listen(ALICE, MAIN, sources, interest, lambda method, _: methods.append(method)),
    ):
        subscriptions.announce(Audience(workspace_id=workspace), CHANGED)
    return methods


@pytest.mark.parametrize("upstreams", [(), ("one",), ("one", "two")])
async def test_a_change_is_told_once_to_the_streams_of_its_workspace(upstreams: tuple[str, ...]) -> None:
    assert await heard(MAIN, Interest(tools=True), *upstreams) == [CHANGED]
    assert await heard(OTHER, Interest(tools=True), *upstreams) == []


async def test_a_stream_that_has_ended_is_told_nothing_and_leaves_nothing() -> None:
    subscriptions = Subscriptions(cast("UpstreamClient", SilentClient()), ready_s=5.0)
    methods: list[str] = []
    async with subscriptions.run():
        async with subscriptions.listen(
            ALICE, MAIN, [], Interest(tools=True), lambda method, _: methods.append(method)
        ):
            pass
        subscriptions.announce(Audience(workspace_id=MAIN), CHANGED)
    assert (methods, subscriptions._streams) == ([], {})


async def test_who_asked_for_other_things_is_not_told() -> None:
    assert await heard(MAIN, Interest(prompts=True), "one") == []


@pytest.mark.parametrize(
    ("audience", "told"),
    [
        (Audience(), True),
        (Audience(ALICE.org_id), True),
        (Audience(ALICE.org_id, MAIN, ALICE.user_id), True),
        (Audience(OrgId(UUID(int=9))), False),
        (Audience(ALICE.org_id, OTHER), False),
        (Audience(ALICE.org_id, MAIN, UserId(UUID(int=9))), False),
        (Audience(OrgId(UUID(int=9)), MAIN, ALICE.user_id), False),
    ],
)
async def test_a_change_is_told_to_those_whom_it_concerns(audience: Audience, told: bool) -> None:
    methods: list[str] = []
    subscriptions = Subscriptions(cast("UpstreamClient", SilentClient()), ready_s=5.0)
    async with (
        subscriptions.run(),
        subscriptions.listen(ALICE, MAIN, [], Interest(tools=True), lambda method, _: methods.append(method)),
    ):
        subscriptions.announce(audience, CHANGED)
    assert methods == ([CHANGED] if told else [])
