"""An MCP server that answers every call with the credential it came with, and refuses those it is told to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["EchoUpstream", "Seen"]

_MODERN: Final = "2026-07-28"
_LEGACY: Final = "2025-11-25"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the server saw it."""

    method: str
    credential: str
    port: int
    """Of the connection that it came over."""


@dataclass
class EchoUpstream:
    """An ASGI application behind any path."""

    legacy: bool = False
    seen: list[Seen] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)
    """Credential to the challenge that it is answered with; ``*`` stands for any."""
    needs_credential: bool = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await (await self._answer(Request(scope, receive)))(scope, receive, send)

    @property
    def calls(self) -> list[Seen]:
        return [each for each in self.seen if each.method == "tools/call"]

    async def _answer(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status_code=405)
        message = json.loads(await request.body())
        method = message.get("method", "")
        credential = request.headers.get("authorization", "") or request.query_params.get("key", "")
        port = 0 if request.client is None else request.client.port
        self.seen.append(Seen(method, credential, port))
        challenge = self.refuses.get(credential, self.refuses.get("*"))
        if challenge is None and self.needs_credential and not credential:
            challenge = "Bearer"
        if challenge is not None:
            status = 403 if "insufficient_scope" in challenge else 401
            return Response(status_code=status, headers={"WWW-Authenticate": challenge})
        if "id" not in message:
            return Response(status_code=202)
        found = self._result(method, f"{credential} on {port}")
        outcome = {"result": found} if found is not None else {"error": {"code": -32601, "message": "no such method"}}
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], **outcome})

    def _result(self, method: str, text: str) -> dict[str, Any] | None:
        head = {} if self.legacy else {"resultType": "complete"}
        if method == "tools/call":
            return {**head, "content": [{"type": "text", "text": text}]}
        if method == "tools/list":
            listed = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "write")]
            return {**head, "tools": listed} if self.legacy else {**head, "tools": listed, "ttlMs": 0}
        if method == "initialize" and self.legacy:
            info = {"name": "echo", "version": "1"}
            return {"protocolVersion": _LEGACY, "capabilities": {"tools": {}}, "serverInfo": info}
        if method == "server/discover" and not self.legacy:
            return {**head, "supportedVersions": [_MODERN], "capabilities": {"tools": {}}, "ttlMs": 0}
        return {} if method == "ping" else None
