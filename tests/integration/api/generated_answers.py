"""What an upstream may answer, made up, far beyond what it should."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from integration.api.generated_json import JSON, SPELLINGS, TEXT, near, written
from support.raw_upstream import chunk

if TYPE_CHECKING:
    from support.raw_upstream import Request

__all__ = ["PLANS", "Plan"]

_ID: Final = b'"@ID@"'
_ID_AS_TEXT: Final = b'"@TEXT@"'
_TOKEN: Final = b'"@TOKEN@"'


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer of an upstream; ``@ID@``, ``@TEXT@`` and ``@TOKEN@`` in it stand for those of the request."""

    status: str
    kind: str | None
    body: bytes
    framing: str
    """``length``, ``chunked``, ``short`` (the connection ends before the body does), ``none`` (before anything) or
    ``more`` (another answer follows that nobody asked for)."""
    more: bytes = b""
    """Further headers."""

    def bytes_for(self, request: Request) -> tuple[bytes, bool]:
        """Return what to write, and whether the connection ends with it."""
        message = request.message
        token = message["params"].get("_meta", {}).get("progressToken", "none")
        as_text = json.dumps(str(message["id"])).encode()
        body = self.body.replace(_ID, json.dumps(message["id"]).encode()).replace(_ID_AS_TEXT, as_text)
        body = body.replace(_TOKEN, json.dumps(token).encode())
        head = f"HTTP/1.1 {self.status}\r\n".encode() + self.more
        if self.status[:3] in {"204", "304"}:
            # By HTTP these have no content.
            return head + b"\r\n", False
        if self.kind is not None:
            head += f"Content-Type: {self.kind}\r\n".encode()
        if self.framing == "none":
            return b"", True
        if self.framing == "chunked":
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + (chunk(body) if body else b"") + chunk(b""), False
        extra = 7 if self.framing == "short" else 0
        answer = head + b"Content-Length: %d\r\n\r\n" % (len(body) + extra) + body
        return (answer * 2, False) if self.framing == "more" else (answer, bool(extra))


