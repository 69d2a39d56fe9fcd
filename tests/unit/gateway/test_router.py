from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from mcp import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    URL_ELICITATION_REQUIRED,
)

from agentapi._core import Keyring
from agentapi.errors import ForbiddenError, UpstreamError
from agentapi.gateway.composition import build_router
from agentapi.gateway.pages import RawResult
from agentapi.gateway.request_state import InvalidRequestStateError
from agentapi.principal import Role
from agentapi.settings import load_settings
from agentapi.upstreams.link import Era
from unit.gateway.doubles import Asked, Client, Listener, Server, exchange, tool
from unit.upstreams.doubles import PRINCIPAL, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.gateway.exchange import Exchange
    from agentapi.gateway.router import Router

KEYRING = Keyring.parse(Keyring.generate("k1"))
ONE, TWO = upstream("one", 1), upstream("two", 2)
MODERN, LEGACY = Era.MODERN, Era.LEGACY
STATE = "the upstream's own"
ABLE: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}
ELICIT = {"method": "elicitation/create", "params": {"message": "Which?"}}
VISIT = {"mode": "url", "url": "https://upstream.example/", "message": "Go.", "elicitationId": "e"}
NO_ADDRESSES: list[Any] = [
    *("javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "https:", "//upstream.example/", "", None, 7),
    *("https://gateway.example@evil.example/", "https://[", " https://upstream.example/", "https://a\n.example/"),
]


@contextlib.asynccontextmanager
async def routed(client: Client, **changes: Any) -> AsyncIterator[Router]:
    router = build_router(load_settings(**changes), client=client.typed, keyring=KEYRING)
    async with router.run():
        yield router


async def answered(asked: Asked) -> dict[str, Any]:
    del asked
    return {"content": [{"type": "resource_link", "uri": "test://a", "name": "a"}], "unknownField": 1}


def world(answer: Any = answered, era: Era = MODERN, **options: Any) -> Client:
    lists = {"tools": [tool("t")], "prompts": [{"name": "p"}], **options.pop("lists", {})}
    return Client({name: Server(lists, answer, era=era, **options) for name in ("one", "two")})


def call(name: str = "one__t", params: dict[str, Any] | None = None, **options: Any) -> Exchange:
    return exchange("tools/call", {"name": name, "arguments": {"a": 1}, **(params or {})}, ONE, TWO, **options)


async def error_of(router: Router, asked: Exchange) -> tuple[int, Any]:
    with pytest.raises(MCPError) as caught:
        await router.answer(asked)
    return caught.value.code, caught.value.data


@pytest.mark.parametrize("upstream_era", Era)
@pytest.mark.parametrize("era", Era)
async def test_a_call_goes_to_its_upstream_and_its_answer_back(era: Era, upstream_era: Era) -> None:
    client = world(era=upstream_era)
    meta = {
        "progressToken": 7,
        "traceparent": "00-1-2-03",
        "io.modelcontextprotocol/logLevel": "error",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    async with routed(client) as router:
        result = await router.answer(call(params={"_meta": meta, "unknown": [1]}, era=era, conversation="c"))
    assert result == {
        **({"resultType": "complete"} if era is MODERN else {}),
        "content": [{"type": "resource_link", "uri": "mcp+one+test://a", "name": "a"}],
        "unknownField": 1,
    }
    asked = client.servers["one"].asked[-1]
    assert asked.params == {
        "name": "t",
        "arguments": {"a": 1},
        "unknown": [1],
        "_meta": {"progressToken": 7, "traceparent": "00-1-2-03", "io.modelcontextprotocol/logLevel": "error"},
    }
    assert (asked.caller.conversation, asked.caller.client_info) == ("c", {"name": "test"})
    assert asked.options["definition"]["inputSchema"] == {"type": "object"}
    assert client.servers["two"].methods == []


@pytest.mark.parametrize(("era", "upstream_era", "level"), [(LEGACY, MODERN, "debug"), (LEGACY, LEGACY, None)])
async def test_an_older_client_without_a_level_is_sent_every_message(era: Era, upstream_era: Era, level: Any) -> None:
    client = world(era=upstream_era)
    async with routed(client) as router:
        await router.answer(call(era=era))
    meta = client.servers["one"].asked[-1].params.get("_meta", {})
    assert meta.get("io.modelcontextprotocol/logLevel") == level


async def test_a_modern_round_passes_with_its_state_sealed() -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        if "requestState" not in asked.params:
            return {"resultType": "input_required", "inputRequests": {"k": ELICIT}, "requestState": STATE}
        assert asked.params["requestState"] == STATE
        assert asked.params["inputResponses"] == {"k": {"action": "accept"}}
        return {"content": []}

    async with routed(world(answer)) as router:
        first = await router.answer(call(capabilities=ABLE))
        assert (first["inputRequests"], STATE in first["requestState"]) == ({"k": ELICIT}, False)
        retry = {"requestState": first["requestState"], "inputResponses": {"k": {"action": "accept"}}}
        assert await router.answer(call(params=retry)) == {"resultType": "complete", "content": []}
        for bad in (STATE, 7, first["requestState"][:-2]):
            with pytest.raises(InvalidRequestStateError):
                await router.answer(call(params={"requestState": bad}))
        with pytest.raises(InvalidRequestStateError):
            await router.answer(call(params={**retry, "arguments": {"another": "request"}}))
        with pytest.raises(InvalidRequestStateError):
            await router.answer(call("two__t", params=retry))


@pytest.mark.parametrize(
    ("asked", "required"),
    [
        (ELICIT, {"elicitation": {"form": {}}}),
        ({**ELICIT, "params": VISIT}, {"elicitation": {"url": {}}}),
        ({"method": "roots/list"}, {"roots": {}}),
        ({"method": "sampling/createMessage", "params": {}}, {"sampling": {}}),
    ],
)
async def test_a_client_is_not_asked_what_it_did_not_declare(asked: dict[str, Any], required: dict[str, Any]) -> None:
    async def answer(_: Asked) -> dict[str, Any]:
        return {"resultType": "input_required", "inputRequests": {"k": asked}}

    async with routed(world(answer)) as router:
        missing = (MISSING_REQUIRED_CLIENT_CAPABILITY, {"requiredCapabilities": required})
        assert await error_of(router, call()) == missing


@pytest.mark.parametrize(
    ("era", "upstream_era"), [(MODERN, MODERN), (LEGACY, MODERN), (MODERN, LEGACY), (LEGACY, LEGACY)]
)
async def test_an_address_to_be_opened_comes_under_the_name_of_its_upstream(era: Era, upstream_era: Era) -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        if upstream_era is LEGACY:
            assert asked.peer is not None
            await asked.peer.ask("elicitation/create", VISIT)
        elif "inputResponses" not in asked.params:
            return {"resultType": "input_required", "inputRequests": {"k": {**ELICIT, "params": VISIT}}}
        return {"content": []}

    peer = Listener({"elicitation/create": {"action": "accept"}})
    async with routed(world(answer, upstream_era)) as router:
        result = await router.answer(call(era=era, peer=peer, capabilities=ABLE))
    if era is MODERN:
        (shown,) = (asked["params"] for asked in result["inputRequests"].values())
    else:
        shown = peer.asked[0][1]
    assert shown == {**VISIT, "message": "Upstream 'one' asks: Go."}


@pytest.mark.parametrize(
    "params",
    [
        *({**VISIT, "url": url} for url in NO_ADDRESSES),
        {**VISIT, "message": 7},
        {**VISIT, "mode": "page"},
    ],
)
@pytest.mark.parametrize("era", Era)
async def test_an_address_that_is_none_of_the_web_is_not_shown(era: Era, params: dict[str, Any]) -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        del asked
        return {"resultType": "input_required", "inputRequests": {"k": {**ELICIT, "params": params}}}

    peer = Listener({"elicitation/create": {"action": "accept"}})
    async with routed(world(answer)) as router:
        with pytest.raises(UpstreamError, match="asked for input in a way that the protocol does not allow"):
            await router.answer(call(era=era, peer=peer, capabilities=ABLE))
    assert not peer.asked


@pytest.mark.parametrize("asked", ["x", {"k": "x"}, {"k": {"method": "ping"}}, {"k": {**ELICIT, "params": []}}])
async def test_a_round_that_asks_nothing_of_the_protocol_is_refused(asked: object) -> None:
    async def answer(_: Asked) -> dict[str, Any]:
        return {"resultType": "input_required", "inputRequests": asked}

    async with routed(world(answer)) as router:
        with pytest.raises(UpstreamError, match="asked for input"):
            await router.answer(call(capabilities=ABLE))


async def test_an_older_client_is_asked_what_a_modern_upstream_wants_to_know() -> None:
    rounds = 0

    async def answer(asked: Asked) -> dict[str, Any]:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            assert not {"requestState", "inputResponses"} & set(asked.params)
            roots = {"method": "roots/list"}
            return {"resultType": "input_required", "inputRequests": {"k": ELICIT, "r": roots}, "requestState": STATE}
        if rounds == 2:
            assert asked.params["requestState"] == STATE
            assert asked.params["inputResponses"] == {"k": {"action": "accept"}, "r": {"roots": []}}
            return {"resultType": "input_required", "requestState": "another"}
        assert asked.params["requestState"] == "another"
        assert "inputResponses" not in asked.params
        return {"resultType": "complete", "content": [], "ttlMs": 1, "cacheScope": "public"}

    peer = Listener({"elicitation/create": {"action": "accept"}, "roots/list": {"roots": []}})
    smuggled = {"requestState": "mine", "inputResponses": {"k": {"action": "accept"}}}
    async with routed(world(answer)) as router:
        assert await router.answer(call(params=smuggled, era=LEGACY, peer=peer)) == {"content": []}
    assert sorted(peer.asked) == [("elicitation/create", {"message": "Which?"}), ("roots/list", {})]


async def test_a_question_that_the_client_refuses_ends_the_call() -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        del asked
        return {"resultType": "input_required", "inputRequests": {"k": ELICIT}}

    peer = Listener({"elicitation/create": MCPError(-1, "no")})
    async with routed(world(answer)) as router:
        assert await error_of(router, call(era=LEGACY, peer=peer)) == (-1, None)


@pytest.mark.parametrize(
    "round_",
    [
        {"inputRequests": {"k": ELICIT}},
        {},
        {"inputRequests": "x"},
        {"inputRequests": {"k": {"method": "ping"}}},
        {"inputRequests": {"k": {**ELICIT, "params": []}}},
        {"inputRequests": {str(at): ELICIT for at in range(33)}},
    ],
    ids=["without end", "nothing", "no object", "no question", "no params", "too many"],
)
async def test_an_upstream_that_asks_wrongly_is_not_followed(round_: dict[str, Any]) -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        del asked
        return {"resultType": "input_required", **round_}

    client = world(answer)
    peer = Listener({"elicitation/create": {"action": "accept"}})
    async with routed(client) as router:
        with pytest.raises(UpstreamError, match=r"asked for input"):
            await router.answer(call(era=LEGACY, peer=peer))
    endless = round_.get("inputRequests") == {"k": ELICIT}
    assert client.servers["one"].methods.count("tools/call") == (11 if endless else 1)


async def test_a_url_question_has_an_id_for_an_older_client() -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        if "inputResponses" in asked.params:
            return {"content": []}
        params = {"mode": "url", "url": "https://upstream.example/", "message": "Go."}
        return {"resultType": "input_required", "inputRequests": {"k": {**ELICIT, "params": params}}}

    peer = Listener({"elicitation/create": {"action": "accept"}})
    async with routed(world(answer)) as router:
        await router.answer(call(era=LEGACY, peer=peer))
    assert peer.asked[0][1]["elicitationId"]


async def test_an_older_upstreams_question_becomes_a_round_for_a_modern_client() -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        assert asked.peer is not None
        assert not {"requestState", "inputResponses"} & set(asked.params)
        said = await asked.peer.ask("elicitation/create", {"message": "Which?"})
        return {"content": [{"type": "resource_link", "uri": "test://a", "name": said["action"]}]}

    async with routed(world(answer, LEGACY)) as router:
        first = await router.answer(call(capabilities={"elicitation": {}}))
        (key,) = first["inputRequests"]
        retry = {"requestState": first["requestState"], "inputResponses": {key: {"action": "accept"}}}
        final = await router.answer(call(params=retry, capabilities={"elicitation": {}}))
    assert final["content"] == [{"type": "resource_link", "uri": "mcp+one+test://a", "name": "accept"}]
    assert final["resultType"] == "complete"


async def test_an_older_upstreams_demand_for_a_visit_becomes_a_round() -> None:
    visits = [{"mode": "url", "url": "https://upstream.example/", "message": "Go.", "elicitationId": "e"}]

    async def answer(asked: Asked) -> dict[str, Any]:
        del asked
        raise MCPError(URL_ELICITATION_REQUIRED, "Go first.", {"elicitations": visits})

    async with routed(world(answer, LEGACY)) as router:
        result = await router.answer(call(capabilities={"elicitation": {"url": {}}}))
        assert result["resultType"] == "input_required"
        told = [{**visits[0], "message": "Upstream 'one' asks: Go."}]
        assert [asked["params"] for asked in result["inputRequests"].values()] == told
        required: dict[str, Any] = {"requiredCapabilities": {"elicitation": {"url": {}}}}
        assert await error_of(router, call()) == (MISSING_REQUIRED_CLIENT_CAPABILITY, required)
        # An older client is told by the error that its own revision has, if it said that it can be asked this.
        able = call(era=LEGACY, capabilities={"elicitation": {"url": {}}})
        assert await error_of(router, able) == (URL_ELICITATION_REQUIRED, {"elicitations": told})
        refused: dict[str, Any] = {"code": "upstream_unavailable", "upstreamCode": URL_ELICITATION_REQUIRED}
        assert await error_of(router, call(era=LEGACY)) == (INTERNAL_ERROR, refused)


async def test_an_upstreams_own_error_passes_unchanged() -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        del asked
        raise MCPError(-32010, "mine", {"hint": 1})

    for upstream_era in Era:
        async with routed(world(answer, upstream_era)) as router:
            for era in Era:
                assert await error_of(router, call(era=era)) == (-32010, {"hint": 1})


async def test_what_is_read_is_nobody_elses() -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        assert asked.params["uri"] == "test://a"
        assert asked.options["repeatable"]
        return {"contents": [{"uri": "test://a", "text": ""}], "cacheScope": "public"}

    read = exchange("resources/read", {"uri": "mcp+two+test://a"}, ONE, TWO)
    contents = [{"uri": "mcp+two+test://a", "text": ""}]
    async with routed(world(answer)) as router:
        expected = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "contents": contents}
        assert await router.answer(read) == expected
        older = exchange("resources/read", read.params, ONE, TWO, era=LEGACY)
        assert await router.answer(older) == {"contents": contents}


async def test_a_completion_goes_where_its_reference_points() -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        return {"completion": {"values": [asked.params["ref"]]}}

    async with routed(world(answer)) as router:
        for given, own in (
            ({"type": "ref/prompt", "name": "two__p", "title": "x"}, {"type": "ref/prompt", "name": "p", "title": "x"}),
            (
                {"type": "ref/resource", "uri": "mcp+two+test://{id}"},
                {"type": "ref/resource", "uri": "test://{id}"},
            ),
        ):
            params = {"ref": given, "argument": {"name": "a", "value": "b"}}
            result = await router.answer(exchange("completion/complete", params, ONE, TWO))
            assert result["completion"]["values"] == [own]


@pytest.mark.parametrize(("era", "code"), [(MODERN, INVALID_PARAMS), (LEGACY, -32002)])
async def test_a_resource_of_nobody_is_not_found(era: Era, code: int) -> None:
    async with routed(world()) as router:
        for uri in ("test://a", "mcp+three+test://a", "mcp+one", ""):
            found = await error_of(router, exchange("resources/read", {"uri": uri}, ONE, TWO, era=era))
            assert found == (code, {"uri": uri})


@pytest.mark.parametrize(
    ("era", "method"),
    [
        (MODERN, "ping"),
        (MODERN, "resources/subscribe"),
        (MODERN, "logging/setLevel"),
        (LEGACY, "server/discover"),
        (MODERN, "nobody/knows"),
        (LEGACY, "tasks/list"),
    ],
)
async def test_what_a_revision_does_not_have_is_not_found(era: Era, method: str) -> None:
    async with routed(world()) as router:
        assert await error_of(router, exchange(method, {}, ONE, era=era)) == (METHOD_NOT_FOUND, {"method": method})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "one__t"}),
        ("prompts/get", {"name": "one__p"}),
        ("resources/read", {"uri": "mcp+one+test://a"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "one__p"}}),
    ],
)
async def test_a_viewer_only_looks(method: str, params: dict[str, Any]) -> None:
    viewer = replace(PRINCIPAL, role=Role.VIEWER)
    async with routed(world()) as router:
        with pytest.raises(ForbiddenError):
            await router.target(exchange(method, params, ONE, principal=viewer))
        await router.answer(exchange("tools/list", {}, ONE, principal=viewer))


