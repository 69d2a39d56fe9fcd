from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from mcp import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY

from agentapi._core import Keyring
from agentapi.errors import UpstreamError
from agentapi.gateway.capabilities import required_capability
from agentapi.gateway.parked import ParkedCalls, TooManyParkedError
from agentapi.gateway.request_state import Binding, InvalidRequestStateError, RequestStates
from agentapi.gateway.rewrite import Rewriter
from agentapi.principal import UpstreamId, UserId
from unit.gateway.doubles import Listener
from unit.upstreams.doubles import PRINCIPAL, Clock, drain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.upstreams.link import Peer

BINDING = Binding(PRINCIPAL, UpstreamId(UUID(int=7)), "tools/call", "book")
ABLE: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
URIS = Rewriter("one", bare=False)
ASK = ("elicitation/create", {"message": "Which?"})
STATES = RequestStates(Keyring.parse(Keyring.generate("k1")), 60.0, Clock())


@contextlib.asynccontextmanager
async def parked(ttl_s: float = 60.0, max_calls: int = 10, max_calls_per_user: int = 5) -> AsyncIterator[ParkedCalls]:
    calls = ParkedCalls(states=STATES, ttl_s=ttl_s, max_calls=max_calls, max_calls_per_user=max_calls_per_user)
    async with calls.run():
        yield calls


async def asks_once(peer: Peer) -> dict[str, Any]:
    answer = await peer.ask(*ASK)
    return {"content": [answer["action"]]}


async def begin(calls: ParkedCalls, send: Any = asks_once, **changes: Any) -> dict[str, Any]:
    given = {"binding": BINDING, "capabilities": ABLE, "rewriter": URIS, "listener": Listener(), **changes}
    return await calls.begin(given["binding"], given["capabilities"], given["rewriter"], given["listener"], send)


def answers(result: dict[str, Any], answer: Any) -> dict[str, Any]:
    return dict.fromkeys(result["inputRequests"], answer)


async def test_a_question_parks_the_call_and_its_answer_takes_it_up() -> None:
    async with parked() as calls:
        first = await begin(calls)
        assert list(first["inputRequests"].values()) == [{"method": ASK[0], "params": ASK[1]}]
        assert (first["resultType"], len(calls)) == ("input_required", 1)
        final = await calls.resume(BINDING, Listener(), first["requestState"], answers(first, {"action": "accept"}))
        assert (final, len(calls)) == ({"content": ["accept"]}, 0)


async def test_a_call_that_asks_nothing_is_just_answered() -> None:
    async def send(peer: Peer) -> dict[str, Any]:
        await peer.notify("notifications/progress", {"progress": 1})
        return {"content": []}

    listener = Listener()
    async with parked() as calls:
        assert await begin(calls, send, listener=listener) == {"content": []}
    assert listener.told == [("notifications/progress", {"progress": 1})]


async def test_questions_asked_together_are_put_together_and_one_after_the_other_in_rounds() -> None:
    async def send(peer: Peer) -> dict[str, Any]:
        first = await asyncio.gather(peer.ask(*ASK), peer.ask("roots/list", {}))
        return {"content": [*first, await peer.ask(*ASK)]}

    async with parked() as calls:
        result = await begin(calls, send)
        methods = {key: asked["method"] for key, asked in result["inputRequests"].items()}
        assert sorted(methods.values()) == ["elicitation/create", "roots/list"]
        given = {key: {"to": method} for key, method in methods.items()}
        key = next(iter(given))
        # What is not answered is asked again; what is no answer is none.
        result = await calls.resume(BINDING, Listener(), result["requestState"], {key: given[key], "?": {}})
        (left,) = result["inputRequests"]
        assert left != key
        result = await calls.resume(BINDING, Listener(), result["requestState"], {left: "nonsense"})
        assert list(result["inputRequests"]) == [left]
        result = await calls.resume(BINDING, Listener(), result["requestState"], {left: given[left]})
        final = await calls.resume(BINDING, Listener(), result["requestState"], answers(result, {"to": "third"}))
        assert final["content"] == [{"to": "elicitation/create"}, {"to": "roots/list"}, {"to": "third"}]


