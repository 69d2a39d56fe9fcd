from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from mcp import MCPError

from agentapi._core import Keyring
from agentapi.errors import MethodNotAllowedError, NotAcceptableError, UpstreamError
from agentapi.gateway.reply import StreamLimits
from agentapi.gateway.session_ids import SessionIds, UnknownSessionError
from agentapi.principal import OrgId, SessionId, UserId, WorkspaceId
from unit.gateway.fronts import (
    ALICE,
    INITIALIZE,
    LEGACY,
    SOON_S,
    WORKSPACE,
    StubRouter,
    World,
    call,
    request,
    scope_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.gateway.call import Call
    from agentapi.gateway.exchange import Exchange
    from unit.gateway.fronts import Request

CALL = request("tools/call", {"name": "t", "arguments": {}}, identifier=5)
SAMPLE = {"messages": [], "maxTokens": 5, "x-unknown": {"kept": True}}


def world(answer: Callable[[Exchange], Awaitable[dict[str, Any]]], **given: Any) -> World:
    return World(StubRouter({"tools/call": answer}), **given)


async def plain(_: Exchange) -> dict[str, Any]:
    return {"content": [], "unknown": [None]}


def response(identifier: object, **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, **members}


async def standing(gateway: World, session: str) -> Request:
    """Open the stream of a session and wait until it hears."""
    gateway.router.heard.clear()
    asked = gateway.ask_legacy(None, verb="GET", session=session)
    await asyncio.wait_for(gateway.router.heard.wait(), SOON_S)
    return asked


@pytest.mark.parametrize("revision", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_a_session_settles_on_the_revision_that_is_asked_for(revision: str) -> None:
    gateway = world(plain)
    asked = gateway.ask_legacy(request("initialize", {**INITIALIZE, "protocolVersion": revision}))
    client = await asked.answered()
    result = client.json()["result"]
    assert result["protocolVersion"] == revision
    assert result["capabilities"] == {"tools": {"listChanged": True}}
    assert result["serverInfo"]["name"] == "agentapi"
    session = client.headers["mcp-session-id"]
    assert session.isascii()
    answer = await gateway.ask_legacy(CALL, session=session).answered()
    assert answer.json() == response(5, result={"content": [], "unknown": [None]})
    client_traits = gateway.router.exchanges[0].client
    assert (client_traits.revision, client_traits.capabilities) == (revision, INITIALIZE["capabilities"])
    assert client_traits.conversation


async def test_an_unknown_revision_is_answered_with_the_newest() -> None:
    asked = World().ask_legacy(request("initialize", {**INITIALIZE, "protocolVersion": "1999-01-01"}))
    assert (await asked.answered()).json()["result"]["protocolVersion"] == LEGACY


async def test_a_client_without_a_session_is_served_and_cannot_be_asked() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        await exchange.peer.notify("notifications/progress", {"progressToken": 1, "progress": 1})
        with pytest.raises(MCPError, match="back-channel"):
            await exchange.peer.ask("sampling/createMessage", SAMPLE)
        return {}

    client = await world(answer).ask_legacy(CALL).answered()
    assert client.events[0]["method"] == "notifications/progress"
    assert client.events[1]["result"] == {}


@pytest.mark.parametrize("ping_s", [0.01, 60.0])
async def test_the_stream_of_a_request_ends_with_its_token(ping_s: float) -> None:
    cancelled = asyncio.Event()

    async def answer(exchange: Exchange) -> dict[str, Any]:
        await exchange.peer.notify("notifications/progress", {"progressToken": 7, "progress": 0.5})
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    gateway = World(StubRouter({"tools/call": answer}), StreamLimits(ping_s=ping_s))
    client = await gateway.ask_legacy(CALL, by=call(expires_at=time.time() + 0.2)).answered()
    first, last = client.events
    assert first["method"] == "notifications/progress"
    assert last["error"]["data"] == {"code": "token_ended"}
    assert cancelled.is_set()


async def test_an_answer_without_a_stream_may_come_after_the_token_ended() -> None:
    async def silent(_: Exchange) -> dict[str, Any]:
        return {"resultType": "complete"}

    client = await World(StubRouter({"tools/call": silent})).ask_legacy(CALL, by=call(expires_at=1)).answered()
    assert "result" in client.json()


OTHERS: dict[str, Callable[[], Call]] = {
    "other_organization": lambda: call(replace(ALICE, org_id=OrgId(UUID(int=20)))),
    "other_user": lambda: call(replace(ALICE, user_id=UserId(UUID(int=10)))),
    "other_workspace": lambda: call(workspace=replace(WORKSPACE, id=WorkspaceId(UUID(int=30)))),
    "other_session": lambda: call(replace(ALICE, session_id=SessionId(UUID(int=40)))),
    "other_key": lambda: call(replace(ALICE, key_id=UUID(int=50))),
    "other_toolset": lambda: call(toolset="small"),
}


@pytest.mark.parametrize("reason", OTHERS)
@pytest.mark.parametrize("verb", ["POST", "GET", "DELETE"])
async def test_a_session_is_unknown_to_everybody_else(reason: str, verb: str) -> None:
    gateway = world(plain)
    session = await gateway.initialize()
    message = CALL if verb == "POST" else None
    with pytest.raises(UnknownSessionError) as caught:
        await gateway.ask_legacy(message, session=session, verb=verb, by=OTHERS[reason]()).answered()
    assert caught.value.reason == reason
    assert caught.value.message == UnknownSessionError("x").message
    assert (await gateway.ask_legacy(CALL, session=session).answered()).status == 200


def tampered(session: str) -> str:
    place = len(session) // 2
    return session[:place] + ("A" if session[place] != "A" else "B") + session[place + 1 :]


def foreign(_: str) -> str:
    ids = SessionIds(Keyring.parse(Keyring.generate("k1")), ttl_s=60)
    return ids.issue(call(), revision=LEGACY, capabilities={}, info={})


FORGED: dict[str, Callable[[str], str]] = {
    "tampered": tampered,
    "cut": lambda session: session[:-4],
    "grown": lambda session: session + "AAAA",
    "of another keyring": foreign,
    "empty": lambda _: "",
    "nonsense": lambda _: "0" * 64,
    "not ASCII": lambda _: "é" * 64,
    "long": lambda _: "A" * 100_000,
}


@pytest.mark.parametrize("case", FORGED)
async def test_a_forged_session_is_unknown(case: str) -> None:
    gateway = world(plain)
    forged = FORGED[case](await gateway.initialize())
    with pytest.raises(UnknownSessionError):
        await gateway.ask_legacy(CALL, session=forged).answered()


async def test_a_session_expires() -> None:
    now = 1_000_000.0
    gateway = world(plain, now=lambda: now, session_ttl_s=60)
    session = await gateway.initialize()
    now += 59
    assert (await gateway.ask_legacy(CALL, session=session).answered()).status == 200
    now += 1
    with pytest.raises(UnknownSessionError):
        await gateway.ask_legacy(CALL, session=session).answered()


async def test_what_an_id_cannot_hold_is_refused_or_shortened() -> None:
    gateway = world(plain)
    large = {"experimental": {"x": {"y": "z" * 3000}}}
    refused = await gateway.ask_legacy(request("initialize", {**INITIALIZE, "capabilities": large})).answered()
    assert refused.json()["error"]["message"] == "The declared capabilities exceed 2048 bytes."
    session = await gateway.initialize(clientInfo={"name": "n" * 5000, "version": "1", "description": "d" * 5000})
    assert len(session) < 1000
    await gateway.ask_legacy(CALL, session=session).answered()
    assert gateway.router.exchanges[0].client.info == {"name": "n" * 64, "version": "1"}


async def test_a_session_that_is_deleted_has_ended_with_all_that_was_under_way() -> None:
    begun = asyncio.Event()

    async def answer(exchange: Exchange) -> dict[str, Any]:
        begun.set()
        return await exchange.peer.ask("sampling/createMessage", SAMPLE)

    gateway = world(answer)
    session = await gateway.initialize()
    stream = await standing(gateway, session)
    asked = gateway.ask_legacy(CALL, session=session)
    await asyncio.wait_for(begun.wait(), SOON_S)
    deleted = await gateway.ask_legacy(None, session=session, verb="DELETE").answered()
    assert deleted.status == 204
    assert (await stream.answered()).is_complete
    await asked.answered()
    assert asked.client.events[-1]["error"]["code"] == -32800
    assert len(gateway.router.left) == 1
    for verb in ("POST", "GET", "DELETE"):
        with pytest.raises(UnknownSessionError) as caught:
            await gateway.ask_legacy(CALL if verb == "POST" else None, session=session, verb=verb).answered()
        assert caught.value.reason == "ended"


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
async def test_without_a_session_there_is_nothing_to_get_or_delete(verb: str) -> None:
    with pytest.raises(MethodNotAllowedError):
        await World().ask_legacy(None, verb=verb).answered()


async def test_the_stream_of_a_session_takes_events() -> None:
    gateway = World()
    session = await gateway.initialize()
    headers = {"accept": "application/json"}
    with pytest.raises(NotAcceptableError):
        await gateway.ask_legacy(None, verb="GET", session=session, headers=headers).answered()
    for accept in ("application/json", "text/event-stream", ""):
        with pytest.raises(NotAcceptableError):
            await gateway.ask_legacy(CALL, headers={"accept": accept}).answered()


@pytest.mark.parametrize("method", ["sampling/createMessage", "elicitation/create", "roots/list"])
async def test_a_client_is_asked_on_the_stream_of_its_request(method: str) -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        return {"asked": await exchange.peer.ask(method, SAMPLE)}

    gateway = world(answer)
    session = await gateway.initialize()
    async with gateway.ask_legacy(CALL, session=session) as asked:
        question = await asked.client.event()
        assert (question["method"], question["params"]) == (method, SAMPLE)
        result = {"role": "assistant", "unknown": 1}
        given = await gateway.ask_legacy(response(question["id"], result=result), session=session).answered()
        assert (given.status, given.body) == (202, b"")
        assert (await asked.client.event())["result"] == {"asked": result}


async def test_a_client_answers_with_an_error() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        return await exchange.peer.ask("roots/list", {})

    gateway = world(answer)
    session = await gateway.initialize()
    async with gateway.ask_legacy(CALL, session=session) as asked:
        question = await asked.client.event()
        error = {"code": -1, "message": "User rejected", "data": {"why": "x"}}
        await gateway.ask_legacy(response(question["id"], error=error), session=session).answered()
        assert (await asked.client.event())["error"] == error


async def test_only_the_session_that_is_asked_can_answer() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        return await exchange.peer.ask("roots/list", {})

    gateway = world(answer)
    session, other = await gateway.initialize(), await gateway.initialize()
    async with gateway.ask_legacy(CALL, session=session) as asked:
        question = await asked.client.event()
        for forged in (other, None):
            await gateway.ask_legacy(response(question["id"], result={"roots": [1]}), session=forged).answered()
        await gateway.ask_legacy(response("unknown", result={}), session=session).answered()
        await gateway.ask_legacy(response(question["id"], result={"roots": []}), session=session).answered()
        # The second answer to a question is let go.
        await gateway.ask_legacy(response(question["id"], result={"roots": [2]}), session=session).answered()
        assert (await asked.client.event())["result"] == {"roots": []}


@pytest.mark.parametrize(
    ("method", "words"),
    [("sampling/createMessage", "has not declared"), ("tasks/list", "cannot be asked")],
)
async def test_a_client_is_asked_only_what_it_declared(method: str, words: str) -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        return await exchange.peer.ask(method, {})

    gateway = world(answer)
    session = await gateway.initialize(capabilities={"roots": {}})
    client = await gateway.ask_legacy(CALL, session=session).answered()
    assert words in client.json()["error"]["message"]


async def test_a_client_that_does_not_answer_is_told_so() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        return await exchange.peer.ask("roots/list", {})

    gateway = world(answer, answer_timeout_s=0.02)
    session = await gateway.initialize()
    client = await gateway.ask_legacy(CALL, session=session).answered()
    question, cancelled, failed = client.events
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"] == {"requestId": question["id"]}
    assert failed["error"]["code"] == -32001


async def test_a_client_is_asked_on_its_own_stream_once_its_request_is_answered() -> None:
    late: list[asyncio.Future[dict[str, Any]]] = []

    async def answer(exchange: Exchange) -> dict[str, Any]:
        async def afterwards() -> dict[str, Any]:
            await answered.wait()
            await exchange.peer.notify("notifications/message", {"level": "info", "data": "late"})
            return await exchange.peer.ask("roots/list", {})

        late.append(asyncio.ensure_future(afterwards()))
        return {}

    answered = asyncio.Event()
    gateway = world(answer)
    session = await gateway.initialize()
    async with await standing(gateway, session) as stream:
        await gateway.ask_legacy(CALL, session=session).answered()
        answered.set()
        assert (await stream.client.event())["params"]["data"] == "late"
        question = await stream.client.event()
        await gateway.ask_legacy(response(question["id"], result={"roots": []}), session=session).answered()
        assert await asyncio.wait_for(late[0], SOON_S) == {"roots": []}


async def test_a_client_without_any_stream_cannot_be_asked() -> None:
    late: list[asyncio.Future[dict[str, Any]]] = []

    async def answer(exchange: Exchange) -> dict[str, Any]:
        async def afterwards() -> dict[str, Any]:
            await answered.wait()
            return await exchange.peer.ask("roots/list", {})

        late.append(asyncio.ensure_future(afterwards()))
        return {}

    answered = asyncio.Event()
    gateway = world(answer)
    session = await gateway.initialize()
    await gateway.ask_legacy(CALL, session=session).answered()
    answered.set()
    with pytest.raises(MCPError, match="no stream"):
        await asyncio.wait_for(late[0], SOON_S)


async def test_a_client_cancels_its_request() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(_: Exchange) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    gateway = world(answer)
    session, other = await gateway.initialize(), await gateway.initialize()

    async def cancel(identifier: object, by: str | None) -> None:
        params = {"requestId": identifier, "reason": "changed my mind"}
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        assert (await gateway.ask_legacy(message, session=by).answered()).status == 202

    asked = gateway.ask_legacy(CALL, session=session)
    await asyncio.wait_for(begun.wait(), SOON_S)
    for identifier, by in ((5, other), (5, None), (4, session), ("5", session), (None, session), ([5], session)):
        await cancel(identifier, by)
    assert not cancelled.is_set()
    await cancel(5, session)
    client = await asked.answered()
    assert cancelled.is_set()
    assert client.json()["error"]["code"] == -32800
    # Its id is free again.
    gateway.router.answers["tools/call"] = plain
    assert (await gateway.ask_legacy(CALL, session=session).answered()).status == 200


async def test_an_id_that_is_under_way_is_refused() -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    async def answer(_: Exchange) -> dict[str, Any]:
        begun.set()
        await done.wait()
        return {}

    gateway = world(answer)
    session = await gateway.initialize()
    asked = gateway.ask_legacy(CALL, session=session)
    await asyncio.wait_for(begun.wait(), SOON_S)
    again = await gateway.ask_legacy(CALL, session=session).answered()
    assert again.json()["error"]["code"] == -32600
    done.set()
    assert "result" in (await asked.answered()).json()


async def test_a_client_that_leaves_cancels_its_request_and_its_question() -> None:
    cancelled = asyncio.Event()

    async def answer(exchange: Exchange) -> dict[str, Any]:
        try:
            return await exchange.peer.ask("roots/list", {})
        finally:
            cancelled.set()

    gateway = world(answer)
    session = await gateway.initialize()
    async with gateway.ask_legacy(CALL, session=session) as asked:
        question = await asked.client.event()
    assert cancelled.is_set()
    answered = await gateway.ask_legacy(response(question["id"], result={}), session=session).answered()
    assert answered.status == 202


async def test_other_notifications_go_to_the_router() -> None:
    gateway = World()
    session = await gateway.initialize()
    for method in ("notifications/initialized", "notifications/roots/list_changed", "notifications/unknown"):
        message = {"jsonrpc": "2.0", "method": method}
        assert (await gateway.ask_legacy(message, session=session).answered()).status == 202
    assert [method for method, _ in gateway.router.notices] == [
        "notifications/roots/list_changed",
        "notifications/unknown",
    ]


async def test_ping_is_answered_here() -> None:
    gateway = World()
    assert (await gateway.ask_legacy(request("ping")).answered()).json()["result"] == {}


async def test_the_level_of_log_messages_holds_for_the_session() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        for level in ("debug", "error"):
            await exchange.peer.notify("notifications/message", {"level": level, "data": level})
        return {}

    gateway = world(answer)
    session, other = await gateway.initialize(), await gateway.initialize()
    set_level = request("logging/setLevel", {"level": "warning"})
    assert (await gateway.ask_legacy(set_level, session=session).answered()).json()["result"] == {}
    quiet = await gateway.ask_legacy(CALL, session=session).answered()
    verbose = await gateway.ask_legacy(CALL, session=other).answered()
    assert [event["params"]["level"] for event in quiet.events[:-1]] == ["error"]
    assert [event["params"]["level"] for event in verbose.events[:-1]] == ["debug", "error"]
    meta = [exchange.params.get("_meta") for exchange in gateway.router.exchanges]
    assert meta == [{"io.modelcontextprotocol/logLevel": "warning"}, None]
    wrong = await gateway.ask_legacy(request("logging/setLevel", {"level": "loud"}), session=session).answered()
    assert wrong.json()["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/nonsense", {}, -32601),
        ("server/discover", {}, -32601),
        ("subscriptions/listen", {}, -32601),
        ("tools/call", {"name": 5}, -32602),
        ("initialize", {}, -32602),
        ("initialize", {**INITIALIZE, "capabilities": []}, -32602),
        ("resources/subscribe", {"uri": "a:b"}, -32600),
    ],
)
async def test_an_error_of_an_older_revision_has_status_200(method: str, params: dict[str, Any], code: int) -> None:
    client = await World().ask_legacy(request(method, params)).answered()
    assert (client.status, client.json()["error"]["code"]) == (200, code)


