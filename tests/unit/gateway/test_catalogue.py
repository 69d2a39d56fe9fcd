from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, METHOD_NOT_FOUND

from agentapi.errors import UpstreamError, UpstreamNeedsConnectionError, UpstreamTimeoutError
from agentapi.gateway.catalogue import Catalogue
from agentapi.gateway.listing import Kind
from agentapi.gateway.unknown import UnknownPromptError, UnknownToolError
from agentapi.principal import UserId
from unit.gateway.doubles import Client, Server, tool
from unit.upstreams.doubles import PRINCIPAL, Clock, drain, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.upstreams.models import Upstream

ONE, TWO, THREE = upstream("one", 1), upstream("two", 2), upstream("three", 3)
TOOLS_CHANGED = "notifications/tools/list_changed"


def lists(*names: str, **options: Any) -> Server:
    return Server({"tools": [tool(name, title=str(at)) for at, name in enumerate(names)]}, **options)


@contextlib.asynccontextmanager
async def catalogue(client: Client, clock: Clock | None = None, **options: Any) -> AsyncIterator[Catalogue]:
    made = Catalogue(
        client=client.typed,
        **{
            "ttl_s": 60.0,
            "min_ttl_s": 5.0,
            "max_stale_s": 300.0,
            "failure_ttl_s": 15.0,
            "list_timeout_s": 5.0,
            "bare_names": False,
            "clock": clock or Clock(),
            "max_entries": 100,
            **options,
        },
    )
    async with made.run():
        yield made


async def names(found: Catalogue, *upstreams: Upstream, kind: Kind = Kind.TOOLS) -> list[str]:
    return [item.name for item in (await found.collect(upstreams, PRINCIPAL, kind)).items]


async def test_items_come_by_upstream_and_then_as_the_upstream_orders_them() -> None:
    client = Client({"one": lists("b", "a"), "two": lists("z"), "three": lists("m", "c")})
    expected = ["one__b", "one__a", "three__m", "three__c", "two__z"]
    for order in itertools.permutations((ONE, TWO, THREE)):
        async with catalogue(client) as tools:
            assert await names(tools, *order) == expected


async def test_each_kind_is_listed_under_its_public_name() -> None:
    client = Client(
        {
            "one": Server(
                {
                    "tools": [tool("a", unknownField={"kept": True})],
                    "prompts": [{"name": "p"}],
                    "resources": [{"uri": "file:///x", "name": "x"}],
                    "resourceTemplates": [{"uriTemplate": "file:///{path}", "name": "t"}],
                }
            )
        }
    )
    async with catalogue(client) as found:
        definitions = {
            kind: [item.definition for item in (await found.collect([ONE], PRINCIPAL, kind)).items] for kind in Kind
        }
    assert definitions == {
        Kind.TOOLS: [tool("one__a", unknownField={"kept": True})],
        Kind.PROMPTS: [{"name": "one__p"}],
        Kind.RESOURCES: [{"uri": "mcp+one+file:///x", "name": "x"}],
        Kind.TEMPLATES: [{"uriTemplate": "mcp+one+file:///{path}", "name": "t"}],
    }


async def test_a_capability_that_is_absent_is_an_empty_list_without_asking() -> None:
    client = Client({"one": lists("a", capabilities={"tools": {}})})
    async with catalogue(client) as found:
        for kind in (Kind.PROMPTS, Kind.RESOURCES, Kind.TEMPLATES):
            assert await names(found, ONE, kind=kind) == []
    assert client.servers["one"].methods == []


async def test_a_server_without_templates_has_none() -> None:
    client = Client({"one": Server(list_failure=MCPError(METHOD_NOT_FOUND, "Method not found"))})
    async with catalogue(client) as found:
        templates = await found.collect([ONE], PRINCIPAL, Kind.TEMPLATES)
        resources = await found.collect([ONE], PRINCIPAL, Kind.RESOURCES)
    assert (templates.items, templates.fresh_s) == ([], 60.0)
    assert (resources.items, resources.fresh_s) == ([], 15.0)


async def _caller() -> Any:
    client = Client({"one": lists("a")})
    async with catalogue(client) as found:
        await names(found, ONE)
    return client.servers["one"].asked[0]


