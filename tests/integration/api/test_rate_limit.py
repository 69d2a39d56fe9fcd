"""Rate limits where requests come in: everyone is counted, once, and told which limit they have to wait for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from agentapi.principal import Role
from integration.api.harness import PUBLIC_URL, Api, Caller, lifespan_of, settings_for
from integration.api.test_api_keys import made
from integration.api.test_mcp_endpoint import HEADERS, LIST
from integration.api.test_policy import POLICY
from support.valkey import Valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.embedded import EmbeddedPostgres

MEMBERS = "/api/v1/members"


class Limited:
    """Starts gateways with limits of their own, for one organisation."""

    def __init__(
        self, api: Api, postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
    ) -> None:
        self._api = api
        self._given = (postgres, issuer, keyring, state_dir)
        self.path = f"/mcp/{api.tenant.principal.org_slug}/main"

    @contextlib.asynccontextmanager
    async def gateway(self, peer: str = "198.51.100.7", **settings: Any) -> AsyncIterator[Api]:
        given = {"stdio_commands": {}, "redis_timeout_ms": 2000, **settings}
        async with lifespan_of(settings_for(*self._given, **given)) as app:
            transport = httpx2.ASGITransport(app, client=(peer, 4711))
            async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
                yield Api(http, self._api.issuer, self._api.tenant)

    async def ask(self, caller: Caller, **changes: Any) -> httpx2.Response:
        headers = {**HEADERS, **changes.pop("headers", {})}
        path = changes.pop("path", self.path)
        return await caller.request("POST", path, headers=headers, json={**LIST, **changes})

    async def call(self, caller: Caller, name: str, arguments: dict[str, Any] | None = None) -> httpx2.Response:
        params = {**LIST["params"], "name": name, "arguments": arguments or {}}  # type: ignore[dict-item] # it is one
        return await self.ask(
            caller, method="tools/call", params=params, headers={"Mcp-Method": "tools/call", "Mcp-Name": name}
        )


@pytest.fixture
def limited(api: Api, postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path) -> Limited:
    return Limited(api, postgres, issuer, keyring, state_dir)


def statuses(answers: list[httpx2.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def refused_by(answer: httpx2.Response) -> str:
    assert answer.status_code == 429, answer.text
    body = answer.json()
    told = body["error"]["data"] if "error" in body else body
    assert told["code"] == "rate_limited"
    assert answer.headers["retry-after"] == str(told["retry_after_s"])
    assert answer.headers["ratelimit"].startswith(f'"{told["limit"]}";r=')
    return str(told["limit"])


async def test_a_caller_that_asks_too_often_is_told_when_to_come_back(limited: Limited) -> None:
    async with limited.gateway(rate_limit_per_minute=2, rate_limit_burst=1) as api:
        first = await limited.ask(api.caller())
        again = await limited.ask(api.caller(), id="two")
        other = await limited.ask(api.caller(subject="bob"))
        bob = api.caller(Role.MEMBER, "bob")
        stranger = await bob.request("POST", "/mcp/other/main", headers=HEADERS, json=LIST)
    assert (first.status_code, other.status_code, stranger.status_code) == (200, 200, 404)
    assert refused_by(again) == "user"
    assert 0 < int(again.headers["retry-after"]) <= 30
    assert again.json()["id"] == "two"
    assert again.headers["ratelimit-policy"] == '"user";q=1;w=30'
    assert first.headers["ratelimit"] == '"user";r=0;t=30'


async def test_the_api_counts_as_the_endpoint_does_and_once_for_a_request(limited: Limited) -> None:
    async with limited.gateway(rate_limit_per_minute=1, rate_limit_burst=4) as api:
        one = api.caller()
        answers = [await one.request("GET", MEMBERS) for _ in range(2)] + [await limited.ask(one) for _ in range(2)]
        assert statuses(answers) == [200] * 4
        assert (answers[0].headers.get("ratelimit"), answers[3].headers["ratelimit"]) == (None, '"user";r=0;t=60')
        refused = await one.request("GET", MEMBERS)
        assert refused_by(refused) == "user"
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused_by(await limited.ask(one)) == "user"
        # What is found to be wrong later was asked all the same.
        two = api.caller(subject="two")
        assert statuses([await two.request("GET", "/api/v1/mcp/configurations/x") for _ in range(5)])[4] == 429


async def test_requests_that_go_nowhere_count_for_whom_they_come_from(limited: Limited) -> None:
    async with limited.gateway(rate_limit_per_minute=1, rate_limit_burst=3) as api:
        missing = f"/mcp/{api.tenant.principal.org_slug}/missing"
        one, two = api.caller(), api.caller(subject="two")
        assert statuses([await limited.ask(one, path=missing) for _ in range(4)]) == [404, 404, 404, 429]
        assert (await limited.ask(one)).status_code == 429
        assert statuses([await limited.ask(two) for _ in range(4)]) == [200, 200, 200, 429]


async def test_keys_and_workspaces_and_plans_have_limits_of_their_own(limited: Limited) -> None:
    async with limited.gateway(
        rate_limit_key_per_minute=1,
        rate_limit_key_burst=2,
        rate_limit_workspace_per_minute=1,
        rate_limit_workspace_burst=6,
    ) as api:
        keys = [Caller(api.http, (await made(api.caller(), name=name))["key"]) for name in ("one", "two")]
        assert statuses([await limited.ask(keys[0]) for _ in range(3)]) == [200, 200, 429]
        assert refused_by(await limited.ask(keys[0])) == "key"
        assert statuses([await limited.ask(keys[1]) for _ in range(2)]) == [200, 200]
        # All of them together, whoever they are.
        people = [api.caller(Role.MEMBER, f"p{number}") for number in range(3)]
        answers = [await limited.ask(person) for person in people]
        assert statuses(answers) == [200, 200, 429]
        assert refused_by(answers[2]) == "workspace"
        # A workspace that is full leaves the others and the API alone.
        assert (await people[0].request("GET", "/api/v1/mcp/configurations")).status_code == 200


async def test_an_organisation_that_comes_by_keys_alone_has_its_plan(limited: Limited, api: Api) -> None:
    key = (await made(api.caller()))["key"]
    root = api.caller(Role.PLATFORM_ADMIN, "root")
    path = f"/api/v1/platform/organizations/{api.tenant.principal.org_slug}"
    changed = await root.request("PUT", path, json={"requests_per_minute": 2})
    assert changed.status_code == 200, changed.text
    async with limited.gateway() as other:
        answers = [await limited.ask(Caller(other.http, key)) for _ in range(3)]
        assert statuses(answers) == [200, 200, 429]
        assert refused_by(answers[2]) == "plan"


async def test_members_cannot_keep_their_admin_from_the_api(limited: Limited) -> None:
    async with limited.gateway(rate_limit_org_per_minute=1, rate_limit_org_burst=2) as api:
        member, admin = api.caller(Role.MEMBER, "m"), api.caller()
        assert statuses([await limited.ask(member) for _ in range(3)]) == [200, 200, 429]
        assert refused_by(await member.request("GET", "/api/v1/mcp/configurations")) == "organization"
        assert (await admin.request("GET", MEMBERS)).status_code == 200
        # At the endpoint an admin is one of them.
        assert refused_by(await limited.ask(admin)) == "organization"


async def test_a_tool_has_a_cost_and_a_limit_by_whatever_name_it_is_called(limited: Limited) -> None:
    tools = [{"tools": "clock__*", "cost": 3, "per_minute": 1, "burst": 6}, {"tools": "*", "cost": 1}]
    async with limited.gateway(rate_limit_per_minute=1, rate_limit_burst=10, rate_limit_tools=tools) as api:
        one, two, three = (api.caller(subject=name) for name in ("one", "two", "three"))
        # 3 + 3 + 3 of 10, then 1 of the one that is left.
        assert statuses([await limited.call(one, f"clock__{number}") for number in range(4)])[3] == 429
        assert statuses([await limited.ask(one) for _ in range(2)]) == [200, 429]
        # A tool's own limit is shared by all who call it, and refuses without taking from them.
        assert statuses([await limited.call(two, "clock__now") for _ in range(3)])[2] == 429
        assert refused_by(await limited.call(two, "clock__now")) == "tool"
        assert refused_by(await limited.call(three, "clock__now")) == "tool"
        assert statuses([await limited.ask(three) for _ in range(10)]) == [200] * 10


@pytest.mark.parametrize(
    ("policy", "name", "arguments"),
    [
        ({"renames": {"clock__now": "cheap"}}, "cheap", {}),
        ({"search_mode": True}, "call_tool", {"name": "clock__now"}),
        ({"search_mode": True, "renames": {"clock__now": "cheap"}}, "call_tool", {"name": "cheap"}),
    ],
)
async def test_neither_a_new_name_nor_search_mode_makes_a_tool_cheaper(
    limited: Limited, policy: dict[str, Any], name: str, arguments: dict[str, Any]
) -> None:
    tools = [{"tools": "clock__now", "per_minute": 1, "burst": 1}]
    async with limited.gateway(rate_limit_tools=tools) as api:
        admin = api.caller()
        put = await admin.request("PUT", POLICY, params={"workspace": "main"}, json=policy)
        assert put.status_code == 200, put.text
        assert (await limited.call(admin, name, arguments)).status_code != 429
        assert refused_by(await limited.call(admin, name, arguments)) == "tool"
        # What is no tool at all, or names none, has no limit of one.
        for odd in ({}, {"name": 7}, {"name": "x" * 1000}):
            assert ((await limited.call(admin, name, odd)).status_code == 429) is (name == "cheap")


async def test_an_address_is_counted_whoever_comes_from_it(limited: Limited) -> None:
    async with limited.gateway(rate_limit_address_per_minute=1, rate_limit_address_burst=4) as api:
        metadata = f"/.well-known/oauth-protected-resource{limited.path}"
        assert (await limited.ask(api.caller())).status_code == 200
        assert (await limited.ask(Caller(api.http, "no-token"))).status_code == 401
        assert (await Caller(api.http, "no-token").request("GET", MEMBERS)).status_code == 401
        assert (await api.http.get(metadata)).status_code == 200
        for answer in (
            await limited.ask(api.caller(subject="bob")),
            await limited.ask(Caller(api.http, "no-token")),
            await Caller(api.http, "no-token").request("GET", MEMBERS),
            await api.caller().request("GET", MEMBERS),
            await api.http.get(metadata),
            await api.http.get("/connect/x"),
        ):
            assert refused_by(answer) == "address"
        # What keeps the gateway running asks as often as it likes.
        assert statuses([await api.http.get(path) for path in ("/live", "/ready", "/health")]) == [200] * 3


async def test_an_address_with_nothing_left_has_no_token_verified(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with limited.gateway(rate_limit_address_per_minute=1, rate_limit_address_burst=2) as api:
        assert statuses([await limited.ask(Caller(api.http, "no-token")) for _ in range(2)]) == [401, 401]

        def never(*_: object, **__: object) -> None:
            raise AssertionError

        monkeypatch.setattr("agentapi.gateway.endpoint.verified_token", never)
        monkeypatch.setattr("agentapi.gateway.authorizing.authenticate", never)
        assert (await limited.ask(api.caller())).status_code == 429
        assert (await api.caller().request("GET", MEMBERS)).status_code == 429


async def test_behind_a_trusted_proxy_the_client_is_who_came_to_it(limited: Limited) -> None:
    limits: dict[str, Any] = {
        "rate_limit_address_per_minute": 1,
        "rate_limit_address_burst": 1,
        "trusted_proxies": ["10.0.0.0/8"],
    }
    async with limited.gateway(peer="10.0.0.1", **limits) as api:
        seen = [
            await limited.ask(api.caller(), headers={"X-Forwarded-For": client})
            for client in ("203.0.113.1", "203.0.113.2", "1.1.1.1, 203.0.113.1", "203.0.113.2")
        ]
        assert statuses(seen) == [200, 200, 429, 429]
    async with limited.gateway(**limits) as api:
        seen = [
            await limited.ask(api.caller(), headers={"X-Forwarded-For": client})
            for client in ("203.0.113.1", "203.0.113.2")
        ]
        assert statuses(seen) == [200, 429]


async def test_gateways_share_limits_by_redis_and_say_so(limited: Limited) -> None:
    with Valkey.running() as server:
        limits: dict[str, Any] = {"rate_limit_per_minute": 1, "rate_limit_burst": 4, "redis_url": server.url}
        async with limited.gateway(**limits) as one, limited.gateway(**limits) as other:
            answers = [await limited.ask((one, other)[turn % 2].caller()) for turn in range(6)]
            assert statuses(answers) == [200] * 4 + [429] * 2
            assert refused_by(answers[5]) == "user"
            parts = (await one.http.get("/health")).json()["parts"]
            assert (parts["redis"]["status"], parts["limits"]["details"]) == ("ok", {"shared": True})
            server.kill()
            # Each has counted two of its own.
            asked = [await limited.ask(one.caller()) for _ in range(3)]
            assert statuses(asked) == [200, 200, 429]
            assert (await limited.ask(other.caller(subject="bob"))).status_code == 200
            assert (await limited.ask(other.caller(subject="bob"))).status_code == 200
            health = await other.http.get("/health")
            assert (health.status_code, health.json()["status"]) == (200, "degraded")
            assert health.json()["parts"]["limits"]["details"] == {"shared": False}
            assert (await other.http.get("/ready")).status_code == 200


async def test_where_redis_is_required_there_is_no_service_without_it(limited: Limited) -> None:
    limits: dict[str, Any] = {"rate_limit_per_minute": 60, "redis_url": "redis://127.0.0.1:1", "redis_required": True}
    async with limited.gateway(**limits) as api:
        refused = await limited.ask(api.caller())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["data"] == {"code": "redis_unavailable"}
        problem = await api.caller().request("GET", MEMBERS)
        assert (problem.status_code, problem.json()["code"]) == (503, "redis_unavailable")
        assert (await api.http.get("/ready")).status_code == 503
        assert (await api.http.get("/live")).status_code == 200


async def test_without_redis_the_gateway_says_that_each_process_counts_for_itself(limited: Limited) -> None:
    async with limited.gateway() as api:
        parts = (await api.http.get("/health")).json()["parts"]
        assert ("redis" in parts, parts["limits"]["details"]) == (False, {"shared": False})
