from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest
from mcp import MCPError
from mcp_types import INTERNAL_ERROR

from agentapi.errors import UpstreamError, UpstreamTimeoutError
from agentapi.gateway.catalogue import Catalogue, UnknownToolError
from agentapi.principal import UserId
from unit.upstreams.doubles import PRINCIPAL, Clock, drain, upstream

if TYPE_CHECKING:
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

Page = tuple[list[str], str | None]


def listed(*names: str) -> list[Page]:
    return [(list(names), None)]


@dataclass(slots=True)
class Pool:
    """Upstreams by name: their pages, or the error of reaching them. A cursor is the number of the next page."""

    upstreams: dict[str, list[Page] | Exception]
    calls: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def request(
        self, opened: Upstream, caller: Caller, method: str, params: Any, *, timeout_s: float, repeatable: bool
    ) -> Any:
        assert (method, timeout_s, repeatable, caller.org_id) == ("tools/list", 5.0, True, opened.org_id)
        cursor = params.get("cursor")
        if cursor is None:
            self.calls.append(opened.name)
        if self.gate is not None:
            await self.gate.wait()
        pages = self.upstreams[opened.name]
        if isinstance(pages, Exception):
            raise pages
        names, following = pages[int(cursor or 0) % len(pages)]
        tools = [{"name": name, "inputSchema": {"type": "object", "title": f"{at}"}} for at, name in enumerate(names)]
        return {"tools": tools, "nextCursor": following}


def catalogue(pool: Pool, clock: Clock | None = None, *, bare: bool = False, max_entries: int = 100) -> Catalogue:
    return Catalogue(
        client=cast("Any", pool),
        ttl_s=60.0,
        failure_ttl_s=15.0,
        list_timeout_s=5.0,
        bare_names=bare,
        clock=clock or Clock(),
        max_entries=max_entries,
    )


ONE, TWO, THREE = upstream("one", 1), upstream("two", 2), upstream("three", 3)


async def names(tools: Catalogue, *upstreams: Upstream) -> list[str]:
    return [tool.name for tool in await tools.tools(upstreams, PRINCIPAL)]


async def test_tools_come_by_upstream_and_then_as_the_upstream_orders_them() -> None:
    pool = Pool({"one": listed("b", "a"), "two": listed("z"), "three": listed("m", "c")})
    expected = ["one__b", "one__a", "three__m", "three__c", "two__z"]
    for order in itertools.permutations((ONE, TWO, THREE)):
        assert await names(catalogue(pool), *order) == expected


async def test_a_tool_carries_its_definition_under_its_public_name() -> None:
    tools = catalogue(Pool({"one": listed("a")}))
    (tool,) = await tools.tools([ONE], PRINCIPAL)
    assert (tool.upstream, tool.upstream_name) == (ONE, "a")
    assert tool.definition == {"name": "one__a", "inputSchema": {"type": "object", "title": "0"}}
    assert tools.input_schema([ONE], PRINCIPAL, "one__a") == {"type": "object", "title": "0"}
    assert tools.input_schema([ONE], PRINCIPAL, "one__b") is None
    assert tools.input_schema([TWO], PRINCIPAL, "one__a") is None


async def test_a_list_is_kept_for_its_time() -> None:
    pool, clock = Pool({"one": listed("a")}), Clock()
    tools = catalogue(pool, clock)
    await names(tools, ONE)
    clock.advance(59.9)
    await names(tools, ONE)
    assert pool.calls == ["one"]
    clock.advance(0.1)
    pool.upstreams["one"] = listed("b")
    assert await names(tools, ONE) == ["one__b"]
    assert len(pool.calls) == 2


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("down"),
        UpstreamTimeoutError("slow"),
        MCPError(code=INTERNAL_ERROR, message="no"),
        ValueError("bad"),
    ],
)
async def test_an_upstream_that_fails_is_left_out_for_a_while(error: Exception) -> None:
    pool, clock = Pool({"one": error, "two": listed("a")}), Clock()
    tools = catalogue(pool, clock)
    assert await names(tools, ONE, TWO) == ["two__a"]
    clock.advance(14.9)
    assert await names(tools, ONE, TWO) == ["two__a"]
    assert pool.calls.count("one") == 1
    clock.advance(0.1)
    pool.upstreams["one"] = listed("b")
    assert await names(tools, ONE, TWO) == ["one__b", "two__a"]


