from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp import MCPError
from mcp_types import CallToolRequestParams

from agentapi.errors import AgentAPIError, ForbiddenError, UpstreamError
from agentapi.gateway.catalogue import CatalogueTool, UnknownToolError
from agentapi.gateway.server import CallContext, GatewayServer, bind
from agentapi.upstreams.link import Caller, Peer
from agentapi.upstreams.registry import WorkspaceView
from unit.upstreams.doubles import ORG, PRINCIPAL, USER, upstream

UP = upstream("up", 1)
PLAIN: dict[str, Any] = {"name": "up__t", "inputSchema": {"type": "object"}}
MIRRORED: dict[str, Any] = {
    "name": "up__t",
    "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
}


class World:
    """A gateway of one upstream with one tool."""

    def __init__(self, definition: dict[str, Any], result: dict[str, Any], failure: Exception | None = None) -> None:
        self.tool = CatalogueTool("up__t", UP, "t", definition)
        self.result = result
        self.failure = failure
        self.sent: list[dict[str, Any]] = []
        self.definitions: list[dict[str, Any]] = []
        self.reported: list[tuple[Any, ...]] = []
        self.gateway = GatewayServer(
            catalogue=cast("Any", self), client=cast("Any", self), call_timeout_s=5.0, list_ttl_s=60.0
        )

    async def find(self, *_: object) -> CatalogueTool:
        if self.failure is not None:
            raise self.failure
        return self.tool

    async def request(
        self,
        asked: Any,
        caller: Caller,
        method: str,
        params: dict[str, Any],
        *,
        timeout_s: float,
        peer: Peer,
        definition: Any,
    ) -> Any:
        assert (asked, caller, method, timeout_s) == (UP, Caller(ORG, USER), "tools/call", 5.0)
        self.sent.append(params)
        self.definitions.append(definition)
        await peer.notify("notifications/progress", {"progressToken": 7, "progress": 1, "total": 2})
        await peer.notify("notifications/message", {"level": "info", "data": "dropped"})
        return self.result

    async def report(self, *progress: Any) -> None:
        self.reported.append(progress)

    async def ask(self, **params: Any) -> dict[str, Any]:
        scope: dict[str, Any] = {}
        bind(scope, CallContext(PRINCIPAL, WorkspaceView(cast("Any", None), (UP,))))
        context = SimpleNamespace(
            request=SimpleNamespace(scope=scope),
            session=SimpleNamespace(report_progress=self.report),
            method="tools/call",
        )
        asked = CallToolRequestParams.model_validate({"name": "up__t", **params})
        return await self.gateway._call_tool(cast("Any", context), asked)


async def test_a_result_passes_as_it_came_and_says_that_it_is_complete() -> None:
    world = World(PLAIN, {"content": [], "unknownField": {"kept": True}})
    assert await world.ask() == {"resultType": "complete", "content": [], "unknownField": {"kept": True}}


async def test_a_request_for_input_is_a_clear_error() -> None:
    world = World(PLAIN, {"resultType": "input_required", "requestState": "unsealed", "inputRequests": {}})
    with pytest.raises(MCPError, match="asks the user for input") as caught:
        await world.ask()
    assert "unsealed" not in str(caught.value.error)


async def test_the_definition_is_handed_on_for_the_headers_that_repeat_arguments() -> None:
    world = World(MIRRORED, {"content": []})
    await world.ask(arguments={"region": "eu"})
    assert world.definitions == [MIRRORED]


async def test_progress_is_asked_for_when_the_caller_did() -> None:
    world = World(PLAIN, {"content": []})
    await world.ask()
    await world.ask(_meta={"progressToken": 7, "traceparent": "00-1", "io.modelcontextprotocol/invented": 1})
    assert world.sent == [
        {"name": "t", "arguments": {}, "_meta": {}},
        {"name": "t", "arguments": {}, "_meta": {"progressToken": 7, "traceparent": "00-1"}},
    ]
    assert world.reported == [(1, 2, None)] * 2


@pytest.mark.parametrize(
    ("failure", "code", "name"),
    [
        (UnknownToolError("Unknown tool: x"), -32602, "unknown_tool"),
        (ForbiddenError("no"), -32600, "forbidden"),
        (UpstreamError("down"), -32603, "upstream_unavailable"),
    ],
)
async def test_an_error_of_ours_has_the_code_of_the_specification(failure: AgentAPIError, code: int, name: str) -> None:
    with pytest.raises(MCPError) as caught:
        await World(PLAIN, {}, failure).ask()
    assert (caught.value.error.code, caught.value.error.data) == (code, {"code": name})