async def test_lists_are_asked_for_on_a_connection_that_cannot_be_asked_back() -> None:
    asked = await _caller()
    assert (asked.caller.user_id, asked.caller.conversation, asked.caller.capabilities) == (PRINCIPAL.user_id, "", {})
    assert (asked.peer, asked.options) == (None, {"timeout_s": 5.0, "repeatable": True})


async def test_a_fresh_list_is_served_without_asking() -> None:
    client, clock = Client({"one": lists("a")}), Clock()
    async with catalogue(client, clock) as tools:
        await names(tools, ONE)
        clock.advance(59.9)
        await names(tools, ONE)
    assert len(client.servers["one"].asked) == 1


async def test_a_stale_list_is_served_at_once_while_one_fetch_renews_it() -> None:
    client, clock = Client({"one": lists("a")}), Clock()
    server = client.servers["one"]
    async with catalogue(client, clock) as tools:
        await names(tools, ONE)
        clock.advance(60.0)
        server.lists, server.gate = lists("b").lists, asyncio.Event()
        for _ in range(10):
            collected = await tools.collect([ONE], PRINCIPAL, Kind.TOOLS)
            assert ([item.name for item in collected.items], collected.fresh_s) == (["one__a"], 0.0)
        await drain()
        assert len(server.asked) == 2
        server.gate.set()
        await drain()
        assert await names(tools, ONE) == ["one__b"]
    assert len(server.asked) == 2


async def test_a_list_that_is_too_old_is_waited_for() -> None:
    client, clock = Client({"one": lists("a")}), Clock()
    async with catalogue(client, clock) as tools:
        await names(tools, ONE)
        clock.advance(300.0)
        client.servers["one"].lists = lists("b").lists
        assert await names(tools, ONE) == ["one__b"]


async def test_without_a_time_to_live_every_list_is_new() -> None:
    client = Client({"one": lists("a")})
    async with catalogue(client, ttl_s=0.0) as tools:
        await names(tools, ONE)
        client.servers["one"].lists = lists("b").lists
        assert await names(tools, ONE) == ["one__b"]


@pytest.mark.parametrize(("ttl_ms", "fresh_s"), [(None, 60.0), (0, 5.0), (20_000, 20.0), (10**12, 60.0), (True, 60.0)])
async def test_an_upstream_shortens_the_time_to_live_within_bounds(ttl_ms: int | None, fresh_s: float) -> None:
    clock = Clock()
    async with catalogue(Client({"one": lists("a", ttl_ms=ttl_ms)}), clock) as tools:
        assert (await tools.collect([ONE], PRINCIPAL, Kind.TOOLS)).fresh_s == fresh_s
        clock.advance(3.0)
        assert (await tools.collect([ONE], PRINCIPAL, Kind.TOOLS)).fresh_s == fresh_s - 3.0


async def test_a_list_that_has_changed_is_asked_for_anew() -> None:
    client = Client({"one": lists("a")})
    async with catalogue(client) as tools:
        await names(tools, ONE)
        client.servers["one"].lists = lists("b").lists
        assert await names(tools, ONE) == ["one__a"]
        tools.changed(ONE.id, "notifications/prompts/list_changed")
        tools.changed(TWO.id, TOOLS_CHANGED)
        assert await names(tools, ONE) == ["one__a"]
        tools.changed(ONE.id, TOOLS_CHANGED)
        assert await names(tools, ONE) == ["one__b"]


async def test_resources_and_templates_change_together() -> None:
    client = Client({"one": Server()})
    async with catalogue(client) as found:
        for kind in (Kind.RESOURCES, Kind.TEMPLATES):
            await names(found, ONE, kind=kind)
        found.changed(ONE.id, "notifications/resources/list_changed")
        for kind in (Kind.RESOURCES, Kind.TEMPLATES):
            await names(found, ONE, kind=kind)
    assert len(client.servers["one"].asked) == 4


async def test_a_list_that_changes_while_it_is_fetched_is_not_kept() -> None:
    client = Client({"one": lists("a", gate=asyncio.Event())})
    server = client.servers["one"]
    async with catalogue(client) as tools:
        early = asyncio.ensure_future(names(tools, ONE))
        await drain()
        tools.changed(ONE.id, TOOLS_CHANGED)
        assert server.gate is not None
        server.gate.set()
        assert await early == ["one__a"]
        server.lists = lists("b").lists
        assert await names(tools, ONE) == ["one__b"]


