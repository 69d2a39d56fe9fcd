"""Hostile requests to an MCP endpoint, and what must come back.

A row says what is sent and which statuses and JSON-RPC codes are allowed. More than one is allowed where the
specifications leave the choice. ``sdk`` marks what the official SDK's own server answers the same way, so
that the table itself is held against a server that nobody here wrote.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from support.plain import PLAIN
from support.raw import (
    envelope,
    exchange_bytes,
    good_headers,
    initialize,
    modern_headers,
    modern_message,
    post,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

__all__ = ["RAW_ROWS", "ROWS", "RawRow", "Row", "Target", "is_alive"]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

LIMIT_BYTES = 4 * 1024 * 1024
PROTOCOL = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint under attack, and the name of a tool on it that echoes ``message``."""

    url: str
    token: str | None
    echo: str

    def call(self) -> dict[str, Any]:
        """Return a good call of the echo tool."""
        return modern_message("tools/call", {"name": self.echo, "arguments": {"message": "still here"}})

    def send(self, message: object, **headers: str) -> httpx2.Response:
        """POST ``message`` with the headers of a good call, changed by ``headers`` (``_`` for ``-``)."""
        agreed = modern_headers(message if isinstance(message, dict) and "method" in message else self.call())
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        return post(self.url, self.token, message, headers={**agreed, **changed})

    def send_without(self, *names: str) -> httpx2.Response:
        """POST a good call without some of its headers."""
        import httpx2

        headers = {**good_headers(self.token), **modern_headers(self.call())}
        kept = {name: value for name, value in headers.items() if name not in names}
        return httpx2.post(self.url, content=json.dumps(self.call()).encode(), headers=kept, timeout=30.0, **PLAIN)


@dataclass(frozen=True, slots=True)
class Row:
    """One hostile request and the answers that are allowed."""

    name: str
    send: Callable[[Target], httpx2.Response]
    status: frozenset[int]
    codes: frozenset[int] | None = None
    """Allowed JSON-RPC error codes; None where the answer need not be JSON-RPC."""
    sdk: bool = False
    identifier: object = ...
    """The ``id`` that the error must carry, if it matters."""


def is_alive(target: Target) -> None:
    """Fail unless a good call still gets its good answer."""
    answer = target.send(target.call())
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["content"] == [{"type": "text", "text": "still here"}]


def _row(
    name: str,
    send: Callable[[Target], httpx2.Response],
    status: int | set[int],
    codes: int | set[int] | None = None,
    *,
    sdk: bool = False,
    identifier: object = ...,
) -> Row:
    statuses = frozenset({status} if isinstance(status, int) else status)
    allowed = frozenset({codes} if isinstance(codes, int) else codes) if codes is not None else None
    return Row(name, send, statuses, allowed, sdk, identifier)


def _text(target: Target, **members: str) -> bytes:
    """Return a good call whose members are replaced by the given JSON text, which need not be JSON."""
    whole = {name: json.dumps(value) for name, value in target.call().items()} | members
    return ("{" + ",".join(f'"{name}":{value}' for name, value in whole.items()) + "}").encode()


def _arguments(target: Target, text: str) -> bytes:
    meta = json.dumps(envelope())
    return _text(target, params=f'{{"name":"{target.echo}","arguments":{text},"_meta":{meta}}}')


def _without_meta(target: Target, *keys: str) -> dict[str, Any]:
    message = target.call()
    message["params"]["_meta"] = {k: v for k, v in envelope().items() if k not in keys}
    return message


def _with_meta(target: Target, **changed: object) -> dict[str, Any]:
    message = target.call()
    message["params"]["_meta"] = {**envelope(), **changed}
    return message


def _changed(target: Target, **members: object) -> dict[str, Any]:
    return {**target.call(), **members}


def _twice(target: Target, name: str) -> httpx2.Response:
    agreed = {**good_headers(target.token), **modern_headers(target.call())}
    return post(target.url, target.token, target.call(), headers=agreed, more=[(name, agreed[name])])


def _oversized_stream(target: Target) -> httpx2.Response:
    """One byte over the limit in pieces, so that no Content-Length gives it away."""
    import httpx2

    body = b" " * (LIMIT_BYTES + 1 - len(json.dumps(target.call()))) + json.dumps(target.call()).encode()
    pieces = (body[start : start + 262_144] for start in range(0, len(body), 262_144))
    headers = {**good_headers(target.token), **modern_headers(target.call())}
    return httpx2.post(target.url, content=pieces, headers=headers, timeout=30.0, **PLAIN)


