"""The header ``Idempotency-Key`` in front of a route (draft-ietf-httpapi-idempotency-key-header).

What is kept is the answer to what was done: 2xx. A refusal changes nothing and is decided anew. The client is sent its
answer once it is committed, so whoever has it may rely on it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from starlette.requests import Request

from agentapi.errors import IdempotencyKeyError
from agentapi.idempotency.ledger import AnsweredError
from agentapi.idempotency.models import Answer, Claim
from agentapi.request_body import read_body, replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agentapi.idempotency.ledger import Ledger
    from agentapi.principal import Principal

__all__ = ["Idempotent"]

_HEADER: Final = "idempotency-key"
_QUOTED: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
"""A string of structured fields (RFC 8941, section 3.3.3), as the draft has it."""
_BARE: Final = re.compile(r"[!#-~][!-~]{0,254}")
"""What most clients send."""
_MAX_BODY_BYTES: Final = 1024 * 1024
"""As much as any route takes that makes something."""
_REPLAYED: Final = (b"idempotency-replayed", b"true")
_SUCCESS: Final = range(200, 300)


class Idempotent:
    """A route that does a request with a key once.

    Args:
        app: The route.
        ledger: Knows what was answered.
        authorize: Gives the principal of a request.
    """

    def __init__(self, app: ASGIApp, *, ledger: Ledger, authorize: Callable[[Request], Awaitable[Principal]]) -> None:
        self._app = app
        self._ledger = ledger
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer it as it was answered before."""
        request = Request(scope)
        key = _key(request)
        if key is None:
            await self._app(scope, receive, send)
            return
        principal = await self._authorize(request)
        body = await read_body(scope, receive, max_bytes=_MAX_BODY_BYTES)
        kind = request.headers.get("content-type", "").encode()
        said = (scope["method"].encode(), scope["path"].encode(), scope["query_string"], kind, body)
        claim = Claim.of(principal, key, said)
        answer = await self._ledger.answered(claim)
        if answer is not None:
            await _replay(answer, send)
            return
        recorder = _Recorder()
        try:
            async with self._ledger.once(claim) as keep:
                await self._app(scope, replay(body, receive), recorder.take)
                answer = recorder.answer()
                if answer.status in _SUCCESS:
                    await keep(answer)
        except AnsweredError as error:
            await _replay(error.answer, send)
            return
        await _send(answer, send)


class _Recorder:
    """Takes an answer that is not sent yet."""

    def __init__(self) -> None:
        self._start: Message | None = None
        self._body: list[bytes] = []

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._body.append(message.get("body", b""))

    def answer(self) -> Answer:
        if self._start is None:
            raise AssertionError("a route answers or raises")
        return Answer(self._start["status"], tuple(map(tuple, self._start["headers"])), b"".join(self._body))


def _key(request: Request) -> str | None:
    given = request.headers.getlist(_HEADER)
    if not given:
        return None
    text = given[0].strip()
    quoted = _QUOTED.fullmatch(text)
    if len(given) == 1 and quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if len(given) == 1 and _BARE.fullmatch(text) is not None:
        return text
    raise IdempotencyKeyError


async def _replay(answer: Answer, send: Send) -> None:
    await _send(Answer(answer.status, (*answer.headers, _REPLAYED), answer.body), send)


async def _send(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
    await send({"type": "http.response.body", "body": answer.body})
