"""Circuits on the relay's way: what is not asked any more, what is asked all the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentapi.upstreams.breakers import Operation, UpstreamBreakers
from support.processes import free_port
from support.raw_upstream import Request, json_answer, serve_raw
from unit.gateway.relaying import LIMITS, AsgiClient, relaying, result, target
from unit.upstreams.doubles import PRINCIPAL

if TYPE_CHECKING:
    from agentapi.gateway.relay_passage import RelayLimits

MANY = 6


async def states(raw: bytes, *, limits: RelayLimits = LIMITS) -> tuple[int, list[AsgiClient], str]:
    """Return how many of ``MANY`` calls reached an upstream that answers ``raw``, what came of them, and the state."""
    breakers = UpstreamBreakers()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if not raw:
            await asyncio.Event().wait()

    async with serve_raw(handler) as server, relaying(limits=limits, breakers=breakers) as relay:
        to = target(server.url)
        clients = [await relay.call(to) for _ in range(MANY)]
        found = breakers.snapshots(to.upstream, PRINCIPAL.user_id)[Operation.CALL_TOOL]
        return len(server.requests), clients, found.state


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
        b"",
    ],
    ids=["503", "nonsense", "silence"],
)
async def test_a_failing_upstream_is_not_asked_any_more(raw: bytes) -> None:
    asked, clients, state = await states(raw, limits=replace(LIMITS, call_timeout_s=0.1))
    assert (asked, state) == (5, "open")
    error = clients[-1].error
    assert error["data"]["code"] == "upstream_resting"
    assert "Upstream 'one' has failed too often of late" in error["message"]


@pytest.mark.parametrize(
    "raw",
    [
        json_answer({"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "the tool broke"}}),
        json_answer(result(isError=True)),
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["error", "isError", "403", "404", "429"],
)
async def test_what_is_the_callers_fault_opens_nothing(raw: bytes) -> None:
    asked, _, state = await states(raw)
    assert (asked, state) == (MANY, "closed")


async def test_a_server_that_is_gone_is_not_connected_to_any_more() -> None:
    breakers, to = UpstreamBreakers(), target(f"http://127.0.0.1:{free_port()}/mcp")
    async with relaying(breakers=breakers) as relay:
        clients = [await relay.call(to) for _ in range(MANY)]
    codes = [client.error["data"]["code"] for client in clients]
    assert codes == ["upstream_unavailable"] * 5 + ["upstream_resting"]
    assert breakers.snapshots(to.upstream, PRINCIPAL.user_id)[Operation.CONNECT].state == "open"


async def test_clients_that_leave_open_nothing() -> None:
    breakers = UpstreamBreakers()

    async def handler(_: Request, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serve_raw(handler) as server, relaying(breakers=breakers) as relay:
        to = target(server.url)
        for _ in range(MANY):
            client = AsgiClient()
            calling = asyncio.ensure_future(relay.call(to, client=client))
            await client.watched.wait()
            client.left.set()
            await calling
        assert breakers.snapshots(to.upstream, PRINCIPAL.user_id)[Operation.CALL_TOOL].state == "closed"
