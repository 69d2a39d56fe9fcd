"""Which failures say that a request was never looked at, so that it may be sent again."""

from __future__ import annotations

import anyio
import pytest
from mcp import MCPError

from agentapi.upstreams.calls import Call
from agentapi.upstreams.failures import UnprocessedError, judge


@pytest.mark.parametrize(
    ("status", "answered", "words", "kind"),
    [
        (404, False, "Not Found", UnprocessedError),
        (404, False, "Session not found", UnprocessedError),
        (404, True, "Session not found", UnprocessedError),
        (404, True, "There is no such tool", MCPError),
        (400, False, "Bad Request: No valid session ID provided", UnprocessedError),
        (400, True, "Payment done; but the checkout session id is stale", MCPError),
        (200, True, "The session id is unknown", MCPError),
    ],
)
async def test_a_request_that_the_server_answered_is_not_taken_for_one_that_it_never_saw(
    status: int, answered: bool, words: str, kind: type[Exception]
) -> None:
    call = Call(request_id=1, scope=anyio.CancelScope(), sent=True, status=status, answered=answered)
    error = MCPError(-32000, words)
    judged = judge(error, call, "pay", in_session=True, on_pipe=False, ending=None)
    assert type(judged) is kind
    assert (judged is error) is (kind is MCPError)
