"""``/openapi.json`` and ``/docs``: nothing is left out, nothing is made up, and nothing is loaded from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator  # noqa: TC003 - pytest-asyncio reads it
from typing import TYPE_CHECKING, Any

import pytest
from openapi_pydantic import OpenAPI
from pydantic import TypeAdapter

from agentapi.api_routes import OPERATIONS
from agentapi.errors import AgentAPIError
from agentapi.identity.access import ROUTES, Open
from agentapi.identity.permissions import Permission
from integration.api.harness import Api, served
from support.browser import chromium, visitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.async_api import Browser
    from starlette.applications import Starlette

UNDOCUMENTED = {"* /demo/notes"}
"""Of `agentapi dev` alone."""
ELSEWHERE = re.compile(
    r"""(?:src|srcset|action|data|poster)=|url\(|@import|<(?:script|link|img|iframe|object|embed)\b"""
)


@pytest.fixture
async def document(api: Api) -> dict[str, Any]:
    answer = await api.http.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json()
    return found


def is_page(name: str) -> bool:
    """Whether a route is a page on a person's way, which programs have no use for."""
    return ROUTES[name] is Open.BROWSER and not name.partition(" ")[2].startswith("/api/")


def test_every_route_is_documented_and_every_operation_is_a_route() -> None:
    documented = [operation.route for operation in OPERATIONS]
    assert len(documented) == len(set(documented))
    expected = {name for name in ROUTES if not is_page(name)} - UNDOCUMENTED
    assert expected - set(documented) == set(), "say in the room's operations.py what the route takes and answers"
    assert set(documented) - expected == set(), "operations of routes that are gone"


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref":
                yield each
            else:
                yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_every_kind_of_error_that_is_named_has_a_code_of_its_own() -> None:
    named = {error for operation in OPERATIONS for error in operation.errors}
    assert all(issubclass(error, AgentAPIError) for error in named)
    assert len({error.code for error in named}) == len(named)


async def test_the_document_is_openapi_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    OpenAPI.model_validate(document)
    for reference in set(references(document)):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)


async def test_who_may_enter_is_what_the_table_of_permissions_says(document: dict[str, Any]) -> None:
    for operation in OPERATIONS:
        method = "post" if operation.method == "*" else operation.method.lower()
        found, access = document["paths"][operation.path][method], ROUTES[operation.route]
        if isinstance(access, Permission):
            assert found["x-permission"] == access.value
            assert f"`{access.value}`" in found["description"]
            assert {"401", "403", "429", "503"} <= set(found["responses"])
        assert bool(found["security"]) is (access not in {Open.ANYBODY, Open.BROWSER})
        body = found.get("requestBody")
        assert (body is not None) is (operation.body is not None)
        if body is not None and isinstance(access, Permission):
            assert {"413", "415", "422"} <= set(found["responses"])
        assert ("412" in found["responses"]) is (
            isinstance(access, Permission)
            and (operation.method in {"PUT", "DELETE"} or operation.versioned == "change")
        )


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.example is not None], ids=lambda o: o.route)
def test_every_example_is_a_body_that_is_taken(operation: Any) -> None:
    TypeAdapter(operation.body).validate_json(json.dumps(operation.example))


async def test_the_reference_is_for_everybody_and_kept_by_its_tag(api: Api) -> None:
    for path in ("/openapi.json", "/docs"):
        first = await api.http.get(path)
        again = await api.http.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert first.headers["cache-control"] == "no-cache"
        assert first.headers["x-content-type-options"] == "nosniff"
        for mark in (api.tenant.principal.org_slug, str(api.tenant.principal.org_id)):
            assert mark not in first.text


async def test_the_page_names_everything_and_has_nothing_that_could_load_or_run(
    api: Api, document: dict[str, Any]
) -> None:
    page = await api.http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert ELSEWHERE.search(page.text) is None
    for path, operations in document["paths"].items():
        assert f"<code>{path}</code>" in page.text
        for operation in operations.values():
            assert f'id="{operation["operationId"]}"' in page.text
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page.text
    anchors = set(re.findall(r'id="([^"]+)"', page.text))
    assert set(re.findall(r'href="#([^"]+)"', page.text)) <= anchors


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_browser_shows_the_page_without_a_complaint(gateway: Starlette, browser: Browser, scheme: str) -> None:
    async with served(gateway) as url, visitor(browser, color_scheme=scheme) as reader:
        asked: list[str] = []
        reader.page.on("request", lambda request: asked.append(request.url))
        await reader.page.goto(f"{url}/docs")
        await reader.picture(f"docs-{scheme}", whole=False)
        await reader.page.click('nav a[href="#API-keys"]')
        await reader.picture(f"docs-{scheme}-keys", whole=False)
        assert await reader.page.evaluate("document.querySelector('#API-keys').getBoundingClientRect().top < 300")
        assert (
            await reader.page.evaluate("getComputedStyle(document.querySelector('article')).borderTopStyle") == "solid"
        )
        assert {each.removeprefix(url).partition("#")[0] for each in asked} <= {"/docs", "/favicon.ico"}
        assert [text for where, text in reader.complaints if "favicon" not in where] == []
        # The articles are alike, and to look at all of them takes half a minute.
        await reader.page.evaluate("document.querySelectorAll('article').forEach((each, n) => n % 25 && each.remove())")
        assert await reader.barriers() == []
