"""One dead, one hanging and one silent upstream beside good ones: the good ones do not suffer."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest
from mcp.shared.exceptions import MCPError

from support.clients import list_tools, outcome
from support.gateway import Gateway
from support.processes import wait_until
from support.raw import modern_call
from support.upstreams import dead_port, hanging_port, sdk_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx2

    from support.clients import Mode

CONNECT_TIMEOUT_S = 1.5
CALL_TIMEOUT_S = 1.5
MARGIN_S = 2.0
BROKEN = ("dead", "hanging", "absent", "crashing", "talking")


@pytest.fixture(scope="module")
def gateway(module_directory: Path) -> Iterator[Gateway]:
    directory = module_directory
    with sdk_server("http", directory / "sdk.log") as good, dead_port() as dead, hanging_port() as hanging:
        servers = {
            "good": {"url": good.url},
            "dead": {"url": dead.url},
            "hanging": {"url": hanging.url},
            "absent": {"command": "/bin/false"},
            "crashing": {"command": "/bin/false"},
            # It starts, and what it says is not the protocol.
            "talking": {"command": "/bin/sh", "args": ["-c", "echo hello; exec cat >/dev/null"]},
        }
        config = directory / "mcp.json"
        config.write_text(json.dumps({"mcpServers": servers}))
        env = {
            "AGENTAPI_UPSTREAM_CONNECT_TIMEOUT_S": str(CONNECT_TIMEOUT_S),
            "AGENTAPI_UPSTREAM_CALL_TIMEOUT_S": str(CALL_TIMEOUT_S),
            # Every list asks the upstreams again.
            "AGENTAPI_CATALOGUE_TTL_S": "0",
        }
        arguments = ("--mcp-config", str(config), "--yes")
        with Gateway.start(*arguments, data_dir=directory / "data", env=env) as running:
            yield running


async def test_calls_of_the_good_one_do_not_wait_for_the_others(gateway: Gateway) -> None:
    """The first of these tests: once the others have failed a few times they are left alone, and nobody waits."""

    def call(tool: str) -> httpx2.Response:
        # By hand, because the SDK's client lists the tools before it lets a structured result through.
        params = {"name": tool, "arguments": {"message": "x"}}
        return modern_call(gateway.mcp_url, gateway.token, "tools/call", params)

    waiting = [asyncio.create_task(asyncio.to_thread(call, "hanging__echo")) for _ in range(3)]
    begun = time.monotonic()
    for _ in range(10):
        answer = await asyncio.to_thread(call, "good__echo")
        assert answer.json()["result"]["isError"] is False
    took_s = time.monotonic() - begun
    assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    assert took_s < CONNECT_TIMEOUT_S / 2


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_list_is_that_of_the_good_ones_and_in_time(gateway: Gateway, mode: Mode) -> None:
    async with gateway.mcp(mode) as client:
        begun = time.monotonic()
        tools = await list_tools(client)
        took_s = time.monotonic() - begun
    assert {tool.name.split("__")[0] for tool in tools} == {"good", "notes", "clock"}
    assert took_s < CONNECT_TIMEOUT_S + MARGIN_S


async def test_lists_at_once_wait_together_not_in_turn(gateway: Gateway) -> None:
    async with gateway.mcp("2026-07-28") as client:
        begun = time.monotonic()
        lists = await asyncio.gather(*(list_tools(client) for _ in range(8)))
        took_s = time.monotonic() - begun
    assert all({tool.name.split("__")[0] for tool in tools} == {"good", "notes", "clock"} for tools in lists)
    assert took_s < CONNECT_TIMEOUT_S + MARGIN_S


async def test_reason_is_logged(gateway: Gateway) -> None:
    async with gateway.mcp("2026-07-28") as client:
        await list_tools(client)

    def reasons() -> dict[str, str] | None:
        events = [json.loads(line) for line in gateway.stderr.splitlines() if line.startswith("{")]
        found = {
            event["upstream"]: event["reason"] for event in reversed(events) if {"upstream", "reason"} <= set(event)
        }
        return found if set(found) >= set(BROKEN) else None

    logged = wait_until(reasons, within_s=CONNECT_TIMEOUT_S + MARGIN_S, what="a reason for each in the log")
    assert "refused" in logged["dead"]
    assert f"{CONNECT_TIMEOUT_S:g} s" in logged["hanging"]
    assert "good" not in logged, logged["good"]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("name", BROKEN)
async def test_call_is_a_clear_error_and_in_time(gateway: Gateway, name: str, mode: Mode) -> None:
    async with gateway.mcp(mode) as client:
        begun = time.monotonic()
        with pytest.raises(MCPError) as caught:
            await client.call_tool(f"{name}__echo", {"message": "x"})
        took_s = time.monotonic() - begun
    assert took_s < CONNECT_TIMEOUT_S + CALL_TIMEOUT_S + MARGIN_S
    message = caught.value.message
    assert name in message
    assert -32768 <= caught.value.code <= -32000
    # For the caller's eyes: nothing of the inside of the gateway.
    for inside in ("Traceback", "httpx", "asyncio", "object at 0x", "ExceptionGroup", "Errno", "127.0.0.1"):
        assert inside not in message


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_tool_that_never_answers_is_given_up_on(gateway: Gateway, mode: Mode) -> None:
    async with gateway.mcp(mode) as client:
        begun = time.monotonic()
        with pytest.raises(MCPError) as caught:
            await client.call_tool("good__wait_forever", {})
        took_s = time.monotonic() - begun
        assert CALL_TIMEOUT_S - 0.5 < took_s < CALL_TIMEOUT_S + MARGIN_S
        assert "good" in caught.value.message
        assert not (await outcome(client, "good__echo", {"message": "x"}))["isError"]


def test_error_of_a_dead_upstream_is_json_rpc(gateway: Gateway) -> None:
    answer = modern_call(gateway.mcp_url, gateway.token, "tools/call", {"name": "dead__echo", "arguments": {}})
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert set(body) == {"jsonrpc", "id", "error"}
    assert body["id"] == 1


@pytest.mark.parametrize("name", ["dead", "hanging"])
def test_configuration_test_says_why(gateway: Gateway, name: str) -> None:
    """``POST /api/v1/mcp/test`` gives a reason in words."""
    listed = gateway.api.get("/api/v1/mcp/configurations").json()["items"]
    body = {"id": next(item["id"] for item in listed if item["name"] == name)}
    begun = time.monotonic()
    answer = gateway.api.post("/api/v1/mcp/test", json=body)
    assert time.monotonic() - begun < CONNECT_TIMEOUT_S + MARGIN_S
    assert answer.status_code in {200, 502, 504}, answer.text
    assert "Traceback" not in answer.text
    assert any(word in answer.text for word in ("refused", "in time", "timed out", "unreachable", "reached")), (
        answer.text
    )


async def test_upstream_that_comes_back_is_listed_again(tmp_path: Path) -> None:
    env = {"AGENTAPI_UPSTREAM_CONNECT_TIMEOUT_S": "2", "AGENTAPI_CATALOGUE_TTL_S": "0"}
    with Gateway.start(data_dir=tmp_path / "data", env=env) as gateway:

        async def names() -> set[str]:
            async with gateway.mcp("2026-07-28") as client:
                return {tool.name.split("__")[0] for tool in await list_tools(client)}

        with dead_port() as nobody:
            body = {"workspace": "main", "name": "wanderer", "transport": "http", "auth": "none"}
            path = "/api/v1/mcp/configurations"
            made = gateway.api.post(path, json={**body, "endpoint": nobody.url})
            assert made.status_code == 201, made.text
            assert "wanderer" not in await names()
        with sdk_server("http", tmp_path / "sdk.log") as upstream:
            where = f"{path}/{made.json()['id']}"
            changed = gateway.api.put(where, json={**body, "endpoint": upstream.url})
            assert changed.status_code == 200, changed.text
            assert "wanderer" in await names()
        # Gone without a word: left out, and the others are there.
        assert await names() == {"notes", "clock"}


def test_the_log_holds_no_traceback(gateway: Gateway) -> None:
    """Last in the module, so that the log covers everything above."""
    assert gateway.tracebacks == []
