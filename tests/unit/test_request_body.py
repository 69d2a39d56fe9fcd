from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.errors import PayloadTooLargeError, RequestTimeoutError
from agentapi.request_body import ClientGoneError, read_body, replay

if TYPE_CHECKING:
    from starlette.types import Message, Receive

GONE: Message = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def receiving(*messages: Message) -> Receive:
    """A ``receive`` of these messages; asking for one more fails the test."""
    left = iter(messages)

    async def receive() -> Message:
        return next(left)

    return receive


def scope(*lengths: bytes) -> dict[str, Any]:
    return {"type": "http", "headers": [(b"content-length", length) for length in lengths]}


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([part(b"abcd")], b"abcd"),
        ([part(b"ab", more=True), part(b"", more=True), part(b"cd")], b"abcd"),
        ([part(b"abcd", more=True), part(b"")], b"abcd"),
        ([{"type": "http.request"}], b""),
    ],
    ids=["one part", "three parts", "an empty end", "nothing said"],
)
async def test_the_parts_up_to_the_bound_are_one_body(messages: list[Message], body: bytes) -> None:
    assert await read_body(scope(), receiving(*messages), max_bytes=4) == body


@pytest.mark.parametrize("declared", [b"5", b"0005", b"9" * 10_000])
async def test_a_body_that_declares_too_much_is_not_read(declared: bytes) -> None:
    with pytest.raises(PayloadTooLargeError, match="exceeds 4 bytes"):
        await read_body(scope(declared), receiving(), max_bytes=4)


@pytest.mark.parametrize("declared", [[], [b"4"], [b"1"], [b"-1"], [b"many"]])
async def test_a_body_that_turns_out_too_large_is_read_no_further(declared: list[bytes]) -> None:
    messages = [part(b"abc", more=True), part(b"de", more=True)]
    with pytest.raises(PayloadTooLargeError, match="exceeds 4 bytes"):
        await read_body(scope(*declared), receiving(*messages), max_bytes=4)


@pytest.mark.parametrize("before", [[], [part(b"ab", more=True)]])
async def test_a_client_that_leaves_is_said_so(before: list[Message]) -> None:
    with pytest.raises(ClientGoneError):
        await read_body(scope(b"4"), receiving(*before, GONE), max_bytes=4)


async def test_a_replayed_body_comes_once_and_then_what_comes() -> None:
    receive = replay(b"abcd", receiving(GONE))
    assert await receive() == part(b"abcd")
    assert await receive() == GONE


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(RequestTimeoutError, match=r"within 0\.01 seconds"):
        await read_body(scope(), receive, max_bytes=4, timeout_s=0.01)
