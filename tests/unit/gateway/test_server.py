from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp import MCPError
from mcp_types import CallToolRequestParams, ListToolsResult
from pydantic import ValidationError

from agentapi.errors import AgentAPIError, ForbiddenError, UpstreamError
from agentapi.gateway.catalogue import CatalogueTool, UnknownToolError
from agentapi.gateway.server import CallContext, GatewayServer, bind
from agentapi.upstreams.registry import WorkspaceView
from unit.upstreams.doubles import PRINCIPAL, upstream

UP = upstream("up", 1)
PLAIN: dict[str, Any] = {"name": "up__t", "inputSchema": {"type": "object"}}
MIRRORED: dict[str, Any] = {
    "name": "up__t",
    "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
}


class Session:
    """An upstream's session that answers every call alike and counts its lists."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self.lists = 0
        self.sent: list[Any] = []

    async def list_tools(self, params: Any = None) -> ListToolsResult:
        del params
        self.lists += 1
        return ListToolsResult(tools=[])

    async def send_request(self, request: Any, result_type: Any, progress_callback: Any = None) -> Any:
        self.sent.append((request, progress_callback))
        return result_type.model_validate(self.result)


class World:
    """A gateway of one upstream with one tool."""

    def __init__(self, definition: dict[str, Any], result: dict[str, Any], failure: Exception | None = None) -> None:
        self.tool = CatalogueTool("up__t", UP, "t", definition)
        self.session = Session(result)
        self.failure = failure
        self.gateway = GatewayServer(
            catalogue=cast("Any", self),
            pool=cast("Any", self),
            transports=cast("Any", SimpleNamespace(open=lambda opened: opened)),
            call_timeout_s=5.0,
            list_ttl_s=60.0,
        )

    async def find(self, *_: object) -> CatalogueTool:
        if self.failure is not None:
            raise self.failure
        return self.tool

    async def call(self, _key: Any, _name: str, _open: Any, operation: Any, *, timeout_s: float) -> Any:
        assert timeout_s == 5.0
        return await operation(self.session)

    async def ask(self, **params: Any) -> dict[str, Any]:
        scope: dict[str, Any] = {}
        bind(scope, CallContext(PRINCIPAL, WorkspaceView(cast("Any", None), (UP,))))
        context = SimpleNamespace(
            request=SimpleNamespace(scope=scope), session=SimpleNamespace(report_progress="report"), method="tools/call"
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


async def test_a_session_lists_once_before_arguments_are_mirrored_into_headers() -> None:
    world = World(MIRRORED, {"content": []})
    await world.ask(arguments={"region": "eu"})
    await world.ask(arguments={"region": "us"})
    assert world.session.lists == 1
    world.session = Session({"content": []})
    await world.ask(arguments={"region": "eu"})
    assert world.session.lists == 1


async def test_a_tool_without_mirrored_arguments_costs_no_list() -> None:
    world = World(PLAIN, {"content": []})
    await world.ask()
    assert world.session.lists == 0


async def test_progress_is_asked_for_when_the_caller_did() -> None:
    world = World(PLAIN, {"content": []})
    await world.ask()
    await world.ask(_meta={"progressToken": 7, "traceparent": "00-1", "io.modelcontextprotocol/invented": 1})
    (_, silent), (request, reporting) = world.session.sent
    assert (silent, reporting) == (None, "report")
    assert request.params.model_dump(by_alias=True)["_meta"] == {"traceparent": "00-1"}


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


async def test_a_result_that_the_protocol_does_not_allow_names_the_upstream() -> None:
    world = World(PLAIN, {})

    async def invalid(*_: object, **__: object) -> Any:
        raise ValidationError.from_exception_data("CallToolResult", [])

    world.session.send_request = invalid  # type: ignore[method-assign]
    with pytest.raises(MCPError, match="Upstream 'up' answered with a result that the protocol does not allow"):
        await world.ask()
