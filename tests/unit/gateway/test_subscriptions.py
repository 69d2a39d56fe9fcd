from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.errors import UpstreamError
from agentapi.gateway.composition import build_router
from agentapi.gateway.exchange import Exchange, Interest
from agentapi.settings import load_settings
from agentapi.upstreams.link import Era
from unit.gateway.doubles import Client, Server, exchange, tool
from unit.gateway.test_router import KEYRING
from unit.upstreams.doubles import drain, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.gateway.router import Router

ONE, TWO = upstream("one", 1), upstream("two", 2)
ALL = Interest(tools=True, prompts=True, resources=True)
TOOLS_CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
Event = tuple[str, dict[str, Any]]


@contextlib.asynccontextmanager
async def routed(client: Client, *, retry_s: float = 0.0) -> AsyncIterator[Router]:
    router = build_router(load_settings(), client=client.typed, keyring=KEYRING)
    router.subscriptions._retry_s = retry_s
    async with router.run():
        yield router


def visitor(**options: Any) -> Exchange:
    return exchange("subscriptions/listen", {}, ONE, TWO, **options)


def world(**options: Any) -> Client:
    return Client({name: Server({"tools": [tool("t")]}, **options) for name in ("one", "two")})


async def test_a_change_reaches_who_listens_to_it_and_nobody_else() -> None:
    client = world()
    tools: list[Event] = []
    uris: list[Event] = []
    async with routed(client) as router:
        interest = Interest(uris=frozenset({"mcp+one+test://a", "test://nobody"}))
        async with (
            router.listen(visitor(), Interest(tools=True), lambda *event: tools.append(event)),
            router.listen(visitor(), interest, lambda *event: uris.append(event)) as honoured,
        ):
            assert honoured == Interest(uris=frozenset({"mcp+one+test://a"}))
            client.hear(ONE, TOOLS_CHANGED, {"_meta": {"io.modelcontextprotocol/subscriptionId": 1, "x": 2}})
            client.hear(ONE, "notifications/prompts/list_changed")
            client.hear(ONE, UPDATED, {"uri": "test://a"})
            client.hear(TWO, UPDATED, {"uri": "test://a"})
            client.hear(ONE, UPDATED, {"uri": "test://b"})
        client.hear(ONE, TOOLS_CHANGED)
    assert tools == [(TOOLS_CHANGED, {"_meta": {"x": 2}})]
    assert uris == [(UPDATED, {"uri": "mcp+one+test://a"})]


@pytest.mark.parametrize("era", Era)
async def test_a_change_of_a_part_reaches_who_listens_to_the_whole(era: Era) -> None:
    client = world(era=era, capabilities={"resources": {"subscribe": True}})
    heard: list[Event] = []
    async with routed(client) as router:
        interest = Interest(uris=frozenset({"mcp+one+test://a"}))
        async with router.listen(visitor(), interest, lambda *event: heard.append(event)):
            for uri in ("test://a/part", "test://a#part", "test://ab", "test:"):
                client.hear(ONE, UPDATED, {"uri": uri})
    assert heard == [(UPDATED, {"uri": f"mcp+one+test://a{part}"}) for part in ("/part", "#part")]


async def test_the_list_is_new_by_the_time_the_client_hears_that_it_changed() -> None:
    client = world()
    async with routed(client) as router:
        lists: list[asyncio.Future[dict[str, Any]]] = []

        def ask(*_: object) -> None:
            lists.append(asyncio.ensure_future(router.answer(exchange("tools/list", {}, ONE))))

        await router.answer(exchange("tools/list", {}, ONE))
        async with router.listen(visitor(), ALL, ask):
            client.servers["one"].lists = {"tools": [tool("new")]}
            client.hear(ONE, TOOLS_CHANGED)
            assert [each["name"] for each in (await lists[0])["tools"]] == ["one__new"]


async def test_many_streams_of_a_user_share_one_subscription() -> None:
    client = world()
    async with routed(client) as router, contextlib.AsyncExitStack() as stack:
        for at in range(100):
            interest = Interest(tools=True, uris=frozenset({f"mcp+one+test://{at % 2}"}))
            await stack.enter_async_context(router.listen(visitor(), interest, lambda *_: None))
        await drain()
        (one,) = client.servers["one"].listening
        assert one == {
            "tools": True,
            "prompts": False,
            "resources": False,
            "uris": frozenset({"test://0", "test://1"}),
        }
        assert len(client.servers["two"].listening) == 1
        await stack.aclose()
        await drain()
        assert [server.listening for server in client.servers.values()] == [[], []]
        assert len(router.subscriptions) == 0


async def test_a_stream_stands_before_its_context_begins() -> None:
    client = world()
    async with routed(client) as router, router.listen(visitor(), ALL, lambda *_: None):
        assert [len(server.listening) for server in client.servers.values()] == [1, 1]
        async with router.listen(visitor(), Interest(uris=frozenset({"mcp+one+u:x"})), lambda *_: None):
            assert client.servers["one"].listening[-1]["uris"] == {"u:x"}


async def test_an_upstream_that_cannot_be_listened_to_keeps_nobody_waiting() -> None:
    client = world()
    client.servers["one"].failure = UpstreamError("down")
    client.servers["two"].capabilities = {}
    async with routed(client, retry_s=60.0) as router, router.listen(visitor(), ALL, lambda *_: None):
        assert [server.listens for server in client.servers.values()] == [[], []]


@pytest.mark.parametrize(("era", "listens"), [(Era.MODERN, 1), (Era.LEGACY, 0)])
async def test_flags_count_for_upstreams_of_the_older_revisions(era: Era, listens: int) -> None:
    client = world(era=era, capabilities={"tools": {}, "resources": {"listChanged": True}})
    interest = Interest(tools=True, uris=frozenset({"mcp+one+u:x"}))
    async with routed(client) as router, router.listen(visitor(), interest, lambda *_: None):
        assert len(client.servers["one"].listens) == listens


async def test_a_subscription_that_broke_is_renewed_and_what_was_missed_is_made_up_for() -> None:
    client, events = world(), asyncio.Queue[Event]()
    interest = Interest(tools=True, uris=frozenset({"mcp+one+test://a"}))
    server = client.servers["one"]
    async with routed(client) as router:
        async with router.listen(visitor(), interest, lambda *event: events.put_nowait(event)):
            assert len(server.listening) == 1
            server.ends.set()
            await drain()
            server.ends = asyncio.Event()
            heard = [await asyncio.wait_for(events.get(), 5) for _ in range(2)]
        assert heard == [(TOOLS_CHANGED, {}), (UPDATED, {"uri": "mcp+one+test://a"})]


async def test_shutting_down_ends_the_subscriptions() -> None:
    client = world()
    async with contextlib.AsyncExitStack() as stack:
        async with routed(client) as router:
            await stack.enter_async_context(router.listen(visitor(), ALL, lambda *_: None))
        assert [server.listening for server in client.servers.values()] == [[], []]
        with pytest.raises(UpstreamError, match="shutting down"):
            await stack.enter_async_context(router.listen(visitor(), ALL, lambda *_: None))
