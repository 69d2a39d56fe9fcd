from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from mcp import MCPError
from mcp.shared.exceptions import NoBackChannelError

from agentapi.errors import (
    AgentAPIError,
    ForbiddenError,
    NotAcceptableError,
    NotFoundError,
    UpstreamError,
    UpstreamTimeoutError,
)
from agentapi.gateway.pages import RawResult
from agentapi.gateway.reply import StreamLimits
from agentapi.gateway.rpc import RpcRefusalError
from unit.gateway.fronts import MODERN, SOON_S, StubRouter, World, call, modern_request, scope_refusal, tool

if TYPE_CHECKING:
    from agentapi.gateway.exchange import Exchange

CALL = modern_request("tools/call", {"name": "t", "arguments": {}})


def answering(result: dict[str, Any]) -> World:
    async def answer(_: Exchange) -> dict[str, Any]:
        return result

    return World(StubRouter({"tools/call": answer}))


def failing(error: Exception) -> World:
    async def answer(_: Exchange) -> dict[str, Any]:
        raise error

    return World(StubRouter({"tools/call": answer}))


async def test_an_answer_that_nothing_precedes_is_json() -> None:
    result = {"resultType": "complete", "content": [], "com.example/unknown": {"deep": [1, None]}}
    client = await answering(result).ask_modern(CALL).answered()
    assert client.status == 200
    answer = client.json()
    assert answer["id"] == 1
    meta = answer["result"].pop("_meta")
    assert meta["io.modelcontextprotocol/serverInfo"]["name"] == "agentapi"
    assert answer["result"] == result


async def test_a_notification_turns_the_answer_into_a_stream() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        await exchange.peer.notify("notifications/progress", {"progressToken": 7, "progress": 0.5, "x": "kept"})
        return {"resultType": "complete"}

    client = await World(StubRouter({"tools/call": answer})).ask_modern(CALL).answered()
    first, last = client.events
    assert first == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": 7, "progress": 0.5, "x": "kept"},
    }
    assert last["result"]["resultType"] == "complete"


@pytest.mark.parametrize("ping_s", [0.01, 60.0])
async def test_the_stream_of_a_request_ends_with_its_token(ping_s: float) -> None:
    cancelled = asyncio.Event()

    async def answer(exchange: Exchange) -> dict[str, Any]:
        await exchange.peer.notify("notifications/progress", {"progressToken": 7, "progress": 0.5})
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    gateway = World(StubRouter({"tools/call": answer}), StreamLimits(ping_s=ping_s))
    client = await gateway.ask_modern(CALL, by=call(expires_at=time.time() + 0.2)).answered()
    first, last = client.events
    assert first["method"] == "notifications/progress"
    assert last["error"]["data"] == {"code": "token_ended"}
    assert cancelled.is_set()


async def test_an_answer_without_a_stream_may_come_after_the_token_ended() -> None:
    async def silent(_: Exchange) -> dict[str, Any]:
        return {"resultType": "complete"}

    client = await World(StubRouter({"tools/call": silent})).ask_modern(CALL, by=call(expires_at=1)).answered()
    assert "result" in client.json()


async def test_silence_is_broken_by_a_comment() -> None:
    done = asyncio.Event()

    async def answer(_: Exchange) -> dict[str, Any]:
        await done.wait()
        return {}

    async with World(StubRouter({"tools/call": answer}), StreamLimits(ping_s=0.01)).ask_modern(CALL) as asked:
        await asked.client.started()
        done.set()
        client = await asked.answered()
    assert client.body.startswith(b": ping\n\n")
    assert len(client.events) == 1


@pytest.mark.parametrize(
    ("level", "given", "written"),
    [(None, "emergency", False), ("warning", "error", True), ("warning", "info", False), ("nonsense", "error", False)],
)
async def test_log_messages_are_written_to_whoever_asked_for_them(level: str | None, given: str, written: bool) -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        await exchange.peer.notify("notifications/message", {"level": given, "data": "x"})
        return {}

    meta: dict[str, Any] = {} if level is None else {"io.modelcontextprotocol/logLevel": level}
    message = modern_request("tools/call", {"name": "t"}, meta=meta)
    if level == "nonsense":
        # The revision's own schema refuses it before the router is asked.
        client = await World(StubRouter({"tools/call": answer})).ask_modern(message).answered()
        assert client.json()["error"]["code"] == -32602
        return
    client = await World(StubRouter({"tools/call": answer})).ask_modern(message).answered()
    assert (client.headers["content-type"] == "text/event-stream") is written