@pytest.mark.parametrize("method", ["tools/list", "resources/list", "resources/templates/list", "prompts/list"])
async def test_a_stranger_sees_no_list(method: str) -> None:
    stranger = replace(PRINCIPAL, role="stranger")  # type: ignore[arg-type] # what a defect elsewhere might hand in
    async with routed(world()) as router:
        with pytest.raises(ForbiddenError):
            await router.answer(exchange(method, {}, ONE, principal=stranger))


async def test_a_target_says_what_may_be_repeated() -> None:
    tools = [
        tool("read", annotations={"readOnlyHint": True}),
        tool("again", annotations={"idempotentHint": True}),
        tool("write", annotations={"readOnlyHint": "yes"}),
        tool("plain"),
    ]
    async with routed(world(lists={"tools": tools})) as router:
        found = {each["name"]: await router.target(call(f"one__{each['name']}")) for each in tools}
        prompt = await router.target(exchange("prompts/get", {"name": "one__p"}, ONE))
        assert await router.target(exchange("tools/list", {}, ONE)) is None
    repeatable = {name: target.repeatable for name, target in found.items() if target is not None}
    assert repeatable == {"read": True, "again": True, "write": False, "plain": False}
    assert prompt is not None
    assert (prompt.repeatable, prompt.name, prompt.public_name) == (True, "p", "one__p")


