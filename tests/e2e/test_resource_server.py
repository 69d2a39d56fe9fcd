"""The gateway as an OAuth resource server and as something that browsers can reach, asked by hand in both eras."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from support.eras import EraUpstream, era_upstreams, mcp_config
from support.gateway import Gateway
from support.plain import PLAIN
from support.raw import LEGACY, good_headers, initialize, modern_headers, modern_message, post, rpc
from support.tokens import Issuer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAIN_ISSUER = Issuer("https://plain.example")
SCOPED = Issuer("https://scoped.example")
NAME = "http-modern"
URI = f"mcp+{NAME}+note://static"

NEEDED: dict[str, tuple[dict[str, Any], str]] = {
    "tools/list": ({}, "mcp:tools"),
    "tools/call": ({"name": f"{NAME}__echo", "arguments": {"message": "x"}}, "mcp:tools"),
    "resources/list": ({}, "mcp:resources"),
    "resources/templates/list": ({}, "mcp:resources"),
    "resources/read": ({"uri": URI}, "mcp:resources"),
    "prompts/list": ({}, "mcp:prompts"),
    "prompts/get": ({"name": f"{NAME}__greet", "arguments": {"name": "Ada"}}, "mcp:prompts"),
    "completion/complete": (
        {
            "ref": {"type": "ref/prompt", "name": f"{NAME}__greet"},
            "argument": {"name": "name", "value": "a"},
        },
        "mcp:prompts",
    ),
}
ALL_SCOPES = "mcp:prompts mcp:resources mcp:tools"


@pytest.fixture(scope="module")
def upstreams(module_directory: Path) -> Iterator[dict[str, EraUpstream]]:
    with era_upstreams(module_directory, (NAME,)) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(upstreams: dict[str, EraUpstream], module_directory: Path) -> Iterator[Gateway]:
    issuers = [PLAIN_ISSUER.settings(), SCOPED.settings(required_scopes=["mcp:use"], operation_scopes=True)]
    env = {"AGENTAPI_ISSUERS": json.dumps(issuers)}
    arguments = mcp_config(module_directory, upstreams)
    with Gateway.start(*arguments, data_dir=module_directory / "data", env=env) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Asker:
    """Sends one request in one era."""

    gateway: Gateway
    modern: bool

    def ask(
        self, token: str | None, method: str, params: dict[str, Any] | None = None, **headers: str
    ) -> httpx2.Response:
        message = modern_message(method, params)
        routing = modern_headers(message)
        if not self.modern:
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
            routing = {"mcp-protocol-version": LEGACY}
        return post(self.gateway.mcp_url, token, message, headers={**routing, **headers})


@pytest.fixture(params=["modern", "legacy"])
def asker(request: pytest.FixtureRequest, gateway: Gateway) -> Asker:
    return Asker(gateway, request.param == "modern")


def _challenge(answer: httpx2.Response) -> dict[str, str]:
    scheme, _, rest = answer.headers["www-authenticate"].partition(" ")
    assert scheme == "Bearer"
    return dict(re.findall(r'(\w+)="([^"]*)"', rest))


@pytest.mark.parametrize("method", [*NEEDED, "server/discover", "initialize", "ping", "made/up"])
def test_nothing_is_answered_without_a_token(asker: Asker, method: str) -> None:
    answer = asker.ask(None, method, NEEDED.get(method, ({}, ""))[0])
    assert answer.status_code == 401
    assert "result" not in rpc(answer)
    challenge = _challenge(answer)
    assert "error" not in challenge
    metadata = httpx2.get(challenge["resource_metadata"], **PLAIN).json()
    assert metadata["resource"] == asker.gateway.mcp_url
    assert metadata["bearer_methods_supported"] == ["header"]


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_streams_and_ends_of_sessions_need_a_token_too(gateway: Gateway, verb: str) -> None:
    session = initialize(gateway.mcp_url, gateway.token).headers["mcp-session-id"]
    headers = {"accept": "text/event-stream", "mcp-session-id": session}
    answer = httpx2.request(verb, gateway.mcp_url, headers=headers, **PLAIN)
    assert answer.status_code == 401
    assert "resource_metadata" in _challenge(answer)


@pytest.mark.parametrize("method", NEEDED)
def test_token_for_another_workspace_is_refused(asker: Asker, method: str) -> None:
    elsewhere = asker.gateway.mcp_url.rpartition("/")[0] + "/elsewhere"
    token = PLAIN_ISSUER.sign(PLAIN_ISSUER.claims(aud=elsewhere))
    answer = asker.ask(token, method, NEEDED[method][0])
    assert answer.status_code == 401
    assert _challenge(answer)["error"] == "invalid_token"
    own = PLAIN_ISSUER.sign(PLAIN_ISSUER.claims(aud=asker.gateway.mcp_url))
    assert "result" in rpc(asker.ask(own, method, NEEDED[method][0]))


@pytest.mark.parametrize("method", NEEDED)
def test_challenge_names_all_scopes_that_the_operation_needs(asker: Asker, method: str) -> None:
    params, needed = NEEDED[method]
    others = " ".join(scope for scope in ALL_SCOPES.split() if scope != needed)
    for granted in ("mcp:use", f"mcp:use {others}", needed):
        answer = asker.ask(SCOPED.sign(SCOPED.claims(scope=granted)), method, params)
        assert answer.status_code == 403, granted
        challenge = _challenge(answer)
        assert challenge["error"] == "insufficient_scope"
        assert set(challenge["scope"].split()) == {"mcp:use", needed}
        assert "resource_metadata" in challenge
    enough = SCOPED.sign(SCOPED.claims(scope=f"{needed} mcp:use"))
    assert "result" in rpc(asker.ask(enough, method, params))


def test_scopes_of_what_is_about_nothing_are_not_asked_for(gateway: Gateway) -> None:
    token = SCOPED.sign(SCOPED.claims(scope="mcp:use"))
    assert initialize(gateway.mcp_url, token).status_code == 200
    assert Asker(gateway, modern=True).ask(token, "server/discover").status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_page_of_another_origin_is_refused_whoever_it_carries(asker: Asker, origin: str) -> None:
    for token in (asker.gateway.token, None):
        assert asker.ask(token, "tools/list", origin=origin).status_code == 403


def test_page_of_the_gateways_own_origin_may_call(asker: Asker) -> None:
    assert asker.ask(asker.gateway.token, "tools/list", origin=asker.gateway.base_url).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "127.0.0.1@evil.example"]
)
def test_name_that_is_not_the_gateways_is_refused(asker: Asker, host: str) -> None:
    """A page whose DNS name was pointed at the gateway has the browser send that name (DNS rebinding)."""
    for token in (asker.gateway.token, None):
        assert asker.ask(token, "tools/list", host=host).status_code == 403


@pytest.mark.parametrize("verb", ["GET", "DELETE", "OPTIONS", "PUT"])
def test_other_verbs_are_guarded_alike(gateway: Gateway, verb: str) -> None:
    headers = {**good_headers(gateway.token), "origin": "https://evil.example"}
    answer = httpx2.request(verb, gateway.mcp_url, headers=headers, **PLAIN)
    assert answer.status_code in {403, 405}
    assert "access-control-allow-origin" not in answer.headers


def test_token_does_not_reach_the_upstream(asker: Asker, upstreams: dict[str, EraUpstream]) -> None:
    answer = asker.ask(asker.gateway.token, "tools/call", {"name": f"{NAME}__meta", "arguments": {}})
    assert "result" in rpc(answer)
    assert asker.gateway.token not in answer.text
    assert {event["authorization"] for event in upstreams[NAME].events("tools/call")} == {None}
    assert "eyJ" not in upstreams[NAME].journal.read_text()


def test_the_log_holds_no_traceback_and_no_token(gateway: Gateway) -> None:
    """Last in the module, so that the log covers everything above."""
    assert gateway.tracebacks == []
    assert gateway.token not in gateway.stderr
    assert "eyJ" not in gateway.stderr