CODES: Final = [
    -32600, -32601, -32602, -32603, -32700, -32000, -32001, -32002, -32020, -32021, -32022, -32042, -32099, -32800,
    0, 7, 2**53 + 1, 2**60, -(2**70), 1.0, 1.5, "7", True, None,
]  # fmt: skip
_QUESTIONS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["elicitation/create", "sampling/createMessage", "roots/list", "tools/call", 1]),
    },
    optional={
        "params": st.sampled_from(
            [
                {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}},
                {"mode": "url", "message": "Go", "url": "https://example.com/x"},
                {"mode": "url", "message": "Go", "url": "javascript:alert(1)"},
                {"messages": [{"role": "user", "content": {"type": "resource_link", "uri": "test://x", "name": "x"}}]},
                {},
                None,
            ]
        )
    },
)
_BLOCKS = st.one_of(
    TEXT.map(lambda text: {"type": "text", "text": text}),
    TEXT.map(lambda text: {"type": "resource_link", "uri": text, "name": "x", "more": 1}),
    TEXT.map(lambda text: {"type": "resource", "resource": {"uri": "test://x", "text": text}}),
    st.just({"type": "resource_link", "uri": "test://x", "name": "x"}),
    st.just({"type": "image", "data": "AA==", "mimeType": "image/png", "annotations": {"priority": 1}}),
    st.just({"type": "tool_result", "toolUseId": "1", "content": [{"type": "resource_link", "uri": "test://y"}]}),
    JSON,
)
_RESULTS = st.fixed_dictionaries(
    {},
    optional={
        "resultType": st.sampled_from(["complete"] * 6 + ["input_required", "input_required", "task", "", 1, None]),
        "content": st.lists(_BLOCKS, max_size=3) | _BLOCKS,
        "isError": st.booleans() | JSON,
        "structuredContent": JSON | st.just({"uri": "test://kept", "raw": "@RAW@"}),
        "contents": st.lists(st.just({"uri": "test://static", "text": "x"}) | JSON, max_size=2) | JSON,
        "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": _BLOCKS}), max_size=2) | JSON,
        "inputRequests": st.dictionaries(st.sampled_from(["a", "b"]), _QUESTIONS, max_size=2) | JSON,
        "requestState": st.sampled_from(["state of the upstream", "", "ä", 1, None, ["x"]]),
        "ttlMs": st.sampled_from([0, 5, -1, "x", None]),
        "cacheScope": st.sampled_from(["public", "private", 1]),
        "_meta": st.dictionaries(
            st.sampled_from(["com.example/trace", "io.modelcontextprotocol/serverInfo", "progressToken"]),
            JSON,
            max_size=2,
        )
        | JSON,
        "com.example/unknown": JSON,
        "deep": near(200),
        "raw": st.just("@RAW@"),
    },
)
_DATA = (
    JSON
    | st.fixed_dictionaries({"code": st.sampled_from(["upstream_error", "forbidden", "own"])}, optional={"more": JSON})
    | st.just({"raw": "@RAW@"})
    | st.sampled_from([0, 30_000, 70_000]).map(lambda size: "ä" * size)
    | st.sampled_from(
        [
            {"requiredCapabilities": {"sampling": {}}},
            {"requiredCapabilities": {"elicitation": {"url": {}}}},
            {"requiredCapabilities": 1},
            {"supported": ["2025-11-25"], "requested": "2026-07-28"},
            {"elicitations": [{"mode": "url", "message": "Go", "url": "https://example.com", "elicitationId": "1"}]},
        ]
    )
)
_ERRORS = st.fixed_dictionaries(
    {
        "code": st.sampled_from(CODES) | st.integers(),
        "message": TEXT
        | st.sampled_from([1, None, "ä" * 3000, "Session terminated", "Not Found", "Connection closed"]),
    },
    optional={"data": _DATA, "more": JSON},
)
_GOOD: Final = {"resultType": "complete", "content": [{"type": "text", "text": "hello"}]}
_ASKING: Final = {"resultType": "input_required", "inputRequests": {}, "requestState": "state of the upstream"}
_ENVELOPES = st.one_of(
    _RESULTS.map(lambda result: {"jsonrpc": "2.0", "id": "@ID@", "result": result}),
    _RESULTS.map(lambda result: {"jsonrpc": "2.0", "id": "@ID@", "result": {**_GOOD, **result}}),
    _RESULTS.map(lambda result: {"jsonrpc": "2.0", "id": "@ID@", "result": {**_GOOD, **result}}),
    st.builds(
        lambda result, more: {"jsonrpc": "2.0", "id": "@ID@", "result": {**result, **more}},
        _RESULTS,
        st.sampled_from(
            [_ASKING, {"resultType": "input_required", "requestState": "once more", "inputRequests": None}]
        ),
    ),
    _ERRORS.map(lambda error: {"jsonrpc": "2.0", "id": "@ID@", "error": error}),
    _ERRORS.map(lambda error: {"jsonrpc": "2.0", "id": "@ID@", "error": {**error, "code": -32000, "message": "No."}}),
    st.builds(
        lambda identifier, rest: {"jsonrpc": "2.0", "id": identifier, **rest},
        st.sampled_from(["@TEXT@", None, 2**62, "other", 1.5, True, -1, [1]]),
        st.sampled_from([{"result": _GOOD}, {"error": {"code": -32600, "message": "What?"}}]),
    ),
    st.builds(
        lambda more, rest: {"jsonrpc": "2.0", "id": "@ID@", **rest, **more},
        st.sampled_from(
            [
                {"jsonrpc": "1.0"},
                {"jsonrpc": None},
                {"error": {"code": 1, "message": ""}},
                {"result": None},
                {"x": "@RAW@"},
                {"method": "ping"},
                {"method": "roots/list", "params": {}},
                {"result": [1]},
                {"error": "x"},
                {"error": None},
            ]
        ),
        st.sampled_from([{"result": _GOOD}, {}]),
    ),
    st.sampled_from(
        [
            {"result": _GOOD},
            {"jsonrpc": "2.0", "result": _GOOD},
            {"jsonrpc": "2.0", "error": {"code": 1, "message": ""}},
        ]
    ),
    st.sampled_from(
        [{"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "error", "data": 1}}, [], {}]
    ),
    JSON,
)
_GARBAGE = st.sampled_from(
    [
        b"",
        b" ",
        b"null",
        b"garbage",
        b"<html>no</html>",
        b"{",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[]",
        b'{"jsonrpc":"2.0"}',
    ]
)
_STATUSES = ["200 OK"] * 60 + [
    "201 Created", "202 Accepted", "204 No Content", "206 Partial Content", "300 Multiple Choices", "302 Found",
    "304 Not Modified", "400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found", "405 Not Allowed",
    "409 Conflict", "413 Too Large", "429 Too Many", "500 Broken", "502 Bad", "503 Away", "504 Late", "599 Odd",
]  # fmt: skip
_KINDS = st.sampled_from(
    ["application/json"] * 20
    + ["application/json; charset=utf-8", "Application/JSON", "application/jsonl", "text/plain", "text/html", "", None]
)
_BEFORE = st.one_of(
    st.builds(
        lambda token, params: {"method": "notifications/progress", "params": {"progressToken": token, **params}},
        st.sampled_from(["@TOKEN@", "@TOKEN@", "other", 77, None]),
        st.fixed_dictionaries(
            {"progress": st.integers(0, 9) | st.sampled_from([0.5, "1", None, True])},
            optional={"total": st.integers(0, 9), "message": TEXT, "more": JSON},
        ),
    ),
    st.builds(
        lambda level, more: {"method": "notifications/message", "params": {"level": level, "data": "x", **more}},
        st.sampled_from(["debug", "info", "error", "emergency", "loud", None]),
        st.dictionaries(TEXT, JSON, max_size=2),
    ),
    st.sampled_from(
        [
            {"method": "notifications/cancelled", "params": {"requestId": "@ID@"}},
            {"method": "notifications/tools/list_changed"},
            {"method": "notifications/elicitation/complete", "params": {"elicitationId": "1"}},
            {"method": "notifications/invented", "params": {"raw": "@RAW@"}},
            {"method": "notifications/progress", "params": [1]},
            {"method": "roots/list", "id": 9},
        ]
    ),
).map(lambda message: {"jsonrpc": "2.0", **message})
_ENDS = ["\n", "\r\n", "\r"]


@st.composite
def event(draw: st.DrawFn, message: object, raw: bytes) -> bytes:
    """One event, as the HTML standard lets it be written."""
    end = draw(st.sampled_from(_ENDS)).encode()
    indent = draw(st.sampled_from([None, None, None, 1]))
    text = written(message, ascii_only=draw(st.booleans()), indent=indent, raw=raw)
    lines = [b"data: " + line for line in text.split(b"\n")]
    before = draw(st.sampled_from([[], [], [b"event: message"], [b": comment"], [b"event: other"], [b"foo: bar"]]))
    return end.join([*before, *lines, b"", b""])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    raw = draw(SPELLINGS)
    status = draw(st.sampled_from(_STATUSES))
    framing = draw(st.sampled_from(["length"] * 12 + ["chunked"] * 6 + ["short", "none", "more"]))
    more = draw(
        st.sampled_from(
            [b"", b"", b"", b"Mcp-Session-Id: theirs\r\n", b"WWW-Authenticate: Bearer\r\n", b"Set-Cookie: a=b\r\n"]
        )
    )
    if status.startswith("302"):
        more += b"Location: /other\r\n"
    if draw(st.integers(0, 2)) == 0:
        blocks = [draw(event(message, raw)) for message in draw(st.lists(_BEFORE, max_size=4))]
        if draw(st.integers(0, 9)):
            blocks.append(draw(event(draw(_ENVELOPES), raw)))
        if draw(st.integers(0, 5)) == 0:
            blocks.append(draw(event(draw(_BEFORE), raw)))
        kind = draw(st.sampled_from(["text/event-stream", "text/event-stream; charset=utf-8", "Text/Event-Stream"]))
        # What follows the last line end decides whether it was a whole one, so something does before a break.
        blocks.append(b": end\n")
        return Plan(status, kind, b"".join(blocks), draw(st.sampled_from(["chunked", "chunked", framing])), more)
    body = (
        draw(_GARBAGE)
        if draw(st.integers(0, 9)) == 0
        else written(
            draw(_ENVELOPES), ascii_only=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1])), raw=raw
        )
    )
    return Plan(status, draw(_KINDS), body, framing, more)


PLANS: Final = plans()