async def test_a_modern_list_says_how_long_it_is_good_and_for_whom() -> None:
    async with routed(world(), catalogue_ttl_s=60) as router:
        modern = await router.answer(exchange("tools/list", {}, ONE))
        older = await router.answer(exchange("tools/list", {}, ONE, era=LEGACY))
    assert (modern["resultType"], modern["cacheScope"]) == ("complete", "private")
    assert 59_000 <= modern["ttlMs"] <= 60_000
    assert older == {"tools": [tool("one__t")]}


@pytest.mark.parametrize("era", Era)
async def test_pages_follow_each_other_and_are_written_as_they_read(era: Era) -> None:
    client = world(lists={"tools": [tool(f"t{at}", title="\u00e4\u6f22") for at in range(7)]})
    names: list[str] = []
    async with routed(client, list_page_size=3) as router:
        params: dict[str, Any] = {}
        while True:
            page = await router.answer(exchange("tools/list", params, ONE, era=era))
            assert isinstance(page, RawResult)
            assert json.loads(page.raw) == page
            names += [each["name"] for each in page["tools"]]
            if "nextCursor" not in page:
                break
            params = {"cursor": page["nextCursor"]}
    assert names == [f"one__t{at}" for at in range(7)]


async def test_a_cursor_is_good_for_its_list_and_its_user_alone() -> None:
    names = [f"t{at}" for at in range(3)]
    client = world(lists={"tools": [tool(name) for name in names], "prompts": [{"name": name} for name in names]})
    async with routed(client, list_page_size=1) as router:
        cursor = (await router.answer(exchange("tools/list", {}, ONE)))["nextCursor"]
        other = replace(PRINCIPAL, user_id=PRINCIPAL.org_id)  # type: ignore[arg-type] # another id
        bad = [
            exchange("prompts/list", {"cursor": cursor}, ONE),
            exchange("tools/list", {"cursor": cursor}, ONE, principal=other),
            exchange("tools/list", {"cursor": cursor}, ONE, toolset="few"),
            exchange("tools/list", {"cursor": cursor}, TWO),
            exchange("tools/list", {"cursor": cursor[:-1]}, ONE),
            exchange("tools/list", {"cursor": ""}, ONE),
            exchange("tools/list", {"cursor": 7}, ONE),
            exchange("tools/list", {"cursor": "x" * 20_000}, ONE),
        ]
        for each in bad:
            assert await error_of(router, each) == (INVALID_PARAMS, None)


