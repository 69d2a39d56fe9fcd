from __future__ import annotations

import asyncio
import gc
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import structlog
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from agentapi.egress.dialer import Destination
from agentapi.gateway.relay_passage import Passage
from agentapi.gateway.relay_request import Wire
from agentapi.gateway.reply import StreamLimits
from agentapi.gateway.request_state import Binding
from agentapi.principal import UserId
from agentapi.upstreams.http_pool import PoolKey
from agentapi.upstreams.link import Era
from agentapi.upstreams.models import Auth, Transport
from support.raw import modern_message
from support.raw_upstream import Request, chunk, events, json_answer, serve_raw, sse
from unit.gateway.relaying import (
    SECRET,
    AsgiClient,
    progress,
    relaying,
    result,
    secured,
    target,
)
from unit.upstreams.doubles import PRINCIPAL, Clock, drain, upstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.upstreams.http_pool import Pooled

    Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def answering(raw: bytes) -> Handler:
    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return handler


async def ask(raw: bytes, **more: Any) -> AsgiClient:
    """Return what a client gets where the upstream answers ``raw``."""
    async with serve_raw(answering(raw)) as server, relaying() as relay:
        return await relay.call(target(server.url), **more)


async def test_an_answer_passes_byte_for_byte() -> None:
    raw = b'{ "id":1,"jsonrpc":"2.0", "result": {"resultType":"complete","content":[],"x":1e2, "y":[ 1.0 ]} }'
    client = await ask(json_answer(raw))
    assert client.status == 200
    assert client.body == raw
    assert dict(client.headers)[b"content-length"] == str(len(raw)).encode()


@pytest.mark.parametrize(
    "given",
    [
        '{"content":[],"structuredContent":{"resultType":1}}',
        '{"content":[],"structuredContent":{"resultType":"complete"}}',
        '{"resultType":7,"content":3}',
        '{"resultType":"input_required","inputRequests":{}}',
        '{"resultType":"completely"}',
        '{"content":[{"type":"text","text":"\\"resultType\\""}]}',
    ],
)
async def test_a_result_that_does_not_say_that_it_is_complete_takes_the_careful_way(given: str) -> None:
    client = await ask(json_answer(f'{{"jsonrpc":"2.0","id":1,"result":{given}}}'.encode()))
    assert client.answer["result"]["finished"]


@pytest.mark.parametrize("given", ['["resultType"]', '"resultType"', "null", "7", '[{"resultType":"complete"}]'])
async def test_a_result_that_is_no_object_is_no_answer(given: str) -> None:
    client = await ask(json_answer(f'{{"jsonrpc":"2.0","id":1,"result":{given}}}'.encode()))
    assert "does not allow" in client.error["message"]


async def test_of_the_body_only_the_name_changes() -> None:
    body = (
        b'{"params" : {"arguments":{"name":"one__echo","n":1e2,"u":"\\u00e4"},"name" : "one__ec\\u0068o","_meta":{}},'
    )
    body += b'"method":"tools/call","id":1,  "jsonrpc":"2.0"}'
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        await relay.call(target(server.url), body=body)
    assert server.requests[0].body == body.replace(b'"one__ec\\u0068o"', b'"echo"')


async def test_a_name_that_is_the_upstreams_own_passes_untouched() -> None:
    body = b'{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"name":"ech\\u006f","_meta":{}}}'
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        await relay.call(target(server.url), body=body)
    assert server.requests[0].body == body


async def test_a_resource_is_named_by_its_uri_whatever_else_the_params_hold() -> None:
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        wanted = target(server.url, name="test://a b\n\u00e4", member="uri")
        await relay.call(wanted, method="resources/read", params={"name": "x", "uri": wanted.public_name})
    request = server.requests[0]
    assert request.message["params"]["uri"] == "test://a b\n\u00e4"
    assert request.message["params"]["name"] == "x"
    assert request.header("mcp-name") == "=?base64?dGVzdDovL2EgYgrDpA==?="