async def test_many_callers_cause_one_fetch() -> None:
    pool = Pool({"one": listed("a")}, gate=asyncio.Event())
    tools = catalogue(pool)
    callers = [asyncio.ensure_future(names(tools, ONE)) for _ in range(50)]
    finders = [asyncio.ensure_future(tools.find([ONE], PRINCIPAL, "one__a")) for _ in range(50)]
    await drain()
    assert pool.gate is not None
    pool.gate.set()
    assert await asyncio.gather(*callers) == [["one__a"]] * 50
    assert {tool.upstream_name for tool in await asyncio.gather(*finders)} == {"a"}
    assert pool.calls == ["one"]


async def test_a_caller_that_leaves_does_not_take_the_list_from_the_others() -> None:
    pool = Pool({"one": listed("a")}, gate=asyncio.Event())
    tools = catalogue(pool)
    leaver, stayer = (asyncio.ensure_future(names(tools, ONE)) for _ in range(2))
    await drain()
    leaver.cancel()
    await drain()
    assert pool.gate is not None
    pool.gate.set()
    assert await asyncio.wait_for(stayer, 5) == ["one__a"]
    assert leaver.cancelled()
    assert pool.calls == ["one"]


async def test_the_upstreams_are_asked_side_by_side() -> None:
    pool = Pool({"one": listed("a"), "two": listed("b")}, gate=asyncio.Event())
    listing = asyncio.ensure_future(names(catalogue(pool), ONE, TWO))
    await drain()
    assert sorted(pool.calls) == ["one", "two"]
    assert pool.gate is not None
    pool.gate.set()
    assert await listing == ["one__a", "two__b"]


async def test_finding_asks_the_named_upstream_alone() -> None:
    pool = Pool({"one": listed("a"), "two": UpstreamError("down")})
    tools = catalogue(pool)
    found = await tools.find([ONE, TWO], PRINCIPAL, "one__a")
    assert (found.upstream, found.upstream_name) == (ONE, "a")
    assert pool.calls == ["one"]


@pytest.mark.parametrize("name", ["", "a", "__a", "one__", "three__a", "one", "ONE__a", "x" * 5000])
async def test_a_name_of_no_upstream_asks_nobody(name: str) -> None:
    pool = Pool({"one": listed("a")})
    with pytest.raises(UnknownToolError) as caught:
        await catalogue(pool).find([ONE], PRINCIPAL, name)
    assert pool.calls == []
    assert len(caught.value.message) <= 200


async def test_unknown_tools_ask_again_at_most_once_a_second() -> None:
    pool, clock = Pool({"one": listed("a")}), Clock()
    tools = catalogue(pool, clock)
    for _ in range(20):
        with pytest.raises(UnknownToolError):
            await tools.find([ONE], PRINCIPAL, "one__new")
    assert len(pool.calls) == 1
    clock.advance(1.0)
    pool.upstreams["one"] = listed("a", "new")
    assert (await tools.find([ONE], PRINCIPAL, "one__new")).upstream_name == "new"
    assert len(pool.calls) == 2


async def test_a_call_to_an_upstream_that_is_down_says_so_and_sees_it_come_back() -> None:
    pool, clock = Pool({"one": UpstreamTimeoutError("Upstream 'one' did not answer.")}), Clock()
    tools = catalogue(pool, clock)
    for _ in range(5):
        with pytest.raises(UpstreamTimeoutError, match="did not answer"):
            await tools.find([ONE], PRINCIPAL, "one__a")
    assert len(pool.calls) == 1
    clock.advance(1.0)
    pool.upstreams["one"] = listed("a")
    assert (await tools.find([ONE], PRINCIPAL, "one__a")).upstream_name == "a"


async def test_of_a_tool_listed_twice_the_first_counts() -> None:
    tools = catalogue(Pool({"one": listed("a", "b", "a")}))
    found = await tools.tools([ONE], PRINCIPAL)
    assert [tool.name for tool in found] == ["one__a", "one__b"]
    assert found[0].definition["inputSchema"]["title"] == "0"


