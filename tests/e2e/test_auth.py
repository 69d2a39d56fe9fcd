"""Tokens of an issuer that is not the product's, signed by libraries that are not the product's."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from support.clients import list_tools
from support.gateway import Gateway
from support.plain import PLAIN
from support.raw import initialize, modern_call, post
from support.tokens import ALGORITHMS, AUDIENCE, Issuer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.clients import Mode
    from support.tokens import Algorithm, Library

ISSUER = Issuer()
STRANGER = Issuer()  # the same name, other keys
SCOPED = Issuer("https://scoped.example")
ELSEWHERE = Issuer("https://elsewhere.example")
OTHER_ORGANIZATION = Issuer("https://other-organization.example")
SECRET = "a shared secret for tests, of more than the 64 bytes that HS512 asks for"


@pytest.fixture(scope="module")
def gateway(module_directory: Path) -> Iterator[Gateway]:
    shared = {
        "issuer": "https://shared.example",
        "audiences": [AUDIENCE],
        "shared_secret": SECRET,
        "claims": {"organization": "demo", "default_role": "member"},
    }
    issuers = [
        ISSUER.settings(),
        SCOPED.settings(required_scopes=["mcp:use", "mcp:read"]),
        OTHER_ORGANIZATION.settings({"organization": "other"}),
        shared,
    ]
    env = {"AGENTAPI_ISSUERS": json.dumps(issuers)}
    with Gateway.start(data_dir=module_directory / "data", env=env) as running:
        yield running


def _status(gateway: Gateway, token: str) -> int:
    return modern_call(gateway.mcp_url, token, "tools/list").status_code


@pytest.mark.parametrize("library", ["joserfc", "pyjwt"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_token_of_each_algorithm_is_accepted(gateway: Gateway, algorithm: Algorithm, library: Library) -> None:
    token = ISSUER.sign(algorithm=algorithm, library=library)
    answer = modern_call(gateway.mcp_url, token, "tools/list")
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["tools"]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28", "auto"])
@pytest.mark.parametrize("library", ["joserfc", "pyjwt"])
async def test_sdk_client_works_with_a_foreign_issuers_token(gateway: Gateway, mode: Mode, library: Library) -> None:
    async with gateway.mcp(mode, token=ISSUER.sign(algorithm="ES256", library=library)) as client:
        assert await list_tools(client)


GOOD: dict[str, Callable[[Gateway], str]] = {
    "audience is the resource itself": lambda gw: ISSUER.sign(ISSUER.claims(aud=gw.mcp_url)),
    "one of several audiences": lambda _: ISSUER.sign(ISSUER.claims(aud=["https://x.example", AUDIENCE])),
    "expired within the leeway": lambda _: ISSUER.sign(ISSUER.claims(exp=int(time.time()) - 5)),
    "not yet valid, within the leeway": lambda _: ISSUER.sign(ISSUER.claims(nbf=int(time.time()) + 5)),
    "fractional exp": lambda _: ISSUER.sign(ISSUER.claims(exp=time.time() + 60.5)),
    "typ at+jwt": lambda _: ISSUER.sign(header={"typ": "at+jwt"}),
    "unknown header member": lambda _: ISSUER.sign(header={"x5t": "abc"}),
    "scopes granted": lambda _: SCOPED.sign(SCOPED.claims(scope="mcp:read openid mcp:use")),
    "all scopes as a list": lambda _: SCOPED.sign(SCOPED.claims(scope=["mcp:use", "mcp:read"])),
    "the shared secret": lambda _: _shared("HS256"),
    "non-ASCII subject": lambda _: ISSUER.sign(ISSUER.claims(sub="Zoë \U0001f600")),
}


def _shared(algorithm: str, **changed: object) -> str:
    import jwt as pyjwt

    claims = {**ISSUER.claims(), "iss": "https://shared.example", **changed}
    return pyjwt.encode(claims, SECRET, algorithm=algorithm)


@pytest.mark.parametrize("case", GOOD)
def test_token_that_is_good_is_accepted(gateway: Gateway, case: str) -> None:
    assert _status(gateway, GOOD[case](gateway)) == 200


def _tampered() -> str:
    head, body, signature = ISSUER.sign().split(".")
    flipped = "A" if signature[0] != "A" else "B"
    return f"{head}.{body}.{flipped}{signature[1:]}"


def _padded() -> str:
    return ISSUER.sign() + "="


def _other_payload() -> str:
    from support.tokens import encode_part

    head, _, signature = ISSUER.sign().split(".")
    return f"{head}.{encode_part(ISSUER.claims(sub='admin'))}.{signature}"


def _mixed_up() -> str:
    """An EC signature under the kid of the RSA key."""
    return ISSUER.sign(algorithm="ES256", header={"kid": "test-RS256"})


BAD: dict[str, Callable[[Gateway], str]] = {
    "expired": lambda _: ISSUER.sign(ISSUER.claims(exp=int(time.time()) - 3600)),
    "no exp": lambda _: ISSUER.sign(ISSUER.claims(exp=None)),
    "exp is text": lambda _: ISSUER.sign(ISSUER.claims(exp="tomorrow"), library="joserfc"),
    "not yet valid": lambda _: ISSUER.sign(ISSUER.claims(nbf=int(time.time()) + 3600)),
    "foreign key under our kid": lambda _: STRANGER.sign(),
    "unknown issuer": lambda _: ELSEWHERE.sign(),
    "no issuer": lambda _: ISSUER.sign(ISSUER.claims(iss=None)),
    "issuer with a slash more": lambda _: ISSUER.sign(ISSUER.claims(iss=f"{ISSUER.issuer}/")),
    "another issuer's key": lambda _: SCOPED.sign(ISSUER.claims()),
    "alg none": lambda _: ISSUER.unsigned(),
    "alg HS256 with the public key": lambda _: ISSUER.confused(),
    "unknown kid": lambda _: ISSUER.sign(header={"kid": "test-nobody"}),
    "key of another algorithm": lambda _: _mixed_up(),
    "other audience": lambda _: ISSUER.sign(ISSUER.claims(aud="https://other.example")),
    "no audience": lambda _: ISSUER.sign(ISSUER.claims(aud=None)),
    "empty audience": lambda _: ISSUER.sign(ISSUER.claims(aud=[])),
    "audience of another workspace": lambda gw: ISSUER.sign(
        ISSUER.claims(aud=gw.mcp_url.rsplit("/", 1)[0] + "/elsewhere")
    ),
    "audience that begins with ours": lambda gw: ISSUER.sign(ISSUER.claims(aud=gw.mcp_url + "x")),
    "no subject": lambda _: ISSUER.sign(ISSUER.claims(sub=None)),
    "HS512 where HS256 is configured": lambda _: _shared("HS512"),
    "tampered signature": lambda _: _tampered(),
    "payload exchanged": lambda _: _other_payload(),
    "padding added": lambda _: _padded(),
    "crit header": lambda _: ISSUER.sign(header={"crit": ["exp"], "exp": 1}, library="pyjwt"),
    "not a token": lambda _: "hello",
    "two parts": lambda _: "a.b",
    "dots": lambda _: "..",
    "five parts": lambda _: "a.b.c.d.e",
    "long nonsense": lambda _: "A" * 6000,
}


@pytest.mark.parametrize("case", BAD)
def test_token_that_is_bad_is_refused(gateway: Gateway, case: str) -> None:
    answer = modern_call(gateway.mcp_url, BAD[case](gateway), "tools/list")
    assert answer.status_code == 401, answer.text
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith("Bearer ")
    assert 'error="invalid_token"' in challenge
    assert 'resource_metadata="' in challenge
    # One sentence for every bad token: the caller learns nothing of which check failed.
    first = modern_call(gateway.mcp_url, "not.a.token", "tools/list")
    assert (answer.text, challenge) == (first.text, first.headers["www-authenticate"])
    assert _status(gateway, ISSUER.sign()) == 200


def test_no_token_is_answered_without_an_error_code(gateway: Gateway) -> None:
    """RFC 6750, section 3.1: a request without authentication gets no error code."""
    answer = modern_call(gateway.mcp_url, None, "tools/list")
    assert answer.status_code == 401
    assert "error=" not in answer.headers["www-authenticate"]
    assert 'resource_metadata="' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic dGVzdDp0ZXN0",
        "Bearer",
        "Token {token}",
        "{token}",
        "Bearer {token} x",
        "Bearer a, Bearer {token}",
    ],
)
def test_other_ways_to_write_the_header_are_refused(gateway: Gateway, authorization: str) -> None:
    headers = {"authorization": authorization.format(token=ISSUER.sign())}
    assert modern_call(gateway.mcp_url, None, "tools/list", headers=headers).status_code in {400, 401}


def test_scheme_is_case_insensitive(gateway: Gateway) -> None:
    """RFC 9110, section 11.1."""
    headers = {"authorization": f"bEaReR {ISSUER.sign()}"}
    assert modern_call(gateway.mcp_url, None, "tools/list", headers=headers).status_code == 200


def test_two_authorization_headers_are_refused(gateway: Gateway) -> None:
    pairs = [("authorization", f"Bearer {ISSUER.sign()}"), ("authorization", "Bearer x.y.z")]
    for order in (pairs, pairs[::-1]):
        assert modern_call(gateway.mcp_url, None, "tools/list", more=order).status_code in {400, 401}


def test_token_in_the_query_is_not_looked_at(gateway: Gateway) -> None:
    url = f"{gateway.mcp_url}?access_token={ISSUER.sign()}"
    assert modern_call(url, None, "tools/list").status_code == 401


def test_challenge_leads_to_the_metadata_of_the_resource(gateway: Gateway) -> None:
    """RFC 9728, sections 3.1, 3.3 and 5.1."""
    challenge = modern_call(gateway.mcp_url, None, "tools/list").headers["www-authenticate"]
    address = challenge.split('resource_metadata="')[1].split('"')[0]
    path = gateway.mcp_url.removeprefix(gateway.base_url)
    assert address == f"{gateway.base_url}/.well-known/oauth-protected-resource{path}"
    answer = httpx2.get(address, **PLAIN)
    assert answer.status_code == 200
    document = answer.json()
    assert document["resource"] == gateway.mcp_url
    assert ISSUER.issuer in document["authorization_servers"]
    assert document.get("bearer_methods_supported") == ["header"]


def test_token_without_the_scopes_is_forbidden_and_told_all_of_them(gateway: Gateway) -> None:
    """RFC 6750, section 3.1."""
    for scope in (None, "", "mcp:use", "mcp:usefoo mcp:read"):
        answer = modern_call(gateway.mcp_url, SCOPED.sign(SCOPED.claims(scope=scope)), "tools/list")
        assert answer.status_code == 403, scope
        challenge = answer.headers["www-authenticate"]
        assert 'error="insufficient_scope"' in challenge
        assert set(challenge.split('scope="')[1].split('"')[0].split()) == {"mcp:use", "mcp:read"}
        assert 'resource_metadata="' in challenge


def _facts(answer: httpx2.Response) -> tuple[int, dict[str, str], bytes]:
    varying = {"date", "x-request-id"}
    return answer.status_code, {k: v for k, v in answer.headers.items() if k not in varying}, answer.content


def _workspaces(gateway: Gateway) -> dict[str, str]:
    """The workspace that exists, and names of the same length of some that do not."""
    assert gateway.mcp_url.endswith("/mcp/demo/main")
    root = gateway.mcp_url.removesuffix("/demo/main")
    return {
        "real": f"{root}/demo/main",
        "no workspace": f"{root}/demo/mine",
        "no organisation": f"{root}/dome/main",
    }


@pytest.mark.parametrize("method", ["tools/list", "tools/call", "server/discover", "initialize", "nonsense"])
def test_workspace_of_another_organisation_is_as_if_it_did_not_exist(gateway: Gateway, method: str) -> None:
    """A caller of organisation ``other`` asks for ``demo/main``, which exists, and for two that do not."""
    token = OTHER_ORGANIZATION.sign()
    params: dict[str, Any] = {"name": "notes__add", "arguments": {}} if method == "tools/call" else {}

    def ask(url: str) -> tuple[int, dict[str, str], bytes]:
        if method == "initialize":
            return _facts(initialize(url, token))
        return _facts(modern_call(url, token, method, params))

    addresses = _workspaces(gateway)
    real, workspace, organisation = (ask(addresses[name]) for name in ("real", "no workspace", "no organisation"))
    assert real[0] in {401, 403, 404}
    assert real == workspace == organisation
    # And the other way: whoever belongs to ``demo`` gets the same answer for what does not exist.
    assert modern_call(addresses["real"], ISSUER.sign(), "tools/list").status_code == 200
    for missing in ("no workspace", "no organisation"):
        assert modern_call(addresses[missing], ISSUER.sign(), "tools/list").status_code in {401, 403, 404}


@pytest.mark.parametrize("verb", ["GET", "DELETE", "PUT", "OPTIONS", "HEAD"])
def test_other_verbs_tell_no_workspace_from_another(gateway: Gateway, verb: str) -> None:
    token = OTHER_ORGANIZATION.sign()
    answers = [
        _facts(httpx2.request(verb, url, headers={"authorization": f"Bearer {token}"}, **PLAIN))
        for url in _workspaces(gateway).values()
    ]
    assert answers[0] == answers[1] == answers[2]


def test_stranger_cannot_tell_which_workspaces_exist(gateway: Gateway) -> None:
    """Without a token the answers differ in nothing but the name that the caller gave."""
    seen = set()
    for url in _workspaces(gateway).values():
        path = url.removeprefix(gateway.base_url)
        for answer in (
            modern_call(url, None, "tools/list"),
            httpx2.get(f"{gateway.base_url}/.well-known/oauth-protected-resource{path}", **PLAIN),
        ):
            status, headers, body = _facts(answer)
            name = path.removeprefix("/mcp/")
            text = f"{status} {sorted(headers.items())} {body.decode()}".replace(name, "NAME")
            seen.add((answer.request.method, text))
    assert len(seen) == 2


def test_session_serves_only_the_principal_that_opened_it(gateway: Gateway) -> None:
    alice, bob = (ISSUER.sign(ISSUER.claims(sub=name)) for name in ("alice", "bob"))
    opened = initialize(gateway.mcp_url, alice)
    assert opened.status_code == 200, opened.text
    session = opened.headers["mcp-session-id"]
    forged = session[:-4] + ("AAAA" if not session.endswith("AAAA") else "BBBB")
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}

    def ask(verb: str, token: str, named: str) -> tuple[int, str]:
        headers = {"mcp-session-id": named, "mcp-protocol-version": "2025-11-25"}
        if verb == "POST":
            answer = post(gateway.mcp_url, token, message, headers=headers)
        else:
            bearer = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
            answer = httpx2.request(verb, gateway.mcp_url, headers={**bearer, **headers}, **PLAIN)
        return answer.status_code, answer.text

    assert ask("POST", alice, session)[0] == 200
    for verb in ("POST", "GET", "DELETE"):
        refused = ask(verb, bob, session)
        assert refused[0] == 404
        # Another's session reads like one that nobody was ever given.
        assert refused == ask(verb, alice, forged) == ask(verb, bob, "0" * 64)
    assert ask("POST", alice, session)[0] == 200
    assert ask("DELETE", alice, session) == (204, "")
    assert ask("POST", alice, session)[0] == 404
    assert '"reason": "other_user"' in gateway.stderr
    assert session not in gateway.stderr


def test_member_may_use_tools_and_not_register_upstreams(gateway: Gateway) -> None:
    body = {"workspace": "main", "name": "sneaky", "transport": "http", "endpoint": "http://127.0.0.1:9/mcp"}
    headers = {"authorization": f"Bearer {ISSUER.sign(ISSUER.claims(aud=AUDIENCE))}"}
    answer = httpx2.post(
        f"{gateway.base_url}/api/v1/mcp/configurations",
        json={**body, "scope": "organization"},
        headers=headers,
        **PLAIN,
    )
    assert answer.status_code == 403, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_log_holds_no_token(gateway: Gateway) -> None:
    """Last in the module, so that the log covers everything above."""
    text = gateway.stderr
    assert gateway.tracebacks == []
    assert "eyJ" not in text
    assert SECRET not in text