async def test_a_scope_that_policy_misses_is_challenged() -> None:
    async def answer(_: Exchange) -> dict[str, Any]:
        raise scope_refusal("mcp:tools")

    client = await world(answer).ask_legacy(CALL).answered()
    assert (client.status, client.headers["www-authenticate"]) == (403, 'Bearer scope="mcp:tools"')


async def nothing(_: Exchange) -> dict[str, Any]:
    return {}


async def test_a_session_hears_of_changes_and_of_resources_it_subscribed_to() -> None:
    gateway = World(StubRouter({"resources/subscribe": nothing, "resources/unsubscribe": nothing}))
    session = await gateway.initialize()
    async with await standing(gateway, session) as stream:
        for method in ("resources/subscribe", "resources/unsubscribe"):
            gateway.router.heard.clear()
            assert (await gateway.ask_legacy(request(method, {"uri": "a:1"}), session=session).answered()).status == 200
            await asyncio.wait_for(gateway.router.heard.wait(), SOON_S)
            for _ in range(10):
                await asyncio.sleep(0)
            # The former listening has ended once the new one has begun.
            (interest, _), *others = gateway.router.listeners.values()
            assert others == []
            assert interest.uris == (frozenset({"a:1"}) if method == "resources/subscribe" else frozenset())
            gateway.router.tell("notifications/resources/updated", uri="a:1")
            gateway.router.tell("notifications/resources/updated", uri="a:2")
            gateway.router.tell("notifications/resources/updated", uri="a:1#part")
            gateway.router.tell("notifications/tools/list_changed")
            heard = await stream.client.event()
            if method == "resources/subscribe":
                assert heard["params"] == {"uri": "a:1"}
                assert (await stream.client.event())["params"] == {"uri": "a:1#part"}
                heard = await stream.client.event()
            assert heard["method"] == "notifications/tools/list_changed"
    assert gateway.router.listeners == {}


