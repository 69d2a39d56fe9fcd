"""Reading a request body within a bound, and handing it on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentapi.deadlines import within
from agentapi.errors import PayloadTooLargeError, RequestTimeoutError, UnsupportedMediaTypeError

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

__all__ = ["ClientGoneError", "read_body", "replay"]


class ClientGoneError(Exception):
    """The client left before its request was complete; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int, timeout_s: float | None = None) -> bytes:
    """Return the whole body of an ASGI request.

    Raises:
        UnsupportedMediaTypeError: It is compressed.
        PayloadTooLargeError: It exceeds ``max_bytes``; a body that says so itself is not read at all.
        RequestTimeoutError: It is not there after ``timeout_s``, however steadily it dribbles in.
        ClientGoneError: The client left.
    """
    try:
        return await within(timeout_s, _read(scope, receive, max_bytes))
    except TimeoutError:
        raise RequestTimeoutError(f"The request body did not arrive within {timeout_s:g} seconds.") from None


async def _read(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > max_bytes:
            raise _too_large(max_bytes)
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise UnsupportedMediaTypeError("The request body is compressed; send it without Content-Encoding.")
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The request body exceeds {max_bytes} bytes.")


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``body`` once more, then whatever comes."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