def _padded(target: Target, size: int) -> bytes:
    body = json.dumps(target.call()).encode()
    return b" " * (size - len(body)) + body


def _verb(verb: str, **headers: str) -> Callable[[Target], httpx2.Response]:
    def send(target: Target) -> httpx2.Response:
        import httpx2

        bearer = {} if target.token is None else {"authorization": f"Bearer {target.token}"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.request(
            verb,
            target.url,
            headers={"accept": "application/json, text/event-stream", **bearer, **named},
            timeout=10.0,
            **PLAIN,
        )

    return send


def _legacy(target: Target, method: str, params: dict[str, Any]) -> httpx2.Response:
    opened = initialize(target.url, target.token)
    assert opened.status_code == 200, opened.text
    headers = {"mcp-protocol-version": "2025-11-25"}
    if session := opened.headers.get("mcp-session-id"):
        headers["mcp-session-id"] = session
    message = {"jsonrpc": "2.0", "id": 9, "method": method, "params": params}
    return post(target.url, target.token, message, headers=headers)


_SYNTAX = {PARSE_ERROR, INVALID_REQUEST}
_DISAGREES = {PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS, HEADER_MISMATCH}
_SHAPE = {INVALID_REQUEST, INVALID_PARAMS}

ROWS: tuple[Row, ...] = (
    # Not JSON.
    _row("empty body", lambda t: t.send(b""), 400, _SYNTAX, sdk=True),
    _row("bad JSON", lambda t: t.send(b'{"jsonrpc": "2.0",'), 400, PARSE_ERROR, sdk=True, identifier=None),
    _row("text after the JSON", lambda t: t.send(_text(t) + b"}"), 400, PARSE_ERROR, sdk=True, identifier=None),
    _row("single quotes", lambda t: t.send(_text(t).replace(b'"', b"'")), 400, PARSE_ERROR, sdk=True),
    _row("trailing comma", lambda t: t.send(_text(t)[:-1] + b",}"), 400, PARSE_ERROR, sdk=True),
    _row("comment", lambda t: t.send(b"/* */" + _text(t)), 400, PARSE_ERROR, sdk=True),
    _row("NaN", lambda t: t.send(_arguments(t, '{"message":NaN}')), 400, PARSE_ERROR),
    _row("minus infinity", lambda t: t.send(_arguments(t, '{"message":-Infinity}')), 400, PARSE_ERROR),
    _row(
        "raw control character",
        lambda t: t.send(_arguments(t, '{"message":"\x01"}')),
        400,
        PARSE_ERROR,
        sdk=True,
    ),
    _row(
        "invalid UTF-8",
        lambda t: t.send(_text(t).replace(b"still", b"st\xff\xfe")),
        400,
        PARSE_ERROR,
        sdk=True,
    ),
    _row(
        "overlong UTF-8",
        lambda t: t.send(_text(t).replace(b"still", b"\xc0\xafill")),
        400,
        PARSE_ERROR,
        sdk=True,
    ),
    _row("UTF-16", lambda t: t.send(_text(t).decode().encode("utf-16")), 400, PARSE_ERROR),
    _row(
        "number with 5000 digits",
        lambda t: t.send(_arguments(t, '{"message":%s}' % ("9" * 5000))),
        {200, 400},
    ),
    _row("number beyond a double", lambda t: t.send(_arguments(t, '{"message":1e999}')), {200, 400}),
    _row("lone surrogate", lambda t: t.send(_arguments(t, r'{"message":"\ud800"}')), {200, 400}),
    _row("lone surrogate as name", lambda t: t.send(_text(t, method=r'"\ud800"')), {400, 404}),
    _row("10000 nested lists", lambda t: t.send(b"[" * 10_000 + b"]" * 10_000), 400, _SYNTAX, sdk=True),
    _row(
        "10000 nested lists as an argument",
        lambda t: t.send(_arguments(t, '{"message":%s}' % ("[" * 10_000 + "]" * 10_000))),
        400,
        {PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS},
        sdk=True,
    ),
    _row(
        "10000 nested objects as an argument",
        lambda t: t.send(_arguments(t, '{"message":%s}' % ('{"a":' * 10_000 + "1" + "}" * 10_000))),
        400,
        {PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS},
        sdk=True,
    ),
    # JSON, and no single request.
    _row("batch", lambda t: t.send([t.call(), t.call()]), 400, INVALID_REQUEST, sdk=True),
    _row("empty batch", lambda t: t.send(b"[]"), 400, INVALID_REQUEST, sdk=True),
    _row("a string", lambda t: t.send(b'"tools/list"'), 400, INVALID_REQUEST, sdk=True),
    _row("null", lambda t: t.send(b"null"), 400, INVALID_REQUEST, sdk=True),
    _row("empty object", lambda t: t.send(b"{}"), 400, INVALID_REQUEST, sdk=True),
    _row(
        "response",
        lambda t: t.send({"jsonrpc": "2.0", "id": 1, "result": {}}),
        400,
        INVALID_REQUEST,
        sdk=True,
    ),
    _row("jsonrpc 1.0", lambda t: t.send(_changed(t, jsonrpc="1.0")), 400, INVALID_REQUEST, sdk=True),
    _row("jsonrpc 2.0 as a number", lambda t: t.send(_changed(t, jsonrpc=2.0)), 400, INVALID_REQUEST, sdk=True),
    _row("no method", lambda t: t.send(_text(t).replace(b'"method"', b'"m"')), 400, INVALID_REQUEST, sdk=True),
    _row("method is a number", lambda t: t.send(_text(t, method="5")), 400, INVALID_REQUEST, sdk=True),
    _row("method is null", lambda t: t.send(_text(t, method="null")), 400, INVALID_REQUEST, sdk=True),
    _row("id is null", lambda t: t.send(_text(t, id="null")), 400, INVALID_REQUEST, sdk=True),
    _row("id is an object", lambda t: t.send(_text(t, id='{"a":1}')), 400, INVALID_REQUEST, sdk=True),
    _row("id is a fraction", lambda t: t.send(_text(t, id="1.5")), 400, INVALID_REQUEST, sdk=True),
    _row("params is a list", lambda t: t.send(_text(t, params="[1]")), 400, _SHAPE, sdk=True),
    _row("params is text", lambda t: t.send(_text(t, params='"x"')), 400, _SHAPE, sdk=True),
    # Two readers of one body must not read two requests.
    _row("method twice", lambda t: t.send(_text(t)[:-1] + b',"method":"tools/list"}'), 400, _DISAGREES),
    _row("params twice", lambda t: t.send(_text(t)[:-1] + b',"params":{}}'), 400, _DISAGREES),
    _row("id twice", lambda t: t.send(_text(t)[:-1] + b',"id":2}'), 400, _SYNTAX),
    _row(
        "tool name twice",
        lambda t: t.send(_text(t).replace(b'"name": ', b'"name": "other", "name": ', 1)),
        400,
        _DISAGREES,
    ),
    _row(
        "tool name twice, once escaped",
        lambda t: t.send(_text(t).replace(b'"name": ', rb'"n\u0061me": "other", "name": ', 1)),
        400,
        _DISAGREES,
    ),
    # Too large.
    _row("one byte over the limit", lambda t: t.send(_padded(t, LIMIT_BYTES + 1)), 413, sdk=True),
    _row("over the limit, streamed", _oversized_stream, 413, sdk=True),
    _row("exactly the limit", lambda t: t.send(_padded(t, LIMIT_BYTES)), 200, sdk=True),
    _row("gzip", lambda t: t.send(gzip.compress(_text(t)), content_encoding="gzip"), 415),
    # Content negotiation.
    _row("content type text", lambda t: t.send(t.call(), content_type="text/plain"), 415),
    _row("content type form", lambda t: t.send(t.call(), content_type="application/x-www-form-urlencoded"), 415),
    _row("no content type", lambda t: t.send_without("content-type"), 415),
    _row("content type alike", lambda t: t.send(t.call(), content_type="application/jsonp"), 415),
    _row(
        "content type with a charset",
        lambda t: t.send(t.call(), content_type="application/json; charset=utf-8"),
        200,
        sdk=True,
    ),
    _row("content type in capitals", lambda t: t.send(t.call(), content_type="Application/JSON"), 200, sdk=True),
    _row("accept text", lambda t: t.send(t.call(), accept="text/html"), 406, sdk=True),
    _row("accept nothing", lambda t: t.send(t.call(), accept=""), {200, 406}),
    _row("accept anything", lambda t: t.send(t.call(), accept="*/*"), 200, sdk=True),
    # The modern envelope.
    _row(
        "unknown method",
        lambda t: t.send(modern_message("tools/nonsense")),
        404,
        METHOD_NOT_FOUND,
        sdk=True,
        identifier=1,
    ),
    _row("unknown method, odd name", lambda t: t.send(modern_message("../admin?x=%00")), {400, 404}),
    _row(
        "removed method",
        lambda t: t.send(modern_message("ping")),
        404,
        METHOD_NOT_FOUND,
        sdk=True,
        identifier=1,
    ),
    _row(
        "Mcp-Method disagrees",
        lambda t: t.send(t.call(), mcp_method="tools/list"),
        400,
        HEADER_MISMATCH,
        sdk=True,
    ),
    _row("Mcp-Name disagrees", lambda t: t.send(t.call(), mcp_name="other"), 400, HEADER_MISMATCH, sdk=True),
    _row(
        "Mcp-Name in capitals",
        lambda t: t.send(t.call(), mcp_name=t.echo.upper()),
        400,
        HEADER_MISMATCH,
        sdk=True,
    ),
    _row(
        "Mcp-Name is a broken encoding",
        lambda t: t.send(t.call(), mcp_name="=?base64?%%%?="),
        400,
        HEADER_MISMATCH,
        sdk=True,
    ),
    _row(
        "version in header and body disagree",
        lambda t: t.send(_with_meta(t, **{PROTOCOL: "2099-01-01"})),
        400,
        HEADER_MISMATCH,
        sdk=True,
    ),
    _row("no Mcp-Method", lambda t: t.send_without("mcp-method"), 400, HEADER_MISMATCH, sdk=True),
    _row("no Mcp-Name", lambda t: t.send_without("mcp-name"), 400, HEADER_MISMATCH, sdk=True),
    _row(
        "no version header",
        lambda t: t.send_without("mcp-protocol-version"),
        400,
        {HEADER_MISMATCH, INVALID_REQUEST},
    ),
    _row("Mcp-Method twice", lambda t: _twice(t, "mcp-method"), 400, HEADER_MISMATCH, sdk=True),
    _row("Mcp-Name twice", lambda t: _twice(t, "mcp-name"), 400, HEADER_MISMATCH, sdk=True),
    _row(
        "no _meta",
        lambda t: t.send(_changed(t, params={"name": t.echo})),
        400,
        INVALID_PARAMS,
        sdk=True,
        identifier=1,
    ),
    _row(
        "no params",
        lambda t: t.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        400,
        INVALID_PARAMS,
        sdk=True,
    ),
    _row(
        "_meta is a list",
        lambda t: t.send(_changed(t, params={"name": t.echo, "_meta": []})),
        400,
        INVALID_PARAMS,
        sdk=True,
    ),
    _row("no version in _meta", lambda t: t.send(_without_meta(t, PROTOCOL)), 400, INVALID_PARAMS, sdk=True),
    _row(
        "no capabilities in _meta",
        lambda t: t.send(_without_meta(t, CAPABILITIES)),
        400,
        INVALID_PARAMS,
        sdk=True,
    ),
    _row(
        "capabilities are text",
        lambda t: t.send(_with_meta(t, **{CAPABILITIES: "all"})),
        400,
        INVALID_PARAMS,
        sdk=True,
    ),
    _row(
        "unsupported version",
        lambda t: t.send(_with_meta(t, **{PROTOCOL: "2099-01-01"}), mcp_protocol_version="2099-01-01"),
        400,
        UNSUPPORTED_VERSION,
        sdk=True,
        identifier=1,
    ),
    _row("tool name is a number", lambda t: t.send(_changed(t, params={"name": 5, "_meta": envelope()})), 400),
    _row("tool name is missing", lambda t: t.send(_changed(t, params={"_meta": envelope()})), 400),
    _row(
        "arguments are a list",
        lambda t: t.send(_changed(t, params={"name": t.echo, "arguments": [1], "_meta": envelope()})),
        400,
        INVALID_PARAMS,
        sdk=True,
    ),
    _row(
        "cursor that nobody gave",
        lambda t: t.send(modern_message("tools/list", {"cursor": "../../etc/passwd"})),
        400,
        INVALID_PARAMS,
    ),
    _row(
        "notification",
        lambda t: t.send({"jsonrpc": "2.0", "method": "notifications/cancelled"}),
        202,
        sdk=True,
    ),
    # Origins (DNS rebinding).
    _row("foreign Origin", lambda t: t.send(t.call(), origin="https://evil.example"), 403, sdk=True),
    _row("Origin null", lambda t: t.send(t.call(), origin="null"), 403, sdk=True),
    _row(
        "Origin that begins with ours",
        lambda t: t.send(t.call(), origin=t.url.split("/mcp")[0] + ".evil.example"),
        403,
    ),
    _row("own Origin", lambda t: t.send(t.call(), origin=t.url.split("/mcp")[0]), 200, sdk=True),
    _row("foreign Host", lambda t: t.send(t.call(), host="evil.example"), 403),
    _row("foreign Host with our port", lambda t: t.send(t.call(), host=f"evil.example:{urlsplit(t.url).port}"), 403),
    _row("another name of loopback", lambda t: t.send(t.call(), host=f"localhost:{urlsplit(t.url).port}"), 200),
    _row("foreign Origin on GET", _verb("GET", origin="https://evil.example"), 403),
    # Verbs and sessions.
    # In the handshake era a session is optional, but one that is named has to be one.
    _row("GET without a session", _verb("GET"), 405),
    _row("DELETE without a session", _verb("DELETE"), 405),
    _row("GET with a session nobody gave", _verb("GET", mcp_session_id="0" * 64), 404),
    _row("DELETE with a session nobody gave", _verb("DELETE", mcp_session_id="0" * 64), 404),
    _row("DELETE in the modern era", _verb("DELETE", mcp_protocol_version="2026-07-28"), 405, sdk=True),
    _row("GET in the modern era", _verb("GET", mcp_protocol_version="2026-07-28"), 405, sdk=True),
    _row("PUT", _verb("PUT"), 405, sdk=True),
    _row("TRACE", _verb("TRACE"), {400, 405}),
    _row("HEAD", _verb("HEAD"), {400, 404, 405}),
    _row(
        "POST with a session nobody gave",
        lambda t: post(
            t.url,
            t.token,
            {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            headers={"mcp-session-id": "A" * 200, "mcp-protocol-version": "2025-11-25"},
        ),
        404,
        INVALID_REQUEST,
    ),
    _row(
        "legacy request without a session",
        lambda t: post(t.url, t.token, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        200,
    ),
    _row(
        "legacy answer that nobody asked for",
        lambda t: post(
            t.url,
            t.token,
            {"jsonrpc": "2.0", "id": "nobody-asked", "result": {}},
            headers={"mcp-protocol-version": "2025-11-25"},
        ),
        202,
    ),
    _row("legacy batch", lambda t: post(t.url, t.token, [{"jsonrpc": "2.0", "method": "ping"}]), 400, INVALID_REQUEST),
    _row("legacy unknown method", lambda t: _legacy(t, "tools/nonsense", {}), 200),
    _row("legacy call of an unknown tool", lambda t: _legacy(t, "tools/call", {"name": "nobody__x"}), 200),
    _row(
        "initialize with an unknown version",
        lambda t: initialize(t.url, t.token, version="1999-01-01"),
        200,
        sdk=True,
    ),
    # Headers no client sends.
    _row("header of 32 KiB", lambda t: t.send(t.call(), x_long="a" * 32_768), {200, 400, 431}),
    _row("Mcp-Name of 20 KiB", lambda t: t.send(t.call(), mcp_name="a" * 20_000), {400, 431}),
    _row("request id with quotes", lambda t: t.send(t.call(), x_request_id='a"b<script>'), {200, 400}),
    _row("request id of 10 KiB", lambda t: t.send(t.call(), x_request_id="a" * 10_000), {200, 400, 431}),
    _row("broken traceparent", lambda t: t.send(t.call(), traceparent="00-zz"), {200, 400}),
    _row("X-Forwarded-For", lambda t: t.send(t.call(), x_forwarded_for="1.2.3.4, ::1, nonsense"), 200, sdk=True),
    _row("Last-Event-ID", lambda t: t.send(t.call(), last_event_id="999"), 200, sdk=True),
)


@dataclass(frozen=True, slots=True)
class RawRow:
    """Bytes that are hardly HTTP; the answer is a refusal or a closed connection."""

    name: str
    send: Callable[[Target], bytes]
    statuses: frozenset[int] = frozenset({400})


def _http(
    target: Target,
    *,
    line: str | None = None,
    headers: tuple[str, ...] = (),
    body: bytes = b"",
    host: bool = True,
) -> bytes:
    parts = urlsplit(target.url)
    first = line or f"POST {parts.path} HTTP/1.1"
    fields = [f"Host: {parts.netloc}"] if host else []
    fields += [f"{name}: {value}" for name, value in good_headers(target.token).items()]
    fields += [f"{name}: {value}" for name, value in modern_headers(target.call()).items()]
    head = "\r\n".join([first, *fields, *headers, "", ""]).encode("latin-1")
    return exchange_bytes(target.url, head + body)


def _body(target: Target) -> bytes:
    return json.dumps(target.call()).encode()


_REFUSED = frozenset({400, 404, 405, 411, 413, 414, 417, 431, 501, 505})

RAW_ROWS: tuple[RawRow, ...] = (
    RawRow(
        "not HTTP",
        lambda t: exchange_bytes(t.url, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 8),
        _REFUSED,
    ),
    RawRow("HTTP/9.9", lambda t: _http(t, line=f"POST {urlsplit(t.url).path} HTTP/9.9"), _REFUSED),
    RawRow("100 KiB request line", lambda t: _http(t, line=f"POST /{'a' * 102_400} HTTP/1.1"), _REFUSED),
    RawRow("1 MiB header", lambda t: _http(t, headers=(f"X-Big: {'a' * 1_048_576}",)), _REFUSED),
    RawRow("negative length", lambda t: _http(t, headers=("Content-Length: -1",), body=_body(t)), _REFUSED),
    RawRow("length in words", lambda t: _http(t, headers=("Content-Length: many",), body=_body(t)), _REFUSED),
    RawRow(
        "two lengths",
        lambda t: _http(t, headers=("Content-Length: 5", f"Content-Length: {len(_body(t))}"), body=_body(t)),
        _REFUSED,
    ),
    RawRow(
        "length and chunks",
        lambda t: _http(t, headers=("Content-Length: 4", "Transfer-Encoding: chunked"), body=b"0\r\n\r\n"),
        _REFUSED,
    ),
    RawRow(
        "broken chunk",
        lambda t: _http(t, headers=("Transfer-Encoding: chunked",), body=b"zz\r\nab\r\n"),
        _REFUSED,
    ),
    RawRow("NUL in a header", lambda t: _http(t, headers=("X-Nul: a\x00b", "Content-Length: 0")), _REFUSED),
    RawRow("space before the colon", lambda t: _http(t, headers=("X-Odd : 1", "Content-Length: 0")), _REFUSED),
    RawRow("body cut short", lambda t: _http(t, headers=("Content-Length: 5000",), body=_body(t)[:20]), _REFUSED),
    RawRow(
        "length beyond belief",
        lambda t: _http(t, headers=(f"Content-Length: {2**63}",), body=b"{}"),
        _REFUSED,
    ),
    RawRow("5000 headers", lambda t: _http(t, headers=tuple(f"X-{n}: 1" for n in range(5000))), _REFUSED),
    RawRow(
        "NUL in the path",
        lambda t: _http(t, line="GET /mcp/demo/ma%00in HTTP/1.1", headers=("Content-Length: 0",)),
        _REFUSED | {401},
    ),
    RawRow(
        "invalid UTF-8 in the path",
        lambda t: _http(t, line="POST /mcp/demo/%ff%fe HTTP/1.1", headers=("Content-Length: 2",), body=b"{}"),
        _REFUSED,
    ),
    RawRow(
        "dots in the path",
        lambda t: _http(t, line="POST /mcp/demo/../../etc HTTP/1.1", headers=("Content-Length: 2",), body=b"{}"),
        _REFUSED,
    ),
    RawRow(
        "encoded slash in the path",
        lambda t: _http(t, line="POST /mcp/demo%2fmain HTTP/1.1", headers=("Content-Length: 2",), body=b"{}"),
        _REFUSED,
    ),
)
