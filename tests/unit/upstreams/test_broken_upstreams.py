"""Upstreams over HTTP that fail in every way, and what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from mcp import MCPError
from mcp_types import jsonrpc_message_adapter
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse

from agentapi.errors import UpstreamError, UpstreamTimeoutError, UpstreamUnaskedError
from agentapi.upstreams.breakers import outcome_of
from agentapi.upstreams.link import Bounds, Era
from agentapi.upstreams.lists import MAX_LIST_BYTES
from agentapi.upstreams.wanted import Limits
from unit.upstreams.servers import (
    ALICE,
    BOB,
    Heard,
    Journal,
    World,
    call,
    full_http,
    full_server,
    full_sse,
    http,
    serving,
    session_of,
    sse,
    text_of,
    world,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from agentapi.upstreams.models import Upstream

DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
    "unknownField": 1,
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "raw", "version": "1"}},
}

_KINDS = ("application/json", "text/event-stream")


@dataclass(slots=True)
class Raw:
    """An ASGI server that answers ``server/discover`` as told and ``tools/call`` by the tool's name."""

    discovered: Response | None = None
    tools: dict[str, Callable[[Any], Response]] = field(default_factory=dict)
    tools_list: Callable[[Any], Response] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    broken: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        asked = json.loads(body or b"{}")
        self.bodies.append(asked)
        if asked.get("method") == "server/discover":
            answer = self.discovered or result(asked, DISCOVERED)
        elif asked.get("method") == "tools/call":
            answer = self.tools[asked["params"]["name"]](asked)
        elif asked.get("method") == "tools/list" and self.tools_list is not None:
            answer = self.tools_list(asked)
        else:
            answer = PlainTextResponse("no", 404)
        await answer(scope, receive, send)


def result(asked: dict[str, Any], value: Any) -> Response:
    return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": value})


def streamed(*pieces: bytes, kind: str = "text/event-stream", hang: bool = False, die: bool = False) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        if hang:
            await asyncio.Event().wait()
        if die:
            raise ConnectionResetError

    return StreamingResponse(body(), media_type=kind)


@contextlib.asynccontextmanager
async def setting(raw: Raw, *, bounds: Bounds | None = None, **limits: Any) -> AsyncIterator[tuple[World, Upstream]]:
    async with serving(raw) as url, world(limits=Limits(connect_timeout_s=2.0, **limits), bounds=bounds) as made:
        yield made, http(f"{url}/mcp")


def event(asked: dict[str, Any], value: Any) -> bytes:
    return b"data: " + json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": value}).encode() + b"\n\n"


GOOD = b'{"jsonrpc":"2.0","id":%b,"result":{"resultType":"complete","content":[]}}'
TWICE = b'{"jsonrpc":"2.0","id":%b,"result":{},"result":{"resultType":"complete","content":[]}}'


def answering(form: bytes, *, identifier: object = None, as_event: bool) -> Callable[[Any], Response]:
    """Return an answer that is left open where it is an event, so that nothing but the event ends the wait."""

    def answer(asked: Any) -> Response:
        body = form % json.dumps(asked["id"] if identifier is None else identifier).encode()
        if as_event:
            return streamed(b"id: 1\ndata: " + body + b"\n\n", hang=True)
        return Response(body, media_type="application/json")

    return answer


