from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.gateway.exchange import ClientTraits
from agentapi.gateway.introductions import Introductions
from agentapi.gateway.rpc import RpcRefusalError
from agentapi.upstreams.link import Era
from unit.gateway.fronts import MODERN, StubRouter, World, incoming, modern_request

ME = ClientTraits(Era.MODERN, MODERN, {}, {})
HEADERS = ((b"mcp-protocol-version", MODERN.encode()), (b"mcp-method", b"tools/call"), (b"mcp-name", b"t"))
ODD: st.SearchStrategy[Any] = (
    st.none() | st.integers() | st.text(st.characters(max_codepoint=255), max_size=4) | st.just([]) | st.just({})
)


def call_of(params: dict[str, Any], *, method: str = "tools/call", meta: dict[str, Any] | None = None) -> Any:
    return modern_request(method, params, meta=meta)


async def _told(world: World, message: Any, headers: dict[str, str], more: list[tuple[str, str]]) -> object:
    """Return the verdict on a request: what the client is told of it, and what the router is."""
    try:
        client = await world.ask_modern(message, headers=headers, more=more).answered()
    except RpcRefusalError as refusal:
        return refusal.error, refusal.status
    client_of = [exchange.client for exchange in world.router.exchanges]
    world.router.exchanges.clear()
    return client.status, client.body, client_of


async def _echo(_: Any) -> dict[str, Any]:
    return {"resultType": "complete"}


@given(
    st.fixed_dictionaries(
        {"name": st.just("t") | ODD},
        optional={"arguments": ODD, "requestState": ODD, "inputResponses": ODD, "unheard-of": ODD},
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "mcp-method": st.sampled_from(["tools/call", "prompts/get", ""]),
            "mcp-name": st.sampled_from(["t", "", "x", "=?base64?dA==?=", "=?base64?!?=", "\u00e9"]),
            "mcp-protocol-version": st.sampled_from([MODERN, "2025-11-25", ""]),
        },
    ),
    st.sampled_from([[], [("mcp-name", "t")], [("mcp-name", "other")], [("x", "1"), ("x", "2")]]),
    st.sampled_from(["tools/call", "tools/call", "prompts/get", "nonsense"]),
    st.sampled_from([{}, {"io.modelcontextprotocol/logLevel": "info"}, {"io.modelcontextprotocol/logLevel": 1}]),
)
async def test_a_request_of_a_client_that_is_known_is_judged_like_any_other(
    params: dict[str, Any], headers: dict[str, str], more: list[tuple[str, str]], method: str, meta: dict[str, Any]
) -> None:
    knows, stranger = (World(StubRouter({"tools/call": _echo, "prompts/get": _echo})) for _ in range(2))
    for known_meta in ({}, {"io.modelcontextprotocol/logLevel": "info"}):
        await _told(knows, call_of({"name": "t"}, meta=known_meta), {}, [])
    message = call_of(params, method=method, meta=meta)
    assert await _told(knows, message, headers, more) == await _told(stranger, message, headers, more)


@pytest.mark.parametrize("arguments", [None, [], 1, "x"])
def test_arguments_that_are_no_object_are_not_plain(arguments: object) -> None:
    introductions = Introductions()
    introductions.remember(incoming(call_of({"name": "t"})), ME)
    assert introductions.known(incoming(call_of({"name": "t"})), HEADERS) is not None
    assert introductions.known(incoming(call_of({"name": "t", "arguments": arguments})), HEADERS) is None


def test_a_name_that_is_none_agrees_with_no_header() -> None:
    introductions = Introductions()
    introductions.remember(incoming(call_of({"name": "t"})), ME)
    headers = (*HEADERS[:2], (b"mcp-name", b"=?base64?!?="))
    assert introductions.known(incoming(call_of({"name": None})), headers) is None


def test_what_was_said_before_in_the_same_words_is_known() -> None:
    introductions = Introductions()
    message = incoming(call_of({"name": "t", "arguments": {"a": 1}}))
    assert introductions.known(message, HEADERS) is None
    introductions.remember(message, ME)
    assert introductions.known(incoming(call_of({"name": "t"})), HEADERS) is ME
    assert introductions.known(incoming(call_of({"name": "t"}, meta={"x": 1})), HEADERS) is None


@pytest.mark.parametrize("meta", [{"progressToken": 1}, {"x": "x" * 4096}], ids=["another each time", "large"])
def test_what_will_not_be_said_again_is_not_kept(meta: dict[str, Any]) -> None:
    introductions = Introductions()
    message = incoming(call_of({"name": "t"}, meta=meta))
    introductions.remember(message, ME)
    assert introductions.known(message, HEADERS) is None


def test_what_is_kept_is_bounded() -> None:
    introductions = Introductions(max_entries=2)
    messages = [incoming(call_of({"name": "t"}, meta={"x": number})) for number in range(3)]
    for message in messages:
        introductions.remember(message, ME)
    assert [introductions.known(message, HEADERS) for message in messages] == [None, None, ME]
    assert json.loads(messages[0].body)["params"]["_meta"]["x"] == 0