async def test_a_subscription_is_answered_once_its_resource_is_listened_to() -> None:
    gateway = World(StubRouter({"resources/subscribe": nothing}))
    session = await gateway.initialize()
    async with await standing(gateway, session):
        gateway.router.slow_to_listen = asyncio.Event()
        client = gateway.ask_legacy(request("resources/subscribe", {"uri": "a:1"}), session=session)
        answering = asyncio.ensure_future(client.answered())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not answering.done()
        gateway.router.slow_to_listen.set()
        assert (await asyncio.wait_for(answering, SOON_S)).status == 200
        assert {uri for interest, _ in gateway.router.listeners.values() for uri in interest.uris} == {"a:1"}


async def test_a_subscription_that_is_refused_is_none() -> None:
    async def refused(_: Exchange) -> dict[str, Any]:
        raise MCPError(code=-32002, message="no such resource")

    gateway = World(StubRouter({"resources/subscribe": refused}))
    session = await gateway.initialize()
    async with await standing(gateway, session):
        await gateway.ask_legacy(request("resources/subscribe", {"uri": "a:1"}), session=session).answered()
        ((interest, _),) = gateway.router.listeners.values()
        assert interest.uris == frozenset()


async def test_scopes_bound_what_a_session_hears() -> None:
    gateway = World()
    session = await gateway.initialize()
    by = call(replace(ALICE, scopes=frozenset({"mcp:prompts"})), operation_scopes=True)
    async with gateway.ask_legacy(None, verb="GET", session=session, by=by):
        await asyncio.wait_for(gateway.router.heard.wait(), SOON_S)
        ((interest, _),) = gateway.router.listeners.values()
        assert (interest.tools, interest.prompts, interest.resources) == (False, True, False)