ANSWERS: dict[str, tuple[Callable[[Any], Response], str]] = {
    "garbage": (lambda _: Response(b"\xff\x00{", media_type="application/json"), "protocol does not allow"),
    "no result": (lambda asked: result(asked, [1]), "protocol does not allow"),
    "a page": (lambda _: Response("<html>", media_type="text/html"), "protocol does not allow"),
    "accepted": (lambda _: Response(status_code=202), "protocol does not allow"),
    "a status": (lambda _: PlainTextResponse("no", 500), "failed: it answered HTTP 500"),
    "a wish": (lambda _: PlainTextResponse("no", 401), "failed: it answered HTTP 401, so it wants a credential"),
    "a redirect": (
        lambda _: RedirectResponse("https://elsewhere.example/"),
        "failed: it answered HTTP 307, a redirect",
    ),
    "100 MB": (
        lambda _: streamed(*[b" " * 2**20] * 100, kind="application/json"),
        "protocol does not allow|failed: its answer is too large",
    ),
    "an event of 2 MB": (lambda _: streamed(b"data: " + b" " * 2**21 + b"\n\n"), "broke off its answer"),
    "a stream that ends": (lambda _: streamed(b": ping\n\n"), "broke off its answer"),
    "a stream that dies": (lambda _: streamed(b": ping\n\n", die=True), "broke off its answer|failed: the connection"),
    "a body that dies": (
        lambda _: streamed(b'{"json', kind="application/json", die=True),
        "failed: the connection broke",
    ),
    "a dribble": (lambda _: streamed(b": ping\n\n", hang=True), r"did not answer within 0\.5 s"),
    "silence": (lambda _: streamed(kind="application/json", hang=True), r"did not answer within 0\.5 s"),
}


@pytest.mark.parametrize(("answer", "words"), ANSWERS.values(), ids=ANSWERS)
async def test_a_broken_answer_is_told_in_words_and_breaks_nothing_else(
    answer: Callable[[Any], Response], words: str
) -> None:
    slow = asyncio.Event()

    def slowly(asked: Any) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b": wait\n\n"
            await slow.wait()
            yield event(asked, {"content": []})

        return StreamingResponse(body(), media_type="text/event-stream")

    raw = Raw(tools={"broken": answer, "slow": slowly})
    async with setting(raw) as (made, up):
        await made.client.profile(up, ALICE)
        other = asyncio.ensure_future(call(made.client, up, ALICE, "slow"))
        while len(raw.bodies) < 2:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        with pytest.raises(UpstreamError, match=re.compile(words)) as caught:
            await call(made.client, up, ALICE, "broken", timeout_s=0.5 if "0\\.5" in words else 30)
        assert "pydantic" not in caught.value.message
        assert "127.0.0.1" not in caught.value.message
        slow.set()
        assert await asyncio.wait_for(other, 5) == {"content": []}
        assert sum(body["method"] == "server/discover" for body in raw.bodies) == 1


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_a_list_page_is_not_read_past_what_a_list_may_hold(kind: str) -> None:
    def padded(asked: Any) -> Response:
        streams = kind == "text/event-stream"
        padding = (b": wait\n\n" if streams else b" " * 8) * (MAX_LIST_BYTES // 8)
        message = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"tools": []}}).encode()
        return Response(padding + (b"data: " if streams else b"") + message + b"\n\n", media_type=kind)

    raw = Raw(tools_list=padded, tools={"t": lambda asked: result(asked, {"content": []})})
    async with setting(raw) as (made, up):
        with pytest.raises(UpstreamError, match="failed: its answer is too large"):
            await made.client.request(up, ALICE, "tools/list", {}, timeout_s=20, repeatable=True)
        assert [body["method"] for body in raw.bodies].count("tools/list") == 1
        assert await call(made.client, up, ALICE, "t") == {"content": []}


@pytest.mark.parametrize("as_event", [False, True], ids=["json", "event"])
@pytest.mark.parametrize(
    ("form", "identifier"), [(GOOD, "other"), (GOOD, 10**6), (TWICE, None)], ids=["a word", "a number", "twice"]
)
async def test_only_an_answer_to_the_request_is_its_answer(form: bytes, identifier: object, as_event: bool) -> None:
    raw = Raw(tools={"t": answering(form, identifier=identifier, as_event=as_event)})
    raw.tools["u"] = answering(GOOD, as_event=as_event)
    async with setting(raw) as (made, up):
        # The bound is that of the test: no wait runs out.
        with pytest.raises(UpstreamError, match="a result that the protocol does not allow"):
            await made.client.request(up, ALICE, "tools/call", {"name": "t"}, timeout_s=100)
        assert (await call(made.client, up, ALICE, "u"))["content"] == []