async def test_who_asks_after_a_change_does_not_get_what_was_asked_for_before() -> None:
    client = Client({"one": lists("a", gate=asyncio.Event())})
    server = client.servers["one"]
    async with catalogue(client) as tools:
        early = asyncio.ensure_future(names(tools, ONE))
        await drain()
        tools.changed(ONE.id, TOOLS_CHANGED)
        late = asyncio.ensure_future(names(tools, ONE))
        await drain()
        assert server.gate is not None
        server.gate.set()
        await asyncio.gather(early, late)
    assert len(server.asked) == 2


async def test_a_call_does_not_wait_for_a_list_that_has_changed() -> None:
    client = Client({"one": lists("a")})
    async with catalogue(client) as tools:
        await names(tools, ONE)
        client.servers["one"].gate = asyncio.Event()
        tools.changed(ONE.id, TOOLS_CHANGED)
        assert tools.find_at_hand([ONE], PRINCIPAL, Kind.TOOLS, "one__a") is not None
        assert (await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__a")).upstream_name == "a"
        await drain()
    assert len(client.servers["one"].asked) == 2


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("down"),
        UpstreamTimeoutError("slow"),
        MCPError(code=INTERNAL_ERROR, message="no"),
        ValueError("bad"),
        ZeroDivisionError("a defect"),
    ],
)
async def test_an_upstream_that_fails_is_left_out_for_a_while(error: Exception) -> None:
    client, clock = Client({"one": lists("b", failure=error), "two": lists("a")}), Clock()
    async with catalogue(client, clock) as tools:
        assert await names(tools, ONE, TWO) == ["two__a"]
        clock.advance(14.9)
        assert await names(tools, ONE, TWO) == ["two__a"]
        assert client.servers["one"].profiled == 1
        clock.advance(0.1)
        client.servers["one"].failure = None
        assert await names(tools, ONE, TWO) == ["one__b", "two__a"]


async def test_the_last_list_is_served_while_an_upstream_fails_until_it_is_too_old() -> None:
    client, clock = Client({"one": lists("a")}), Clock()
    async with catalogue(client, clock) as tools:
        await names(tools, ONE)
        client.servers["one"].failure = UpstreamError("down")
        for _ in range(19):
            clock.advance(15.0)
            assert await names(tools, ONE) == ["one__a"]
            await drain()
        clock.advance(15.0)
        assert await names(tools, ONE) == []


async def test_who_lost_access_does_not_keep_the_list() -> None:
    client, clock = Client({"one": lists("a")}), Clock()
    async with catalogue(client, clock) as tools:
        await names(tools, ONE)
        client.servers["one"].failure = UpstreamNeedsConnectionError("connect first")
        clock.advance(60.0)
        await names(tools, ONE)
        await drain()
        assert await names(tools, ONE) == []


