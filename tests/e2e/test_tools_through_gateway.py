"""Every kind of upstream, through the gateway, from clients of both eras: as if it were asked directly."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from mcp.shared.exceptions import MCPError

from support.clients import canonical, list_tools, outcome, tool_facts
from support.gateway import Gateway
from support.kinds import CALLS, KINDS
from support.raw import modern_headers, modern_message, post
from support.upstreams import sdk_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcp import Client

    from support.clients import Mode
    from support.kinds import Upstream

MODES: tuple[Mode, ...] = ("legacy", "2026-07-28")
INVALID_PARAMS = -32602
LONGEST_NAME = 60
EXPECTED_VERSION = {"legacy": "2025-11-25", "2026-07-28": "2026-07-28", "auto": "2026-07-28"}


@pytest.fixture(scope="module")
def gateway(upstreams: dict[str, Upstream], module_directory: Path) -> Iterator[Gateway]:
    """A gateway before every kind of upstream, told of them by one ``mcpServers`` file."""
    config = module_directory / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {name: up.entry for name, up in upstreams.items()}}))
    # A secret of the gateway's own environment, which no upstream process may see.
    env = {"AGENTAPI_TEST_CANARY": "canary-5f1d0c", "CANARY_WITHOUT_PREFIX": "canary-5f1d0c"}
    arguments = ("--mcp-config", str(config), "--yes")
    with Gateway.start(*arguments, data_dir=module_directory / "data", env=env) as running:
        yield running


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


async def _directly(upstream: Upstream, mode: Mode) -> list[tuple[str, dict[str, Any]]]:
    async with upstream.connect(upstream.era_for(mode)) as direct:
        return [(tool.name, tool_facts(tool, era=mode)) for tool in await list_tools(direct)]


@pytest.mark.parametrize("name", KINDS)
async def test_lists_what_the_upstream_lists(
    gateway: Gateway, mode: Mode, upstreams: dict[str, Upstream], name: str
) -> None:
    prefix = f"{name}__"
    async with gateway.mcp(mode) as client:
        listed = [
            (tool.name.removeprefix(prefix), tool_facts(tool, era=mode))
            for tool in await list_tools(client)
            if tool.name.startswith(prefix)
        ]
    direct = await _directly(upstreams[name], mode)
    assert len(listed) == len(dict(listed)) == len(direct)
    for tool, facts in direct:
        assert canonical(dict(listed)[tool]) == canonical(facts), tool


async def test_lists_every_upstream_in_one_order_every_time(gateway: Gateway) -> None:
    orders = []
    for mode in MODES:
        async with gateway.mcp(mode) as client:
            orders += [[tool.name for tool in await list_tools(client)] for _ in range(2)]
    # Both demo upstreams are there besides those of the file.
    assert {name.split("__")[0] for name in orders[0]} == {*KINDS, "notes", "clock"}
    assert all(order == orders[0] for order in orders)


def public(name: str, answer: str) -> str:
    """Return what an upstream answers with its URIs as clients of the gateway see them."""
    return answer.replace('"uri": "', f'"uri": "mcp+{name}+')


@pytest.mark.parametrize("name", KINDS)
async def test_calls_answer_as_the_upstream_does(
    gateway: Gateway, mode: Mode, upstreams: dict[str, Upstream], name: str
) -> None:
    upstream = upstreams[name]
    async with upstream.connect(upstream.era_for(mode)) as direct, gateway.mcp(mode) as client:
        # The lists first: a client checks structured output against them.
        await list_tools(direct)
        await list_tools(client)
        for tool, arguments in CALLS[name]:
            through = canonical(await outcome(client, f"{name}__{tool}", arguments))
            if through != (expected := public(name, canonical(await outcome(direct, tool, arguments)))):
                # Asked again, because an answer of the time server changes at midnight.
                expected = public(name, canonical(await outcome(direct, tool, arguments)))
            assert through == expected, (tool, arguments)


@pytest.mark.parametrize(
    "name",
    [
        "everystdio__no_such_tool",
        "nobody__echo",
        "echo",
        "__echo",
        "modern__",
        "modern__ECHO",
        "MODERN__echo",
        "modern__echo__",
        "modern__echo\x00",
        "modern__" + "e" * 4000,
        "",
    ],
)
async def test_unknown_tool_is_a_protocol_error(gateway: Gateway, mode: Mode, name: str) -> None:
    async with gateway.mcp(mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(name, {"message": "x"})
    assert caught.value.code == INVALID_PARAMS
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28", "auto"])
async def test_settles_on_the_revision_the_client_asks_for(gateway: Gateway, mode: Mode) -> None:
    async with gateway.mcp(mode) as client:
        assert client.protocol_version == EXPECTED_VERSION[mode]
        if mode != "2026-07-28":
            # The pinned mode asks nothing of the server before its first request.
            assert client.server_info is not None
            assert "agentapi" in client.server_info.name.lower()
            assert client.server_capabilities.tools is not None


async def test_many_calls_at_once_are_not_mixed_up(gateway: Gateway) -> None:
    async def ask(client: Client, name: str, number: int) -> None:
        result = await client.call_tool(f"{name}__echo", {"message": f"{name} {number}"})
        assert str(result.content[0].model_dump()["text"]).endswith(f"{name} {number}")

    names = ("everystdio", "everyhttp", "legacysse", "modern")
    async with (
        gateway.mcp("legacy") as old,
        gateway.mcp("2026-07-28") as new,
        asyncio.timeout(60),
        asyncio.TaskGroup() as group,
    ):
        for number in range(40):
            group.create_task(ask(old if number // 4 % 2 else new, names[number % 4], number))


_CALLERS_ENVELOPE: dict[str, Any] = {
    "io.modelcontextprotocol/clientInfo": {"name": "somebody's client", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {"sampling": {}},
    "io.modelcontextprotocol/invented": "by the caller",
}
_CALLERS_OWN: dict[str, Any] = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "com.example/ticket": {"number": 7},
}


@pytest.mark.parametrize("name", ["legacysse", "modern"])
async def test_the_envelope_of_a_request_is_written_anew_and_other_meta_goes_on(gateway: Gateway, name: str) -> None:
    tool = f"{name}__request_meta"
    message = modern_message("tools/call", {"name": tool, "arguments": {}})
    message["params"]["_meta"].update({**_CALLERS_ENVELOPE, **_CALLERS_OWN})
    answer = post(gateway.mcp_url, gateway.token, message, headers=modern_headers(message))
    assert answer.status_code == 200, answer.text
    text = answer.text.partition("data: ")[2] or answer.text
    seen = json.loads(json.loads(text)["result"]["content"][0]["text"])
    assert {key: seen.get(key) for key in _CALLERS_OWN} == _CALLERS_OWN
    invented = {"io.modelcontextprotocol/invented": "by the caller"}
    expected = {
        # Whether a server may ask something depends on whether the client can be asked.
        "io.modelcontextprotocol/clientCapabilities": {"sampling": {}},
        "io.modelcontextprotocol/clientInfo": {"name": "somebody's client", "version": "1"},
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    }
    envelope = {key: value for key, value in seen.items() if key.startswith("io.modelcontextprotocol/")}
    # Of the key that nobody knows nothing is known, so it goes on like all others.
    assert envelope == ({**expected, **invented} if name == "modern" else invented)


async def test_stdio_upstream_sees_nothing_of_the_gateways_environment(gateway: Gateway) -> None:
    async with gateway.mcp("auto") as client:
        answer = canonical(await outcome(client, "everystdio__get-env", {}))
    assert "canary-5f1d0c" not in answer
    assert "AGENTAPI_" not in answer
    assert "postgres" not in answer.lower()


async def test_upstream_given_as_url_is_registered_under_its_address(tmp_path: Path) -> None:
    with (
        sdk_server("http", tmp_path / "sdk.log") as upstream,
        Gateway.start("--upstream", upstream.url, data_dir=tmp_path / "data") as gateway,
    ):
        listed = gateway.api.get("/api/v1/mcp/configurations").json()
        name = next(item["name"] for item in listed["items"] if item["endpoint"] == upstream.url)
        assert str(upstream.port) in name
        async with gateway.mcp("auto") as client:
            assert await outcome(client, f"{name}__add", {"a": 20, "b": 22}) == {
                "content": [{"type": "text", "text": "42"}],
                "structuredContent": {"result": 42},
                "isError": False,
                "resultType": "complete",
            }


async def test_upstream_registered_over_rest_is_there_for_the_next_list(gateway: Gateway, tmp_path: Path) -> None:
    with sdk_server("long", tmp_path / "sdk.log") as upstream:
        body = {"workspace": gateway.announcement["workspace"], "name": "added", "transport": "http"}
        made = gateway.api.post("/api/v1/mcp/configurations", json={**body, "endpoint": upstream.url, "auth": "none"})
        assert made.status_code == 201, made.text
        identifier = made.json()["id"]
        try:
            async with gateway.mcp("auto") as client:
                tools = {tool.name: tool for tool in await list_tools(client) if tool.name.startswith("added__")}
                assert len(tools) == 3
                assert all(len(name) <= LONGEST_NAME for name in tools)
                # Two names that begin with the same 69 characters stay two, each the way to its own tool.
                for name, tool in tools.items():
                    result = await client.call_tool(name, {})
                    expected = f"{tool.description}!" if "name.with-dots" not in name else "dotted"
                    assert result.content[0].model_dump()["text"] == expected
            async with gateway.mcp("legacy") as client:
                again = {tool.name for tool in await list_tools(client) if tool.name.startswith("added__")}
            assert again == set(tools)
        finally:
            assert gateway.api.delete(f"/api/v1/mcp/configurations/{identifier}").status_code == 204
    async with gateway.mcp("auto") as client:
        assert not [tool for tool in await list_tools(client) if tool.name.startswith("added__")]


def test_the_log_holds_no_traceback_and_no_token(gateway: Gateway) -> None:
    """Last in the module, so that the log covers everything above."""
    assert gateway.tracebacks == []
    assert gateway.token not in gateway.stderr
    assert "canary-5f1d0c" not in gateway.stderr