@pytest.mark.parametrize(
    "binding",
    [
        replace(BINDING, principal=replace(PRINCIPAL, user_id=UserId(UUID(int=99)))),
        replace(BINDING, upstream_id=UpstreamId(UUID(int=99))),
        replace(BINDING, method="prompts/get"),
        replace(BINDING, name="other"),
        replace(BINDING, arguments={"to": "Basel"}),
    ],
    ids=["user", "upstream", "method", "name", "arguments"],
)
async def test_nobody_else_takes_a_call_up(binding: Binding) -> None:
    async with parked() as calls:
        first = await begin(calls)
        with pytest.raises(InvalidRequestStateError):
            await calls.resume(binding, Listener(), first["requestState"], {})
        assert len(calls) == 1


async def test_a_state_of_an_upstream_names_no_parked_call() -> None:
    async with parked() as calls:
        await begin(calls)
        forged = STATES.seal(BINDING, next(iter(calls._parked)))
        with pytest.raises(InvalidRequestStateError):
            await calls.resume(BINDING, Listener(), forged, {})


async def test_a_state_is_good_once_and_in_this_process() -> None:
    async with parked() as calls, parked() as elsewhere:
        first = await begin(calls)
        for other in (elsewhere,):
            with pytest.raises(MCPError, match="does not wait here any more") as caught:
                await other.resume(BINDING, Listener(), first["requestState"], {})
            assert (caught.value.code, caught.value.data) == (INVALID_PARAMS, {"code": "call_not_waiting"})
        await calls.resume(BINDING, Listener(), first["requestState"], answers(first, {"action": "accept"}))
        with pytest.raises(MCPError, match="does not wait here any more"):
            await calls.resume(BINDING, Listener(), first["requestState"], {})


@pytest.mark.parametrize("bounds", [{"max_calls": 1}, {"max_calls_per_user": 1}])
async def test_parked_calls_are_bounded(bounds: dict[str, int]) -> None:
    taken_back = asyncio.Event()

    async def send(peer: Peer) -> dict[str, Any]:
        try:
            return await peer.ask(*ASK)
        except asyncio.CancelledError:
            taken_back.set()
            raise

    async with parked(**bounds) as calls:
        first = await begin(calls)
        with pytest.raises(TooManyParkedError):
            await begin(calls, send)
        await asyncio.wait_for(taken_back.wait(), 5)
        assert len(calls) == 1
        await calls.resume(BINDING, Listener(), first["requestState"], answers(first, {"action": "accept"}))
        assert (await begin(calls))["resultType"] == "input_required"


async def test_a_parked_call_expires_and_is_taken_back() -> None:
    ended = asyncio.Event()

    async def send(peer: Peer) -> dict[str, Any]:
        try:
            return await peer.ask(*ASK)
        finally:
            ended.set()

    async with parked(ttl_s=0.01) as calls:
        first = await begin(calls, send)
        await asyncio.wait_for(ended.wait(), 5)
        assert len(calls) == 0
        with pytest.raises(MCPError, match="does not wait here any more"):
            await calls.resume(BINDING, Listener(), first["requestState"], {})


async def test_shutting_down_takes_calls_back() -> None:
    ended = asyncio.Event()

    async def send(peer: Peer) -> dict[str, Any]:
        try:
            return await peer.ask(*ASK)
        finally:
            ended.set()

    async with parked() as calls:
        await begin(calls, send)
    assert ended.is_set()
    with pytest.raises(UpstreamError, match="shutting down"):
        await begin(calls)


async def test_a_client_that_leaves_takes_its_call_with_it() -> None:
    ended = asyncio.Event()

    async def send(_: Peer) -> dict[str, Any]:
        try:
            return await asyncio.Event().wait()  # type: ignore[return-value] # never returns
        finally:
            ended.set()

    async with parked() as calls:
        request = asyncio.ensure_future(begin(calls, send))
        await drain()
        request.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        assert request.cancelled()


