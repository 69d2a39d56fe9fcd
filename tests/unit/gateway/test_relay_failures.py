"""Upstreams that hang, dribble, send nonsense or far too much, refuse, redirect, or die in the middle."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST

from agentapi.gateway.upstream_errors import MAX_MESSAGE_BYTES
from agentapi.upstreams.breakers import Operation, UpstreamBreakers
from support.raw_upstream import Request, chunk, events, json_answer, serve_raw, sse
from unit.gateway.relaying import LIMITS, AsgiClient, progress, relaying, result, target
from unit.upstreams.doubles import PRINCIPAL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.gateway.relay_passage import RelayLimits

    Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]

LARGE = replace(LIMITS, max_answer_bytes=8 * 1024 * 1024)
QUICK = replace(LIMITS, call_timeout_s=0.3)
NONSENSE = "Upstream 'one' answered with a result that the protocol does not allow."
CLOSED = "Upstream 'one' closed the connection."
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def error_of(
    raw: bytes | Handler, *, limits: RelayLimits = LIMITS, close: bool = False
) -> tuple[AsgiClient, dict[str, Any]]:
    """Return what a client gets, and the error in it; the connection must not be used again."""

    async def canned(_: Request, writer: asyncio.StreamWriter) -> None:
        assert isinstance(raw, bytes)
        writer.write(raw)
        await writer.drain()
        if close:
            writer.close()

    async with serve_raw(canned if isinstance(raw, bytes) else raw) as server, relaying(limits=limits) as relay:
        client = await relay.call(target(server.url))
        error = client.error
        assert (client.status, error["code"]) == (200, INTERNAL_ERROR)
        return client, error


async def test_an_upstream_that_hangs_is_given_up() -> None:
    async def handler(_: Request, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    _, error = await error_of(handler, limits=QUICK)
    assert error["message"] == "Upstream 'one' did not answer within 0.3 s."
    assert error["data"] == {"code": "upstream_timeout"}


async def test_an_answer_that_dribbles_is_given_up() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(JSON_HEAD + b"Content-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    _, error = await error_of(handler, limits=QUICK)
    assert error["data"] == {"code": "upstream_timeout"}


async def test_a_head_that_dribbles_is_given_up() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"y")
            await asyncio.sleep(0.02)

    _, error = await error_of(handler, limits=QUICK)
    assert error["data"] == {"code": "upstream_timeout"}


@pytest.mark.parametrize("pause_s", [0.05, 0.0])
async def test_a_stream_of_nothing_but_comments_is_given_up(pause_s: float) -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b": still here\n\n" * 100)
            await writer.drain()
            await asyncio.sleep(pause_s)

    async with asyncio.timeout(5):
        _, error = await error_of(handler, limits=QUICK)
    assert error["data"] == {"code": "upstream_timeout"}


async def test_what_is_not_for_the_client_keeps_no_request_alive() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(end=False))
        other = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "q", "progress": 1}}
        while True:
            writer.write(chunk(sse(other)))
            await writer.drain()
            await asyncio.sleep(0.02)

    _, error = await error_of(handler, limits=QUICK)
    assert error["message"] == "Upstream 'one' did not answer within 0.3 s."


async def test_a_stream_that_falls_silent_ends_with_its_time_as_a_whole() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(progress(0), end=False))
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        _, error = await error_of(handler, limits=replace(LIMITS, call_timeout_s=10.0, stream_timeout_s=0.3))
    assert error["message"] == "Upstream 'one' did not complete its answer within 0.3 s."


TOKEN_ENDED = {
    "code": INVALID_REQUEST,
    "message": "The access token ended before the answer was complete.",
    "data": {"code": "token_ended"},
}


@pytest.mark.parametrize("lively", [True, False])
async def test_a_stream_ends_with_the_token_of_its_request(lively: bool) -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(progress(0), end=False))
        while lively:
            writer.write(chunk(b": still here\n\n" * 100))
            await writer.drain()
        await asyncio.Event().wait()

    breakers = UpstreamBreakers()
    async with serve_raw(handler) as server, relaying(breakers=breakers) as relay:
        wanted = target(server.url)
        client = await relay.call(wanted, expires_at=time.time() + 0.3)
        assert client.streamed[0] == progress(0)
        assert client.error == TOKEN_ENDED
        circuit = breakers.snapshots(wanted.upstream, PRINCIPAL.user_id)[Operation.CALL_TOOL]
        assert circuit.failures == 0


async def test_no_stream_begins_after_the_token_ended_and_a_plain_answer_is_given() -> None:
    async def streaming(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(progress(0), result()))

    async def plain(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(result()))

    async with serve_raw(streaming) as server, relaying() as relay:
        assert (await relay.call(target(server.url), expires_at=1)).error == TOKEN_ENDED
    async with serve_raw(plain) as server, relaying() as relay:
        assert (await relay.call(target(server.url), expires_at=1)).answer == result()


async def test_a_stream_that_goes_on_and_on_is_ended() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(end=False))
        for number in range(1_000_000):
            writer.write(chunk(sse(progress(number))))
            await writer.drain()
            await asyncio.sleep(0.02)

    client, error = await error_of(handler, limits=replace(LIMITS, stream_timeout_s=0.3))
    assert client.streamed[0] == progress(0)
    assert error["message"] == "Upstream 'one' did not complete its answer within 0.3 s."
    assert error["data"] == {"code": "upstream_timeout"}


@pytest.mark.parametrize("piece", [sse(progress(1)), b": x\n" * 10 + b"\n"], ids=["progress", "comments"])
async def test_a_stream_that_floods_is_ended(piece: bytes) -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(end=False))
        while True:
            writer.write(chunk(piece * 100))
            await writer.drain()

    _, error = await error_of(handler, limits=replace(LIMITS, max_stream_bytes=200_000))
    assert error["message"] == "Upstream 'one' failed: it sent more than 200000 bytes before its answer was complete."


async def test_a_stream_may_take_long_but_not_be_silent_for_long() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(end=False))
        for number in range(5):
            writer.write(chunk(sse(progress(number))))
            await asyncio.sleep(0.1)
        await asyncio.Event().wait()

    client, error = await error_of(handler, limits=QUICK)
    assert client.streamed[:5] == [progress(number) for number in range(5)]
    assert error["data"] == {"code": "upstream_timeout"}


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        b"\x16\x03\x01\x02\x00",
    ],
)
async def test_what_is_not_http_is_an_error(raw: bytes) -> None:
    _, error = await error_of(raw, close=True)
    assert error["message"].startswith("Upstream 'one' failed: it ")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}',
        b'{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"resultType":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"result":[]}',
        b'{"jsonrpc":"2.0","id":1,"result":null}',
        b'{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete"}}',
        b'{"jsonrpc":"2.0","id":"one","result":{"resultType":"complete"}}',
        b'{"jsonrpc":"2.0","id":null,"result":{"resultType":"complete"}}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":true,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":2,"error":{"code":-1,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{}}',
        b'[{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}]',
        b'{"jsonrpc":"2.0","id":1,"result":{"x":%s}}' % (b"9" * 5000),
    ],
)
async def test_what_is_not_an_answer_to_the_request_is_an_error(raw: bytes) -> None:
    _, error = await error_of(json_answer(raw))
    assert error["message"] == NONSENSE


async def test_an_event_that_is_no_message_ends_the_stream_with_an_error() -> None:
    head = events(progress(1), end=False)
    for data in (b"nonsense", b"[]", json.dumps(result(identifier=2)).encode()):
        client, error = await error_of(head + chunk(b"data: " + data + b"\n\n") + chunk(b""))
        assert error["message"] == NONSENSE
        assert client.streamed[0] == progress(1)


@pytest.mark.parametrize("kind", ["text/html", "text/plain", "application/octet-stream", "application/jsonx", ""])
async def test_another_type_of_content_is_an_error(kind: str) -> None:
    _, error = await error_of(json_answer(result(), kind=kind))
    assert error["message"] == NONSENSE


async def test_a_compressed_answer_is_an_error() -> None:
    _, error = await error_of(json_answer(result(), more=b"Content-Encoding: gzip\r\n"))
    assert error["message"].startswith("Upstream 'one' failed: its answer is compressed")


@pytest.mark.parametrize("status", ["202 Accepted", "204 No Content", "201 Created"])
async def test_an_answer_without_an_answer_is_an_error(status: str) -> None:
    _, error = await error_of(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode(), close=True)
    assert error["message"] == NONSENSE


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("401 Unauthorized", "it answered HTTP 401, so it wants a credential, or another one"),
        ("403 Forbidden", "it answered HTTP 403, so the credential may not use it"),
        ("404 Not Found", "it answered HTTP 404, so the endpoint path is probably wrong"),
        ("500 Internal Server Error", "it answered HTTP 500"),
        ("503 Service Unavailable", "it answered HTTP 503"),
    ],
)
async def test_an_http_error_is_told_in_words_and_none_of_its_own(status: str, words: str) -> None:
    for raw in (
        json_answer(b"<html>secret</html>", status=status, kind="text/html"),
        json_answer({"detail": "secret"}, status=status),
        json_answer(b"{", status=status),
        json_answer({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete"}}, status=status),
    ):
        client, error = await error_of(raw)
        assert error["message"] == f"Upstream 'one' failed: {words}."
        assert b"secret" not in client.body


async def test_a_redirect_is_not_followed() -> None:
    location = b"Location: http://169.254.169.254/latest/meta-data/\r\n"
    for status in ("301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
        _, error = await error_of(json_answer(result(), status=status, more=location))
        assert "a redirect, which is not followed" in error["message"]
        assert "169.254" not in error["message"]


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "404 Not Found", "500 Internal Server Error"])
@pytest.mark.parametrize("identifier", [1, None])
async def test_an_error_of_the_upstream_passes_unchanged(status: str, identifier: int | None) -> None:
    told = {"code": -32602, "message": "b\u00e4d \U0001f600", "data": {"hint": [1, None, 2.0]}}
    raw = json_answer({"jsonrpc": "2.0", "id": identifier, "error": told}, status=status)

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    async with serve_raw(handler) as server, relaying() as relay:
        client = await relay.call(target(server.url))
        assert client.answer == {"jsonrpc": "2.0", "id": 1, "error": told}
        assert client.status == 400
        assert relay.pool.idle == 1


async def test_an_error_that_speaks_for_the_gateway_does_not_pass() -> None:
    told = {"code": -32022, "message": "x" * 5_000_000, "data": {"supported": ["2024-11-05"]}}
    _, error = await error_of(json_answer({"jsonrpc": "2.0", "id": 1, "error": told}), limits=LARGE)
    assert error["data"] == {"code": "upstream_unavailable", "upstreamCode": -32022}
    assert error["message"].startswith("Upstream 'one' answered with the error -32022: xxx")
    assert len(error["message"].encode()) <= MAX_MESSAGE_BYTES


REFUSALS: dict[str, tuple[str, object, bool]] = {
    "a page": ("404 Not Found", b"<html>", True),
    "nothing": ("405 Method Not Allowed", b"", True),
    "no session": ("400 Bad Request", {"code": -32000, "message": "Bad Request: No valid session ID"}, True),
    "no session, in other words": ("400 Bad Request", {"code": -32600, "message": "Missing session ID"}, True),
    "another version": ("400 Bad Request", {"code": -32022, "message": "Unsupported"}, True),
    "another version, with another status": ("200 OK", {"code": -32022, "message": "Unsupported"}, True),
    "no credential": ("401 Unauthorized", b"", False),
    "too many": ("429 Too Many Requests", b"", False),
    "broken": ("500 Internal Server Error", b"", False),
    "bad params": ("400 Bad Request", {"code": -32602, "message": "no"}, False),
    "no such method": ("404 Not Found", {"code": -32601, "message": "no"}, False),
    "its own": ("200 OK", {"code": -32000, "message": "no"}, False),
}


@pytest.mark.parametrize(("status", "said", "outdated"), REFUSALS.values(), ids=REFUSALS)
async def test_an_upstream_that_has_changed_its_era_is_asked_again(status: str, said: object, outdated: bool) -> None:
    body = said if isinstance(said, bytes) else {"jsonrpc": "2.0", "id": 1, "error": said}
    raw = json_answer(body, status=status, kind="text/html" if isinstance(said, bytes) else "application/json")

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    async with serve_raw(handler) as server, relaying() as relay:
        wanted = target(server.url)
        assert "error" in (await relay.call(wanted)).answer
        assert relay.forgotten == ([wanted.upstream] if outdated else [])


async def test_a_result_that_is_an_error_passes_as_it_is() -> None:
    failed = result("no such city", isError=True)

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(failed))

    async with serve_raw(handler) as server, relaying() as relay:
        client = await relay.call(target(server.url))
    assert (client.status, client.body) == (200, json.dumps(failed).encode())


async def test_an_answer_that_says_it_is_too_large_is_not_read() -> None:
    _, error = await error_of(JSON_HEAD + b"Content-Length: 104857600\r\n\r\n{", close=True)
    assert error["message"] == "Upstream 'one' failed: its answer is larger than 1048576 bytes."


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"])
async def test_a_hundred_megabytes_are_cut_off(framing: bytes) -> None:
    written = 0

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(JSON_HEAD + framing + b"\r\n")
        piece = b" " * 65536
        for _number in range(1600):
            writer.write(chunk(piece) if b"chunked" in framing else piece)
            await writer.drain()
            written += len(piece)

    _, error = await error_of(handler)
    assert error["message"] == "Upstream 'one' failed: its answer is larger than 1048576 bytes."
    assert written < 20_000_000


async def test_an_event_of_a_hundred_megabytes_is_cut_off() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(progress(1), end=False) + chunk(b"data: "))
        for _number in range(1600):
            writer.write(chunk(b" " * 65536))
            await writer.drain()

    client, error = await error_of(handler)
    assert error["message"] == "Upstream 'one' failed: it sent an event of more than 1048576 bytes."
    assert len(client.streamed) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 400_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: y\r\n" * 40_000 + b"\r\n",
        JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 400_000 + b"\r\n{\r\n",
        JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-Trailer: y\r\n" * 40_000 + b"\r\n",
    ],
    ids=["long header", "many headers", "chunk extension", "trailers"],
)
async def test_headers_are_bounded(raw: bytes) -> None:
    _, error = await error_of(raw, close=True)
    assert error["message"].startswith("Upstream 'one' failed: the headers of its answer are too large")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Ty",
        JSON_HEAD + b"Content-Length: 100\r\n\r\n{",
        JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        events(end=False),
        events(),
        events(progress(1), end=False),
        events(progress(1)),
        events(progress(1), end=False) + chunk(b"data: {"),
    ],
)
async def test_an_upstream_that_dies_in_the_middle_is_an_error(raw: bytes) -> None:
    client, error = await error_of(raw, close=True)
    assert error == {"code": INTERNAL_ERROR, "message": CLOSED, "data": {"code": "upstream_unavailable"}}
    if b"progress" in raw:
        assert client.streamed[0] == progress(1)


async def test_what_follows_an_answer_is_not_taken_for_the_next() -> None:
    forged = json_answer(result("forged"))

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(result("true")) + forged)

    async with serve_raw(handler) as server, relaying() as relay:
        for _number in range(2):
            client = await relay.call(target(server.url))
            assert client.answer == result("true")
        assert server.connections == 2
        assert len(relay.pool) == 0


async def test_an_answer_that_nobody_asked_for_closes_the_connection() -> None:
    sent = asyncio.Event()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(result("true")))

        async def later() -> None:
            await asyncio.sleep(0.02)
            writer.write(json_answer(result("forged")))
            await writer.drain()
            sent.set()

        asyncio.get_running_loop().create_task(later())

    async with serve_raw(handler) as server, relaying() as relay:
        await relay.call(target(server.url))
        assert relay.pool.idle == 1
        await sent.wait()
        await server.ended.get()
        client = await relay.call(target(server.url))
        assert client.answer == result("true")
        assert server.connections == 2
        await sent.wait()


async def test_an_upstream_that_is_not_there_is_said() -> None:
    async with serve_raw(lambda *_: asyncio.sleep(0)) as server:
        url = server.url
    async with relaying() as relay:
        client = await relay.call(target(url))
        assert client.error["message"] == "Upstream 'one' is unavailable: the connection was refused."
        assert len(relay.pool) == 0


async def test_interim_answers_are_passed_over() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + json_answer(result()))

    async with serve_raw(handler) as server, relaying() as relay:
        assert (await relay.call(target(server.url))).answer == result()
        assert relay.pool.idle == 1


async def test_an_answer_may_end_with_its_connection() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(JSON_HEAD + b"\r\n" + json.dumps(result()).encode())
        await writer.drain()
        writer.close()

    async with serve_raw(handler) as server, relaying() as relay:
        assert (await relay.call(target(server.url))).answer == result()
        assert len(relay.pool) == 0


async def test_a_large_page_of_an_error_does_not_stop_the_next_request() -> None:
    """Nobody reads the page, and reading stands still where so much waits to be read."""
    pages = iter([json_answer(b"<p>" * 100_000, status="502 Bad Gateway", kind="text/html"), json_answer(result())])

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(next(pages))

    async with serve_raw(handler) as server, relaying(limits=QUICK) as relay:
        client = await relay.call(target(server.url))
        assert client.error["message"] == "Upstream 'one' failed: it answered HTTP 502."
        assert (await relay.call(target(server.url))).answer["result"]["content"]


async def test_an_id_that_is_written_as_a_string_is_the_same() -> None:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(result(identifier="1")))

    async with serve_raw(handler) as server, relaying() as relay:
        answer = (await relay.call(target(server.url))).answer
        assert (answer["id"], answer["result"]["resultType"]) == (1, "complete")