async def test_discovery_adds_up_what_the_upstreams_can_do() -> None:
    client = Client(
        {
            "one": Server(capabilities={"tools": {}, "completions": {}, "tasks": {}}, instructions="Be kind."),
            "two": Server(capabilities={"resources": {"subscribe": True}, "tools": {"listChanged": False}}),
        }
    )
    async with routed(client) as router:
        found = await router.answer(exchange("server/discover", {}, ONE, TWO))
        assert found == {
            "resultType": "complete",
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"completions": {}, "resources": {"subscribe": True}, "tools": {"listChanged": True}},
            "instructions": "one: Be kind.",
            "ttlMs": 60_000,
            "cacheScope": "private",
        }
        alone = await router.answer(exchange("server/discover", {}, ONE))
        assert alone["instructions"] == "Be kind."
        client.servers["one"].failure = UpstreamError("down")
        guessed = await router.answer(exchange("server/discover", {}, ONE))
        assert (set(guessed["capabilities"]), guessed["ttlMs"]) == ({"prompts", "resources", "tools"}, 0)
        assert await router.capabilities(exchange("initialize")) == {"tools": {"listChanged": True}}


async def test_subscribing_needs_an_upstream_that_offers_it() -> None:
    client = world()
    asked = exchange("resources/subscribe", {"uri": "mcp+one+test://a"}, ONE, TWO, era=LEGACY)
    async with routed(client) as router:
        assert await router.answer(asked) == {}
        client.servers["one"].capabilities = {"resources": {}}
        assert (await error_of(router, asked))[0] == METHOD_NOT_FOUND