async def test_an_upstream_that_fails_while_its_call_is_parked_is_heard_of_at_the_retry() -> None:
    fail = asyncio.Event()

    async def send(peer: Peer) -> dict[str, Any]:
        asking = asyncio.ensure_future(peer.ask(*ASK))
        await fail.wait()
        asking.cancel()
        raise UpstreamError("It broke.")

    async with parked() as calls:
        first = await begin(calls, send)
        fail.set()
        await drain()
        with pytest.raises(UpstreamError, match="It broke"):
            await calls.resume(BINDING, Listener(), first["requestState"], {})


@pytest.mark.parametrize("gives_up", ["error", "result"])
async def test_a_missing_capability_is_named_when_the_upstream_fails_for_want_of_it(gives_up: str) -> None:
    async def send(peer: Peer) -> dict[str, Any]:
        try:
            return await peer.ask(*ASK)
        except MCPError:
            if gives_up == "error":
                raise
            return {"isError": True, "content": []}

    async with parked() as calls:
        with pytest.raises(MCPError) as caught:
            await begin(calls, send, capabilities={"sampling": {}})
    assert caught.value.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    assert caught.value.data == {"requiredCapabilities": {"elicitation": {"form": {}}}}


@pytest.mark.parametrize(
    ("declared", "params", "required"),
    [
        ({}, {"messages": []}, {"sampling": {}}),
        ({"sampling": {}}, {"messages": []}, None),
        ({"sampling": {}}, {"messages": [], "tools": []}, {"sampling": {"tools": {}}}),
        ({"sampling": {"tools": {}}}, {"messages": [], "toolChoice": {}}, None),
        ({}, {"mode": "url"}, {"elicitation": {"url": {}}}),
        ({"elicitation": {}}, {"mode": "url"}, {"elicitation": {"url": {}}}),
        ({"elicitation": {}}, {}, None),
        ({"elicitation": {"url": {}}}, {}, {"elicitation": {"form": {}}}),
        ({"elicitation": {"url": {}, "form": {}}}, {}, None),
    ],
)
def test_what_a_question_needs_of_a_client(declared: Any, params: Any, required: Any) -> None:
    method = "sampling/createMessage" if "messages" in params else "elicitation/create"
    assert required_capability(declared, method, params) == required


async def test_an_upstream_that_does_without_the_answer_is_let() -> None:
    async def send(peer: Peer) -> dict[str, Any]:
        with contextlib.suppress(MCPError):
            await peer.ask(*ASK)
        return {"content": ["a default"]}

    async with parked() as calls:
        assert await begin(calls, send, capabilities={}) == {"content": ["a default"]}


async def test_a_client_is_asked_nothing_that_it_cannot_understand() -> None:
    async def send(peer: Peer) -> dict[str, Any]:
        return await peer.ask("tasks/list", {})

    async with parked() as calls:
        with pytest.raises(MCPError) as caught:
            await begin(calls, send)
    assert caught.value.code == METHOD_NOT_FOUND


async def test_a_defect_is_an_error_and_ends_nobody_else() -> None:
    async def send(_: Peer) -> dict[str, Any]:
        raise ZeroDivisionError

    async with parked() as calls:
        first = await begin(calls)
        with pytest.raises(MCPError, match="the log has the details"):
            await begin(calls, send)
        final = await calls.resume(BINDING, Listener(), first["requestState"], answers(first, {"action": "accept"}))
        assert final == {"content": ["accept"]}


async def test_responses_that_are_none_leave_the_call_where_it_is() -> None:
    async with parked() as calls:
        first = await begin(calls)
        with pytest.raises(MCPError, match="inputResponses"):
            await calls.resume(BINDING, Listener(), first["requestState"], ["no"])
        assert len(calls) == 1