async def test_an_id_that_is_written_as_a_string_is_the_same() -> None:
    raw = Raw(tools={"t": lambda asked: answering(GOOD, identifier=str(asked["id"]), as_event=False)(asked)})
    async with setting(raw) as (made, up):
        assert (await call(made.client, up, ALICE, "t"))["content"] == []


async def test_a_body_that_is_no_response_ends_the_wait_for_one() -> None:
    notice = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "error", "data": 1}}
    raw = Raw(tools={"t": lambda _: JSONResponse(notice)})
    async with setting(raw) as (made, up):
        # The bound is that of the test: no wait runs out.
        with pytest.raises(UpstreamError, match="a result that the protocol does not allow"):
            await made.client.request(up, ALICE, "tools/call", {"name": "t"}, timeout_s=100)


@pytest.mark.parametrize("words", ["Connection closed", "SSE stream ended", "Not Found", "Unexpected content type"])
async def test_an_error_in_the_words_of_the_sdk_is_the_upstreams_own(words: str) -> None:
    error = {"code": -32000, "message": words}
    raw = Raw(tools={"t": lambda asked: JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "error": error})})
    async with setting(raw) as (made, up):
        with pytest.raises(MCPError) as caught:
            await call(made.client, up, ALICE, "t")
        assert (caught.value.error.code, caught.value.error.message) == (-32000, words)


@pytest.mark.parametrize("as_event", [False, True], ids=["json", "event"])
async def test_an_error_without_an_id_is_about_the_request(as_event: bool) -> None:
    message = json.dumps({"jsonrpc": "2.0", "error": {"code": -32600, "message": "What?"}})
    given = Response(f"data: {message}\n\n" if as_event else message, media_type=_KINDS[as_event])
    async with setting(Raw(tools={"t": lambda _: given})) as (made, up):
        with pytest.raises(MCPError, match=r"What\?"):
            await call(made.client, up, ALICE, "t")


async def test_an_error_with_a_status_is_the_upstreams_own() -> None:
    error = {"code": -32602, "message": "Unknown tool", "data": {"x": [1]}}
    raw = Raw(tools={"t": lambda asked: JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "error": error}, 400)})
    async with setting(raw) as (made, up):
        with pytest.raises(MCPError) as caught:
            await call(made.client, up, ALICE, "t")
        assert caught.value.error.model_dump() == error


async def test_what_nobody_here_knows_survives() -> None:
    odd = {
        "resultType": "input_required",
        "inputRequests": {"a": {"method": "elicitation/create", "params": {"message": "?", "unknown": None}}},
        "requestState": "opaque",
        "unknownField": {"n": 2**60, "f": 21.0, "null": None},
        "_meta": {"traceparent": "00-1"},
    }
    raw = Raw(tools={"t": lambda asked: result(asked, odd)})
    async with setting(raw) as (made, up):
        params = {"name": "t", "arguments": {}, "inputResponses": {"a": 1}, "requestState": "s", "unknownParam": None}
        given = {**params, "_meta": {"traceparent": "00-2", "com.example/x": [1]}}
        assert await made.client.request(up, ALICE, "tools/call", given, timeout_s=5) == odd
        sent = raw.bodies[-1]["params"]
        meta = sent.pop("_meta")
        assert sent == params
        assert (meta["traceparent"], meta["com.example/x"]) == ("00-2", [1])
        assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
        profile = await made.client.profile(up, ALICE)
        assert (profile.era, profile.server_info) == (Era.MODERN, {"name": "raw", "version": "1"})


