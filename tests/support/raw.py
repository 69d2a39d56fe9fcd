"""Requests to an MCP endpoint by hand, as no well-behaved client would make them."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2

from support.plain import PLAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "LEGACY",
    "MODERN",
    "envelope",
    "exchange_bytes",
    "good_headers",
    "initialize",
    "modern_call",
    "modern_headers",
    "modern_message",
    "post",
    "rpc",
]

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
_TIMEOUT_S = 30.0
_NAME_OF = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


def envelope(version: str = MODERN) -> dict[str, Any]:
    """Return the ``_meta`` that every modern request carries."""
    return {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
    }


def modern_message(method: str, params: Mapping[str, Any] | None = None, *, identifier: object = 1) -> dict[str, Any]:
    """Return a 2026-07-28 request."""
    return {
        "jsonrpc": "2.0",
        "id": identifier,
        "method": method,
        "params": {**(params or {}), "_meta": envelope()},
    }


def good_headers(token: str | None) -> dict[str, str]:
    """Return the headers that any POST needs."""
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    return headers if token is None else {**headers, "authorization": f"Bearer {token}"}


def modern_headers(message: Mapping[str, Any]) -> dict[str, str]:
    """Return the routing headers that agree with ``message``."""
    method = str(message["method"])
    headers = {"mcp-protocol-version": MODERN, "mcp-method": method}
    if member := _NAME_OF.get(method):
        headers["mcp-name"] = str(message["params"].get(member, ""))
    return headers


def post(
    url: str,
    token: str | None,
    message: object,
    *,
    headers: Mapping[str, str] | None = None,
    more: Sequence[tuple[str, str]] = (),
) -> httpx2.Response:
    """POST ``message``, as JSON unless it is bytes; ``more`` may repeat a header."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    pairs = [*{**good_headers(token), **(headers or {})}.items(), *more]
    return httpx2.post(url, content=body, headers=pairs, timeout=_TIMEOUT_S, **PLAIN)


def modern_call(
    url: str,
    token: str | None,
    method: str,
    params: Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    more: Sequence[tuple[str, str]] = (),
) -> httpx2.Response:
    """POST a good 2026-07-28 request."""
    message = modern_message(method, params)
    return post(url, token, message, headers={**modern_headers(message), **(headers or {})}, more=more)


def initialize(url: str, token: str | None, *, version: str = LEGACY) -> httpx2.Response:
    """POST the handshake of the older revisions."""
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
    return post(url, token, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})


def rpc(answer: httpx2.Response) -> dict[str, Any]:
    """Return the JSON-RPC response in ``answer``, whether it came as JSON or as the last event of a stream."""
    text = answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        text = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")][-1]
    message: dict[str, Any] = json.loads(text)
    return message


def exchange_bytes(url: str, request: bytes, *, within_s: float = 10.0) -> bytes:
    """Send ``request`` as it is and return what comes back until the other side closes or falls silent."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    received = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=within_s) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except OSError:
            pass
    return received
