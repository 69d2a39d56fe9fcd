"""Every route of the application, with every role, without a token and with another tenant's, against the table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from agentapi.identity.access import ROUTES, Open, guard_routes, names_of
from agentapi.identity.permissions import Permission, role_permits
from agentapi.principal import Role
from integration.api.belongings import PLACES, Belongings
from integration.api.harness import Api, Caller
from tenants import make_tenant

if TYPE_CHECKING:
    import httpx2
    from starlette.responses import PlainTextResponse
    from starlette.routing import BaseRoute

    from agentapi.storage.database import Database

_ONLY_IN_DEV = {"* /demo/notes"}
_PARAMETER = re.compile(r"\{(\w+)\}")


def _paths(permission: type[Permission | Open] = Permission) -> list[str]:
    return [name for name, access in ROUTES.items() if isinstance(access, permission)]


def _filled(path: str) -> str:
    """Return a path in which every parameter is something that nobody has."""
    return _PARAMETER.sub(lambda _: str(uuid4()), path)


async def _ask(caller: Caller, name: str, path: str | None = None) -> httpx2.Response:
    method, template = name.split(" ", 1)
    return await caller.request(method, _filled(template) if path is None else path)


def test_every_route_stands_in_the_table_and_every_row_is_a_route(gateway: Starlette) -> None:
    rows = {name for route in gateway.router.routes for name in names_of(route)}
    assert rows - set(ROUTES) == set(), "add a row to ROUTES in identity/access.py, and a permission if it needs one"
    assert set(ROUTES) - rows - _ONLY_IN_DEV == set(), "rows of routes that are gone"


def test_every_route_that_needs_a_permission_is_behind_the_guard(gateway: Starlette) -> None:
    for route in gateway.router.routes:
        assert isinstance(route, Route | Mount)
        guarded = type(route.app).__name__ == "_Guarded"
        assert guarded is any(isinstance(ROUTES[name], Permission) for name in names_of(route)), route


@pytest.mark.parametrize("name", _paths())
async def test_a_stranger_is_asked_who_they_are(api: Api, name: str) -> None:
    method, path = name.split(" ", 1)
    for headers in ({}, {"Authorization": "Bearer x.y.z"}):
        answer = await api.http.request(method, _filled(path), headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("name", _paths())
async def test_a_role_enters_where_the_table_lets_it_and_nowhere_else(api: Api, name: str) -> None:
    permission = ROUTES[name]
    assert isinstance(permission, Permission)
    for role in Role:
        answer = await _ask(api.caller(role, subject=role), name)
        refusal = f"The role '{role}' lacks the permission '{permission}'."
        refused = answer.status_code == 403 and answer.json()["detail"] == refusal
        assert refused is not role_permits(role, permission), (role, answer.text)
        assert answer.status_code not in {401, 500}, answer.text


@pytest.mark.parametrize("name", _paths())
async def test_a_token_of_another_tenant_reaches_nothing(api: Api, name: str, database: Database) -> None:
    mine = await Belongings.of(api, name)
    stranger = Api(api.http, api.issuer, await make_tenant(database, "mallory")).caller(subject="mallory")
    path = mine.path(name)
    answer = await _ask(stranger, name, path)
    if path != name.split(" ", 1)[1]:
        assert answer.status_code in {403, 404, 415, 422}, answer.text
        made_up = await _ask(stranger, name)
        assert (answer.status_code, _without_ids(answer)) == (made_up.status_code, _without_ids(made_up))
    for secret in mine.marks():
        assert secret not in answer.text


@pytest.mark.parametrize("name", [name for name in _paths(Open) if name not in _ONLY_IN_DEV])
async def test_an_open_route_tells_no_stranger_of_a_tenant(api: Api, name: str) -> None:
    method, path = name.split(" ", 1)
    mine = await Belongings.of(api, name)
    answer = await api.http.request("POST" if method == "*" else method, _filled(path))
    assert answer.status_code != 500
    if ROUTES[name] in {Open.BY_MESSAGE, Open.BY_TOKEN}:
        assert answer.status_code == 401
    for secret in mine.marks():
        assert secret not in answer.text


async def test_a_route_without_a_row_is_answered_to_nobody() -> None:
    async def leak(_: object) -> PlainTextResponse:
        raise AssertionError("entered")

    async def authorize(_: object) -> None:
        raise AssertionError("asked who calls")

    routes: list[BaseRoute] = [Route("/api/v1/forgotten", leak), Mount("/api/v1/box", Starlette())]
    guard_routes(routes, authorize)  # type: ignore[arg-type] # whoever calls
    for route in routes:
        assert isinstance(route, Route | Mount)
        with pytest.raises(Exception, match="stands in no table"):
            await route.app({"type": "http", "method": "GET"}, None, None)  # type: ignore[arg-type] # not read


def test_each_place_of_a_thing_is_a_route() -> None:
    assert set(PLACES) <= {name.split(" ", 1)[1] for name in ROUTES}


def _without_ids(answer: httpx2.Response) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "", answer.text)