async def test_only_what_belongs_to_a_request_reaches_its_client() -> None:
    """Two requests on one connection: neither is told of the other's progress, nor of what nobody asked for."""
    begun, waiting, tokens = asyncio.Event(), asyncio.Event(), list[Any]()

    def note(method: str, **params: Any) -> bytes:
        return b"data: " + json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode() + b"\n\n"

    def victim(asked: Any) -> Response:
        async def body() -> AsyncIterator[bytes]:
            tokens.append(asked["params"]["_meta"]["progressToken"])
            begun.set()
            yield b": here\n\n"
            await waiting.wait()
            yield event(asked, {"resultType": "complete", "content": []})

        return StreamingResponse(body(), media_type="text/event-stream")

    def attacker(asked: Any) -> Response:
        own = asked["params"]["_meta"]["progressToken"]
        pieces = [
            note("notifications/progress", progressToken=tokens[0], progress=99),
            note("notifications/progress", progressToken=own, progress="much"),
            note("notifications/message", level="error", data="nobody asked"),
            note("notifications/cancelled", requestId=tokens[0]),
            note("notifications/elicitation/complete", elicitationId="e"),
            note("notifications/invented"),
            note("notifications/progress", progressToken=own, progress=1),
            event(asked, {"resultType": "complete", "content": []}),
        ]
        return streamed(*pieces)

    raw = Raw(tools={"victim": victim, "attacker": attacker})
    async with setting(raw) as (made, up):
        theirs, mine = Heard(), Heard()
        long = asyncio.ensure_future(
            call(made.client, up, ALICE, "victim", peer=theirs, meta={"progressToken": "theirs"})
        )
        async with asyncio.timeout(5):
            await begun.wait()
        await call(made.client, up, ALICE, "attacker", peer=mine, meta={"progressToken": "mine"})
        waiting.set()
        await long
    assert theirs.told == []
    assert mine.told == [("notifications/progress", {"progressToken": "mine", "progress": 1})]


_INVENTED = b'data: {"jsonrpc":"2.0","method":"x/invented"}\n\n'


@pytest.mark.parametrize("piece", [b": x\n\n", _INVENTED], ids=["comments", "events"])
async def test_a_stream_that_floods_is_ended(piece: bytes) -> None:
    raw = Raw(tools={"t": lambda _: streamed(*[piece * 1000] * 1000, hang=True)})
    async with setting(raw, bounds=Bounds(size_bytes=100_000)) as (made, up):
        with pytest.raises(UpstreamError, match="failed: its answer is too large"):
            await call(made.client, up, ALICE, "t")


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_request_ends_however_often_its_client_is_asked() -> None:
    """A question stops the clock of the answer, and none that of the whole."""
    journal, heard = Journal(), Heard(gate=asyncio.Event())
    async with (
        full_http(journal, legacy=True) as url,
        world(limits=Limits(connect_timeout_s=2.0), bounds=Bounds(time_s=0.5)) as made,
    ):
        with pytest.raises(UpstreamTimeoutError, match=r"did not complete its answer within 0\.5 s"):
            await call(made.client, http(url), session_of(ALICE, "s"), "sample", peer=heard, text="x")
    assert heard.asked


async def test_progress_may_be_slow_to_take_and_is_taken_before_the_answer() -> None:
    def reporting(asked: Any) -> Response:
        token = asked["params"]["_meta"]["progressToken"]
        steps = [
            {
                "jsonrpc": "2.0",
                "method": "notifications/progress",
                "params": {"progressToken": token, "progress": n, "x": n},
            }
            for n in range(50)
        ]
        return streamed(*(b"data: " + json.dumps(step).encode() + b"\n\n" for step in steps), event(asked, {"ok": 1}))

    class Slow(Heard):
        async def notify(self, method: str, params: dict[str, Any]) -> None:
            await asyncio.sleep(0.001)
            await super().notify(method, params)

    async with setting(Raw(tools={"t": reporting})) as (made, up):
        peer = Slow()
        assert await call(made.client, up, ALICE, "t", peer=peer, meta={"progressToken": "mine"}) == {"ok": 1}
        assert [params for _, params in peer.told] == [
            {"progressToken": "mine", "progress": n, "x": n} for n in range(50)
        ]


