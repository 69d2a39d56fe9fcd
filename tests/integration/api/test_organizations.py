"""Organisations, their people and their end, over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from agentapi.principal import Role
from agentapi.tenancy.models import user_id_of
from integration.api.harness import ISSUER, PUBLIC_URL, Api, Caller
from tenants import make_tenant

if TYPE_CHECKING:
    import asyncpg
    import httpx2

    from agentapi.storage.database import Database

ORGANIZATIONS = "/api/v1/organizations"
WORKSPACES = "/api/v1/workspaces"
MEMBERS = "/api/v1/members"
INVITATIONS = "/api/v1/invitations"
PLATFORM = "/api/v1/platform/organizations"

TABLES_OF_TENANTS = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id'
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'audit%'
ORDER BY 1
"""
KEYS_THAT_STAY = """
SELECT conrelid::regclass::text FROM pg_constraint
WHERE contype = 'f' AND confrelid = 'organizations'::regclass AND confdeltype <> 'c'
"""
TABLES_WITHOUT_KEY = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id'
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'audit%'
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f')
"""


def me(subject: str) -> str:
    return str(user_id_of(ISSUER, subject))


def platform(api: Api) -> Caller:
    return api.caller(Role.PLATFORM_ADMIN, "root")


async def decide(api: Api, **given: Any) -> httpx2.Response:
    return await platform(api).request("PUT", f"{PLATFORM}/{api.tenant.principal.org_slug}", json=given)


async def seen(api: Api, role: Role, subject: str) -> Caller:
    caller = api.caller(role, subject)
    assert (await caller.request("GET", ORGANIZATIONS)).status_code == 200
    return caller


async def assign(api: Api, subject: str, role: str | None, by: Caller | None = None) -> httpx2.Response:
    return await (by or api.caller()).request("PUT", f"{MEMBERS}/{me(subject)}", json={"role": role})


async def invited(api: Api, **given: Any) -> dict[str, Any]:
    answer = await api.caller().request("POST", INVITATIONS, json=given)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def accept(caller: Caller, token: str) -> httpx2.Response:
    return await caller.request("POST", f"{INVITATIONS}/accept", json={"token": token})


async def pages(caller: Caller, path: str, *, limit: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        page = (await caller.request("GET", path, params={"limit": limit, **more})).json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        more = {"cursor": page["next_cursor"]}


async def actions(api: Api) -> list[str]:
    answer = await api.caller().request("GET", "/api/v1/audit", params={"limit": 200})
    return [item["action"] for item in answer.json()["items"]]


async def test_an_admin_renames_the_organisation_and_its_workspaces(api: Api) -> None:
    admin = api.caller()
    organization = (await admin.request("GET", ORGANIZATIONS)).json()["items"][0]
    created = await admin.request("POST", WORKSPACES, json={"slug": "lab", "name": "Lab"})
    assert (created.status_code, created.json()["mcp_url"].rsplit("/", 1)[1]) == (201, "lab")
    taken = await admin.request("POST", WORKSPACES, json={"slug": "lab", "name": "Lab"})
    assert taken.status_code == 409
    moved = await admin.request("PUT", f"{WORKSPACES}/lab", json={"slug": "labs", "name": "Labs"})
    assert (moved.status_code, moved.json()["slug"]) == (200, "labs")
    assert (await admin.request("DELETE", f"{WORKSPACES}/labs")).status_code == 204
    assert (await admin.request("DELETE", f"{WORKSPACES}/labs")).status_code == 404
    slug = f"renamed-{uuid4().hex}"
    renamed = await admin.request(
        "PUT", f"{ORGANIZATIONS}/{organization['id']}", json={"slug": slug, "name": "N", "join_rule": "token"}
    )
    assert (renamed.status_code, renamed.json()["slug"]) == (200, slug)
    # The token names the organisation by its old slug, which nobody has any more.
    assert (await admin.request("GET", ORGANIZATIONS)).status_code == 404


async def test_a_workspace_with_upstreams_stays(api: Api) -> None:
    await api.caller().created()
    assert (await api.caller().request("DELETE", f"{WORKSPACES}/main")).status_code == 409


@pytest.mark.parametrize("slug", ["api", "platform", "-a", "A", "a--b", "a" * 64, "", "ä"])
async def test_a_slug_is_checked(api: Api, slug: str) -> None:
    assert (await api.caller().request("POST", WORKSPACES, json={"slug": slug, "name": "x"})).status_code == 422


async def test_workspaces_and_members_are_read_page_by_page(api: Api) -> None:
    admin = api.caller()
    for slug in ("a", "b"):
        await admin.request("POST", WORKSPACES, json={"slug": slug, "name": slug})
    for subject in ("bob", "carol"):
        await seen(api, Role.MEMBER, subject)
    for path in (WORKSPACES, MEMBERS):
        found = [item["id"] for item in await pages(admin, path, limit=1)]
        assert len(found) == len(set(found)) == 3


async def test_a_role_that_an_admin_gives_stands_over_the_tokens_at_once(api: Api) -> None:
    await seen(api, Role.ORG_ADMIN, "alice")
    bob = await seen(api, Role.MEMBER, "bob")
    assert (await bob.request("GET", MEMBERS)).status_code == 403
    assert (await assign(api, "bob", "org_admin")).json()["role"] == "org_admin"
    assert (await bob.request("GET", MEMBERS)).status_code == 200
    assert (await assign(api, "bob", None)).json()["role"] == "member"
    assert (await bob.request("GET", MEMBERS)).status_code == 403
    assert "member.role_changed" in await actions(api)


async def test_nobody_in_an_organisation_makes_a_platform_admin(api: Api) -> None:
    admin = await seen(api, Role.ORG_ADMIN, "alice")
    await seen(api, Role.MEMBER, "bob")
    assert (await assign(api, "bob", "platform_admin")).status_code == 422
    assert (await admin.request("POST", INVITATIONS, json={"role": "platform_admin"})).status_code == 422
    assert (await admin.request("GET", PLATFORM)).status_code == 403


@pytest.mark.parametrize("role", [Role.MEMBER, Role.VIEWER, Role.AGENT])
async def test_only_an_admin_gives_roles(api: Api, role: Role) -> None:
    bob = await seen(api, role, "bob")
    assert (await assign(api, "bob", "org_admin", bob)).status_code == 403
    assert (await bob.request("POST", INVITATIONS, json={"role": "org_admin"})).status_code == 403


async def test_who_is_removed_has_no_good_token_until_invited_again(api: Api) -> None:
    await seen(api, Role.ORG_ADMIN, "alice")
    bob = await seen(api, Role.MEMBER, "bob")
    assert (await api.caller().request("DELETE", f"{MEMBERS}/{me('bob')}")).status_code == 204
    for token in (bob, api.caller(Role.ORG_ADMIN, "bob")):
        assert (await token.request("GET", ORGANIZATIONS)).status_code == 403
    assert (await accept(bob, (await invited(api, role="viewer"))["token"])).json()["role"] == "viewer"
    assert (await bob.request("GET", ORGANIZATIONS)).status_code == 200


async def test_the_last_admin_and_the_owner_stay(api: Api) -> None:
    alice = await seen(api, Role.ORG_ADMIN, "alice")
    assert (await alice.request("DELETE", f"{MEMBERS}/me")).status_code == 409
    assert (await assign(api, "alice", "member")).status_code == 409
    await seen(api, Role.ORG_ADMIN, "bob")
    assert (await decide(api, owner_id=me("alice"))).status_code == 200
    assert (await alice.request("DELETE", f"{MEMBERS}/me")).status_code == 409
    id_ = str(api.tenant.principal.org_id)
    moved = await alice.request("POST", f"{ORGANIZATIONS}/{id_}/transfer", json={"user_id": me("bob")})
    assert (moved.status_code, moved.json()["owner_id"]) == (200, me("bob"))
    assert (await alice.request("DELETE", f"{MEMBERS}/me")).status_code == 204


async def test_two_last_admins_who_leave_at_once_do_not_both(api: Api) -> None:
    both = [await seen(api, Role.ORG_ADMIN, subject) for subject in ("alice", "bob")]
    left = await asyncio.gather(*(each.request("DELETE", f"{MEMBERS}/me") for each in both))
    assert sorted(answer.status_code for answer in left) == [204, 409]


async def test_an_invitation_admits_once_however_many_show_it(api: Api) -> None:
    token = (await invited(api, role="viewer"))["token"]
    people = [api.caller(Role.MEMBER, f"guest-{number}") for number in range(8)]
    answers = await asyncio.gather(*(accept(person, token) for person in people))
    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 7
    assert (await accept(people[0], token)).status_code == 404


async def test_an_invitation_is_good_for_whom_and_where_it_was_made(api: Api, database: Database) -> None:
    token = (await invited(api, subject="carol"))["token"]
    assert (await accept(api.caller(subject="dave"), token)).status_code == 404
    other = Api(api.http, api.issuer, await make_tenant(database))
    assert (await accept(other.caller(subject="carol"), token)).status_code == 404
    assert (await accept(api.caller(subject="carol"), token)).status_code == 200
    addressed = (await invited(api, email="dave@example.com"))["token"]
    assert (await accept(api.caller(subject="dave"), addressed)).status_code == 404


async def test_an_invitation_ends(api: Api, superuser: asyncpg.Connection[Any]) -> None:
    withdrawn, expired = await invited(api), await invited(api)
    assert (await api.caller().request("DELETE", f"{INVITATIONS}/{withdrawn['id']}")).status_code == 204
    await superuser.execute(
        "UPDATE invitations SET expires_at = now() - interval '1 s' WHERE org_id = $1", api.tenant.principal.org_id
    )
    for each in (withdrawn, expired):
        assert (await accept(api.caller(subject="eve"), each["token"])).status_code == 404


async def test_no_row_and_no_list_has_the_token_of_an_invitation(api: Api, superuser: asyncpg.Connection[Any]) -> None:
    token = (await invited(api))["token"]
    rows = await superuser.fetch("SELECT i::text FROM invitations i")
    assert token not in str(rows)
    assert token not in (await api.caller().request("GET", INVITATIONS)).text
    assert len(token) == len("agi_") + 96


async def test_an_organisation_may_take_members_by_invitation_alone(api: Api) -> None:
    admin = await seen(api, Role.ORG_ADMIN, "alice")
    principal = api.tenant.principal
    body = {"slug": principal.org_slug, "name": "Closed", "join_rule": "invitation"}
    assert (await admin.request("PUT", f"{ORGANIZATIONS}/{principal.org_id}", json=body)).status_code == 200
    bob = api.caller(Role.MEMBER, "bob")
    assert (await bob.request("GET", ORGANIZATIONS)).status_code == 403
    assert (await accept(bob, (await invited(api))["token"])).status_code == 200
    assert (await bob.request("GET", ORGANIZATIONS)).status_code == 200


async def test_a_suspended_organisation_is_refused_everywhere_at_once(api: Api) -> None:
    admin = await seen(api, Role.ORG_ADMIN, "alice")
    assert (await decide(api, suspended=True)).json()["suspended"] is True
    assert (await admin.request("GET", ORGANIZATIONS)).status_code == 403
    mcp = f"/mcp/{api.tenant.principal.org_slug}/main"
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert (await admin.request("POST", mcp, json=body)).status_code == 403
    assert (await decide(api, suspended=False)).status_code == 200
    assert (await admin.request("GET", ORGANIZATIONS)).status_code == 200


async def test_a_plan_holds_exactly_when_fifty_try_at_once(api: Api) -> None:
    assert (await decide(api, max_upstreams=7)).status_code == 200
    admin = api.caller()
    answers = await asyncio.gather(*(admin.create(name=f"up-{number}") for number in range(50)))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(201), codes.count(409)) == (7, 43)
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["code"] == "limit_reached"
    assert len(await admin.names()) == 7
    id_ = (await admin.page()).json()["items"][0]["id"]
    assert (await admin.delete(id_)).status_code == 204
    assert (await admin.create(name="again")).status_code == 201
    assert (await admin.create(name="over")).status_code == 409


async def test_members_are_counted_exactly_when_fifty_come_at_once(api: Api) -> None:
    await seen(api, Role.PLATFORM_ADMIN, "root")
    assert (await decide(api, max_members=5)).status_code == 200
    people = [api.caller(Role.MEMBER, f"p{number}") for number in range(50)]
    answers = await asyncio.gather(*(person.request("GET", ORGANIZATIONS) for person in people))
    assert [answer.status_code for answer in answers].count(200) == 4
    assert {answer.json().get("code") for answer in answers if answer.status_code != 200} == {"limit_reached"}
    full = (await invited_by(platform(api)))["token"]
    assert (await accept(api.caller(Role.MEMBER, "late"), full)).json()["code"] == "limit_reached"
    assert (await decide(api, max_members=6)).status_code == 200
    assert (await accept(api.caller(Role.MEMBER, "late"), full)).status_code == 200


async def invited_by(caller: Caller) -> dict[str, Any]:
    document: dict[str, Any] = (await caller.request("POST", INVITATIONS, json={})).json()
    return document


async def test_a_plan_bounds_the_requests_of_an_organisation(api: Api) -> None:
    assert (await decide(api, requests_per_minute=3)).status_code == 200
    mcp = f"/mcp/{api.tenant.principal.org_slug}/main"
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    people = [api.caller(Role.MEMBER, f"p{number}") for number in range(20)]
    answers = await asyncio.gather(*(person.request("POST", mcp, json=body) for person in people))
    assert sum(answer.status_code != 429 for answer in answers) == 3


async def test_the_platform_admin_makes_lists_and_deletes_organisations(api: Api) -> None:
    slug = f"new-{uuid4().hex}"
    created = await platform(api).request("POST", PLATFORM, json={"slug": slug, "name": "New", "max_members": 3})
    assert (created.status_code, created.json()["max_members"]) == (201, 3)
    again = await platform(api).request("POST", PLATFORM, json={"slug": slug, "name": "New"})
    assert again.status_code == 409
    found = [item["slug"] for item in await pages(platform(api), PLATFORM, limit=200)]
    assert {slug, api.tenant.principal.org_slug} <= set(found)
    assert (await platform(api).request("DELETE", f"{PLATFORM}/{slug}")).status_code == 204
    assert (await platform(api).request("DELETE", f"{PLATFORM}/{slug}")).status_code == 404


async def test_only_the_owner_deletes_or_transfers_an_organisation(api: Api) -> None:
    await seen(api, Role.ORG_ADMIN, "alice")
    bob = await seen(api, Role.ORG_ADMIN, "bob")
    await decide(api, owner_id=me("alice"))
    path = f"{ORGANIZATIONS}/{api.tenant.principal.org_id}"
    assert (await bob.request("DELETE", path)).status_code == 403
    assert (await bob.request("POST", f"{path}/transfer", json={"user_id": me("bob")})).status_code == 403
    assert (await bob.request("GET", ORGANIZATIONS)).status_code == 200


async def _count(superuser: asyncpg.Connection[Any], org_id: object) -> dict[str, int]:
    """Return how many rows name the organisation, by table, of those that have any."""
    counted = {}
    for (name,) in await superuser.fetch(TABLES_OF_TENANTS):
        counted[name] = await superuser.fetchval(f'SELECT count(*) FROM "{name}" WHERE org_id = $1', org_id)  # noqa: S608
    return {name: rows for name, rows in counted.items() if rows}


async def test_a_deletion_leaves_no_row_but_the_audit_logs(
    api: Api, superuser: asyncpg.Connection[Any], database: Database
) -> None:
    org_id = api.tenant.principal.org_id
    alice = await seen(api, Role.ORG_ADMIN, "alice")
    bob = await seen(api, Role.MEMBER, "bob")
    await alice.created(name="shared")
    await bob.created(name="private", scope="user")
    await alice.request("POST", "/api/v1/mcp/toolsets", json={"name": "set", "tools": ["*"]})
    await invited(api)
    neighbour = Api(api.http, api.issuer, await make_tenant(database))
    await neighbour.caller().created()
    theirs = await _count(superuser, neighbour.tenant.principal.org_id)
    assert {"workspaces", "members", "upstreams", "toolsets", "invitations"} <= set(await _count(superuser, org_id))
    await decide(api, owner_id=me("alice"))
    assert (await alice.request("DELETE", f"{ORGANIZATIONS}/{org_id}")).status_code == 204
    assert await _count(superuser, org_id) == {}
    assert await superuser.fetchval("SELECT count(*) FROM organizations WHERE id = $1", org_id) == 0
    assert await _count(superuser, neighbour.tenant.principal.org_id) == theirs
    kept = await superuser.fetch("SELECT action FROM audit_log WHERE org_id = $1 ORDER BY recorded_at", org_id)
    assert kept[-1]["action"] == "organization.deleted"
    assert (await bob.request("GET", ORGANIZATIONS)).status_code == 404


async def test_every_table_of_tenants_goes_with_the_organisation(superuser: asyncpg.Connection[Any]) -> None:
    assert await superuser.fetch(KEYS_THAT_STAY) == []
    assert await superuser.fetch(TABLES_WITHOUT_KEY) == []


async def test_a_stranger_accepts_nothing(api: Api) -> None:
    token = (await invited(api))["token"]
    answer = await api.http.post(f"{PUBLIC_URL}{INVITATIONS}/accept", json={"token": token})
    assert answer.status_code == 401


async def test_a_key_ends_with_the_membership_and_rests_with_the_organisation(api: Api) -> None:
    await seen(api, Role.ORG_ADMIN, "alice")
    bob = await seen(api, Role.MEMBER, "bob")
    made = await bob.request("POST", "/api/v1/api-keys", json={"name": "script"})
    key = Caller(api.http, made.json()["key"])
    await decide(api, suspended=True)
    assert (await key.request("GET", ORGANIZATIONS)).status_code == 401
    await decide(api, suspended=False)
    assert (await api.caller().request("DELETE", f"{MEMBERS}/{me('bob')}")).status_code == 204
    assert (await key.request("GET", ORGANIZATIONS)).status_code == 401


async def test_the_log_says_what_of_an_organisation_was_changed_and_what_it_was(api: Api) -> None:
    alice = await seen(api, Role.ORG_ADMIN, "alice")
    path, slug = f"{ORGANIZATIONS}/{api.tenant.principal.org_id}", api.tenant.principal.org_slug
    body = {"slug": slug, "name": "Acme", "join_rule": "invitation"}
    assert (await alice.request("PUT", path, json=body)).status_code == 200
    for given in (
        {"suspended": True, "max_upstreams": 3},
        {"suspended": False, "max_upstreams": 4, "owner_id": me("alice")},
    ):
        assert (await decide(api, **given)).status_code == 200
    rows = (await alice.request("GET", "/api/v1/audit", params={"limit": 50})).json()["items"]
    assert [(row["action"], row["details"]) for row in reversed(rows) if row["action"].startswith("organization.")] == [
        (
            "organization.changed",
            {"name": "Acme", "name_was": "Test", "join_rule": "invitation", "join_rule_was": "token"},
        ),
        (
            "organization.decided",
            {"suspended": True, "suspended_was": False, "max_upstreams": 3, "max_upstreams_was": None},
        ),
        (
            "organization.decided",
            {
                "suspended": False,
                "suspended_was": True,
                "max_upstreams": 4,
                "max_upstreams_was": 3,
                "owner_id": me("alice"),
                "owner_id_was": None,
            },
        ),
    ]


async def test_the_platform_admin_makes_nobody_but_an_admin_of_the_organisation_its_owner(api: Api) -> None:
    alice = await seen(api, Role.ORG_ADMIN, "alice")
    await seen(api, Role.MEMBER, "bob")
    await seen(api, Role.ORG_ADMIN, "gone")
    assert (await alice.request("DELETE", f"{MEMBERS}/{me('gone')}")).status_code == 204
    for nobody in (str(uuid4()), me("bob"), me("gone")):
        answer = await decide(api, owner_id=nobody)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/owner_id"]
    assert (await decide(api, owner_id=me("alice"))).json()["owner_id"] == me("alice")
    assert (await decide(api, max_members=9)).json()["owner_id"] == me("alice")
    assert (await decide(api, owner_id=None)).json()["owner_id"] is None
