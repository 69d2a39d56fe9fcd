from __future__ import annotations

from typing import Any

import pytest

from agentapi.errors import UpstreamError
from agentapi.upstreams.lists import LIST_METHODS, is_fit, read_pages

TOOLS, RESOURCES, TEMPLATES, PROMPTS = LIST_METHODS


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (TOOLS, "get_weather"),
        (TOOLS, "admin.tools/list-All_9"),
        (TOOLS, "t" * 1000),
        (PROMPTS, "Grüße an alle"),
        (PROMPTS, "two words"),
        (RESOURCES, "file:///a/b.txt?x=1#y"),
        (RESOURCES, "urn:isbn:0451450523"),
        (RESOURCES, "file:///Grüße/%20x"),
        (TEMPLATES, "file:///{path}"),
        (TEMPLATES, "{+base}/x{?q,page*}"),
    ],
)
def test_a_name_of_the_protocol_is_fit(method: str, name: str) -> None:
    assert is_fit(method, name)


@pytest.mark.parametrize("method", LIST_METHODS)
@pytest.mark.parametrize("name", ["", " ", "a:\n", "a:\x00b", "a:\x7f", "a:\u202eb", "a:\u2028", "a:\ud800", None, 7])
def test_what_nobody_could_see_is_fit_for_nothing(method: str, name: object) -> None:
    assert not is_fit(method, name)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (TOOLS, "two words"),
        (TOOLS, "ünlaut"),
        (TOOLS, "a,b"),
        (RESOURCES, "no-scheme"),
        (RESOURCES, "file:"),
        (RESOURCES, "file:///two words"),
        (RESOURCES, "file:///{path}"),
        (RESOURCES, 'file:///"x"'),
        (TEMPLATES, "file:///{path"),
        (TEMPLATES, "file:///}"),
        (TEMPLATES, "file:///{two words}"),
        (TEMPLATES, "file:///{}"),
    ],
)
def test_a_name_that_the_specification_does_not_allow_is_not_fit(method: str, name: str) -> None:
    assert not is_fit(method, name)


async def test_what_json_cannot_hold_is_left_out_of_a_page_alone() -> None:
    async def request(_: dict[str, Any]) -> dict[str, Any]:
        return {"tools": [{"name": "a"}, {"name": "\ud800"}, {"x": float("nan")}], "ttlMs": 5}

    pages = [page async for page in read_pages(TOOLS, request)]
    assert [(page.items, page.size, page.unreadable, page.ttl_ms) for page in pages] == [([{"name": "a"}], 12, 2, 5)]


async def test_items_that_are_left_out_count_for_the_bounds() -> None:
    async def request(_: dict[str, Any]) -> dict[str, Any]:
        return {"tools": ["no tool"] * 6000, "nextCursor": "more"}

    with pytest.raises(UpstreamError, match="more than 10000 tools"):
        _ = [page async for page in read_pages(TOOLS, request)]