async def test_a_client_that_cannot_be_told_anything_still_gets_its_answer() -> None:
    class Gone(Heard):
        async def notify(self, method: str, params: dict[str, Any]) -> None:
            raise ConnectionResetError(method, params)

    journal = Journal()
    async with full_http(journal, legacy=False) as url, world() as made:
        peer = Gone()
        answer = call(made.client, http(url), ALICE, "steps", count=3, peer=peer, meta={"progressToken": 1})
        assert text_of(await answer) == "done"
        assert text_of(await call(made.client, http(url), ALICE, "echo", text="x")) == "x"


REFUSALS: dict[str, tuple[Response, str]] = {
    "no credential": (PlainTextResponse("no", 401), "HTTP 401"),
    "down": (PlainTextResponse("no", 503), "HTTP 503"),
    "limited": (PlainTextResponse("no", 429), "HTTP 429"),
    "modern words": (
        JSONResponse({"jsonrpc": "2.0", "id": None, "error": {"code": -32020, "message": "mismatch"}}, 400),
        "HTTP 400",
    ),
    "other versions": (
        JSONResponse(
            {
                "jsonrpc": "2.0",
                "id": None,
                "error": {"code": -32022, "message": "v", "data": {"supported": ["2027-01-01"]}},
            },
            400,
        ),
        "HTTP 400",
    ),
}


