"""Which role may do what, endpoint by endpoint; and what a caller without a good token sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentapi.principal import Role
from integration.api.harness import CONFIGURATIONS, PUBLIC_URL, Api, Caller, configuration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx2

    from agentapi.identity.token_issuer import TokenIssuer

ENDPOINTS: dict[str, Callable[[Caller, str], Awaitable[httpx2.Response]]] = {
    "create for all": lambda caller, _: caller.create(name="new"),
    "create for oneself": lambda caller, _: caller.create(name="new", scope="user"),
    "list": lambda caller, _: caller.page(),
    "read": lambda caller, id_: caller.read(id_),
    "replace": lambda caller, id_: caller.replace(id_, description="changed"),
    "delete": lambda caller, id_: caller.delete(id_),
    "test by id": lambda caller, id_: caller.test(id=id_),
    "test inline for all": lambda caller, _: caller.test(configuration=configuration()),
    "test inline for oneself": lambda caller, _: caller.test(configuration=configuration(scope="user")),
}
_ALL = dict.fromkeys(ENDPOINTS, True)
_NONE = dict.fromkeys(ENDPOINTS, False)
TABLE: dict[Role, dict[str, bool]] = {
    Role.PLATFORM_ADMIN: _ALL,
    Role.ORG_ADMIN: _ALL,
    Role.MEMBER: {
        **_NONE,
        "create for oneself": True,
        "list": True,
        "read": True,
        "test inline for oneself": True,
    },
    Role.VIEWER: {**_NONE, "list": True, "read": True},
    Role.AGENT: _NONE,
}
SUCCESS = {"create for all": 201, "create for oneself": 201, "delete": 204}


def test_the_table_names_every_role() -> None:
    assert set(TABLE) == set(Role)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("role", TABLE)
async def test_a_role_may_what_the_table_says(api: Api, role: Role, endpoint: str) -> None:
    stored = await api.caller().created(name="stored")
    answer = await ENDPOINTS[endpoint](api.caller(role, "somebody"), stored["id"])
    if TABLE[role][endpoint]:
        assert answer.status_code == SUCCESS.get(endpoint, 200), answer.text
        return
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await api.caller().read(stored["id"])).json() == stored
    assert await api.caller().names() == ["stored"]


OWN: dict[Role, bool] = {
    Role.PLATFORM_ADMIN: True,
    Role.ORG_ADMIN: True,
    Role.MEMBER: True,
    Role.VIEWER: False,
    Role.AGENT: False,
}


@pytest.mark.parametrize("role", OWN)
async def test_ones_own_configuration_is_changed_by_the_roles_that_may(api: Api, role: Role) -> None:
    stored = await api.caller(Role.MEMBER, "alice").created(name="mine", scope="user")
    alice = api.caller(role, "alice")
    expected = (200, 200, 204) if OWN[role] else (403, 403, 403)
    assert (await alice.replace(stored["id"], name="mine", scope="user")).status_code == expected[0]
    assert (await alice.test(id=stored["id"])).status_code == expected[1]
    assert (await alice.delete(stored["id"])).status_code == expected[2]


async def test_a_member_does_not_make_a_private_configuration_everybodys(api: Api) -> None:
    member = api.caller(Role.MEMBER)
    stored = await member.created(name="mine", scope="user")
    assert (await member.replace(stored["id"], name="mine", scope="organization")).status_code == 422
    assert (await member.read(stored["id"])).json() == stored


REQUESTS: dict[str, tuple[str, str]] = {
    "create": ("POST", CONFIGURATIONS),
    "list": ("GET", CONFIGURATIONS),
    "read": ("GET", f"{CONFIGURATIONS}/0b0e0c35-6b9f-4b51-9f0c-3d8d3d6c6a11"),
    "replace": ("PUT", f"{CONFIGURATIONS}/0b0e0c35-6b9f-4b51-9f0c-3d8d3d6c6a11"),
    "delete": ("DELETE", f"{CONFIGURATIONS}/0b0e0c35-6b9f-4b51-9f0c-3d8d3d6c6a11"),
    "test": ("POST", "/api/v1/mcp/test"),
}


@pytest.mark.parametrize(("method", "path"), REQUESTS.values(), ids=REQUESTS)
async def test_without_a_token_every_endpoint_asks_for_one(http: httpx2.AsyncClient, method: str, path: str) -> None:
    answer = await http.request(method, path, content=b"nonsense that nobody reads")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthenticated"


def minted(issuer: TokenIssuer, api: Api, **changes: Any) -> str:
    given = {
        "subject": "alice",
        "audiences": [PUBLIC_URL],
        "organization": api.tenant.principal.org_slug,
        "role": Role.ORG_ADMIN,
        "lifetime_s": 600,
        **changes,
    }
    return issuer.mint(**given)


@pytest.mark.parametrize(
    "changes",
    [
        {"now": 1.0},
        {"audiences": ["https://elsewhere.example"]},
        {"audiences": [f"{PUBLIC_URL}/"]},
        {"audiences": []},
    ],
    ids=["expired", "for another server", "for almost this server", "for nobody"],
)
@pytest.mark.parametrize("request_line", REQUESTS.values(), ids=REQUESTS)
async def test_a_token_that_is_not_good_here_is_refused_without_a_reason(
    api: Api, issuer: TokenIssuer, request_line: tuple[str, str], changes: dict[str, Any]
) -> None:
    answer = await Caller(api.http, minted(issuer, api, **changes)).request(*request_line)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert answer.json()["detail"] == "The access token is missing, expired or not valid for this server."


async def test_a_token_of_an_organisation_that_does_not_exist_is_told_nothing_more(
    http: httpx2.AsyncClient, issuer: TokenIssuer, api: Api
) -> None:
    for organization in ("missing", "main", "\0", "ä", "x" * 10_000, "a'; DROP TABLE upstreams; --"):
        caller = Caller(http, minted(issuer, api, organization=organization))
        assert (await caller.page()).status_code in {401, 403, 404}, organization


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE", "TRACE"])
async def test_a_method_that_a_route_lacks_is_a_problem_document(http: httpx2.AsyncClient, method: str) -> None:
    answer = await http.request(method, CONFIGURATIONS)
    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "method_not_allowed"
    assert "GET" in answer.headers["allow"] or "POST" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/", "/api", "/api/v1/mcp", f"{CONFIGURATIONS}/a/b", "/mcp", "/mcp/acme", "/../etc"])
async def test_a_route_that_does_not_exist_is_a_problem_document(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"
