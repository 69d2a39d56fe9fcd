from __future__ import annotations

import asyncio
import re
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from agentapi.observability.middleware import RequestContextMiddleware
from agentapi.observability.request_context import current_request, name_request
from agentapi.principal import OrgId, Principal, Role, UserId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, MutableMapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message

USER = uuid.UUID(int=7)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


async def item(request: Request) -> PlainTextResponse:
    request.scope["state"]["principal"] = Principal(
        UserId(USER), OrgId(uuid.UUID(int=1)), "acme", Role.MEMBER, "https://issuer", "subject-planted"
    )
    request.scope["state"]["workspace"] = "main"
    return PlainTextResponse("hello", headers={"x-request-id": "from-inside"})


async def stream(_request: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"12345"

    return StreamingResponse(parts())


async def boom(_request: Request) -> PlainTextResponse:
    raise RuntimeError("planted")


async def bound(_request: Request) -> PlainTextResponse:
    structlog.get_logger().info("inner_event")
    scope = current_request.get()
    assert scope is not None
    return PlainTextResponse(scope["state"]["request_id"])


ROUTES = [
    Route("/items/{item_id}", item),
    Mount("/sub", routes=[Route("/stream", stream)]),
    Route("/boom", boom),
    Route("/bound", bound),
]
APP = Starlette(routes=ROUTES, middleware=[Middleware(RequestContextMiddleware, clock=Clock())])


async def call(
    path: str, *, headers: list[tuple[str, str]] | None = None, app: ASGIApp = APP
) -> tuple[httpx2.Response, list[MutableMapping[str, Any]]]:
    processors = [name_request]
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    with structlog.testing.capture_logs(processors=processors) as entries:
        async with httpx2.AsyncClient(transport=transport, base_url="http://h", trust_env=False) as client:
            response = await client.get(path, headers=headers)
    return response, entries


async def test_one_line_tells_the_request_by_its_template_and_who_called() -> None:
    response, entries = await call("/items/42?code=planted", headers=[("Authorization", "Bearer planted")])
    (entry,) = entries
    request_id = entry.pop("request_id")
    assert response.headers.get_list("x-request-id") == [request_id]
    assert entry == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "path": "/items/{item_id}",
        "status": 200,
        "duration_ms": 250.0,
        "bytes_out": 5,
        "org": "acme",
        "workspace": "main",
        "user_id": USER,
    }
    assert "planted" not in str(entries)


@pytest.mark.parametrize("given", ["a", "A.b_c-9", "x" * 64])
async def test_a_sane_request_id_is_kept(given: str) -> None:
    response, entries = await call("/bound", headers=[("X-Request-ID", given)])
    assert response.headers["x-request-id"] == given
    assert response.text == given
    assert [(entry["event"], entry["request_id"]) for entry in entries] == [
        ("inner_event", given),
        ("request", given),
    ]


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "ä", "<script>", "a/b", "a\x00"])
async def test_an_odd_request_id_is_replaced(given: str) -> None:
    response, _ = await call("/bound", headers=[(b"X-Request-ID", given.encode())])  # type: ignore[list-item]
    assert response.headers["x-request-id"] != given
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


async def test_two_request_ids_are_replaced() -> None:
    response, _ = await call("/bound", headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert response.headers["x-request-id"] not in {"a", "b", "a, b"}


async def test_streams_are_counted_and_mounted_routes_and_unknown_paths_are_named() -> None:
    _, (entry,) = await call("/sub/stream")
    assert entry["bytes_out"] == 15
    _, (entry,) = await call("/nowhere/at%0Aall?token=planted")
    assert entry["path"] == "/nowhere/at?all"
    assert entry["status"] == 404
    assert "org" not in entry
    _, (entry,) = await call("/" + "x" * 1000)
    assert len(entry["path"]) == 256


async def test_a_failure_is_logged_and_goes_on() -> None:
    async def broken(_scope: object, _receive: object, _send: object) -> None:
        raise RuntimeError("planted")

    _, (entry,) = await call("/x", app=RequestContextMiddleware(broken))
    assert (entry["status"], entry["error"]) == (500, "RuntimeError")
    response, (entry,) = await call("/boom")
    assert response.status_code == 500
    assert "planted" not in str(entry)


async def test_a_client_that_leaves_is_told_apart() -> None:
    async def hang(_scope: object, _receive: object, _send: object) -> None:
        raise asyncio.CancelledError

    async def silent(_scope: object, _receive: object, _send: object) -> None:
        return None

    async def send(_message: Message) -> None:
        raise AssertionError("nothing is sent")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    for app in (hang, silent):
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
        with structlog.testing.capture_logs() as entries:
            try:
                await RequestContextMiddleware(app)(scope, receive, send)
            except asyncio.CancelledError:
                assert app is hang
        assert entries[0]["status"] == 499


async def test_other_connections_pass_untouched() -> None:
    seen: list[object] = []

    async def inner(scope: object, _receive: object, _send: object) -> None:
        seen.append(scope)

    async def nothing(*_: object) -> Any:
        raise AssertionError("not called")

    for kind in ("lifespan", "websocket"):
        scope = {"type": kind}
        await RequestContextMiddleware(inner)(scope, nothing, nothing)
        assert seen.pop() is scope
        assert scope == {"type": kind}


async def test_the_request_id_does_not_outlive_the_request() -> None:
    await call("/bound", headers=[("X-Request-ID", "left-behind")])
    assert current_request.get() is None
