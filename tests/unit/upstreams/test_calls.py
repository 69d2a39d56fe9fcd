"""What may be parsed of what comes on a way of many requests."""

from __future__ import annotations

import anyio
import pytest

from agentapi.egress.transport import ResponseTooLargeError
from agentapi.upstreams.calls import Call, is_within_bound

LONG = b"x" * 100


def waiting() -> dict[str | int, Call]:
    bounded = Call(1, anyio.CancelScope(), max_answer_bytes=100)
    other = Call(2, anyio.CancelScope(), max_answer_bytes=10_000)
    return {1: bounded, 2: other, "subscription": Call("subscription", anyio.CancelScope())}


@pytest.mark.parametrize(
    "message",
    [
        b'{"jsonrpc":"2.0","id":1,"result":{"x":"%b"}}' % LONG,
        b'{"jsonrpc":"2.0","id":"1","result":{"x":"%b"}}' % LONG,
        b'{"result":{"x":"%b"},"\\u0069d":1,"jsonrpc":"2.0"}' % LONG,
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"%b"}}' % LONG,
        # What cannot be told may be meant for it.
        b'{"jsonrpc":"2.0","id":2,"id":1,"result":{"x":"%b"}}' % LONG,
        b'{"jsonrpc":"2.0","id":1.0,"result":{"x":"%b"}}' % LONG,
        b"[" * 300,
        b"garbage" * 20,
    ],
)
async def test_an_answer_that_is_too_long_for_its_request_is_not_parsed(message: bytes) -> None:
    calls = waiting()
    assert not is_within_bound(message, calls)
    assert isinstance(calls[1].failure, ResponseTooLargeError)
    assert calls[1].scope.cancel_called
    assert calls[2].failure is None


@pytest.mark.parametrize(
    "message",
    [
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":2,"result":{"x":"%b"}}' % LONG,
        b'{"jsonrpc":"2.0","id":3,"result":{"x":"%b"}}' % LONG,
        b'{"jsonrpc":"2.0","id":1,"method":"roots/list","params":{"x":"%b"}}' % LONG,
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"x":"%b"}}' % LONG,
    ],
)
async def test_what_another_request_may_take_ends_no_wait(message: bytes) -> None:
    calls = waiting()
    assert is_within_bound(message, calls)
    assert not any(call.scope.cancel_called for call in calls.values())


async def test_nothing_is_scanned_where_nobody_waits() -> None:
    assert is_within_bound(b"garbage" * 20, {})