async def test_a_newer_stream_replaces_the_older() -> None:
    gateway = World()
    session = await gateway.initialize()
    first = await standing(gateway, session)
    async with await standing(gateway, session) as second:
        assert (await first.answered()).is_complete
        gateway.router.tell("notifications/tools/list_changed")
        assert (await second.client.event())["method"] == "notifications/tools/list_changed"
    assert len(gateway.streams) == 0


async def test_a_stream_ends_when_the_process_stops_and_with_its_token() -> None:
    gateway = World()
    session = await gateway.initialize()
    stream = await standing(gateway, session)
    gateway.streams.drain()
    assert (await stream.answered()).is_complete
    brief = await World.ask_legacy(
        fresh := World(), None, verb="GET", session=await fresh.initialize(), by=call(expires_at=1)
    ).answered()
    assert brief.is_complete
    assert brief.events == []


async def test_a_stream_stays_without_upstreams_to_listen_to() -> None:
    async def answer(exchange: Exchange) -> dict[str, Any]:
        return await exchange.peer.ask("roots/list", {})

    gateway = World(StubRouter({"tools/call": answer}, refuse_to_listen=UpstreamError("down")))
    session = await gateway.initialize()
    async with gateway.ask_legacy(None, verb="GET", session=session) as stream:
        await stream.client.started()
        assert stream.client.status == 200
        assert not stream.client.is_complete


