from __future__ import annotations

from typing import Any

import pytest
from mcp_types.methods import SPEC_CLIENT_METHODS

from agentapi.gateway.exchange import Interest
from agentapi.gateway.scopes import OPERATION_SCOPES, permitted, scopes_of

LISTEN = "subscriptions/listen"
NEEDED: list[tuple[str, dict[str, Any], set[str]]] = [
    ("tools/list", {}, {"mcp:tools"}),
    ("tools/call", {}, {"mcp:tools"}),
    ("resources/list", {}, {"mcp:resources"}),
    ("resources/templates/list", {}, {"mcp:resources"}),
    ("resources/read", {}, {"mcp:resources"}),
    ("resources/subscribe", {}, {"mcp:resources"}),
    ("resources/unsubscribe", {}, {"mcp:resources"}),
    ("prompts/list", {}, {"mcp:prompts"}),
    ("prompts/get", {}, {"mcp:prompts"}),
    ("completion/complete", {"ref": {"type": "ref/prompt"}}, {"mcp:prompts"}),
    ("completion/complete", {"ref": {"type": "ref/resource"}}, {"mcp:resources"}),
    ("completion/complete", {"ref": {"type": ["ref/prompt"]}}, set()),
    ("completion/complete", {"ref": "ref/prompt"}, set()),
    (LISTEN, {"notifications": {"toolsListChanged": True}}, {"mcp:tools"}),
    (LISTEN, {"notifications": {"promptsListChanged": True}}, {"mcp:prompts"}),
    (LISTEN, {"notifications": {"resourceSubscriptions": ["a:b"]}}, {"mcp:resources"}),
    (
        LISTEN,
        {"notifications": {"resourcesListChanged": True, "toolsListChanged": True}},
        {"mcp:resources", "mcp:tools"},
    ),
    (LISTEN, {"notifications": {"toolsListChanged": 1, "resourceSubscriptions": "a:b"}}, set()),
    (LISTEN, {"notifications": []}, set()),
    ("server/discover", {}, set()),
    ("initialize", {}, set()),
    ("ping", {}, set()),
    ("logging/setLevel", {}, set()),
]


@pytest.mark.parametrize(("method", "params", "needed"), NEEDED)
def test_a_request_needs_the_scope_of_what_it_is_about(method: str, params: dict[str, Any], needed: set[str]) -> None:
    assert scopes_of(method, params) == needed


def test_no_method_of_the_protocol_is_forgotten() -> None:
    assert {method for method, _, _ in NEEDED} == SPEC_CLIENT_METHODS


def test_the_scopes_are_listed() -> None:
    assert {scope for _, _, needed in NEEDED for scope in needed} == set(OPERATION_SCOPES)


@pytest.mark.parametrize("scope", OPERATION_SCOPES)
def test_a_token_is_told_of_what_it_may_ask(scope: str) -> None:
    everything = Interest(tools=True, prompts=True, resources=True, uris=frozenset({"a:b"}))
    left = permitted(everything, frozenset({scope, "openid"}))
    assert (left.tools, left.prompts, left.resources) == tuple(
        scope == kind for kind in ("mcp:tools", "mcp:prompts", "mcp:resources")
    )
    assert bool(left.uris) is left.resources