async def test_pages_are_put_together() -> None:
    pages: list[Page] = [(["a"], "1"), (["b"], "2"), (["c"], None)]
    assert await names(catalogue(Pool({"one": pages})), ONE) == ["one__a", "one__b", "one__c"]


async def test_an_empty_cursor_ends_the_list() -> None:
    assert await names(catalogue(Pool({"one": [(["a"], "")]})), ONE) == ["one__a"]


ENDLESS: dict[str, list[Page]] = {
    "pages without end": [(["a"], "0")],
    "too many tools in pages": [([f"t{number}" for number in range(6000)], "1")],
    "too many bytes": [(["t" * 1_100_000, "u" * 1_100_000], None)],
    "too many tools in one page": [([f"t{number}" for number in range(10_001)], None)],
}


@pytest.mark.parametrize("pages", ENDLESS.values(), ids=ENDLESS)
async def test_a_list_without_bound_is_left_out(pages: list[Page]) -> None:
    pool = Pool({"one": pages, "two": listed("a")})
    tools = catalogue(pool)
    assert await names(tools, ONE, TWO) == ["two__a"]
    with pytest.raises(UpstreamError, match="lists more than 10000 tools, 100 pages or 2097152 bytes"):
        await tools.find([ONE], PRINCIPAL, "one__t1")


async def test_a_list_at_the_bound_is_served() -> None:
    pages: list[Page] = [([f"t{number}" for number in range(10_000)], None)]
    assert len(await names(catalogue(Pool({"one": pages})), ONE)) == 10_000


async def test_bare_names_are_for_a_single_upstream() -> None:
    pool = Pool({"one": listed("a"), "two": listed("a")})
    tools = catalogue(pool, bare=True)
    assert await names(tools, ONE) == ["a"]
    assert (await tools.find([ONE], PRINCIPAL, "a")).upstream_name == "a"
    assert tools.input_schema([ONE], PRINCIPAL, "a") is not None
    with pytest.raises(UnknownToolError):
        await tools.find([ONE], PRINCIPAL, "one__a")
    assert await names(tools, ONE, TWO) == ["one__a", "two__a"]
    with pytest.raises(UnknownToolError):
        await tools.find([ONE, TWO], PRINCIPAL, "a")


async def test_lists_are_kept_apart_by_user_and_version() -> None:
    pool = Pool({"one": listed("a")})
    tools = catalogue(pool)
    await names(tools, ONE)
    other = replace(PRINCIPAL, user_id=UserId(UUID(int=99)))
    assert tools.input_schema([ONE], other, "one__a") is None
    await tools.tools([ONE], other)
    await names(tools, replace(ONE, version=2))
    assert len(pool.calls) == 3


async def test_the_least_recently_used_list_is_forgotten_first() -> None:
    pool = Pool({"one": listed("a"), "two": listed("a"), "three": listed("a")})
    tools = catalogue(pool, max_entries=2)
    for each in (ONE, TWO, ONE, THREE):
        await names(tools, each)
    assert pool.calls == ["one", "two", "three"]
    await names(tools, ONE)
    assert pool.calls == ["one", "two", "three"]
    await names(tools, TWO)
    assert pool.calls == ["one", "two", "three", "two"]


NO_TOOLS: dict[str, Any] = {
    "no name": {"inputSchema": {"type": "object"}},
    "no schema": {"name": "a"},
    "no object": "a",
    "a wrong header": {
        "name": "a",
        "inputSchema": {"type": "object", "properties": {"p": {"type": "number", "x-mcp-header": "P"}}},
    },
}


@pytest.mark.parametrize("listed_tool", NO_TOOLS.values(), ids=NO_TOOLS)
async def test_what_no_client_could_use_is_left_out(listed_tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def request(*_: Any, **__: Any) -> Any:
        return {"tools": [listed_tool, {"name": "b", "inputSchema": {}, "unknownField": 1}]}

    monkeypatch.setattr(Pool, "request", request)
    (tool,) = await catalogue(Pool({})).tools([ONE], PRINCIPAL)
    assert tool.definition == {"name": "one__b", "inputSchema": {}, "unknownField": 1}