async def test_an_idle_stream_is_kept_alive() -> None:
    gateway = World(limits=StreamLimits(ping_s=0.01))
    session = await gateway.initialize()
    async with gateway.ask_legacy(None, verb="GET", session=session) as stream:
        await stream.client.until(lambda: b": ping" in stream.client.body)


async def test_a_thousand_sessions_with_streams_leave_nothing_behind() -> None:
    gateway = World()
    before = len(asyncio.all_tasks())
    sessions = [await gateway.initialize() for _ in range(1000)]
    streams = [await standing(gateway, session) for session in sessions]
    assert len(gateway.streams) == 1000
    gateway.router.tell("notifications/tools/list_changed")
    for stream in streams:
        assert (await stream.client.event())["method"] == "notifications/tools/list_changed"
    for stream in streams:
        stream.client.leave()
    await asyncio.gather(*(stream.task for stream in streams))
    for session in sessions:
        await gateway.ask_legacy(None, session=session, verb="DELETE").answered()
    assert len(gateway.streams) == len(gateway.conversations) == len(gateway.router.listeners) == 0
    assert len(asyncio.all_tasks()) == before


async def test_the_id_tells_its_holder_nothing() -> None:
    session = await World().initialize()
    assert json.dumps(INITIALIZE["clientInfo"])[2:6] not in session
    assert session != await World().initialize()


async def test_two_ids_are_none() -> None:
    gateway = world(plain)
    session = await gateway.initialize()
    with pytest.raises(UnknownSessionError):
        await gateway.ask_legacy(CALL, session=session, more=[("mcp-session-id", session)]).answered()
