"""The way to the fronts: real tokens, and in the place of the fronts and the database what a test says."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from agentapi.errors import InsufficientScopeError, NotFoundError
from agentapi.gateway.browser_guard import BrowserGuard
from agentapi.gateway.endpoint import McpEndpoint
from agentapi.gateway.resource import ProtectedResource
from agentapi.identity.issuers import IssuerDirectory
from agentapi.settings import IssuerSettings
from agentapi.upstreams.registry import WorkspaceView
from unit.gateway.fronts import ALICE, LEGACY, MODERN, WORKSPACE, modern_request, request
from unit.identity.doubles import ISSUER, Clock, key_set, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.gateway.call import Call
    from agentapi.gateway.incoming import Incoming
    from agentapi.principal import Principal

URL = "https://gateway.example"
SCOPES = ("mcp:prompts", "mcp:resources", "mcp:tools", "mcp:use")


@dataclass
class Door:
    """A front that says which it is and remembers whom it let in."""

    name: str
    calls: list[Call] = field(default_factory=list)

    async def serve(self, call: Call, incoming: Incoming | None, scope: Any, receive: Any, send: Any) -> None:
        del incoming
        self.calls.append(call)
        await Response(self.name)(scope, receive, send)


class Doubles:
    """Admits everybody as Alice and knows one workspace with one toolset."""

    def __init__(self) -> None:
        self.admitted = 0

    async def admit(self, verified: Any) -> Principal:
        self.admitted += 1
        return replace(ALICE, scopes=verified.scopes)

    async def view(self, principal: Principal, workspace: str) -> WorkspaceView:
        del principal
        if workspace != "main":
            raise NotFoundError("There is no such workspace.")
        return WorkspaceView(WORKSPACE, ())

    async def has_toolset(self, principal: Principal, view: WorkspaceView, toolset: str) -> bool:
        del principal, view
        return toolset == "small"


@dataclass
class Gateway:
    http: httpx2.AsyncClient
    doubles: Doubles
    modern: Door
    legacy: Door

    async def post(self, message: object, path: str = "/mcp/acme/main", **given: Any) -> httpx2.Response:
        claims = {
            "aud": URL + path,
            "organization": "acme",
            "role": "member",
            "scope": "mcp:use",
            **given.pop("claims", {}),
        }
        headers = {"Authorization": f"Bearer {token(**claims)}", "Content-Type": "application/json"}
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await self.http.post(path, content=body, headers={**headers, **given.pop("headers", {})}, **given)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    settings = IssuerSettings(
        issuer=ISSUER, jwks=key_set("k1").decode(), required_scopes=("mcp:use",), operation_scopes=True
    )

    async def fetch(_: str) -> bytes:
        raise AssertionError

    issuers = IssuerDirectory(
        [settings], fetch=fetch, leeway_s=0, cache_entries=10, ttl_s=60, min_interval_s=60, clock=Clock()
    )
    doubles, modern, legacy = Doubles(), Door("modern"), Door("legacy")
    resource = ProtectedResource(public_url=URL, issuers=issuers.issuers, scopes=SCOPES)
    endpoint = McpEndpoint(
        resource=resource,
        issuers=issuers,
        admission=cast("Any", doubles),
        registry=cast("Any", doubles),
        guard=BrowserGuard(URL),
        modern=modern,
        legacy=legacy,
        max_body_bytes=10_000,
        max_json_depth=16,
        body_timeout_s=0.05,
        has_toolset=doubles.has_toolset,
    )
    routes = [
        route
        for path in ("/mcp/{org}/{workspace}", "/mcp/{org}/{workspace}/{toolset}")
        for route in (
            Route(path, endpoint),
            Route(f"/.well-known/oauth-protected-resource{path}", resource.metadata),
        )
    ]
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=Starlette(routes=routes)), base_url=URL) as http:
        yield Gateway(http, doubles, modern, legacy)


PING = request("ping")
DISCOVER = modern_request("server/discover")


@pytest.mark.parametrize(
    ("message", "version", "front"),
    [
        (DISCOVER, MODERN, "modern"),
        (DISCOVER, None, "modern"),
        # It disagrees with itself, which the modern front says.
        (DISCOVER, LEGACY, "modern"),
        (PING, MODERN, "modern"),
        (PING, "2099-01-01", "modern"),
        (PING, LEGACY, "legacy"),
        (PING, "2024-11-05", "legacy"),
        (PING, None, "legacy"),
        (request("initialize"), None, "legacy"),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, LEGACY, "legacy"),
    ],
)
async def test_the_message_tells_the_era_or_else_its_header(
    gateway: Gateway, message: dict[str, Any], version: str | None, front: str
) -> None:
    headers = {} if version is None else {"MCP-Protocol-Version": version}
    assert (await gateway.post(message, headers=headers)).text == front


@pytest.mark.parametrize(
    ("method", "version", "status"),
    [("GET", LEGACY, 200), ("DELETE", LEGACY, 200), ("GET", MODERN, 405), ("PUT", LEGACY, 405), ("HEAD", LEGACY, 405)],
)
async def test_other_verbs_are_for_sessions(gateway: Gateway, method: str, version: str, status: int) -> None:
    bearer = token(aud=f"{URL}/mcp/acme/main", organization="acme", role="member", scope="mcp:use")
    headers = {"Authorization": f"Bearer {bearer}", "MCP-Protocol-Version": version}
    answer = await gateway.http.request(method, "/mcp/acme/main", headers=headers)
    assert answer.status_code == status
    assert (answer.headers.get("allow") == "POST") is (status == 405)


@pytest.mark.parametrize(
    ("audience", "path", "status"),
    [
        ("/mcp/acme/main/small", "/mcp/acme/main/small", 200),
        ("/mcp/acme/main", "/mcp/acme/main/small", 200),
        ("/mcp/acme/main", "/mcp/acme/main", 200),
        ("/mcp/acme/main/small", "/mcp/acme/main", 401),
        ("/mcp/acme/main/large", "/mcp/acme/main/small", 401),
        ("/mcp/acme", "/mcp/acme/main/small", 401),
        ("/mcp/acme/other", "/mcp/acme/main/small", 401),
        ("/mcp/acme/main", "/mcp/acme/main/large", 404),
        ("/mcp/acme/main/large", "/mcp/acme/main/large", 404),
    ],
)
async def test_a_token_for_a_workspace_is_good_for_its_toolsets_and_not_the_other_way(
    gateway: Gateway, audience: str, path: str, status: int
) -> None:
    answer = await gateway.post(DISCOVER, path, claims={"aud": URL + audience})
    assert answer.status_code == status
    if status == 200:
        assert gateway.modern.calls[0].toolset == ("small" if path.endswith("small") else None)


async def test_a_bad_token_is_refused_for_what_is_wrong_with_it(gateway: Gateway) -> None:
    answer = await gateway.post(DISCOVER, "/mcp/acme/main/small", claims={"exp": 1})
    assert answer.status_code == 401


async def test_a_toolset_has_metadata_of_its_own(gateway: Gateway) -> None:
    answer = await gateway.http.post("/mcp/acme/main/small")
    metadata = f"{URL}/.well-known/oauth-protected-resource/mcp/acme/main/small"
    assert answer.status_code == 401
    expected = f'Bearer resource_metadata="{metadata}", scope="{" ".join(SCOPES)}"'
    assert answer.headers["www-authenticate"] == expected
    document = (await gateway.http.get(metadata)).json()
    assert document["resource"] == f"{URL}/mcp/acme/main/small"
    assert document["scopes_supported"] == list(SCOPES)


CALL = modern_request("tools/call", {"name": "t"})


@pytest.mark.parametrize(
    ("message", "scope", "missing"),
    [
        (CALL, "mcp:use mcp:tools", None),
        (CALL, "mcp:use", "mcp:tools mcp:use"),
        # All that is needed is named, so that one step-up is enough.
        (CALL, "", "mcp:tools mcp:use"),
        (CALL, "mcp:tools", "mcp:tools mcp:use"),
        (CALL, "mcp:use mcp:toolsmith mcp:resources", "mcp:tools mcp:use"),
        (DISCOVER, "mcp:use", None),
        (DISCOVER, "mcp:tools", "mcp:use"),
        (request("resources/subscribe", {"uri": "a:b"}), "mcp:use mcp:tools", "mcp:resources mcp:use"),
    ],
)
async def test_a_missing_scope_is_challenged_with_all_that_are_needed(
    gateway: Gateway, message: dict[str, Any], scope: str, missing: str | None
) -> None:
    answer = await gateway.post(message, claims={"scope": scope})
    assert answer.status_code == (200 if missing is None else 403)
    if missing is not None:
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith('Bearer error="insufficient_scope", resource_metadata="')
        assert f'scope="{missing}"' in challenge
        assert gateway.doubles.admitted == 0


async def test_what_policy_misses_is_named_with_all_else_that_the_operation_needs(gateway: Gateway) -> None:
    await gateway.post(CALL, claims={"scope": "mcp:use mcp:tools"})
    challenge = gateway.modern.calls[0].challenge(InsufficientScopeError(("tool:danger",)))
    assert 'scope="mcp:tools mcp:use tool:danger"' in challenge


async def test_a_stream_knows_when_its_token_ends(gateway: Gateway) -> None:
    await gateway.post(DISCOVER, claims={"exp": 4_000_000_000})
    call = gateway.modern.calls[0]
    assert (call.expires_at, call.operation_scopes, call.principal.scopes) == (
        4_000_000_000,
        True,
        frozenset({"mcp:use"}),
    )


async def test_a_body_that_dribbles_is_not_waited_for(gateway: Gateway) -> None:
    async def dribble() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    bearer = token(aud=f"{URL}/mcp/acme/main", organization="acme", role="member", scope="mcp:use")
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    # In process the transport reads a whole body first, so the application is asked by hand.
    body = dribble()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(body), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    app = cast("Any", gateway.http._transport).app
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/mcp/acme/main",
        "raw_path": b"/mcp/acme/main",
        "query_string": b"",
        "headers": [
            (b"host", b"gateway.example"),
            *((name.lower().encode(), value.encode()) for name, value in headers.items()),
        ],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["data"] == {"code": "request_timeout"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"n":%s}}' % (b"9" * 5000), -32700),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32700),
    ],
)
async def test_a_message_that_is_none_is_refused(gateway: Gateway, body: bytes, code: int) -> None:
    answer = await gateway.post(body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in {code, -32600}


async def test_another_organisations_token_finds_nothing(gateway: Gateway) -> None:
    answer = await gateway.post(DISCOVER, claims={"organization": "other"})
    assert (answer.status_code, gateway.doubles.admitted) == (404, 0)
    assert answer.content == (await gateway.post(DISCOVER, "/mcp/acme/missing")).content


async def test_a_foreign_host_is_refused_before_the_token_is_read(gateway: Gateway) -> None:
    for host, status in (("evil.example", 403), ("gateway.example", 401)):
        answer = await gateway.http.post("/mcp/acme/main", headers={"Host": host})
        assert answer.status_code == status


@pytest.mark.parametrize("path", ["/mcp/acme%2fmain", "/mcp/acme%2fmain/small", "/mcp/acme/main%2Fsmall"])
async def test_a_slash_in_disguise_names_nothing(gateway: Gateway, path: str) -> None:
    for address in (path, f"/.well-known/oauth-protected-resource{path}"):
        assert (await gateway.http.request("POST", address)).status_code in {404, 405}
        assert (await gateway.http.request("GET", address)).status_code == 404
