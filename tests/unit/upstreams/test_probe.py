from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mcp import MCPError
from mcp.server import Server
from mcp_types import INTERNAL_ERROR, METHOD_NOT_FOUND, ListToolsResult, Tool

from agentapi.upstreams.probe import probe
from unit.upstreams.doubles import Opener

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp_types import PaginatedRequestParams

PAGES = 100
"""More than a server with tools that anybody could use would have."""


class Paged:
    """A server whose list has one tool a page: which cursors it was asked for."""

    def __init__(self, next_cursor: Callable[[int], str | None]) -> None:
        self.cursors: list[str | None] = []
        self._next_cursor = next_cursor
        self.server: Server[Any] = Server("paged", on_list_tools=self._list_tools)

    async def _list_tools(self, _: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        self.cursors.append(None if params is None else params.cursor)
        number = len(self.cursors)
        tool = Tool(name=f"t{number}", input_schema={"type": "object"})
        return ListToolsResult(tools=[tool], next_cursor=self._next_cursor(number))


async def test_every_page_is_read_with_the_cursor_of_the_one_before() -> None:
    paged = Paged(lambda number: f"after {number}" if number < 3 else None)
    result = await probe(Opener(transport=paged.server), timeout_s=10)
    assert result.ok, result.reason
    assert result.tools == ("t1", "t2", "t3")
    assert paged.cursors == [None, "after 1", "after 2"]


async def test_an_empty_cursor_is_the_end() -> None:
    paged = Paged(lambda _: "")
    result = await probe(Opener(transport=paged.server), timeout_s=10)
    assert result.ok, result.reason
    assert (result.tools, paged.cursors) == (("t1",), [None])


async def test_a_list_without_end_is_said_to_be_too_long() -> None:
    paged = Paged(lambda _: "more")
    result = await probe(Opener(transport=paged.server), timeout_s=60)
    assert (result.ok, result.tools, len(paged.cursors)) == (False, (), PAGES)
    assert result.reason == (
        "It lists more than 10000 tools, 100 pages or 2097152 bytes, so that none of them would be shown."
    )


async def test_what_clients_would_not_see_is_counted_and_not_shown() -> None:
    async def listed(*_: Any) -> ListToolsResult:
        names = ["good", "", "two words", "bell\a"]
        return ListToolsResult(tools=[Tool(name=name, input_schema={"type": "object"}) for name in names])

    result = await probe(Opener(transport=Server("odd", on_list_tools=listed)), timeout_s=10)
    assert (result.ok, result.tools, result.left_out) == (True, ("good",), 3)


@pytest.mark.parametrize(("code", "ok"), [(METHOD_NOT_FOUND, True), (INTERNAL_ERROR, False)])
async def test_what_a_server_offers_and_lacks_it_does_not_have(code: int, ok: bool) -> None:
    async def refuse(*_: Any) -> ListToolsResult:
        raise MCPError(code=code, message="no")

    result = await probe(Opener(transport=Server("partial", on_list_tools=refuse)), timeout_s=10)
    assert (result.ok, result.tools) == (ok, ())