async def test_changes_of_lists_do_not_ride_on_a_requests_stream() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        await exchange.peer.notify("notifications/tools/list_changed", {})
        await exchange.peer.notify("notifications/resources/updated", {"uri": "a:b"})
        return {}

    client = await World(StubRouter({"tools/call": answer})).ask_modern(CALL).answered()
    assert client.json()["result"] is not None


async def test_a_modern_client_cannot_be_asked() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        return await exchange.peer.ask("sampling/createMessage", {})

    client = await World(StubRouter({"tools/call": answer})).ask_modern(CALL).answered()
    assert client.json()["error"]["message"] == NoBackChannelError("sampling/createMessage").message


ERRORS: list[tuple[Exception, int, int]] = [
    (MCPError(code=-32601, message="no"), 404, -32601),
    (MCPError(code=-32602, message="no"), 400, -32602),
    (MCPError(code=-32021, message="no", data={"requiredCapabilities": {"sampling": {}}}), 400, -32021),
    (MCPError(code=-31234, message="the upstream's own", data={"a": [1]}), 200, -31234),
    (NotFoundError("no such tool"), 400, -32602),
    (ForbiddenError("no"), 400, -32600),
    (UpstreamError("down"), 200, -32603),
    (UpstreamTimeoutError("slow"), 200, -32603),
]


@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=str)
async def test_an_error_has_its_code_and_its_status(error: Exception, status: int, code: int) -> None:
    client = await failing(error).ask_modern(CALL).answered()
    described = client.json()["error"]
    assert (client.status, described["code"]) == (status, code)
    if isinstance(error, MCPError):
        assert described["message"] == error.message
        assert described.get("data") == error.data
    elif isinstance(error, AgentAPIError):
        assert described == {"code": code, "message": error.message, "data": {"code": error.code}}


async def test_a_defect_tells_the_client_nothing() -> None:
    client = await failing(RuntimeError("password=hunter2")).ask_modern(CALL).answered()
    assert client.json()["error"]["code"] == -32603
    assert b"hunter2" not in client.body


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1, 2}])
async def test_a_result_that_is_no_json_is_an_upstreams_failure(value: object) -> None:
    client = await answering({"structuredContent": value}).ask_modern(CALL).answered()
    assert client.json()["error"]["data"] == {"code": "upstream_unavailable"}


async def test_an_error_whose_data_is_no_json_keeps_its_code() -> None:
    client = await failing(MCPError(code=-32001, message="gr\ud800ß", data=float("nan"))).ask_modern(CALL).answered()
    assert client.json()["error"] == {"code": -32001, "message": "gr??"}


async def test_a_scope_that_policy_misses_is_challenged() -> None:
    client = await failing(scope_refusal("mcp:tools", "tool:danger")).ask_modern(CALL).answered()
    assert client.status == 403
    assert client.headers["www-authenticate"] == 'Bearer scope="mcp:tools tool:danger"'
    assert client.json()["id"] == 1


def without(*keys: str) -> dict[str, Any]:
    message = modern_request("tools/call", {"name": "t"})
    message["params"]["_meta"] = {k: v for k, v in message["params"]["_meta"].items() if k.split("/")[1] not in keys}
    return message


LADDER: dict[str, tuple[dict[str, Any], dict[str, str], int, int]] = {
    "no version in _meta": (without("protocolVersion"), {}, -32602, 400),
    "no capabilities in _meta": (without("clientCapabilities"), {}, -32602, 400),
    "no _meta": ({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}, {}, -32602, 400),
    "version disagrees": (CALL, {"mcp-protocol-version": "2099-01-01"}, -32020, 400),
    "version is unknown": (
        modern_request("tools/list", meta={"io.modelcontextprotocol/protocolVersion": "2099-01-01"}),
        {"mcp-protocol-version": "2099-01-01"},
        -32022,
        400,
    ),
    "method disagrees": (CALL, {"mcp-method": "tools/list"}, -32020, 400),
    "name disagrees": (CALL, {"mcp-name": "u"}, -32020, 400),
    "name is no text": (modern_request("tools/call", {"name": 5}), {"mcp-name": "5"}, -32020, 400),
    "name is badly encoded": (CALL, {"mcp-name": "=?base64?%%?="}, -32020, 400),
    "capabilities are text": (
        modern_request("tools/list", meta={"io.modelcontextprotocol/clientCapabilities": "all"}),
        {},
        -32602,
        400,
    ),
    "introduction is text": (
        modern_request("tools/list", meta={"io.modelcontextprotocol/clientInfo": "me"}),
        {},
        -32602,
        400,
    ),
    "a response": ({"jsonrpc": "2.0", "id": 1, "result": {}}, {}, -32600, 400),
    "a notification of an unknown revision": (
        {"jsonrpc": "2.0", "method": "notifications/x"},
        {"mcp-protocol-version": "2099-01-01"},
        -32022,
        400,
    ),
}


