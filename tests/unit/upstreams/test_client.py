"""The client of upstreams against real servers of both eras: requests, notifications, questions, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import pytest
from mcp import MCPError

from agentapi.errors import UpstreamError, UpstreamTimeoutError, UpstreamUnaskedError
from agentapi.principal import OrgId
from agentapi.upstreams.link import Era
from agentapi.upstreams.models import ProtocolChoice
from agentapi.upstreams.wanted import Limits
from unit.upstreams.servers import (
    ALICE,
    ASKABLE,
    BOB,
    INFO,
    Heard,
    Journal,
    World,
    call,
    full_http,
    full_sse,
    http,
    sampled,
    session_of,
    sse,
    text_of,
    world,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

# What the older revisions have and the newest one has not is deprecated in the SDK.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

CLIENT = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"


@contextlib.asynccontextmanager
async def setting(kind: str, limits: Limits | None = None) -> AsyncIterator[tuple[World, Upstream, Journal]]:
    """A full server of one kind and a client in front of it."""
    journal = Journal()
    opened: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
        "modern": lambda: full_http(journal, legacy=False),
        "legacy": lambda: full_http(journal, legacy=True),
        "sse": lambda: full_sse(journal),
    }
    async with opened[kind]() as url, world(limits=limits) as made:
        yield made, (sse(url) if kind == "sse" else http(url)), journal


KINDS = ["modern", "legacy", "sse"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_era_is_found_out_and_remembered(kind: str) -> None:
    async with setting(kind) as (made, up, journal):
        assert made.client.era(up) is (Era.LEGACY if kind == "sse" else None)
        profile = await made.client.profile(up, ALICE)
        era, revision = (Era.MODERN, "2026-07-28") if kind == "modern" else (Era.LEGACY, "2025-11-25")
        assert (profile.era, profile.revision, made.client.era(up)) == (era, revision, era)
        assert (profile.server_info["name"], profile.instructions) == ("full", "Be kind.")
        assert profile.capabilities["tools"] is not None
        asked = len(journal.requests)
        assert await made.client.profile(up, ALICE) is profile
        assert len(journal.requests) == asked
        # Another connection to the same legacy server does not ask again which era it is.
        await call(made.client, up, session_of(ALICE, "c"), "echo", text="x")
        versions = [request.get("mcp-method") for request in journal.requests]
        assert versions.count("server/discover") == (0 if kind == "sse" else 1)


async def test_a_server_is_spoken_to_in_the_era_that_is_pinned() -> None:
    async with setting("modern") as (made, up, journal):
        pinned = replace(up, protocol=ProtocolChoice.LEGACY)
        assert made.client.era(pinned) is Era.LEGACY
        assert (await made.client.profile(pinned, ALICE)).revision == "2025-11-25"
        assert text_of(await call(made.client, pinned, ALICE, "echo", text="x")) == "x"
        assert "server/discover" not in [request.get("mcp-method") for request in journal.requests]


async def test_a_server_that_does_not_speak_as_it_is_pinned_is_not_used() -> None:
    async with setting("legacy") as (made, up, _):
        pinned = replace(up, protocol=ProtocolChoice.MODERN)
        assert made.client.era(pinned) is Era.MODERN
        for _ in range(2):
            with pytest.raises(
                UpstreamError, match="speaks 2025-11-25, and is configured as a server of the modern era"
            ):
                await made.client.profile(pinned, ALICE)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_passes_as_it_came(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        result = await call(made.client, up, ALICE, "echo", text="hällo \u2028 \U0001f600")
        assert text_of(result) == "hällo \u2028 \U0001f600"
        assert ("resultType" in result) == (kind == "modern")
        listing = await made.client.request(up, ALICE, "tools/list", {}, timeout_s=5)
        assert {tool["name"] for tool in listing["tools"]} >= {"echo", "steps", "sample"}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_the_upstream_passes_unchanged(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        with pytest.raises(MCPError) as caught:
            await made.client.request(up, ALICE, "resources/read", {"uri": "test://none"}, timeout_s=5)
        assert caught.value.code in {-32602, -32002}
        assert "test://none" in str(caught.value.error)


@pytest.mark.parametrize("kind", KINDS)
async def test_progress_carries_the_clients_token_and_comes_before_the_answer(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        peers = [Heard() for _ in range(3)]
        calls = (
            call(made.client, up, ALICE, "steps", count=5, peer=peer, meta={"progressToken": "same"}) for peer in peers
        )
        results = await asyncio.gather(*calls)
        assert [text_of(result) for result in results] == ["done"] * 3
        for peer in peers:
            assert peer.progress == [("same", step) for step in range(5)]
            assert peer.told[0][1]["message"] == "step 0"
        silent = Heard()
        await call(made.client, up, ALICE, "steps", count=5, peer=silent)
        assert silent.told == []


async def test_a_modern_upstream_is_told_of_the_client_with_each_request() -> None:
    async with setting("modern") as (made, up, journal):
        await call(made.client, up, session_of(ALICE, "c1"), "echo", text="x")
        await call(made.client, up, ALICE, "echo", text="x", meta={"traceparent": "00-1"})
        posted = [request for request in journal.requests if request.get("mcp-method") == "tools/call"]
        assert [(p["mcp-name"], p["mcp-protocol-version"]) for p in posted] == [("echo", "2026-07-28")] * 2
        # One connection serves all conversations of the user: nothing is kept on it.
        assert len(made.pool) == 1


async def test_a_legacy_upstream_is_told_of_its_client_once() -> None:
    async with setting("legacy") as (made, up, journal):
        await call(made.client, up, session_of(ALICE, "c1"), "echo", text="x")
        versions = {request.get("mcp-protocol-version") for request in journal.requests[2:]}
        assert "2025-11-25" in versions
        assert not any("mcp-method" in request for request in journal.requests[1:])


@pytest.mark.parametrize("kind", ["legacy", "sse"])
async def test_a_question_goes_to_the_client_whose_request_it_belongs_to(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        await made.client.profile(up, ALICE)
        callers = [session_of(ALICE, "c1"), session_of(ALICE, "c2"), session_of(BOB, "c3")]
        # A modern client has no conversation; its requests have a connection to themselves.
        callers += [session_of(ALICE, ""), session_of(ALICE, "")]
        peers = [Heard({"sampling/createMessage": sampled(f"answer {n}")}) for n in range(len(callers))]
        answers = await asyncio.gather(
            *(
                call(made.client, up, caller, "sample", text=f"question {n}", peer=peer)
                for n, (caller, peer) in enumerate(zip(callers, peers, strict=True))
            )
        )
        assert [text_of(answer) for answer in answers] == [f"answer {n}" for n in range(len(callers))]
        for n, peer in enumerate(peers):
            assert [(m, p["messages"][0]["content"]["text"]) for m, p in peer.asked] == [
                ("sampling/createMessage", f"question {n}")
            ]
        # One for each, and the one that the profile was asked on.
        assert len(made.pool) == len(callers) + 1
        keys = set(made.pool._connections)
        assert {(key.user_id, key.conversation) for key in keys if key.conversation} == {
            (ALICE.user_id, "c1"),
            (ALICE.user_id, "c2"),
            (BOB.user_id, "c3"),
        }


async def test_two_requests_of_one_conversation_get_each_its_own_question() -> None:
    """Over Streamable HTTP the stream that a question comes on tells, even on one connection."""
    async with setting("legacy") as (made, up, _):
        caller = session_of(ALICE, "c1")
        peers = [Heard({"sampling/createMessage": sampled(f"answer {n}")}) for n in range(10)]
        answers = await asyncio.gather(
            *(call(made.client, up, caller, "sample", text=f"q{n}", peer=peer) for n, peer in enumerate(peers))
        )
        assert [text_of(answer) for answer in answers] == [f"answer {n}" for n in range(10)]
        assert len(made.pool) == 2


@pytest.mark.parametrize("kind", ["legacy", "sse"])
async def test_what_the_client_did_not_declare_is_not_asked(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        for caller in (session_of(ALICE, "c1", roots={}), ALICE):
            peer = Heard({"sampling/createMessage": sampled("no")})
            with pytest.raises(MCPError):
                await call(made.client, up, caller, "sample", text="x", peer=peer)
            assert peer.asked == []


async def test_the_time_of_a_request_stands_still_while_the_client_is_asked() -> None:
    async with setting("legacy") as (made, up, _):
        deadlines: list[float] = []

        class Person(Heard):
            async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
                (link,) = made.pool.links(lambda key: key.conversation == "c1")
                (waiting,) = link.inbox.calls.values()
                deadlines.append(waiting.scope.deadline)
                asyncio.get_running_loop().call_soon(lambda: deadlines.append(waiting.scope.deadline))
                return await super().ask(method, params)

        peer = Person({"sampling/createMessage": sampled("late")})
        began = anyio.current_time()
        await call(made.client, up, session_of(ALICE, "c1"), "sample", text="x", peer=peer, timeout_s=60.0)
        assert deadlines[0] == math.inf
        # Afterwards it runs on with what was left.
        assert began + 50 < deadlines[1] < anyio.current_time() + 60


async def test_a_lease_that_was_given_up_is_nobodys_again() -> None:
    async with setting("legacy") as (made, up, journal):
        modern = session_of(ALICE, "")
        await call(made.client, up, modern, "echo", text="x")
        (alone,) = (key for key in made.pool._connections if key.alone)
        with pytest.raises(UpstreamTimeoutError):
            await call(made.client, up, modern, "hang", name="h", timeout_s=0.2)
        assert alone not in made.pool._connections
        assert await asyncio.wait_for(journal.cancelled.get(), 5) == "h"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["cancelled", "timed out"])
async def test_what_nobody_waits_for_is_cancelled_upstream(kind: str, way: str) -> None:
    async with setting(kind) as (made, up, journal):
        await made.client.profile(up, ALICE)
        timeout_s = 0.3 if way == "timed out" else 60.0
        waiting = asyncio.ensure_future(call(made.client, up, ALICE, "hang", name="h", timeout_s=timeout_s))
        assert await asyncio.wait_for(journal.begun.get(), 5) == "h"
        if way == "cancelled":
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            with pytest.raises(UpstreamTimeoutError, match=r"'up' did not answer within 0\.3 s"):
                await waiting
        assert await asyncio.wait_for(journal.cancelled.get(), 5) == "h"
        # The connection goes on.
        opened = len(made.pool)
        assert text_of(await call(made.client, up, ALICE, "echo", text="x")) == "x"
        assert len(made.pool) == opened == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_log_messages_come_when_they_are_asked_for(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        wanting, silent = Heard(), Heard()
        await call(made.client, up, ALICE, "say", text="a", level="info", peer=wanting, meta={LOG_LEVEL: "info"})
        await call(made.client, up, ALICE, "say", text="b", level="info", peer=silent)
        heard = [(method, params["data"]) for method, params in wanting.told]
        assert heard == [("notifications/message", "a")]
        assert silent.told == []


async def test_the_arguments_of_a_tool_are_repeated_in_headers_where_its_schema_says_so() -> None:
    definition = {
        "name": "echo",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string", "x-mcp-header": "Text"}}},
    }
    async with setting("modern") as (made, up, journal):
        await call(made.client, up, ALICE, "echo", text="eu", definition=definition)
        await call(made.client, up, ALICE, "echo", text="eu")
        posted = [request for request in journal.requests if request.get("mcp-method") == "tools/call"]
        assert [request.get("mcp-param-text") for request in posted] == ["eu", None]


@pytest.mark.parametrize("kind", KINDS)
async def test_two_users_and_two_tenants_never_share_a_connection(kind: str) -> None:
    async with setting(kind) as (made, up, journal):
        callers = [ALICE, BOB, session_of(ALICE, "c1"), session_of(BOB, "c1")]
        await asyncio.gather(*(call(made.client, up, caller, "echo", text="x") for caller in callers * 5))
        links: dict[int, set[Any]] = {}
        for connections in made.pool._connections.values():
            for connection in connections:
                links.setdefault(id(connection.link), set()).add((connection.key.org_id, connection.key.user_id))
        assert all(len(owners) == 1 for owners in links.values())
        assert len(links) == (2 if kind == "modern" else 4)
        sessions = {request["mcp-session-id"] for request in journal.requests if "mcp-session-id" in request}
        assert len(sessions) == (4 if kind == "legacy" else 0)


async def test_a_hundred_callers_open_one_connection() -> None:
    async with setting("legacy", Limits(requests_per_connection=100, requests_per_user=100)) as (made, up, journal):
        await asyncio.gather(*(call(made.client, up, ALICE, "echo", text="x") for _ in range(100)))
        assert len(made.pool) == 1
        assert sum(request.get("mcp-method") == "server/discover" for request in journal.requests) == 1
        assert sum("mcp-protocol-version" not in request for request in journal.requests) == 1


@pytest.mark.parametrize(
    ("bounds", "second", "words"),
    [
        ({"requests_per_connection": 1}, ALICE, "requests of yours to this upstream are under way"),
        ({"requests_per_user": 1}, session_of(ALICE, "c"), "requests of yours are under way"),
        ({"requests_per_organization": 1}, BOB, "requests of your organisation are under way"),
        ({"requests_per_connection": 1, "requests_per_user": 1}, BOB, None),
        ({"requests_per_organization": 1}, replace(ALICE, org_id=OrgId(UUID(int=9))), None),
    ],
    ids=["connection", "user", "organisation", "another user", "another organisation"],
)
async def test_requests_beyond_a_bound_are_refused_at_once(
    bounds: dict[str, int], second: Caller, words: str | None
) -> None:
    async with setting("legacy", Limits(**bounds)) as (made, up, journal):
        hanging = asyncio.ensure_future(call(made.client, up, ALICE, "hang", name="h"))
        await asyncio.wait_for(journal.begun.get(), 5)
        theirs = replace(up, org_id=second.org_id)
        refused = contextlib.nullcontext() if words is None else pytest.raises(UpstreamUnaskedError, match=words)
        with refused:
            assert text_of(await call(made.client, theirs, second, "echo", text="x")) == "x"
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        assert text_of(await call(made.client, theirs, second, "echo", text="x")) == "x"
        assert len(made.pool._in_flight) == 0


async def test_who_a_client_is_reaches_the_upstream() -> None:
    async with setting("modern") as (made, up, _):
        sent: list[Any] = []
        link = made.pool.links(lambda _: True)
        assert link == []
        await made.client.profile(up, ALICE)
        (only,) = made.pool.links(lambda _: True)
        send = only._dispatcher.send_raw_request

        async def spy(method: str, params: Any, opts: Any = None) -> Any:
            sent.append(params)
            return await send(method, params, opts)

        only._dispatcher.send_raw_request = spy  # type: ignore[method-assign,assignment]
        await call(made.client, up, session_of(ALICE, "c"), "echo", text="x", meta={"x/y": 1, "progressToken": "t"})
        (params,) = sent
        assert params["_meta"][CLIENT] == INFO
        assert params["_meta"]["io.modelcontextprotocol/clientCapabilities"] == ASKABLE
        assert (params["_meta"]["x/y"], params["_meta"]["progressToken"] == "t") == (1, False)


async def test_what_was_changed_or_deleted_is_closed_at_once_and_not_opened_again() -> None:
    async with setting("legacy") as (made, up, journal):
        busy = asyncio.ensure_future(call(made.client, up, ALICE, "hang", name="h", repeatable=True))
        await asyncio.wait_for(journal.begun.get(), 5)
        made.client.close_upstream(up.id, up.version)
        with pytest.raises(UpstreamError, match="changed or deleted"):
            await asyncio.wait_for(busy, 5)
        assert len(made.pool) == 0
        with pytest.raises(UpstreamError, match="changed or deleted"):
            await call(made.client, up, ALICE, "echo", text="x")
        newer = http(str(up.endpoint), version=2)
        assert text_of(await call(made.client, newer, ALICE, "echo", text="x")) == "x"


async def test_the_version_that_replaces_another_is_open_to_calls_that_come_first() -> None:
    async with setting("legacy") as (made, up, _):
        newer = http(str(up.endpoint), version=up.version + 1)
        await call(made.client, newer, ALICE, "echo", text="x")
        made.client.close_upstream(up.id, up.version)
        assert [key.version for key in made.pool._connections] == [newer.version]
        assert text_of(await call(made.client, newer, ALICE, "echo", text="x")) == "x"
        # Nobody had a connection to the old one, and nobody gets one any more.
        with pytest.raises(UpstreamError, match="changed or deleted"):
            await call(made.client, up, ALICE, "echo", text="x")


async def test_a_conversation_that_ends_takes_its_connections_along() -> None:
    async with setting("legacy") as (made, up, _):
        for caller in (ALICE, session_of(ALICE, "c1"), session_of(ALICE, "c2")):
            await call(made.client, up, caller, "echo", text="x")
        made.client.end_conversation(ALICE.org_id, "c1")
        assert {key.conversation for key in made.pool._connections} == {"", "c2"}
        made.client.end_conversation(ALICE.org_id, "")
        assert len(made.pool) == 2