@pytest.mark.parametrize(("answer", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_that_says_nothing_of_the_era_is_not_taken_for_a_legacy_server(
    answer: Response, words: str
) -> None:
    raw = Raw(discovered=answer)
    async with setting(raw) as (made, up):
        with pytest.raises(UpstreamError, match=words):
            await made.client.profile(up, ALICE)
        assert [body["method"] for body in raw.bodies] == ["server/discover"]
        assert made.client.era(up) is None


@pytest.mark.parametrize("status", [400, 404, 405, 500])
async def test_any_other_refusal_leads_to_initialize(status: int) -> None:
    raw = Raw(discovered=PlainTextResponse("no", status))
    async with setting(raw) as (made, up):
        with pytest.raises(UpstreamError, match="HTTP 404"):
            await made.client.profile(up, ALICE)
        assert [body["method"] for body in raw.bodies] == ["server/discover", "initialize"]


async def test_a_server_that_never_answers_is_given_up() -> None:
    raw = Raw(discovered=streamed(kind="application/json", hang=True))
    async with setting(raw) as (made, up):
        with pytest.raises(UpstreamTimeoutError, match="is unavailable"):
            await asyncio.wait_for(made.client.profile(up, ALICE), 10)


async def test_a_session_that_was_forgotten_is_opened_anew() -> None:
    journal = Journal()
    async with world() as made:
        async with full_http(journal, legacy=True) as url:
            port = int(url.split(":")[2].split("/")[0])
            up = http(url)
            await call(made.client, up, ALICE, "echo", text="x")
        app = full_server(journal).streamable_http_app()
        async with serving(app, port):
            assert text_of(await call(made.client, up, ALICE, "echo", text="y")) == "y"
            assert len(made.pool) == 1


@pytest.mark.parametrize("legacy", [False, True])
async def test_a_server_that_is_gone_is_told_and_comes_back(legacy: bool) -> None:
    journal = Journal()
    async with world() as made:
        async with full_http(journal, legacy=legacy) as url:
            port = int(url.split(":")[2].split("/")[0])
            up = http(url)
            await call(made.client, up, ALICE, "echo", text="x")
        with pytest.raises(UpstreamError, match="the connection was refused"):
            await call(made.client, up, ALICE, "echo", text="x")
        async with serving(full_server(journal).streamable_http_app(), port):
            assert text_of(await call(made.client, up, ALICE, "echo", text="y")) == "y"


@pytest.fixture
def untidy_server() -> Iterator[None]:
    """The SDK's SSE server leaves streams open when its client goes; they are not this test's, nor the next one's."""
    yield
    gc.collect()


untidy = pytest.mark.filterwarnings("ignore:Exception ignored in.*MemoryObject:pytest.PytestUnraisableExceptionWarning")


@untidy
@pytest.mark.usefixtures("untidy_server")
async def test_an_sse_server_that_is_gone_is_told_and_comes_back() -> None:
    journal = Journal()
    async with world() as made:
        async with full_sse(journal) as url:
            port = int(url.split(":")[2].split("/")[0])
            up = sse(url)
            await call(made.client, up, ALICE, "echo", text="x")
        with pytest.raises(UpstreamError):
            await asyncio.wait_for(call(made.client, up, ALICE, "echo", text="x"), 5)
        async with serving(full_server(journal).sse_app(), port):
            assert text_of(await call(made.client, up, ALICE, "echo", text="y")) == "y"


@untidy
@pytest.mark.usefixtures("untidy_server")
async def test_a_list_page_over_sse_is_not_parsed_past_what_an_event_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK reads no event of more than 1 MiB, which is less than a list may hold, and ends the connection."""
    parsed: list[int] = []
    validate = jsonrpc_message_adapter.validate_json

    def noted(text: str, **options: Any) -> Any:
        parsed.append(len(text))
        return validate(text, **options)

    server = full_server(Journal())

    @server.tool(description="x" * MAX_LIST_BYTES)
    def large() -> str:
        return ""

    monkeypatch.setattr(jsonrpc_message_adapter, "validate_json", noted)
    async with world() as made, serving(server.sse_app()) as base:
        with pytest.raises(UpstreamError):
            await asyncio.wait_for(made.client.request(sse(f"{base}/sse"), ALICE, "tools/list", {}, timeout_s=20), 10)
        assert parsed
        assert max(parsed) <= 1024 * 1024
        assert text_of(await call(made.client, sse(f"{base}/sse"), ALICE, "echo", text="y")) == "y"


@untidy
@pytest.mark.usefixtures("untidy_server")
async def test_an_sse_server_that_refuses_a_message_is_told_at_once() -> None:
    refuse = False
    inner = full_server(Journal()).sse_app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        refused: Awaitable[None] | None = None
        if refuse and scope["type"] == "http" and scope["method"] == "POST":
            refused = PlainTextResponse("no", 403)(scope, receive, send)
        await (refused or inner(scope, receive, send))

    async with serving(app) as base, world() as made:
        up = sse(f"{base}/sse")
        await call(made.client, up, ALICE, "echo", text="x")
        refuse = True
        with pytest.raises(UpstreamError, match="HTTP 403"):
            await asyncio.wait_for(call(made.client, up, ALICE, "echo", text="x"), 5)
        refuse = False
        assert text_of(await call(made.client, up, ALICE, "echo", text="y")) == "y"


async def test_a_read_is_repeated_once_and_nothing_else() -> None:
    tries: list[str] = []

    def failing(asked: Any) -> Response:
        tries.append(asked["params"]["name"])
        return result(asked, {}) if len(tries) == 2 else streamed(b'{"', kind="application/json", die=True)

    async with setting(Raw(tools={"t": failing})) as (made, up):
        assert await call(made.client, up, ALICE, "t", repeatable=True) == {}
        tries.clear()
        with pytest.raises(UpstreamError):
            await call(made.client, up, ALICE, "t")
        assert tries == ["t"]


@pytest.mark.parametrize("connected", [True, False])
async def test_where_no_socket_is_left_the_upstream_is_not_at_fault(*, connected: bool) -> None:
    begun = asyncio.Event()

    def hang(_: Any) -> Response:
        begun.set()
        return streamed(hang=True)

    raw = Raw(tools={"hang": hang, "echo": lambda asked: result(asked, {"resultType": "complete", "content": []})})
    async with serving(raw) as url, world(sockets=1, egress_timeout_s=0.1) as made:
        up = http(f"{url}/mcp")
        if connected:
            await call(made.client, up, BOB, "echo")
        holding = asyncio.ensure_future(call(made.client, up, ALICE, "hang"))
        await asyncio.wait_for(begun.wait(), 5)
        with pytest.raises(UpstreamUnaskedError, match="All sockets for calls to upstreams are in use") as refused:
            await call(made.client, up, BOB, "echo")
        assert outcome_of(refused.value) == "neutral"
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
