"""Sessions and streams through a running gateway: what real clients do with them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ListRootsResult, Root

from support.clients import list_tools, outcome
from support.gateway import Gateway
from support.plain import PLAIN
from support.processes import wait_until
from support.raw import good_headers, initialize, modern_headers, modern_message
from support.upstreams import sdk_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.clients import Mode

UPSTREAMS = ("old", "new")


@pytest.fixture(scope="module")
def gateway(module_directory: Path) -> Iterator[Gateway]:
    """A gateway before a server of the older revisions and one of both."""
    with (
        sdk_server("sse", module_directory / "old.log") as old,
        sdk_server("http", module_directory / "new.log") as new,
    ):
        config = module_directory / "mcp.json"
        servers = {"old": {"type": "sse", "url": old.url}, "new": {"type": "http", "url": new.url}}
        config.write_text(json.dumps({"mcpServers": servers}))
        with Gateway.start("--mcp-config", str(config), data_dir=module_directory / "data") as running:
            yield running


def requests(gateway: Gateway, method: str) -> list[dict[str, Any]]:
    """Return the request lines of the log for ``method``."""
    lines = [json.loads(line) for line in gateway.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == "request" and line.get("method") == method]


async def test_a_client_opens_its_stream_and_ends_its_session(gateway: Gateway) -> None:
    async with gateway.mcp("legacy") as client:
        assert client.server_info is not None
    deleted = wait_until(lambda: requests(gateway, "DELETE") or None, within_s=10, what="the session is ended")
    opened = wait_until(lambda: requests(gateway, "GET") or None, within_s=10, what="its stream has ended")
    assert [line["status"] for line in (*deleted, *opened)] == [204, 200]


async def test_an_upstream_asks_the_client(gateway: Gateway) -> None:
    async def roots(context: Any) -> ListRootsResult:
        del context
        return ListRootsResult(roots=[Root(uri="file:///home/somebody", name="home")])

    headers = {"Authorization": f"Bearer {gateway.token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30, **PLAIN) as http:
        transport = streamable_http_client(gateway.mcp_url, http_client=http)
        async with Client(transport, mode="legacy", list_roots_callback=roots) as client:
            result = await client.call_tool("old__roots", {})
    assert "file:///home/somebody" in str(result.content), result


async def test_an_upstream_learns_that_a_client_cannot_be_asked(gateway: Gateway) -> None:
    async with gateway.mcp("legacy") as client:
        result = await outcome(client, "old__roots", {})
    assert "error" in result or result["isError"], result


async def _until_abandoned(gateway: Gateway, upstream: str, count: int) -> None:
    async with asyncio.timeout(10):
        while await _abandoned(gateway, upstream) < count:
            pass


async def _abandoned(gateway: Gateway, upstream: str) -> int:
    async with gateway.mcp("auto") as client:
        result = await outcome(client, f"{upstream}__abandoned", {})
    return int(result["content"][0]["text"])


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_a_call_that_is_given_up_is_given_up_by_the_upstream(gateway: Gateway, mode: Mode, upstream: str) -> None:
    before = await _abandoned(gateway, upstream)
    async with gateway.mcp(mode) as client:
        await list_tools(client)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.call_tool(f"{upstream}__wait_forever", {})
        await _until_abandoned(gateway, upstream, before + 1)
        # The client goes on as before.
        assert await list_tools(client)
    assert await _abandoned(gateway, upstream) == before + 1


async def test_a_client_that_vanishes_is_not_worked_for(gateway: Gateway) -> None:
    before = await _abandoned(gateway, "new")
    message = modern_message("tools/call", {"name": "new__wait_forever", "arguments": {}})
    headers = {**good_headers(gateway.token), **modern_headers(message)}
    async with httpx2.AsyncClient(timeout=0.5, **PLAIN) as http:
        with pytest.raises(httpx2.ReadTimeout):
            await http.post(gateway.mcp_url, json=message, headers=headers)
    await _until_abandoned(gateway, "new", before + 1)


def test_streams_do_not_hold_up_the_stop(gateway: Gateway) -> None:
    """Last in the module, since it stops the gateway."""
    session = initialize(gateway.mcp_url, gateway.token).headers["mcp-session-id"]
    headers = {**good_headers(gateway.token), "mcp-session-id": session}
    with httpx2.stream("GET", gateway.mcp_url, headers=headers, timeout=20, **PLAIN) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"] == "text/event-stream"
        gateway.process.terminate()
        stream.read()
    assert gateway.process.wait(10) == 0
    assert gateway.tracebacks == []
    assert session not in gateway.stderr