@pytest.mark.parametrize("case", LADDER)
async def test_headers_and_envelope_are_refused_before_anybody_is_asked(case: str) -> None:
    message, headers, code, status = LADDER[case]
    world = World()
    with pytest.raises(RpcRefusalError) as caught:
        await world.ask_modern(message, headers=headers).answered()
    assert (caught.value.error["code"], caught.value.status) == (code, status)
    if code == -32022:
        assert caught.value.error["data"] == {"supported": [MODERN], "requested": "2099-01-01"}
    assert world.router.exchanges == []


@pytest.mark.parametrize("header", ["mcp-protocol-version", "mcp-method", "mcp-name"])
async def test_a_routing_header_is_given_once(header: str) -> None:
    value = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "t"}[header]
    with pytest.raises(RpcRefusalError) as caught:
        await World().ask_modern(CALL, more=[(header, value)]).answered()
    assert caught.value.error["code"] == -32020


@pytest.mark.parametrize(
    ("method", "params", "code", "status"),
    [
        ("tools/nonsense", {}, -32601, 404),
        ("ping", {}, -32601, 404),
        ("initialize", {}, -32601, 404),
        ("resources/subscribe", {"uri": "a:b"}, -32601, 404),
        ("tools/call", {}, -32602, 400),
        ("tools/call", {"name": "t", "arguments": [1]}, -32602, 400),
        ("resources/read", {"uri": None}, -32602, 400),
        ("subscriptions/listen", {"notifications": 1}, -32602, 400),
    ],
)
async def test_methods_and_params_are_those_of_the_revision(
    method: str, params: dict[str, Any], code: int, status: int
) -> None:
    world = World()
    client = await world.ask_modern(modern_request(method, params)).answered()
    assert (client.json()["error"]["code"], client.status) == (code, status)
    assert world.router.exchanges == []


@pytest.mark.parametrize("accept", ["", "text/html", "application/json", "text/event-stream", "*/*;q=0"])
async def test_a_client_has_to_take_what_may_come(accept: str) -> None:
    with pytest.raises(NotAcceptableError):
        await World().ask_modern(CALL, headers={"accept": accept}).answered()


async def test_a_notification_is_accepted_and_let_go() -> None:
    world = World()
    client = await world.ask_modern({"jsonrpc": "2.0", "method": "notifications/cancelled"}).answered()
    assert (client.status, client.body) == (202, b"")
    assert world.router.notices == []


MIRRORED = tool(region={"type": "string", "x-mcp-header": "Region"}, size={"type": "integer", "x-mcp-header": "Size"})


@pytest.mark.parametrize(
    ("arguments", "headers", "agrees"),
    [
        ({}, {}, True),
        ({"region": "eu"}, {"mcp-param-region": "eu"}, True),
        ({"region": "Zürich"}, {"mcp-param-region": "=?base64?WsO8cmljaA==?="}, True),
        ({"size": 42}, {"mcp-param-size": "42.0"}, True),
        ({"region": "eu"}, {"mcp-param-region": "us"}, False),
        ({"region": "eu"}, {}, False),
        ({}, {"mcp-param-region": "eu"}, False),
        ({"region": "eu"}, {"mcp-param-region": "=?base64?%%?="}, False),
        ({"other": 1}, {"mcp-param-other": "2"}, True),
    ],
)
async def test_mirrored_arguments_agree_with_the_tools_schema(
    arguments: dict[str, Any], headers: dict[str, str], agrees: bool
) -> None:
    world = answering({})
    world.router.targets["t"] = MIRRORED
    message = modern_request("tools/call", {"name": "t", "arguments": arguments})
    for _ in range(2):
        client = await world.ask_modern(message, headers=headers).answered()
        assert client.status == (200 if agrees else 400), client.body
        if not agrees:
            assert client.json()["error"]["code"] == -32020
    assert len(world.router.exchanges) == (2 if agrees else 0)


async def test_a_client_that_leaves_cancels_its_request() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(_: Exchange) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with World(StubRouter({"tools/call": answer})).ask_modern(CALL) as asked:
        await asyncio.wait_for(begun.wait(), SOON_S)
    assert cancelled.is_set()
    assert asked.client.status is None