async def test_the_head_is_of_the_gateways_own_making() -> None:
    trace = [(b"traceparent", b"00-1-2-01"), (b"tracestate", b"a=1"), (b"tracestate", b"b=2"), (b"baggage", b"k=v")]
    own = [(b"mcp-param-region", b"eu"), (b"mcp-name", b"one__echo"), (b"mcp-session-id", b"x")]
    declared = {"inputSchema": {"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "Region"}}}}
    hidden = [
        (name, b"private")
        for name in (
            *(b"authorization", b"cookie", b"forwarded", b"x-forwarded-for", b"x-real-ip", b"x-api-key", b"host"),
            *(b"proxy-authorization", b"te", b"connection", b"transfer-encoding", b"origin", b"via"),
            *(b"mcp-param-tenant", b"mcp-param-regions", b"mcp-param-"),
        )
    ]
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        wanted = target(secured(server.url), definition=declared)
        await relay.call(wanted, headers=[*trace, *own, *hidden])
    request = server.requests[0]
    assert request.line == "POST /mcp HTTP/1.1"
    assert sorted((name.lower(), value) for name, value in request.headers) == sorted(
        [
            ("host", f"127.0.0.1:{server.port}"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("accept-encoding", "identity"),
            ("authorization", f"Bearer {SECRET}"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "echo"),
            ("mcp-param-region", "eu"),
            ("traceparent", "00-1-2-01"),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
            ("baggage", "k=v"),
            ("content-length", str(len(request.body))),
        ]
    )


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\0", b"\xff", b"\x7f"])
async def test_a_header_that_could_end_its_line_is_refused(value: bytes) -> None:
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        client = await relay.call(target(server.url), headers=[(b"baggage", value)])
    assert client.error["code"] == INVALID_PARAMS
    assert not server.requests


@pytest.mark.parametrize("changes", [{"method": "tools/call\r\nx-evil: 1"}, {"version": "2026-07-28\r\nx-evil: 1"}])
async def test_what_is_repeated_in_the_head_cannot_end_its_line_either(changes: dict[str, str]) -> None:
    message = modern_message(changes.get("method", "tools/call"), {"name": "one__echo"})
    version = "io.modelcontextprotocol/protocolVersion"
    message["params"]["_meta"][version] = changes.get("version", "2026-07-28")
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        client = await relay.call(target(server.url), body=json.dumps(message).encode())
    assert client.error["code"] == INVALID_PARAMS
    assert not server.requests


async def test_a_request_without_a_name_is_refused() -> None:
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        client = await relay.call(target(server.url), params={"name": 7})
    assert (client.status, client.error["code"]) == (400, INVALID_PARAMS)
    assert not server.requests


async def test_a_state_is_opened_for_the_upstream_it_was_sealed_for() -> None:
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        wanted = target(server.url)
        arguments = {"text": "hello"}
        binding = Binding(PRINCIPAL, wanted.upstream.id, "tools/call", "echo", arguments)
        sealed = relay.states.seal(binding, 'st"ate')
        client = await relay.call(wanted, params={"requestState": sealed, "name": "one__echo", "arguments": arguments})
        assert client.status == 200
        somebody = replace(binding, principal=replace(PRINCIPAL, user_id=UserId(UUID(int=9))))
        another = replace(binding, arguments={"text": "something else"})
        for foreign in (relay.states.seal(somebody, "x"), relay.states.seal(another, "x"), "made up", "", 7):
            client = await relay.call(
                wanted, params={"requestState": foreign, "name": "one__echo", "arguments": arguments}
            )
            assert (client.status, client.error["code"]) == (400, INVALID_PARAMS)
    assert [request.message["params"]["requestState"] for request in server.requests] == ['st"ate']


@pytest.mark.parametrize(
    "more",
    [
        {"content": [{"type": "resource_link", "uri": "test://x", "name": "x"}]},
        {"resultType": "input_required", "requestState": "s"},
        {"resultType": "input_required", "inputRequests": {}},
    ],
    ids=["uri", "state", "question"],
)
async def test_what_may_need_rewriting_is_rewritten(more: dict[str, Any]) -> None:
    for raw in (json_answer(result(**more)), events(result(**more))):
        client = await ask(raw)
        assert client.answer["result"]["finished"]


async def test_an_escape_hides_nothing_from_the_rewriting() -> None:
    raw = json.dumps(result(content=[{"type": "resource_link", "uri": "test://x"}])).replace('"uri"', '"u\\u0072i"')
    assert (await ask(json_answer(raw.encode()))).answer["result"]["finished"]


async def test_a_result_without_its_type_is_finished() -> None:
    raw = json_answer({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
    assert (await ask(raw)).answer["result"] == {"content": [], "finished": True}


async def test_a_stream_of_one_answer_is_an_answer() -> None:
    client = await ask(events(result()))
    assert client.answer == result()


async def test_events_are_passed_on_as_they_come() -> None:
    go = asyncio.Event()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(progress(1), end=False))
        await go.wait()
        writer.write(chunk(b": comment\r\n\r\nid: 7\r\nretry: 10\r\n\r\n" + sse(progress(2))) + chunk(sse(result())))
        writer.write(chunk(b""))

    async with serve_raw(handler) as server, relaying() as relay:
        client = AsgiClient()
        call = asyncio.ensure_future(relay.call(target(server.url), client=client))
        await client.messages.get()
        first = await client.messages.get()
        assert json.loads(first["body"].split(b"data: ")[1]) == progress(1)
        assert not call.done()
        go.set()
        await call
        # The end of the stream was read, and the connection is good for another request.
        assert relay.pool.idle == 1
    assert client.streamed == [progress(1), progress(2), result()]
    assert b"id: 7" not in client.body


async def test_a_message_on_several_lines_becomes_one_line() -> None:
    raw = b"event: message\ndata: " + json.dumps(progress(1), indent=1).replace("\n", "\ndata: ").encode() + b"\n\n"
    raw += b"data:" + json.dumps(result(), indent=1).replace("\n", "\r\ndata:").encode() + b"\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    client = await ask(head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
    assert client.streamed == [progress(1), result()]


async def test_log_messages_come_only_where_they_were_asked_for() -> None:
    notes = [
        {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": level, "data": "x"}}
        for level in ("debug", "error")
    ]
    assert (await ask(events(*notes, result()))).answer == result()
    asked = modern_message("tools/call", {"name": "one__echo"})
    asked["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = "info"
    client = await ask(events(*notes, result()), body=json.dumps(asked).encode())
    assert client.streamed == [notes[1], result()]


def forged(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


FORGED = [
    *(forged("notifications/progress", progressToken=token, progress=1) for token in ("q", 1, None, ["p"], True)),
    forged("notifications/progress", progress=1),
    *(forged("notifications/progress", progressToken="p", progress=amount) for amount in ("1", None, True)),
    forged("notifications/message", level="emergency", data="x"),
    *(forged("notifications/cancelled", requestId=identifier) for identifier in (1, 2, "one")),
    forged("notifications/initialized"),
    forged("notifications/roots/list_changed"),
    forged("notifications/elicitation/complete", elicitationId="e"),
    forged("notifications/tasks/status", taskId="t"),
    forged("notifications/subscriptions/acknowledged", notifications={}),
    forged("tools/call", name="x"),
    forged("x/invented"),
]


async def test_only_what_belongs_to_the_request_precedes_its_answer() -> None:
    with structlog.testing.capture_logs() as logs:
        client = await ask(events(*FORGED, progress(1), result()))
    assert client.streamed == [progress(1), result()]
    dropped = [entry for entry in logs if entry["event"] == "notifications_dropped"]
    assert [(entry["upstream"], entry["count"]) for entry in dropped] == [("one", len(FORGED))]


@pytest.mark.parametrize(("given", "told"), [(1, 1), ("1", "1"), (0, 0)])
async def test_progress_needs_the_very_token(given: object, told: object) -> None:
    notes = [forged("notifications/progress", progressToken=token, progress=1) for token in (0, 1, "0", "1", False)]
    body = modern_message("tools/call", {"name": "one__echo"})
    body["params"]["_meta"]["progressToken"] = given
    client = await ask(events(*notes, result()), body=json.dumps(body).encode())
    assert [note["params"]["progressToken"] for note in client.streamed[:-1]] == [told]


async def test_without_a_token_there_is_no_progress() -> None:
    body = modern_message("tools/call", {"name": "one__echo"})
    client = await ask(events(*FORGED, progress(1), result()), body=json.dumps(body).encode())
    assert client.answer == result()


def passages() -> list[int]:
    """Return the identities of the requests that are not gone."""
    return [id(each) for each in gc.get_objects() if isinstance(each, Passage)]


async def test_what_a_streamed_request_held_goes_with_it_and_does_not_wait_for_the_collector() -> None:
    async with serve_raw(answering(events(result()))) as server, relaying() as relay:
        gc.collect()
        before = passages()
        gc.disable()
        try:
            await relay.call(target(server.url))
            await drain()
            left = passages()
        finally:
            gc.enable()
    assert left == before


async def test_changes_are_not_told_on_the_stream_of_a_request() -> None:
    change = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    updated = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "test://x"}}
    assert (await ask(events(change, updated, result()))).answer == result()


async def test_what_may_be_kept_is_finished_always() -> None:
    raw = json_answer({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", "contents": []}})
    async with serve_raw(answering(raw)) as server, relaying() as relay:
        wanted = target(server.url, name="test://a", member="uri")
        client = await relay.call(wanted, method="resources/read")
    assert client.answer["result"]["finished"]


async def test_a_question_of_the_upstream_is_not_passed_on() -> None:
    question = {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}}
    assert (await ask(events(question, result()))).answer == result()


async def test_a_client_is_told_that_there_is_life() -> None:
    go = asyncio.Event()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(json_answer(json.dumps(result(), indent=1).encode()))

    client = AsgiClient()
    async with serve_raw(handler) as server, relaying(stream_limits=StreamLimits(ping_s=0.01)) as relay:
        call = asyncio.ensure_future(relay.call(target(server.url), client=client))
        for _ in range(3):
            await client.messages.get()
        go.set()
        await call
    assert client.body.startswith(b": ping\n\n")
    assert client.streamed == [result()]


async def test_a_flood_of_nothing_does_not_silence_the_signs_of_life() -> None:
    go = asyncio.Event()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(end=False))
        while not go.is_set():
            writer.write(chunk(b": x\n\n" + sse(forged("x/invented"))))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(chunk(sse(result())) + chunk(b""))

    client = AsgiClient()
    async with serve_raw(handler) as server, relaying(stream_limits=StreamLimits(ping_s=0.05)) as relay:
        call = asyncio.ensure_future(relay.call(target(server.url), client=client))
        for _ in range(4):
            await client.messages.get()
        go.set()
        await call
    assert client.body.startswith(b": ping\n\n" * 3)
    assert client.streamed == [result()]


async def test_a_client_that_does_not_read_stops_its_upstream() -> None:
    written = 0
    stalled = asyncio.Event()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(events(end=False))
        event = chunk(sse({**progress(1), "pad": "x" * 100_000}))
        for _number in range(400):
            writer.write(chunk(event))
            written += len(event)
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                stalled.set()
                await writer.drain()
        writer.write(chunk(sse(result())) + chunk(b""))

    client = AsgiClient()
    client.reads.clear()
    async with serve_raw(handler) as server, relaying() as relay:
        call = asyncio.ensure_future(relay.call(target(server.url), client=client))
        await stalled.wait()
        # What fits into the sockets' own buffers, and no more.
        assert written < 20_000_000
        client.reads.set()
        await call
    assert len(client.streamed) == 401


async def test_a_client_that_reads_nothing_is_given_up() -> None:
    client = AsgiClient()
    client.reads.clear()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(progress(1), end=False))
        await asyncio.Event().wait()

    async with serve_raw(handler) as server, relaying(stream_limits=StreamLimits(write_timeout_s=0.05)) as relay:
        await relay.call(target(server.url), client=client)
        await server.ended.get()
        assert len(relay.pool) == 0


@pytest.mark.parametrize("begun", [b"", events(progress(1), end=False), b"HTTP/1.1 200 OK\r\nContent-Type: appl"])
async def test_a_client_that_leaves_ends_the_request_of_the_upstream(begun: bytes) -> None:
    client = AsgiClient()
    asked = asyncio.Event()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(begun)
        asked.set()
        await asyncio.Event().wait()

    async with serve_raw(handler) as server, relaying() as relay:
        call = asyncio.ensure_future(relay.call(target(server.url), client=client))
        await asked.wait()
        client.left.set()
        await call
        await server.ended.get()
        assert len(relay.pool) == 0
    assert b"result" not in client.body
    assert b"error" not in client.body


@pytest.mark.parametrize("event", [b": nothing\n\n", sse(progress(1))])
async def test_a_client_that_leaves_ends_a_stream_that_is_never_silent(event: bytes) -> None:
    client = AsgiClient()
    asked = asyncio.Event()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(events(end=False))
        asked.set()
        while True:
            writer.write(chunk(event))
            await writer.drain()
            await asyncio.sleep(0)

    async with serve_raw(handler) as server, relaying() as relay:
        call = asyncio.ensure_future(relay.call(target(server.url), client=client))
        await asked.wait()
        client.left.set()
        async with asyncio.timeout(5):
            await call
        assert len(relay.pool) == 0


async def test_a_client_that_leaves_between_two_tries_is_not_worked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    client = AsgiClient()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(json_answer(result()))
            return
        await client.watched.wait()
        writer.close()

    async with serve_raw(handler) as server, relaying() as relay:
        take = relay.pool.take

        async def taken(*where: Any, fresh: bool = False, **more: Any) -> Pooled:
            if fresh:
                client.left.set()
                await drain()
            return await take(*where, fresh=fresh, **more)

        monkeypatch.setattr(relay.pool, "take", taken)
        wanted = target(server.url, repeatable=True)
        await relay.call(wanted)
        await relay.call(wanted, client=client)
        assert (len(server.requests), len(relay.pool)) == (2, 1)
    assert not client.pieces


async def test_a_relay_that_is_cancelled_ends_the_request_of_the_upstream() -> None:
    asked = asyncio.Event()

    async def handler(_: Request, __: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with serve_raw(handler) as server, relaying() as relay:
        call = asyncio.ensure_future(relay.call(target(server.url)))
        await asked.wait()
        call.cancel()
        await server.ended.get()
        assert len(relay.pool) == 0


async def test_only_modern_upstreams_by_http_are_served() -> None:
    async with relaying() as relay:
        assert relay.relay.serves(target("http://127.0.0.1:1/mcp"))
        assert not relay.relay.serves(target(upstream(transport=Transport.SSE)))
        relay.relay._era = lambda _: None
        assert not relay.relay.serves(target("http://127.0.0.1:1/mcp"))
        relay.relay._era = lambda _: Era.LEGACY
        assert not relay.relay.serves(target("http://127.0.0.1:1/mcp"))


async def test_a_missing_connection_of_the_caller_is_said() -> None:
    async with relaying() as relay:
        client = await relay.call(target(upstream(auth=Auth.OAUTH)))
    assert client.error["data"] == {"code": "connection_required"}


async def test_a_secret_that_does_not_open_is_said_and_not_shown() -> None:
    async with relaying() as relay:
        client = await relay.call(target(replace(secured("http://127.0.0.1:8080/mcp"), secret=b"x" * 60)))
    assert "does not open" in client.error["message"]
    assert client.error["code"] == INTERNAL_ERROR


async def test_connections_are_used_again_and_never_by_another_version_or_tenant() -> None:
    async with serve_raw(answering(json_answer(result()))) as server, relaying() as relay:
        wanted = target(server.url)
        for _ in range(3):
            await relay.call(wanted)
        assert server.connections == 1
        await relay.call(replace(wanted, upstream=replace(wanted.upstream, version=2)))
        assert server.connections == 2
        assert relay.pool.idle == 2


async def test_an_idle_connection_is_not_kept_for_long() -> None:
    clock = Clock()
    async with serve_raw(answering(json_answer(result()))) as server, relaying(clock=clock) as relay:
        await relay.call(target(server.url))
        clock.advance(3.9)
        await relay.call(target(server.url))
        assert server.connections == 1
        clock.advance(4.1)
        await relay.call(target(server.url))
        assert server.connections == 2


async def test_a_server_may_say_how_long_it_waits() -> None:
    clock = Clock()
    raw = json_answer(result(), more=b"Keep-Alive: timeout=20, max=5\r\n")
    async with serve_raw(answering(raw)) as server, relaying(clock=clock) as relay:
        await relay.call(target(server.url))
        clock.advance(18.9)
        await relay.call(target(server.url))
        assert server.connections == 1
        clock.advance(19.1)
        relay.pool.close_idle()
        assert len(relay.pool) == 0


@pytest.mark.parametrize("repeatable", [True, False])
async def test_only_what_may_be_repeated_is_when_an_idle_connection_breaks(repeatable: bool) -> None:
    calls = 0

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            # As a server does whose time for idle connections is up just now.
            writer.close()
            return
        writer.write(json_answer(result()))

    async with serve_raw(handler) as server, relaying() as relay:
        wanted = target(server.url, repeatable=repeatable)
        await relay.call(wanted)
        client = await relay.call(wanted)
        if repeatable:
            assert client.answer == result()
            assert calls == 3
        else:
            assert client.error["message"] == "Upstream 'one' closed the connection."
            assert calls == 2


@pytest.mark.parametrize(("repeatable", "asked"), [(True, 4), (False, 2)])
async def test_an_answer_that_broke_off_is_asked_for_again_where_that_may_be(repeatable: bool, asked: int) -> None:
    calls = 0

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.write(json_answer(result()) if calls == 1 else b"HTTP/1.1 2")
        if calls > 1:
            await writer.drain()
            writer.close()

    async def sleep(_: float) -> None:
        return

    async with serve_raw(handler) as server, relaying(sleep=sleep) as relay:
        wanted = target(server.url, repeatable=repeatable)
        await relay.call(wanted)
        assert (await relay.call(wanted)).error["code"] == INTERNAL_ERROR
    assert calls == asked


async def test_open_connections_are_bounded() -> None:
    asked = asyncio.Semaphore(0)

    async def handler(_: Request, __: asyncio.StreamWriter) -> None:
        asked.release()
        await asyncio.Event().wait()

    async with serve_raw(handler) as server, relaying(max_connections=2) as relay:
        held = [asyncio.ensure_future(relay.call(target(server.url))) for _ in range(2)]
        for _number in range(2):
            await asked.acquire()
        refused = await relay.call(target(server.url))
        assert refused.error["message"] == "All upstream connections are in use; try again shortly."
        for each in held:
            each.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert len(relay.pool) == 0


async def test_an_idle_connection_makes_room_for_another_upstream() -> None:
    async with (
        serve_raw(answering(json_answer(result()))) as one,
        serve_raw(answering(json_answer(result()))) as two,
        relaying(max_connections=1) as relay,
    ):
        await relay.call(target(one.url))
        client = await relay.call(target(upstream("two", 2, endpoint=two.url)))
        assert client.answer == result()
        assert len(relay.pool) == 1


def test_what_carries_a_credential_does_not_print_it() -> None:
    key = PoolKey(PRINCIPAL.org_id, upstream().id, 1)
    assert SECRET not in repr(Wire(key, Destination("h", 1, True, b"h", b"/"), SECRET.encode()))