async def test_many_callers_cause_one_fetch() -> None:
    client = Client({"one": lists("a", gate=asyncio.Event())})
    async with catalogue(client) as tools:
        callers = [asyncio.ensure_future(names(tools, ONE)) for _ in range(50)]
        finders = [asyncio.ensure_future(tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__a")) for _ in range(50)]
        await drain()
        gate = client.servers["one"].gate
        assert gate is not None
        gate.set()
        assert await asyncio.gather(*callers) == [["one__a"]] * 50
        assert {found.upstream_name for found in await asyncio.gather(*finders)} == {"a"}
    assert len(client.servers["one"].asked) == 1


async def test_a_caller_that_leaves_does_not_take_the_list_from_the_others() -> None:
    client = Client({"one": lists("a", gate=asyncio.Event())})
    async with catalogue(client) as tools:
        leaver, stayer = (asyncio.ensure_future(names(tools, ONE)) for _ in range(2))
        await drain()
        leaver.cancel()
        await drain()
        gate = client.servers["one"].gate
        assert gate is not None
        gate.set()
        assert await asyncio.wait_for(stayer, 5) == ["one__a"]
        assert leaver.cancelled()
    assert len(client.servers["one"].asked) == 1


async def test_shutting_down_ends_fetches_and_tells_who_waits() -> None:
    client = Client({"one": lists("a", gate=asyncio.Event())})
    async with catalogue(client) as tools:
        waiting = asyncio.ensure_future(names(tools, ONE))
        await drain()
    with pytest.raises(UpstreamError, match="shutting down"):
        await waiting
    with pytest.raises(UpstreamError, match="shutting down"):
        await names(tools, ONE)


async def test_the_upstreams_are_asked_side_by_side() -> None:
    gate = asyncio.Event()
    client = Client({"one": lists("a", gate=gate), "two": lists("b", gate=gate)})
    async with catalogue(client) as tools:
        listing = asyncio.ensure_future(names(tools, ONE, TWO))
        await drain()
        assert [len(server.asked) for server in client.servers.values()] == [1, 1]
        gate.set()
        assert await listing == ["one__a", "two__b"]


async def test_finding_asks_the_named_upstream_alone() -> None:
    client = Client({"one": lists("a"), "two": lists(failure=UpstreamError("down"))})
    async with catalogue(client) as tools:
        found = await tools.find([ONE, TWO], PRINCIPAL, Kind.TOOLS, "one__a")
    assert (found.upstream, found.upstream_name) == (ONE, "a")
    assert client.servers["two"].asked == []


@pytest.mark.parametrize("name", ["", "a", "__a", "one__", "three__a", "one", "ONE__a", "x" * 5000])
async def test_a_name_of_no_upstream_asks_nobody(name: str) -> None:
    client = Client({"one": lists("a")})
    async with catalogue(client) as tools:
        with pytest.raises(UnknownToolError) as caught:
            await tools.find([ONE], PRINCIPAL, Kind.TOOLS, name)
        with pytest.raises(UnknownPromptError):
            await tools.find([ONE], PRINCIPAL, Kind.PROMPTS, name)
    assert client.servers["one"].asked == []
    assert len(caught.value.message) <= 200


async def test_unknown_tools_ask_again_at_most_once_a_second() -> None:
    client, clock = Client({"one": lists("a")}), Clock()
    async with catalogue(client, clock) as tools:
        for _ in range(20):
            with pytest.raises(UnknownToolError):
                await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__new")
        assert len(client.servers["one"].asked) == 1
        clock.advance(1.0)
        client.servers["one"].lists = lists("a", "new").lists
        assert (await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__new")).upstream_name == "new"
    assert len(client.servers["one"].asked) == 2


async def test_a_call_to_an_upstream_that_is_down_says_so_and_sees_it_come_back() -> None:
    client, clock = Client({"one": lists("a", failure=UpstreamTimeoutError("Upstream 'one' did not answer."))}), Clock()
    async with catalogue(client, clock) as tools:
        for _ in range(5):
            with pytest.raises(UpstreamTimeoutError, match="did not answer"):
                await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__a")
        clock.advance(1.0)
        client.servers["one"].failure = None
        assert (await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__a")).upstream_name == "a"


async def test_of_an_item_listed_twice_the_first_counts() -> None:
    async with catalogue(Client({"one": lists("a", "b", "a")})) as tools:
        found = (await tools.collect([ONE], PRINCIPAL, Kind.TOOLS)).items
    assert [item.name for item in found] == ["one__a", "one__b"]
    assert found[0].definition["title"] == "0"


async def test_pages_are_put_together() -> None:
    async with catalogue(Client({"one": lists("a", "b", "c", page_size=1)})) as tools:
        assert await names(tools, ONE) == ["one__a", "one__b", "one__c"]


async def test_an_empty_cursor_ends_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    async def request(*_: Any, **__: Any) -> Any:
        return {"tools": [tool("a")], "nextCursor": ""}

    monkeypatch.setattr(Client, "request", request)
    async with catalogue(Client({"one": Server()})) as tools:
        assert await names(tools, ONE) == ["one__a"]


BAD_PAGES: dict[str, Any] = {
    "no list": {},
    "a list that is none": {"tools": "a"},
    "a cursor that is none": {"tools": [], "nextCursor": 7},
    "pages without end": {"tools": [], "nextCursor": "0"},
}


@pytest.mark.parametrize("page", BAD_PAGES.values(), ids=BAD_PAGES)
async def test_a_list_that_is_none_is_left_out(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def request(*_: Any, **__: Any) -> Any:
        return page

    monkeypatch.setattr(Client, "request", request)
    async with catalogue(Client({"one": Server()})) as tools:
        assert await names(tools, ONE) == []
        with pytest.raises(UpstreamError, match="'one'"):
            await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__a")


@pytest.mark.parametrize(
    "server",
    [lists(*(f"t{at}" for at in range(10_001)), page_size=6000), lists("t" * 1_100_000, "u" * 1_100_000)],
    ids=["too many tools", "too many bytes"],
)
async def test_a_list_without_bound_is_left_out(server: Server) -> None:
    async with catalogue(Client({"one": server, "two": lists("a")})) as tools:
        assert await names(tools, ONE, TWO) == ["two__a"]
        with pytest.raises(UpstreamError, match="lists more than 10000 tools, 100 pages or 2097152 bytes"):
            await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__t1")


async def test_a_list_at_the_bound_is_served() -> None:
    async with catalogue(Client({"one": lists(*(f"t{at}" for at in range(10_000)))})) as tools:
        assert len(await names(tools, ONE)) == 10_000


NO_TOOLS: dict[str, Any] = {
    "no name": {"inputSchema": {"type": "object"}},
    "no schema": {"name": "a"},
    "no object": "a",
    "annotations that are none": {"name": "a", "inputSchema": {}, "annotations": "x"},
    "a wrong header": tool("a", inputSchema={"properties": {"p": {"type": "number", "x-mcp-header": "P"}}}),
    "a lone surrogate": tool("a", title="\ud800"),
    "no characters": tool(""),
    "a control character": tool("a\n"),
    "a character that names do not have": tool("a b"),
    "not a number": tool("a", inputSchema={"minimum": float("nan")}),
}


@pytest.mark.parametrize("listed", NO_TOOLS.values(), ids=NO_TOOLS)
async def test_what_no_client_could_read_is_left_out_alone(listed: Any) -> None:
    async with catalogue(Client({"one": Server({"tools": [listed, tool("b")]})})) as tools:
        assert await names(tools, ONE) == ["one__b"]


async def test_bare_names_are_for_a_single_upstream() -> None:
    client = Client({"one": lists("a"), "two": lists("a")})
    async with catalogue(client, bare_names=True) as tools:
        assert await names(tools, ONE) == ["a"]
        assert (await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "a")).upstream_name == "a"
        assert tools.find_at_hand([ONE], PRINCIPAL, Kind.TOOLS, "a") is not None
        with pytest.raises(UnknownToolError):
            await tools.find([ONE], PRINCIPAL, Kind.TOOLS, "one__a")
        assert await names(tools, ONE, TWO) == ["one__a", "two__a"]
        with pytest.raises(UnknownToolError):
            await tools.find([ONE, TWO], PRINCIPAL, Kind.TOOLS, "a")


async def test_lists_are_kept_apart_by_user_and_version() -> None:
    client = Client({"one": lists("a")})
    async with catalogue(client) as tools:
        await names(tools, ONE)
        other = replace(PRINCIPAL, user_id=UserId(UUID(int=99)))
        assert tools.find_at_hand([ONE], other, Kind.TOOLS, "one__a") is None
        await tools.collect([ONE], other, Kind.TOOLS)
        await names(tools, replace(ONE, version=2))
    assert len(client.servers["one"].asked) == 3


async def test_the_least_recently_used_list_is_forgotten_first() -> None:
    client = Client({"one": lists("a"), "two": lists("a"), "three": lists("a")})

    def asked() -> list[int]:
        return [len(server.asked) for server in client.servers.values()]

    async with catalogue(client, max_entries=2) as tools:
        for each in (ONE, TWO, ONE, THREE, ONE):
            await names(tools, each)
        assert asked() == [1, 1, 1]
        await names(tools, TWO)
        assert asked() == [1, 2, 1]


async def test_lists_are_forgotten_when_they_are_too_large_together() -> None:
    client = Client({"one": lists("a" * 400), "two": lists("b" * 400)})
    async with catalogue(client, max_bytes=600) as tools:
        await names(tools, ONE)
        await names(tools, TWO)
        assert tools.find_at_hand([TWO], PRINCIPAL, Kind.TOOLS, (await names(tools, TWO))[0]) is not None
        await names(tools, ONE)
    assert len(client.servers["one"].asked) == 2
