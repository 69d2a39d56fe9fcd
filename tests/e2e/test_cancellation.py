"""A call that nobody waits for any more ends at the upstream too, in whatever era and over whatever transport."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from mcp.shared.exceptions import MCPError

from support.clients import outcome
from support.counting import counted_gateway
from support.eras import KINDS, MODES, EraUpstream, era_upstreams, mcp_config
from support.raw import LEGACY, good_headers, initialize, modern_headers, modern_message, post

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.clients import Mode
    from support.counting import Census
    from support.gateway import Gateway

CALL_TIMEOUT_S = 6.0
"""Longer than a cancellation may take, so that no time limit passes for one."""
SOON_S = 4.0


@pytest.fixture(scope="module")
def upstreams(module_directory: Path) -> Iterator[dict[str, EraUpstream]]:
    with era_upstreams(module_directory) as found:
        yield found


@pytest.fixture(scope="module")
def running(upstreams: dict[str, EraUpstream], module_directory: Path) -> Iterator[tuple[Gateway, Census]]:
    env = {"AGENTAPI_UPSTREAM_CALL_TIMEOUT_S": str(CALL_TIMEOUT_S)}
    arguments = mcp_config(module_directory, upstreams)
    with counted_gateway(*arguments, directory=module_directory, env=env) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(running: tuple[Gateway, Census]) -> Gateway:
    return running[0]


@pytest.fixture(params=KINDS)
def upstream(request: pytest.FixtureRequest, upstreams: dict[str, EraUpstream]) -> EraUpstream:
    return upstreams[request.param]


async def _saw(upstream: EraUpstream, event: str, mark: str) -> None:
    await asyncio.to_thread(upstream.wait_for, event, message=mark)


@pytest.mark.parametrize("mode", MODES)
async def test_client_that_cancels_cancels_the_upstream(gateway: Gateway, upstream: EraUpstream, mode: Mode) -> None:
    mark = uuid4().hex
    async with gateway.mcp(mode) as client:
        call = asyncio.ensure_future(client.call_tool(f"{upstream.name}__wait", {"message": mark}))
        await _saw(upstream, "started", mark)
        call.cancel()
        async with asyncio.timeout(SOON_S):
            await _saw(upstream, "cancelled", mark)
        # The conversation goes on.
        echoed = await outcome(client, f"{upstream.name}__echo", {"message": "x"})
    assert echoed["content"] == [{"type": "text", "text": "x"}]


async def test_one_cancelled_call_leaves_the_others_alone(gateway: Gateway, upstream: EraUpstream) -> None:
    ended, staying = uuid4().hex, uuid4().hex
    name = f"{upstream.name}__wait"
    async with gateway.mcp("legacy") as client:
        calls = [asyncio.ensure_future(client.call_tool(name, {"message": mark})) for mark in (ended, staying)]
        for mark in (ended, staying):
            await _saw(upstream, "started", mark)
        calls[0].cancel()
        await _saw(upstream, "cancelled", ended)
        assert not calls[1].done()
        assert upstream.events("cancelled", message=staying) == []
        calls[1].cancel()
        await _saw(upstream, "cancelled", staying)


def _request(gateway: Gateway, message: dict[str, object], headers: dict[str, str]) -> bytes:
    body = json.dumps(message).encode()
    host = urlsplit(gateway.mcp_url)
    lines = {**good_headers(gateway.token), **headers, "host": host.netloc, "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {host.path} HTTP/1.1\r\n{head}\r\n".encode() + body


def _wait_request(gateway: Gateway, upstream: EraUpstream, mode: Mode, mark: str) -> bytes:
    params = {"name": f"{upstream.name}__wait", "arguments": {"message": mark}}
    if mode != "legacy":
        message = modern_message("tools/call", params)
        return _request(gateway, message, modern_headers(message))
    opened = initialize(gateway.mcp_url, gateway.token)
    headers = {"mcp-protocol-version": LEGACY}
    if session := opened.headers.get("mcp-session-id"):
        headers["mcp-session-id"] = session
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert post(gateway.mcp_url, gateway.token, initialized, headers=headers).status_code == 202
    return _request(gateway, {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}, headers)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
async def test_client_that_vanishes_cancels_the_upstream(
    gateway: Gateway, upstream: EraUpstream, mode: Mode, *, reset: bool
) -> None:
    """A modern client cancels by closing the stream; an older one has lost its answer, as streams are not resumed."""
    mark = uuid4().hex
    request = await asyncio.to_thread(_wait_request, gateway, upstream, mode, mark)
    port = urlsplit(gateway.mcp_url).port
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        await _saw(upstream, "started", mark)
        if reset:
            # Closing sends RST rather than FIN (socket(7), SO_LINGER).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    async with asyncio.timeout(SOON_S):
        await _saw(upstream, "cancelled", mark)


@pytest.mark.parametrize("mode", MODES)
async def test_time_limit_cancels_the_upstream(gateway: Gateway, upstreams: dict[str, EraUpstream], mode: Mode) -> None:
    async def wait(upstream: EraUpstream) -> str:
        mark = uuid4().hex
        async with gateway.mcp(mode) as client:
            with pytest.raises(MCPError) as caught:
                await client.call_tool(f"{upstream.name}__wait", {"message": mark})
        await _saw(upstream, "cancelled", mark)
        return caught.value.message

    async with asyncio.timeout(CALL_TIMEOUT_S + SOON_S):
        messages = await asyncio.gather(*(wait(upstream) for upstream in upstreams.values()))
    for name, message in zip(upstreams, messages, strict=True):
        assert name in message


async def test_cancelled_calls_leave_nothing_behind(running: tuple[Gateway, Census], upstream: EraUpstream) -> None:
    gateway, census = running

    async def vanish_once() -> None:
        mark = uuid4().hex
        request = _wait_request(gateway, upstream, "2026-07-28", mark)
        with socket.create_connection(("127.0.0.1", urlsplit(gateway.mcp_url).port)) as connection:
            connection.sendall(request)
            await _saw(upstream, "started", mark)
        await _saw(upstream, "cancelled", mark)

    await vanish_once()
    before = await asyncio.to_thread(census.take)
    for _ in range(8):
        await vanish_once()
    await asyncio.to_thread(census.settles_to, before, spare_sockets=2)


def test_the_log_holds_no_traceback(gateway: Gateway) -> None:
    """Last in the module, so that the log covers everything above."""
    assert gateway.tracebacks == []