async def test_a_client_that_leaves_in_the_middle_of_its_stream_cancels_its_request() -> None:
    cancelled = asyncio.Event()

    async def answer(exchange: Exchange) -> dict[str, Any]:
        await exchange.peer.notify("notifications/progress", {"progressToken": 1, "progress": 1})
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with World(StubRouter({"tools/call": answer})).ask_modern(CALL) as asked:
        await asked.client.event()
    assert cancelled.is_set()
    assert not asked.client.is_complete


async def test_a_reader_that_pauses_holds_up_whoever_writes() -> None:
    written = 0

    async def answer(exchange: Exchange) -> dict[str, Any]:
        nonlocal written
        for number in range(200):
            await exchange.peer.notify("notifications/progress", {"progressToken": "x" * 1000, "progress": number})
            written += 1
        return {"resultType": "complete"}

    world = World(StubRouter({"tools/call": answer}), StreamLimits(buffer_bytes=10_000))
    asked = world.ask_modern(CALL)
    asked.client.reads.clear()
    for _ in range(1000):
        await asyncio.sleep(0)
    # One bufferful on its way and one that waits.
    assert written <= 20
    asked.client.reads.set()
    client = await asked.answered()
    assert [event["params"]["progress"] for event in client.events[:-1]] == list(range(200))
    assert client.events[-1]["result"]["resultType"] == "complete"


async def test_a_reader_that_never_reads_is_given_up() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        while True:
            await exchange.peer.notify("notifications/progress", {"progressToken": 1, "progress": 1})

    limits = StreamLimits(buffer_bytes=1000, write_timeout_s=0.02)
    asked = World(StubRouter({"tools/call": answer}), limits).ask_modern(CALL)
    asked.client.reads.clear()
    client = await asked.answered()
    assert client.status is None


