from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from agentapi.gateway.endpoint import McpEndpoint, StraightToMcp

if TYPE_CHECKING:
    import pytest
    from starlette.types import Receive, Scope, Send

ADDRESSES = ["/mcp/a/one", "/mcp/a/two", "/mcp/b/one/tools"]
NAMES = [
    {"org": "a", "workspace": "one"},
    {"org": "a", "workspace": "two"},
    {"org": "b", "workspace": "one", "toolset": "tools"},
]


class Asked(McpEndpoint):
    """An endpoint that only notes the names in the addresses, and spoils them."""

    def __init__(self) -> None:
        self.names: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, *_: Receive | Send) -> None:
        self.names.append(dict(scope["path_params"]))
        scope["path_params"].clear()


class Others:
    """The rest of the application."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, *_: Receive | Send) -> None:
        self.paths.append(scope["path"])


async def asked(addresses: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    endpoint, others = Asked(), Others()
    own = [Route(f"/mcp/{{org}}/{{workspace}}{end}", endpoint) for end in ("", "/{toolset}")]
    app = StraightToMcp(others, lambda: own)

    async def nothing(*_: Any) -> Any: ...

    for path in addresses:
        await app({"type": "http", "method": "POST", "path": path}, nothing, nothing)
    return endpoint.names, others.paths


async def test_an_address_means_the_same_each_time_whatever_became_of_a_request_before() -> None:
    names, others = await asked(ADDRESSES * 2)
    assert names == NAMES * 2
    assert others == []


async def test_other_addresses_are_the_rest_of_the_applications_each_time() -> None:
    _, others = await asked(["/mcp/a", "/orgs/a", "/mcp/a"])
    assert others == ["/mcp/a", "/orgs/a", "/mcp/a"]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentapi.gateway.endpoint._MAX_PATHS", 1)
    names, _ = await asked(ADDRESSES * 2)
    assert names == NAMES * 2
