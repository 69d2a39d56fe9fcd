"""What the relay tries again: reads, while nothing of a try has reached the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.raw_upstream import Request, events, json_answer, serve_raw
from unit.gateway.relaying import progress, relaying, result, target

if TYPE_CHECKING:
    import asyncio

AWAY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 4\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(("repeatable", "asked"), [(True, 2), (False, 1)])
async def test_a_read_is_tried_again_when_the_server_asked_for_it_and_nothing_else_is(
    repeatable: bool, asked: int
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(AWAY if len(server.requests) == 1 else json_answer(result("again")))

    async with serve_raw(handler) as server, relaying(sleep=sleep) as relay:
        client = await relay.call(target(server.url, repeatable=repeatable))
        assert len(server.requests) == asked
    if repeatable:
        assert client.answer["result"]["content"][0]["text"] == "again"
        assert slept == [4.0]
    else:
        assert client.error["data"]["code"] == "upstream_unavailable"


async def test_a_stream_that_broke_off_before_it_said_anything_is_asked_for_again() -> None:
    async def sleep(_: float) -> None:
        return

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(events())
            writer.close()
        else:
            writer.write(json_answer(result("again")))

    async with serve_raw(handler) as server, relaying(sleep=sleep) as relay:
        client = await relay.call(target(server.url, repeatable=True))
        assert len(server.requests) == 2
    assert client.answer["result"]["content"][0]["text"] == "again"


async def test_a_stream_whose_progress_the_client_has_heard_is_not() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(progress(1)))
        await writer.drain()
        writer.close()

    async with serve_raw(handler) as server, relaying() as relay:
        client = await relay.call(target(server.url, repeatable=True))
        assert len(server.requests) == 1
    assert [message["method"] for message in client.streamed[:-1]] == ["notifications/progress"]
    assert client.error["message"] == "Upstream 'one' closed the connection."