class Bytes:
    """A relay that serves one tool, or finds out that it cannot."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.forwarded: list[str] = []

    def serves(self, target: Any) -> bool:
        return target is MIRRORED

    async def forward(self, exchange: Exchange, target: Any, scope: Any, receive: Any, send: Any) -> None:
        del target, scope, receive
        if self.failure is not None:
            raise self.failure
        self.forwarded.append(exchange.method)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": exchange.incoming.body})


async def test_what_the_relay_serves_does_not_reach_the_router() -> None:
    relay = Bytes()
    world = World(relay=relay)
    world.router.targets["t"] = MIRRORED
    client = await world.ask_modern(CALL).answered()
    assert relay.forwarded == ["tools/call"]
    assert b'"method": "tools/call"' in client.body
    # A header that disagrees is refused before.
    refused = await world.ask_modern(CALL, headers={"mcp-param-region": "eu"}).answered()
    assert refused.json()["error"]["code"] == -32020
    assert relay.forwarded == ["tools/call"]


async def test_a_call_inside_another_is_not_relayed_where_headers_repeat_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(_: Exchange) -> dict[str, Any]:
        return {"resultType": "complete"}

    async def inner(_: StubRouter, exchange: Exchange) -> Exchange:
        return replace(exchange, inner=True)

    monkeypatch.setattr(StubRouter, "meant", inner)
    relay = Bytes()
    world = World(StubRouter({"tools/call": answer}), relay=relay)
    world.router.targets["t"] = MIRRORED
    # Nor are they asked of the client, which has named another tool.
    client = await world.ask_modern(CALL, headers={}).answered()
    assert client.json()["result"]["resultType"] == "complete"
    assert relay.forwarded == []


async def test_what_the_relay_finds_out_before_it_sends_is_an_error() -> None:
    world = World(relay=Bytes(UpstreamError("down")))
    world.router.targets["t"] = MIRRORED
    assert (await world.ask_modern(CALL).answered()).json()["error"]["message"] == "down"


LISTEN = {"toolsListChanged": True, "resourceSubscriptions": ["a:1", "a:2"]}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


async def test_a_listener_is_acknowledged_first_and_hears_what_it_asked_for() -> None:
    world = World()
    asked = world.ask_modern(modern_request("subscriptions/listen", {"notifications": LISTEN}, identifier="s"))
    async with asked:
        assert await asked.client.event() == {
            "jsonrpc": "2.0",
            "method": "notifications/subscriptions/acknowledged",
            "params": {"notifications": LISTEN, "_meta": {SUBSCRIPTION: "s"}},
        }
        world.router.tell("notifications/prompts/list_changed")
        world.router.tell("notifications/resources/updated", uri="a:3")
        world.router.tell("notifications/resources/updated", uri="a:22")
        world.router.tell("notifications/resources/updated", uri="a:2", _meta={"x": 1})
        world.router.tell("notifications/resources/updated", uri="a:2/part")
        world.router.tell("notifications/tools/list_changed")
        assert (await asked.client.event())["params"] == {"uri": "a:2", "_meta": {"x": 1, SUBSCRIPTION: "s"}}
        assert (await asked.client.event())["params"] == {"uri": "a:2/part", "_meta": {SUBSCRIPTION: "s"}}
        assert (await asked.client.event())["method"] == "notifications/tools/list_changed"
    assert len(asked.client.events) == 4
    assert world.router.listeners == {}
    assert len(world.streams) == 0


async def test_changes_that_wait_are_told_once() -> None:
    world = World()
    asked = world.ask_modern(modern_request("subscriptions/listen", {"notifications": LISTEN}))
    async with asked:
        await asked.client.event()
        asked.client.reads.clear()
        for _ in range(10_000):
            world.router.tell("notifications/tools/list_changed")
            await asyncio.sleep(0)
        asked.client.reads.set()
        await asked.client.event()
        for _ in range(20):
            await asyncio.sleep(0)
        # One was being written when the reader paused, some waited in the buffer, bounded by its size.
        assert len(asked.client.body) < 600_000


async def test_a_listener_is_let_go_when_the_process_stops() -> None:
    world = World()
    asked = world.ask_modern(modern_request("subscriptions/listen", {"notifications": LISTEN}, identifier=9))
    await asked.client.event()
    world.streams.drain()
    client = await asked.answered()
    assert client.is_complete
    assert client.events[-1]["id"] == 9
    assert client.events[-1]["result"]["_meta"][SUBSCRIPTION] == 9
    # And whoever comes while it stops is let go as well.
    late = await world.ask_modern(modern_request("subscriptions/listen", {"notifications": {}})).answered()
    assert [sorted(event) for event in late.events] == [["jsonrpc", "method", "params"], ["id", "jsonrpc", "result"]]


async def test_a_listener_does_not_outlive_its_token() -> None:
    world = World()
    message = modern_request("subscriptions/listen", {"notifications": LISTEN})
    client = await world.ask_modern(message, by=call(expires_at=1)).answered()
    assert client.events[-1]["result"]["resultType"] == "complete"


async def test_listeners_are_bounded() -> None:
    world = World(most_streams=1)
    message = modern_request("subscriptions/listen", {"notifications": LISTEN})
    async with world.ask_modern(message) as first:
        await first.client.event()
        refused = await world.ask_modern(message).answered()
        assert refused.status == 429
        assert refused.json()["error"]["data"] == {"code": "too_many_streams"}
    many = {"resourceSubscriptions": [f"a:{number}" for number in range(257)]}
    refused = await world.ask_modern(modern_request("subscriptions/listen", {"notifications": many})).answered()
    assert refused.json()["error"]["code"] == -32602


async def test_an_upstream_that_cannot_be_listened_to_is_an_error() -> None:
    world = World(StubRouter(refuse_to_listen=UpstreamError("down")))
    message = modern_request("subscriptions/listen", {"notifications": LISTEN})
    client = await world.ask_modern(message).answered()
    assert client.json()["error"]["message"] == "down"


@pytest.mark.asyncio(loop_scope="function")
async def test_a_thousand_listeners_leave_nothing_behind() -> None:
    world = World()
    before = len(asyncio.all_tasks())
    message = modern_request("subscriptions/listen", {"notifications": LISTEN})
    asked = [world.ask_modern(message) for _ in range(1000)]
    for one in asked:
        await one.client.event()
    assert len(world.streams) == 1000
    world.router.tell("notifications/tools/list_changed")
    for one in asked:
        assert (await one.client.event())["method"] == "notifications/tools/list_changed"
    for one in asked:
        one.client.leave()
    await asyncio.gather(*(one.task for one in asked))
    assert len(world.streams) == 0
    assert world.router.listeners == {}
    assert len(asyncio.all_tasks()) == before


async def test_a_result_that_is_written_already_is_not_written_again() -> None:
    written = RawResult({"tools": []}, b'{"tools": [ ]}')
    client = await answering(written).ask_modern(CALL).answered()
    assert b'"result":{"tools": [ ],"_meta":{"io.modelcontextprotocol/serverInfo":' in client.body
    assert client.json()["result"]["tools"] == []
