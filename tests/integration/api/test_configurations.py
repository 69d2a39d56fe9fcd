from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from agentapi.principal import Role, WorkspaceId
from agentapi.tenancy.store import create_workspace
from integration.api.harness import CONFIGURATIONS, Api
from tenants import make_tenant

if TYPE_CHECKING:
    import asyncpg
    import httpx2

    from agentapi.storage.database import Database


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """RFC 9457, section 3: the media type, and the status repeated in the document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert (document["status"], document["code"], document["type"]) == (status, code, "about:blank")
    assert document["title"]
    assert document["detail"].endswith(".")
    return document


async def test_a_configuration_is_created_with_its_defaults(api: Api) -> None:
    before = datetime.now().astimezone()
    answer = await api.caller().create()
    document = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{CONFIGURATIONS}/{document['id']}"
    assert before <= datetime.fromisoformat(document.pop("created_at")) <= datetime.now().astimezone()
    document.pop("updated_at")
    UUID(document.pop("id"))
    assert document == {
        "workspace": "main",
        "name": "github",
        "transport": "http",
        "endpoint": "http://127.0.0.1:18080/mcp",
        "command": None,
        "protocol": "auto",
        "auth": "none",
        "auth_header": None,
        "credential_form": None,
        "has_secret": False,
        "scope": "organization",
        "enabled": True,
        "description": "",
        "version": 1,
    }


async def test_the_era_of_a_server_can_be_pinned(api: Api) -> None:
    admin = api.caller()
    created = await admin.created(protocol="legacy")
    assert (created["protocol"], (await admin.read(created["id"])).json()["protocol"]) == ("legacy", "legacy")
    assert (await admin.replace(created["id"], protocol="modern")).json()["protocol"] == "modern"
    assert (await admin.replace(created["id"])).json()["protocol"] == "auto"
    for wrong in ({"protocol": "2025-11-25"}, {"protocol": "modern", "transport": "sse"}):
        problem = assert_problem(await admin.create(name="other", **wrong), 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == ["/protocol"]


async def test_what_was_created_is_read_replaced_and_deleted(api: Api) -> None:
    admin = api.caller()
    created = await admin.created(description="ä\u2028\U0001f600")
    assert (await admin.read(created["id"])).json() == created
    answer = await admin.replace(
        created["id"],
        name="gh",
        transport="sse",
        endpoint="http://127.0.0.1:18080/sse",
        enabled=False,
        description="new",
    )
    assert answer.status_code == 200
    replaced = answer.json()
    changed = {"name", "transport", "endpoint", "enabled", "description", "version", "updated_at"}
    assert {name for name in created if created[name] != replaced[name]} == changed
    assert replaced["version"] == 2
    assert replaced["updated_at"] > created["updated_at"]
    assert (await admin.read(created["id"])).json() == replaced
    deleted = await admin.delete(created["id"])
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert_problem(await admin.read(created["id"]), 404, "not_found")
    assert_problem(await admin.delete(created["id"]), 404, "not_found")
    assert await admin.names() == []


async def test_a_replacement_is_whole_and_falls_back_to_defaults(api: Api) -> None:
    admin = api.caller()
    created = await admin.created(enabled=False, description="old")
    replaced = (await admin.replace(created["id"])).json()
    assert (replaced["enabled"], replaced["description"]) == (True, "")


async def test_the_workspace_and_the_scope_of_a_configuration_never_change(api: Api, database: Database) -> None:
    admin = api.caller()
    await add_workspace(api, database, "second")
    created = await admin.created()
    moved = assert_problem(await admin.replace(created["id"], workspace="second"), 422, "invalid_request")
    assert [error["pointer"] for error in moved["errors"]] == ["/workspace"]
    taken = assert_problem(await admin.replace(created["id"], scope="user"), 422, "invalid_request")
    assert [error["pointer"] for error in taken["errors"]] == ["/scope"]
    assert (await admin.read(created["id"])).json() == created


async def add_workspace(api: Api, database: Database, slug: str) -> None:
    principal = api.tenant.principal
    async with database.tenant_transaction(principal) as connection:
        await create_workspace(
            connection, workspace_id=WorkspaceId(uuid4()), org_id=principal.org_id, slug=slug, name=slug
        )


async def test_a_workspace_that_does_not_exist_is_not_found(api: Api) -> None:
    admin = api.caller()
    created = await admin.created()
    assert_problem(await admin.create(workspace="missing"), 404, "not_found")
    assert_problem(await admin.replace(created["id"], workspace="missing"), 404, "not_found")
    assert_problem(await admin.page(workspace="missing"), 404, "not_found")


async def test_the_list_is_narrowed_to_a_workspace(api: Api, database: Database) -> None:
    admin = api.caller()
    await add_workspace(api, database, "second")
    await admin.created(name="one")
    await admin.created(name="two", workspace="second")
    # One name may be in both.
    await admin.created(name="one", workspace="second")
    assert await admin.names() == ["one", "one", "two"]
    items = (await admin.page(workspace="second")).json()["items"]
    assert [(item["name"], item["workspace"]) for item in items] == [("one", "second"), ("two", "second")]


async def test_pages_follow_each_other_while_rows_come_and_go(api: Api) -> None:
    admin = api.caller()
    for number in range(7):
        await admin.created(name=f"m{number}")
    first = (await admin.page(limit=3)).json()
    assert [item["name"] for item in first["items"]] == ["m0", "m1", "m2"]
    await admin.created(name="a-before")
    await admin.created(name="m1b")
    await admin.created(name="z-behind")
    await admin.delete(first["items"][-1]["id"])
    second = (await admin.page(limit=3, cursor=first["next_cursor"])).json()
    assert [item["name"] for item in second["items"]] == ["m3", "m4", "m5"]
    third = (await admin.page(limit=3, cursor=second["next_cursor"])).json()
    assert [item["name"] for item in third["items"]] == ["m6", "z-behind"]
    assert third["next_cursor"] is None


async def test_a_full_last_page_has_no_next_one(api: Api) -> None:
    admin = api.caller()
    for name in ("a", "b"):
        await admin.created(name=name)
    page = (await admin.page(limit=2)).json()
    assert (len(page["items"]), page["next_cursor"]) == (2, None)
    assert (await api.caller(Role.VIEWER).page(limit=1)).json()["next_cursor"] is not None


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).decode()


NIL = str(UUID(int=0))
BAD_CURSORS: dict[str, str] = {
    "empty": "",
    "no base64": "???",
    "not ASCII": "ä",
    "no JSON": encoded(b"nonsense"),
    "not UTF-8": encoded(b'["\xff", "x"]'),
    "an object": encoded({"name": "a"}),
    "a number": encoded(1),
    "null": encoded(None),
    "too short": encoded(["a"]),
    "too long": encoded(["a", NIL, 1]),
    "no id": encoded(["a", "b"]),
    "an id of the wrong type": encoded(["a", 1]),
    "a name of the wrong type": encoded([["a"], NIL]),
    "a null character": encoded(["\0", NIL]),
    "a lone surrogate": encoded(b'["\\ud800", "' + NIL.encode() + b'"]'),
    "nested too deep": encoded(b"[" * 20_000),
    "a digit too many": encoded(b"[" + b"1" * 5000 + b', ""]'),
}


@pytest.mark.parametrize("cursor", BAD_CURSORS.values(), ids=BAD_CURSORS)
async def test_a_cursor_that_no_list_gave_is_refused(api: Api, cursor: str) -> None:
    problem = assert_problem(await api.caller().page(cursor=cursor), 400, "invalid_cursor")
    assert "cursor" in problem["detail"]


async def test_the_cursor_of_another_organisation_opens_nothing(api: Api, database: Database) -> None:
    foreign = Api(api.http, api.issuer, await make_tenant(database))
    for name in ("a", "b", "c"):
        await foreign.caller().created(name=name)
    await api.caller().created(name="own")
    cursor = (await foreign.caller().page(limit=1)).json()["next_cursor"]
    items = (await api.caller().page(cursor=cursor)).json()["items"]
    assert [item["name"] for item in items] == ["own"]


@pytest.mark.parametrize("limit", ["0", "-1", "201", "1000000000000", "1.5", "ten", "", " 5", "٣", "0x10", "1e1"])
async def test_a_limit_that_is_none_is_refused(api: Api, limit: str) -> None:
    problem = assert_problem(await api.caller().page(limit=limit), 422, "invalid_request")
    assert "limit" in problem["detail"]


@pytest.mark.parametrize("scopes", [("organization", "organization"), ("user", "user"), ("organization", "user")])
async def test_a_name_is_taken_once_for_whoever_sees_it(api: Api, scopes: tuple[str, str]) -> None:
    admin = api.caller()
    await admin.created(name="taken", scope=scopes[0])
    problem = assert_problem(await admin.create(name="taken", scope=scopes[1]), 409, "conflict")
    assert "taken" in problem["detail"]
    other = await admin.created(name="free")
    assert_problem(await admin.replace(other["id"], name="taken"), 409, "conflict")
    assert await admin.names() == ["free", "taken"]


async def test_a_name_is_free_again_after_deletion_and_in_another_organisation(api: Api, database: Database) -> None:
    admin = api.caller()
    created = await admin.created()
    await Api(api.http, api.issuer, await make_tenant(database)).caller().created()
    await admin.delete(created["id"])
    await admin.created()


async def test_of_two_creations_at_once_one_wins(api: Api) -> None:
    admin = api.caller()
    answers = await asyncio.gather(*(admin.create(name="race") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert await admin.names() == ["race"]


async def test_of_two_replacements_at_once_one_wins(api: Api, superuser: asyncpg.Connection[asyncpg.Record]) -> None:
    admin = api.caller()
    created = await admin.created()
    transaction = superuser.transaction()
    await transaction.start()
    # While the row is locked both have read the first version and wait to write the second.
    await superuser.execute("SELECT FROM upstreams WHERE id = $1 FOR UPDATE", UUID(created["id"]))
    pending = [asyncio.ensure_future(admin.replace(created["id"], description=text)) for text in ("one", "two")]
    deadline = time.monotonic() + 4
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE%'"
    while await superuser.fetchval(waiting) < 2:
        await superuser.execute("SELECT pg_stat_clear_snapshot()")
        assert time.monotonic() < deadline
    await transaction.rollback()
    answers = await asyncio.gather(*pending)
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    winner = next(answer for answer in answers if answer.status_code == 200).json()
    assert_problem(next(answer for answer in answers if answer.status_code == 409), 409, "conflict")
    assert (await admin.read(created["id"])).json() == winner
    assert winner["version"] == 2


async def test_another_organisations_configuration_is_answered_like_none_at_all(api: Api, database: Database) -> None:
    foreign = Api(api.http, api.issuer, await make_tenant(database))
    theirs = await foreign.caller().created(auth="bearer", secret="s3cret")
    for role in (Role.ORG_ADMIN, Role.PLATFORM_ADMIN):
        caller = api.caller(role)
        for id_ in (theirs["id"], str(uuid4()), "no-uuid", "%00", "' OR 1=1", "x" * 3000):
            answers = [
                await caller.read(id_),
                await caller.replace(id_),
                await caller.delete(id_),
                await caller.test(id=id_),
            ]
            seen = {(answer.status_code, answer.json()["code"]) for answer in answers}
            assert seen == {(404, "not_found")}
        unknown, known = await caller.read(str(uuid4())), await caller.read(theirs["id"])
        for name in ("date", "x-request-id"):
            unknown.headers.pop(name, None)
            known.headers.pop(name, None)
        assert (unknown.content, dict(unknown.headers)) == (known.content, dict(known.headers))
    assert (await foreign.caller().read(theirs["id"])).json() == theirs


async def test_a_users_own_configuration_is_theirs_alone(api: Api) -> None:
    alice = api.caller(Role.MEMBER, "alice")
    created = await alice.created(scope="user", auth="bearer", secret="s3cret")
    assert await alice.names() == ["github"]
    others = (api.caller(Role.MEMBER, "bob"), api.caller(Role.ORG_ADMIN, "root"), api.caller(Role.PLATFORM_ADMIN, "op"))
    for other in others:
        assert await other.names() == []
        assert_problem(await other.read(created["id"]), 404, "not_found")
        assert_problem(await other.replace(created["id"]), 404, "not_found")
        assert_problem(await other.delete(created["id"]), 404, "not_found")
        assert_problem(await other.test(id=created["id"]), 404, "not_found")
    # Others may have the same name for themselves.
    await others[0].created(scope="user")
    # The owner keeps it under another role.
    assert (await api.caller(Role.VIEWER, "alice").read(created["id"])).json() == created
