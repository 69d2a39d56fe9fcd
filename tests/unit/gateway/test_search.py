from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentapi.errors import InvalidRequestError
from agentapi.gateway.call import read_message
from agentapi.gateway.exchange import ClientTraits, Exchange
from agentapi.gateway.items import CatalogueItem
from agentapi.gateway.search import SEARCH_TOOLS, Finder, Index, inner_call, words
from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from agentapi.upstreams.models import Upstream


def tool(name: str, description: str = "", **more: Any) -> CatalogueItem:
    definition = {"name": name, "description": description, "inputSchema": {"type": "object"}, **more}
    return CatalogueItem(name, cast("Upstream", None), name, definition)


TOOLS = [
    tool("github__list_open_issues", "List the issues of a repository that are open."),
    tool("github__close_issue", "Close an issue."),
    tool("mail__send", "Send a message to somebody. Mentions issue trackers and a repository only in passing."),
    tool("clock__current_time", "Tell the time in a time zone."),
]


def names(query: str, limit: int = 10) -> list[str]:
    return [found.name for found in Index(TOOLS).rank(query)[:limit]]


def test_the_best_match_comes_first_and_the_rest_is_left_out() -> None:
    assert names("time zone") == ["clock__current_time"]
    assert names("list open issues")[0] == "github__list_open_issues"
    assert names("close issue")[:2] == ["github__close_issue", "mail__send"]
    assert names("weather") == []


def test_a_word_of_the_name_counts_more_than_one_of_the_description() -> None:
    tools = [tool("a__note", "Send it."), tool("b__send", "Note it.")]
    assert [found.name for found in Index(tools).rank("send")] == ["b__send", "a__note"]


def test_equal_matches_stay_in_the_order_of_the_list() -> None:
    tools = [tool(f"{letter}__same", "Equal words.") for letter in "dbca"]
    assert [found.name for found in Index(tools).rank("equal")[:3]] == ["d__same", "b__same", "c__same"]


def test_an_empty_query_lists_the_first_tools() -> None:
    assert names("  ", 2) == [TOOLS[0].name, TOOLS[1].name]
    assert Index([]).rank("anything") == []


@pytest.mark.parametrize("text", ["listOpenIssues", "list_open_issues", "List open-issues!", "LIST OPEN ISSUES"])
def test_words_do_not_depend_on_how_a_name_is_written(text: str) -> None:
    assert words(text) == ["list", "open", "issues"]


def test_words_of_other_alphabets_and_abbreviations_are_words() -> None:
    assert words("Größe HTTPServer s3 поиск") == ["grösse", "http", "server", "s3", "поиск"]


def test_find_tools_answers_with_definitions_as_text_and_as_data() -> None:
    result = Finder().find(TOOLS, {"query": "time", "limit": 1})
    assert result["structuredContent"] == {
        "tools": [
            {
                "name": "clock__current_time",
                "description": "Tell the time in a time zone.",
                "inputSchema": {"type": "object"},
            }
        ],
        "total": 1,
    }
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]


@pytest.mark.parametrize(("query", "total"), [("", 4), ("time", 1), ("zebra", 0)])
def test_the_total_counts_what_matches(query: str, total: int) -> None:
    found = Finder().find(TOOLS, {"query": query, "limit": 1})["structuredContent"]
    assert (len(found["tools"]), found["total"]) == (min(1, total), total)


def test_a_changed_list_is_searched_anew() -> None:
    finder = Finder()
    assert finder.find(TOOLS[:3], {"query": "time"})["structuredContent"]["tools"] == []
    assert len(finder.find(TOOLS, {"query": "time"})["structuredContent"]["tools"]) == 1
    renewed = [*TOOLS[:3], tool("clock__current_time", "Now.")]
    assert finder.find(renewed, {"query": "zone"})["structuredContent"]["tools"] == []


@pytest.mark.parametrize(
    "arguments",
    [None, {}, {"query": 1}, {"query": "x" * 1001}, {"query": "", "limit": 0}, {"query": "", "limit": 51},
     {"query": "", "limit": True}, {"query": "", "limit": "5"}, {"query": "", "page": 1}, ["query"]],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments: object) -> None:
    with pytest.raises(InvalidRequestError, match="arguments"):
        Finder().find(TOOLS, arguments)


def exchange(arguments: object) -> Exchange:
    params: dict[str, Any] = {"name": "call_tool", "arguments": arguments, "_meta": {"traceparent": "x"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).encode()
    return Exchange(
        principal=cast("Any", None),
        view=cast("Any", None),
        toolset=None,
        client=ClientTraits(Era.MODERN, "2026-07-28"),
        method="tools/call",
        peer=cast("Any", None),
        expires_at=math.inf,
        incoming=read_message(body, max_bytes=10_000, max_depth=64),
    )


def test_call_tool_becomes_the_call_that_it_asks_for() -> None:
    inner = inner_call(exchange({"name": "mail__send", "arguments": {"to": "bob"}}))
    assert inner.params == {"name": "mail__send", "arguments": {"to": "bob"}, "_meta": {"traceparent": "x"}}
    assert json.loads(inner.incoming.body) == {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": inner.params,
    }
    assert inner.envelope.method == "tools/call"
    assert inner.envelope.name == "mail__send"


def test_arguments_of_the_tool_may_be_left_out() -> None:
    assert inner_call(exchange({"name": "a"})).params["arguments"] == {}


@pytest.mark.parametrize("arguments", [None, {}, {"name": 1}, {"name": "a", "arguments": []}, {"name": "a", "x": 1}])
def test_a_call_that_cannot_be_is_refused(arguments: object) -> None:
    with pytest.raises(InvalidRequestError, match="arguments"):
        inner_call(exchange(arguments))


def test_the_two_tools_have_schemas_that_say_what_is_needed() -> None:
    assert [definition["name"] for definition in SEARCH_TOOLS] == ["find_tools", "call_tool"]
    assert all(definition["inputSchema"]["required"] for definition in SEARCH_TOOLS)
