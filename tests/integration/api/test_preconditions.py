"""``ETag``, ``If-Match`` and ``If-None-Match`` on everything that has a version; and what else HTTP asks of answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from agentapi.api_routes import OPERATIONS
from agentapi.principal import Role
from integration.api.harness import CONFIGURATIONS, Api, Caller, configuration

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg
    import httpx2

OAUTH_CONFIGURATION = configuration(name="oauth", auth="oauth")
PROVIDER = {"provider": "entra", "parameters": {"tenant": "organizations"}, "scopes": []}


@dataclass(frozen=True)
class Thing:
    """Something that has a version, and how it is changed."""

    template: str
    body: Callable[[int], dict[str, Any]]
    """A body for each number, which changes it."""
    make: tuple[str, dict[str, Any]] | None = None
    role: Role = Role.ORG_ADMIN
    verbs: tuple[str, ...] = ("PUT", "DELETE")


def org_body(number: int) -> dict[str, Any]:
    return {"slug": f"renamed-{uuid4().hex[:8]}", "name": f"Name {number}"}


THINGS = {
    "configuration": Thing(
        f"{CONFIGURATIONS}/{{id}}",
        lambda number: configuration(description=f"{number}"),
        (CONFIGURATIONS, configuration()),
    ),
    "toolset": Thing(
        "/api/v1/mcp/toolsets/{id}",
        lambda number: {"name": "set", "tools": ["*"], "description": f"{number}"},
        ("/api/v1/mcp/toolsets", {"name": "set", "tools": ["*"]}),
    ),
    "policy": Thing(
        "/api/v1/mcp/policy",
        lambda number: {"rules": [{"effect": "deny", "tools": [f"tool-{number}"]}]},
        verbs=("PUT",),
    ),
    "prompt": Thing(
        "/api/v1/prompts/{id}",
        lambda number: {"name": "tone", "text": f"Be short {number}."},
        ("/api/v1/prompts", {"name": "tone", "text": "Be short."}),
    ),
    "workspace": Thing(
        "/api/v1/workspaces/{slug}",
        lambda number: {"slug": "side", "name": f"Side {number}"},
        ("/api/v1/workspaces", {"slug": "side", "name": "Side"}),
    ),
    "member": Thing("/api/v1/members/{id}", lambda number: {"role": ["viewer", "member"][number % 2]}),
    "key": Thing(
        "/api/v1/api-keys/{id}",
        lambda _: {},
        ("/api/v1/api-keys", {"name": "build"}),
        verbs=("DELETE",),
    ),
    "provider": Thing(
        "/api/v1/mcp/oauth/providers/{id}",
        lambda number: {**PROVIDER, "scopes": [f"scope-{number}"]},
        (CONFIGURATIONS, OAUTH_CONFIGURATION),
    ),
    "organisation of the platform": Thing(
        "/api/v1/platform/organizations/{slug}",
        lambda number: {"max_members": 10 + number},
        ("/api/v1/platform/organizations", {}),
        Role.PLATFORM_ADMIN,
    ),
}
EDGE = {f"{name} {verb}": (thing, verb) for name, thing in THINGS.items() for verb in thing.verbs}


async def made(api: Api, thing: Thing) -> tuple[Caller, str]:
    """Make the thing, and return somebody who may change it and its path."""
    caller = api.caller(thing.role, f"{thing.role}")
    document: dict[str, Any] = {}
    if thing.make is not None:
        path, body = thing.make
        if not body:
            body = {"slug": f"made-{uuid4().hex[:12]}", "name": "Made"}
        answer = await caller.request("POST", path, json=body)
        assert answer.status_code == 201, answer.text
        document = answer.json()
    elif "members" in thing.template:
        await api.caller(Role.MEMBER, "mia").request("GET", "/api/v1/workspaces")
        await caller.request("GET", "/api/v1/workspaces")
        items = (await caller.request("GET", "/api/v1/members")).json()["items"]
        document = next(item for item in items if item["subject"] == "mia")
    path = thing.template.format(id=document.get("id"), slug=document.get("slug"))
    if "providers" in thing.template:
        assert (await caller.request("PUT", path, json=PROVIDER)).status_code == 204
    return caller, path


async def change(caller: Caller, verb: str, path: str, thing: Thing, *, number: int, tag: str) -> httpx2.Response:
    headers = {"If-Match": tag}
    body: dict[str, Any] = {} if verb == "DELETE" else {"json": thing.body(number)}
    return await caller.request(verb, path, headers=headers, **body)


def test_everything_that_has_a_version_is_tried() -> None:
    changed = {operation.path for operation in OPERATIONS if operation.versioned == "change"}
    tried = {thing.template for thing in THINGS.values()}
    tried_elsewhere = {
        "/api/v1/organizations/{id}",
        "/api/v1/organizations/{id}/transfer",
        "/api/v1/members/me",
        "/api/v1/api-keys/{id}/rotate",
        "/api/v1/prompts/{id}/rollback",
    }
    assert changed == tried | tried_elsewhere


@pytest.mark.parametrize(("thing", "verb"), EDGE.values(), ids=EDGE)
async def test_a_change_to_another_version_changes_nothing(api: Api, thing: Thing, verb: str) -> None:
    caller, path = await made(api, thing)
    before = await caller.request("GET", path)
    tag = before.headers["etag"]
    for wrong in ('"0-0"', f"W/{tag}", tag.strip('"'), '"9999"'):
        answer = await change(caller, verb, path, thing, number=1, tag=wrong)
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed"), wrong
    after = await caller.request("GET", path)
    assert (after.status_code, after.headers["etag"], after.json()) == (200, tag, before.json())
    done = await change(caller, verb, path, thing, number=1, tag=f'"x", {tag}')
    assert done.status_code in {200, 204}, done.text
    gone = await caller.request("GET", path)
    if verb == "PUT":
        assert gone.headers["etag"] != tag
        assert done.headers["etag"] == gone.headers["etag"]
    else:
        assert gone.status_code in {200, 404}
        assert gone.headers.get("etag") != tag


@pytest.mark.parametrize("name", [name for name, thing in THINGS.items() if "PUT" in thing.verbs])
async def test_of_two_changes_to_one_version_one_is_made(api: Api, name: str) -> None:
    thing = THINGS[name]
    caller, path = await made(api, thing)
    tag = (await caller.request("GET", path)).headers["etag"]
    answers = await asyncio.gather(*(change(caller, "PUT", path, thing, number=number, tag=tag) for number in range(8)))
    statuses = sorted(answer.status_code for answer in answers)
    done = [answer for answer in answers if answer.status_code in {200, 204}]
    assert len(done) == 1, statuses
    assert set(statuses) - {412} == {done[0].status_code}
    assert (await caller.request("GET", path)).headers["etag"] == done[0].headers["etag"]


@pytest.mark.parametrize("name", THINGS)
async def test_who_has_the_version_already_is_sent_no_body(api: Api, name: str) -> None:
    caller, path = await made(api, THINGS[name])
    first = await caller.request("GET", path)
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        for method in ("GET", "HEAD"):
            answer = await caller.request(method, path, headers={"If-None-Match": given})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == tag
            assert "content-type" not in answer.headers
            assert "content-length" not in answer.headers
            assert "Authorization" in answer.headers["vary"]
    assert (await caller.request("GET", path, headers={"If-None-Match": '"other"'})).content == first.content


async def test_the_own_organisation_its_owner_and_its_members_have_versions(
    api: Api, superuser: asyncpg.Connection[Any]
) -> None:
    admin, principal = api.caller(), api.tenant.principal
    path = f"/api/v1/organizations/{principal.org_id}"
    tag = (await admin.request("GET", path)).headers["etag"]
    body = {"slug": principal.org_slug, "name": "Renamed"}
    assert (await admin.request("PUT", path, json=body, headers={"If-Match": '"1"'})).status_code == 412
    done = await admin.request("PUT", path, json=body, headers={"If-Match": tag})
    assert done.status_code == 200
    assert done.headers["etag"] != tag
    await superuser.execute("UPDATE organizations SET owner_id = $1", (await own_id(admin)))
    owner = await admin.request("GET", path)
    await api.caller(Role.ORG_ADMIN, "heir").request("GET", path)
    heir = {"user_id": str(await own_id(api.caller(Role.ORG_ADMIN, "heir"), "heir"))}
    stale = {"If-Match": done.headers["etag"]}
    assert (await admin.request("POST", f"{path}/transfer", json=heir, headers=stale)).status_code == 412
    assert (await admin.request("DELETE", path, headers=stale)).status_code == 412
    fresh = {"If-Match": owner.headers["etag"]}
    assert (await admin.request("POST", f"{path}/transfer", json=heir, headers=fresh)).status_code == 200
    leaving = await admin.request("DELETE", "/api/v1/members/me", headers={"If-Match": '"1"'})
    assert leaving.status_code == 412
    assert (await admin.request("GET", path)).json()["owner_id"] == heir["user_id"]


async def own_id(caller: Caller, subject: str = "alice") -> str:
    await caller.request("GET", "/api/v1/workspaces")
    items = (await caller.request("GET", "/api/v1/members")).json()["items"]
    return str(next(item["id"] for item in items if item["subject"] == subject))


async def test_a_rotation_and_a_rollback_are_changes_of_a_version(api: Api) -> None:
    caller = api.caller()
    key = await caller.request("POST", "/api/v1/api-keys", json={"name": "k"})
    rotate = f"{key.headers['location']}/rotate"
    tag = {"If-Match": key.headers["etag"]}
    answers = [await caller.request("POST", rotate, json={}, headers=tag) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 412]
    prompt = await caller.request("POST", "/api/v1/prompts", json={"name": "p", "text": "one"})
    back = f"{prompt.headers['location']}/rollback"
    tag = {"If-Match": prompt.headers["etag"]}
    answers = [await caller.request("POST", back, json={"version": 1}, headers=tag) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 412]


async def test_that_somebody_was_seen_or_a_key_was_used_is_no_version(
    api: Api, superuser: asyncpg.Connection[Any]
) -> None:
    caller = api.caller()
    key = await caller.request("POST", "/api/v1/api-keys", json={"name": "k"})
    await superuser.execute("UPDATE api_keys SET last_used_at = now() WHERE id = $1", key.json()["id"])
    await superuser.execute("UPDATE members SET last_seen_at = now() WHERE org_id = $1", api.tenant.principal.org_id)
    assert (await caller.request("GET", key.headers["location"])).headers["etag"] == key.headers["etag"]
    assert (await caller.request("GET", f"/api/v1/members/{await own_id(caller)}")).json()["version"] == 1


async def test_what_is_made_anew_has_other_tags(api: Api) -> None:
    caller, path = await made(api, THINGS["workspace"])
    tag = (await caller.request("GET", path)).headers["etag"]
    assert (await caller.request("DELETE", path)).status_code == 204
    await caller.request("POST", "/api/v1/workspaces", json={"slug": "side", "name": "Side"})
    answer = await change(caller, "PUT", path, THINGS["workspace"], number=1, tag=tag)
    assert answer.status_code == 412


async def test_what_has_no_version_matches_none(api: Api) -> None:
    caller = api.caller()
    invitation = await caller.request("POST", "/api/v1/invitations", json={})
    path = f"/api/v1/invitations/{invitation.json()['id']}"
    assert (await caller.request("DELETE", path, headers={"If-Match": '"1"'})).status_code == 412
    assert len((await caller.request("GET", "/api/v1/invitations")).json()["items"]) == 1
    assert (await caller.request("DELETE", path, headers={"If-Match": "*"})).status_code == 204


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (CONFIGURATIONS, "GET, HEAD, OPTIONS, POST"),
        (f"{CONFIGURATIONS}/{UUID(int=7)}", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/api/v1/members/me", "DELETE, OPTIONS"),
        ("/api/v1/prompts/compose", "OPTIONS, POST"),
        ("/api/v1/invitations/accept", "OPTIONS, POST"),
        ("/health", "GET, HEAD, OPTIONS"),
    ],
)
async def test_an_address_says_what_can_be_asked_of_it(api: Api, path: str, methods: str) -> None:
    caller = api.caller()
    options = await caller.request("OPTIONS", path)
    assert (options.status_code, options.content, options.headers["allow"]) == (204, b"", methods)
    refused = await caller.request("PATCH", path)
    assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")
    assert refused.headers["allow"] == methods
    assert refused.headers["content-type"] == "application/problem+json"
    for method in {"PUT", "DELETE", "GET"} - {*methods.split(", ")}:
        assert (await caller.request(method, path)).headers.get("allow") == methods


async def test_answers_are_kept_by_nobody_else(api: Api) -> None:
    caller = api.caller()
    page = await caller.request("GET", CONFIGURATIONS)
    assert (page.headers["cache-control"], page.headers["vary"]) == ("private, no-cache", "Authorization")
    for answer in (
        await caller.request("POST", "/api/v1/api-keys", json={"name": "k"}),
        await caller.request("POST", "/api/v1/invitations", json={}),
        await caller.request("GET", f"{CONFIGURATIONS}/{uuid4()}"),
        await api.http.get(CONFIGURATIONS),
    ):
        assert answer.headers["cache-control"] == "no-store", answer.text
    gone = await caller.request("DELETE", f"{CONFIGURATIONS}/{(await caller.created())['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert "content-type" not in gone.headers