async def test_a_change_of_roots_goes_to_the_upstreams_of_the_session() -> None:
    client = world(era=LEGACY)
    async with routed(client) as router:
        visitor = exchange("initialize", {}, ONE, TWO, era=LEGACY, conversation="c")
        await router.notified(visitor, "notifications/roots/list_changed", {})
        await router.notified(visitor, "notifications/initialized", {})
        await router.ended(visitor)
        nobody = exchange("initialize", {}, ONE, era=LEGACY)
        await router.notified(nobody, "notifications/roots/list_changed", {})
        await router.ended(nobody)
    assert [(name, caller.conversation) for name, caller, _, _ in client.notified] == [("one", "c"), ("two", "c")]
    assert client.ended == [(PRINCIPAL.org_id, "c")]


@pytest.mark.parametrize("uri", ["test://a", "mcp+one+test://a"])
async def test_a_bare_workspace_rewrites_nothing(uri: str) -> None:
    async def answer(asked: Asked) -> dict[str, Any]:
        return {"contents": [{"uri": asked.params["uri"], "text": ""}]}

    async with routed(world(answer), bare_tool_names=True) as router:
        read = exchange("resources/read", {"uri": uri}, ONE, era=LEGACY)
        assert await router.answer(read) == {"contents": [{"uri": uri, "text": ""}]}
        assert (await router.answer(exchange("tools/list", {}, ONE, era=LEGACY)))["tools"] == [tool("t")]
