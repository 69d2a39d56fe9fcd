"""API keys over HTTP: made, used, rotated, revoked; and what somebody tries who has the wrong one."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx2
import pytest

from agentapi.errors import RateLimitedError, UnauthenticatedError
from agentapi.identity.api_keys import store
from agentapi.identity.api_keys.directory import KeyDirectory
from agentapi.identity.api_keys.models import KeyId
from agentapi.identity.api_keys.text import ids_of, write_key
from agentapi.principal import OrgId, Role
from agentapi.tenancy.store import create_workspace, upsert_member
from integration.api.harness import CONFIGURATIONS, PUBLIC_URL, Api, Caller, lifespan_of, settings_for
from integration.api.test_mcp_endpoint import HEADERS, LIST, own
from tenants import make_tenant

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres

KEYS = "/api/v1/api-keys"
ALL = ["api:read", "api:write", "mcp:prompts", "mcp:resources", "mcp:tools"]


async def made(caller: Caller, **body: Any) -> dict[str, Any]:
    answer = await caller.request("POST", KEYS, json={"name": "ci", **body})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def holder(api: Api, text: str) -> Caller:
    return Caller(api.http, text)


async def mcp(api: Api, text: str, path: str | None = None, method: str = "tools/list") -> httpx2.Response:
    message = {**LIST, "method": method}
    headers = {**HEADERS, "Mcp-Method": method}
    return await holder(api, text).request("POST", path or own(api), json=message, headers=headers)


async def status(api: Api, text: str) -> int:
    return (await mcp(api, text)).status_code


async def audited(api: Api, action: str) -> list[dict[str, Any]]:
    page = await api.caller().request("GET", "/api/v1/audit", params={"action": action})
    assert page.status_code == 200, page.text
    items: list[dict[str, Any]] = page.json()["items"]
    return items


class Counting:
    """A database that counts the look-ups of keys."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.count = 0

    def organization_transaction(self, org_id: OrgId) -> Any:
        self.count += 1
        return self._database.organization_transaction(org_id)


class Clock:
    """Both clocks of a directory."""

    def __init__(self) -> None:
        self.at = 1_900_000_000.0

    def __call__(self) -> float:
        return self.at


async def test_a_key_is_shown_once_and_stored_as_a_hash(api: Api, superuser: asyncpg.Connection[Any]) -> None:
    document = await made(api.caller())
    text = document["key"]
    assert re.fullmatch(r"agentapi_[0-9A-Za-z]{43}_[0-9A-Za-z]{49}", text)
    assert text.startswith(document["begins_with"])
    for path in (KEYS, f"{KEYS}/{document['id']}"):
        answer = await api.caller().request("GET", path)
        assert document["begins_with"] in answer.text
        assert text not in answer.text
        assert answer.headers["cache-control"] == "no-store"
    rows = await superuser.fetch("SELECT api_keys::text AS row FROM api_keys WHERE id = $1", UUID(document["id"]))
    assert text.rpartition("_")[2] not in rows[0]["row"]
    created = await audited(api, "api_keys.created")
    assert [row["resource"] for row in created] == [f"key:{document['id']}"]
    assert text not in str(created)


async def test_a_key_is_good_at_the_mcp_endpoint_and_where_its_scopes_say_at_the_api(api: Api) -> None:
    narrow, wide = await made(api.caller()), await made(api.caller(), scopes=ALL)
    reading = await made(api.caller(), scopes=["api:read"])
    assert await status(api, narrow["key"]) == 200
    assert (await holder(api, narrow["key"]).page()).status_code == 403
    assert (await holder(api, wide["key"]).create()).status_code == 201
    assert (await holder(api, reading["key"]).page()).status_code == 200
    refused = await holder(api, reading["key"]).create(name="other")
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert 'scope="api:write"' in refused.headers["www-authenticate"]
    assert await status(api, reading["key"]) == 403


async def test_an_operation_needs_its_scope(api: Api) -> None:
    document = await made(api.caller(), scopes=["mcp:prompts"])
    assert (await mcp(api, document["key"], method="prompts/list")).status_code == 200
    assert (await mcp(api, document["key"])).status_code == 403


async def test_a_key_acts_as_its_maker_or_as_an_agent_of_its_own(api: Api) -> None:
    maker = api.caller(Role.MEMBER, "mara")
    as_user = await made(maker, scopes=ALL)
    as_agent = await made(maker, scopes=ALL, acts_as="agent")
    assert as_user["role"] == "member"
    assert as_agent["role"] == "agent"
    own_one = await holder(api, as_user["key"]).created(scope="user", name="own")
    assert (await maker.read(own_one["id"])).status_code == 200
    refused = await holder(api, as_agent["key"]).page()
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert await status(api, as_agent["key"]) == 200


@pytest.mark.parametrize(
    ("maker", "body"),
    [
        (Role.MEMBER, {"role": "org_admin"}),
        (Role.MEMBER, {"role": "platform_admin"}),
        (Role.PLATFORM_ADMIN, {"role": "platform_admin"}),
        (Role.VIEWER, {"role": "member"}),
        (Role.VIEWER, {"role": "agent"}),
        (Role.VIEWER, {"acts_as": "agent"}),
        (Role.AGENT, {}),
    ],
)
async def test_a_key_is_no_wider_than_its_maker(api: Api, maker: Role, body: dict[str, Any]) -> None:
    answer = await api.caller(maker, "somebody").request("POST", KEYS, json={"name": "wide", **body})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "a\u0000b"},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": ["api:read"], "workspace": "main"},
        {"expires_in_s": 0},
        {"expires_in_s": -1},
        {"role": "king"},
        {"user_id": str(uuid4())},
        {"workspace": "../main"},
    ],
)
async def test_a_wrong_wish_is_refused(api: Api, body: dict[str, Any]) -> None:
    answer = await api.caller().request("POST", KEYS, json={"name": "ci", **body})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_key_neither_makes_nor_changes_keys(api: Api) -> None:
    document = await made(api.caller(), scopes=ALL)
    thief, path = holder(api, document["key"]), f"{KEYS}/{document['id']}"
    for method, where in (("POST", KEYS), ("POST", f"{path}/rotate"), ("DELETE", path)):
        answer = await thief.request(method, where, json={"name": "more"} if where == KEYS else {})
        assert answer.status_code == 403, (method, where)
    assert (await thief.request("GET", path)).status_code == 200


async def test_a_key_ends_being_good_when_its_maker_may_do_less(api: Api, database: Database) -> None:
    admin = api.caller(Role.ORG_ADMIN, "olga")
    document = await made(admin)
    directory = KeyDirectory(database)
    grant = await directory.grant(document["key"])
    assert grant.principal.role is Role.ORG_ADMIN
    async with database.tenant_transaction(grant.principal) as connection:
        await upsert_member(connection, replace(grant.principal, role=Role.MEMBER), email=None)
    directory.forget(grant.principal.org_id, KeyId(UUID(document["id"])))
    with pytest.raises(UnauthenticatedError) as caught:
        await directory.grant(document["key"])
    assert caught.value.reason == "api_key_wider_than_its_maker"


async def test_a_key_is_good_in_its_workspace_alone(api: Api, database: Database) -> None:
    async with database.tenant_transaction(api.tenant.principal) as connection:
        org_id = api.tenant.principal.org_id
        await create_workspace(connection, workspace_id=uuid4(), org_id=org_id, slug="other", name="O")  # type: ignore[arg-type]
    bound, free = await made(api.caller(), workspace="other"), await made(api.caller())
    assert (await mcp(api, bound["key"], own(api, "other"))).status_code == 200
    assert (await mcp(api, free["key"], own(api, "other"))).status_code == 200
    elsewhere, nowhere = await mcp(api, bound["key"]), await mcp(api, bound["key"], own(api, "missing"))
    assert (elsewhere.status_code, elsewhere.content) == (nowhere.status_code, nowhere.content)
    assert elsewhere.status_code == 404
    missing = await api.caller().request("POST", KEYS, json={"name": "x", "workspace": "missing"})
    assert missing.status_code == 404


async def test_a_key_of_another_organisation_finds_nothing(api: Api, database: Database) -> None:
    other = Api(api.http, api.issuer, await make_tenant(database, "eve"))
    document = await made(other.caller(), scopes=ALL)
    answer, missing = await mcp(api, document["key"]), await mcp(api, document["key"], own(api, "missing"))
    assert (answer.status_code, answer.content) == (404, missing.content)
    mine = await made(api.caller(), scopes=ALL)
    for method in ("GET", "DELETE"):
        assert (await other.caller().request(method, f"{KEYS}/{mine['id']}")).status_code == 404
    assert (await other.caller().request("POST", f"{KEYS}/{mine['id']}/rotate", json={})).status_code == 404
    assert mine["id"] not in (await other.caller().request("GET", KEYS)).text
    # The same key, said to be of the other organisation: its checksum is right, and there is no such row.
    forged = write_key(other.tenant.principal.org_id, KeyId(UUID(mine["id"])))
    assert await status(other, forged) == 401


@pytest.mark.parametrize("change", ["cut", "checksum", "secret", "longer", "id"])
async def test_a_changed_key_is_refused_like_any_other_wrong_token(api: Api, change: str) -> None:
    text = (await made(api.caller()))["key"]
    org_id, _ = ids_of(text)
    other = write_key(org_id, ids_of(text)[1])
    wrong = {
        "cut": text[:-1],
        "checksum": text[:-6] + other[-6:],
        "secret": other,
        "longer": text + "0",
        "id": write_key(org_id, KeyId(uuid4())),
    }[change]
    refused = await mcp(api, wrong)
    plain = await mcp(api, "not-a-token")
    assert (refused.status_code, refused.content) == (401, plain.content)
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    assert await status(api, text) == 200


async def test_a_key_in_the_address_is_refused_even_beside_a_good_token(api: Api) -> None:
    text = (await made(api.caller(), scopes=ALL))["key"]
    for path in (own(api), CONFIGURATIONS):
        alone = await api.http.get(path, params={"access_token": text})
        beside = await api.caller().request("GET", path, params={"key": text})
        assert (alone.status_code, beside.status_code) == (401, 401), path


async def test_rotation_overlaps_as_long_as_it_is_told_to(api: Api, database: Database) -> None:
    document = await made(api.caller())
    path, clock = f"{KEYS}/{document['id']}/rotate", Clock()
    first = document["key"]
    rotated = await api.caller().request("POST", path, json={"overlap_s": 3600})
    second = rotated.json()["key"]
    assert rotated.headers["cache-control"] == "no-store"
    assert [await status(api, text) for text in (first, second)] == [200, 200]
    later = KeyDirectory(database, now=clock)
    clock.at = time.time() + 3601
    with pytest.raises(UnauthenticatedError):
        await later.grant(first)
    assert (await later.grant(second)).principal.org_id == api.tenant.principal.org_id
    third = (await api.caller().request("POST", path, json={"overlap_s": 0})).json()["key"]
    assert [await status(api, text) for text in (first, second, third)] == [401, 401, 200]
    assert len(await audited(api, "api_keys.rotated")) == 2


async def test_a_revoked_key_ends_at_once_with_the_one_before_it(api: Api) -> None:
    document = await made(api.caller())
    path = f"{KEYS}/{document['id']}"
    second = (await api.caller().request("POST", f"{path}/rotate", json={})).json()["key"]
    assert [await status(api, text) for text in (document["key"], second)] == [200, 200]
    for _ in range(2):
        assert (await api.caller().request("DELETE", path)).status_code == 204
    assert [await status(api, text) for text in (document["key"], second)] == [401, 401]
    assert (await api.caller().request("POST", f"{path}/rotate", json={})).status_code == 409
    assert (await api.caller().request("GET", path)).json()["revoked_at"]
    assert len(await audited(api, "api_keys.revoked")) == 1


async def test_a_key_revoked_in_another_process_ends_within_a_second(
    api: Api, postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
) -> None:
    document = await made(api.caller())
    assert await status(api, document["key"]) == 200
    async with lifespan_of(settings_for(postgres, issuer, keyring, state_dir)) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
            elsewhere = Api(http, issuer, api.tenant)
            assert await status(elsewhere, document["key"]) == 200
            revoked = await elsewhere.caller().request("DELETE", f"{KEYS}/{document['id']}")
            assert revoked.status_code == 204
            began = asyncio.get_running_loop().time()
            assert await status(elsewhere, document["key"]) == 401
            while await status(api, document["key"]) == 200:
                assert asyncio.get_running_loop().time() - began < 1.5
    assert asyncio.get_running_loop().time() - began < 1.5


async def test_what_is_known_of_a_key_is_a_second_old_at_most(api: Api, database: Database) -> None:
    document = await made(api.caller())
    clock = Clock()
    counting = Counting(database)
    directory = KeyDirectory(counting, clock=clock)  # type: ignore[arg-type] # it is asked for nothing else
    for _ in range(100):
        await directory.grant(document["key"])
    await directory.aclose()
    assert counting.count == 2  # One look-up, and the time of use.
    await api.caller().request("DELETE", f"{KEYS}/{document['id']}")
    clock.at += 0.999
    await directory.grant(document["key"])
    clock.at += 0.001
    with pytest.raises(UnauthenticatedError) as caught:
        await directory.grant(document["key"])
    assert caught.value.reason == "revoked_api_key"


async def test_an_expired_key_is_refused_though_it_is_remembered(api: Api, database: Database) -> None:
    document = await made(api.caller(), expires_in_s=60)
    now = Clock()
    now.at = time.time()
    directory = KeyDirectory(database, now=now, ttl_s=3600)
    assert (await directory.grant(document["key"])).expires_at <= now.at + 60
    now.at += 60
    with pytest.raises(UnauthenticatedError) as caught:
        await directory.grant(document["key"])
    assert caught.value.reason == "expired_api_key"
    await directory.aclose()


async def test_a_stream_ends_minutes_after_a_key_without_end_opened_it(api: Api, database: Database) -> None:
    document = await made(api.caller(), expires_in_s=None)
    assert document["expires_at"] is None
    now = Clock()
    directory = KeyDirectory(database, now=now)
    assert (await directory.grant(document["key"])).expires_at == now.at + 300
    await directory.aclose()


async def test_an_unknown_id_and_a_wrong_secret_cost_the_same_look_ups(api: Api, database: Database) -> None:
    text = (await made(api.caller()))["key"]
    org_id, key_id = ids_of(text)
    for wrong in (write_key(org_id, key_id), write_key(org_id, KeyId(uuid4())), write_key(OrgId(uuid4()), key_id)):
        counting = Counting(database)
        directory = KeyDirectory(counting, clock=Clock())  # type: ignore[arg-type]
        for _ in range(3):
            with pytest.raises(UnauthenticatedError):
                await directory.grant(wrong)
        assert counting.count == 1
    counting = Counting(database)
    directory = KeyDirectory(counting)  # type: ignore[arg-type]
    with pytest.raises(UnauthenticatedError):
        await directory.grant(text[:-1])
    assert counting.count == 0


async def test_look_ups_of_strangers_are_bounded(database: Database) -> None:
    directory = KeyDirectory(database, max_unknown=5, at_once=1, max_waiting=9)
    wrong = [write_key(OrgId(uuid4()), KeyId(uuid4())) for _ in range(40)]
    came = await asyncio.gather(*(directory.grant(each) for each in wrong), return_exceptions=True)
    kinds = [type(each) for each in came]
    assert (kinds.count(UnauthenticatedError), kinds.count(RateLimitedError)) == (10, 30)
    assert len(directory._unknown) == 5
    assert not directory._reads


async def test_many_requests_share_one_look_up(api: Api, database: Database) -> None:
    text = (await made(api.caller()))["key"]
    counting = Counting(database)
    directory = KeyDirectory(counting)  # type: ignore[arg-type]
    grants = await asyncio.gather(*(directory.grant(text) for _ in range(50)))
    await directory.aclose()
    assert len({id(grant) for grant in grants}) == 1
    assert counting.count == 2


async def test_a_change_during_a_look_up_is_not_missed(api: Api, database: Database) -> None:
    text = (await made(api.caller()))["key"]
    org_id, key_id = ids_of(text)
    directory = KeyDirectory(database)
    reading = asyncio.ensure_future(directory.grant(text))
    await asyncio.sleep(0)
    directory.forget(org_id, key_id)
    await reading
    assert (org_id, key_id) not in directory._known
    await directory.aclose()


async def test_the_last_use_is_written_once_a_minute(api: Api, database: Database) -> None:
    document = await made(api.caller())
    org_id, key_id = ids_of(document["key"])
    clock = Clock()
    clock.at = time.time()
    written = []
    for wait in (0.0, 2.0, 57.0, 2.0):
        clock.at += wait
        counting = Counting(database)
        one, other = (KeyDirectory(counting, clock=clock, now=clock) for _ in range(2))  # type: ignore[arg-type]
        for directory in (one, other):
            await directory.grant(document["key"])
            await directory.aclose()
        written.append(counting.count - 2)
    # The first of the two processes writes, the second finds it written.
    assert written == [1, 0, 0, 2]
    async with database.organization_transaction(org_id) as connection:
        key = await store.find(connection, key_id)
    assert key is not None
    assert key.last_used_at is not None
    assert key.last_used_at - key.created_at < timedelta(seconds=30)


async def test_members_see_their_own_keys_and_admins_all(api: Api) -> None:
    mara, otto, admin = (api.caller(Role.MEMBER, "mara"), api.caller(Role.MEMBER, "otto"), api.caller())
    of_mara, of_otto = await made(mara, name="b"), await made(otto, name="a")
    assert [key["name"] for key in (await mara.request("GET", KEYS)).json()["items"]] == ["b"]
    first = (await admin.request("GET", KEYS, params={"limit": 1})).json()
    second = (await admin.request("GET", KEYS, params={"limit": 1, "cursor": first["next_cursor"]})).json()
    assert [page["items"][0]["id"] for page in (first, second)] == [of_otto["id"], of_mara["id"]]
    assert second["next_cursor"] is None
    path = f"{KEYS}/{of_otto['id']}"
    assert [(await mara.request(method, path)).status_code for method in ("GET", "DELETE")] == [404, 404]
    # An admin would see the new key, and act as somebody else with it.
    assert (await admin.request("POST", f"{path}/rotate", json={})).status_code == 403
    assert (await admin.request("DELETE", path)).status_code == 204
    assert await status(api, of_otto["key"]) == 401


async def test_a_key_ends_with_its_maker(api: Api, superuser: asyncpg.Connection[Any], database: Database) -> None:
    document = await made(api.caller(Role.MEMBER, "mara"))
    await superuser.execute("DELETE FROM members WHERE user_id = $1", UUID(document["created_by"]))
    with pytest.raises(UnauthenticatedError) as caught:
        await KeyDirectory(database).grant(document["key"])
    assert caught.value.reason == "unknown_api_key"


async def test_the_audit_log_says_which_key_a_call_came_with(api: Api) -> None:
    document = await made(api.caller(), acts_as="agent")
    called = {**LIST, "method": "tools/call", "params": {**LIST["params"], "name": "nothing", "arguments": {}}}  # type: ignore[dict-item]
    headers = {**HEADERS, "Mcp-Method": "tools/call", "Mcp-Name": "nothing"}
    await holder(api, document["key"]).request("POST", own(api), json=called, headers=headers)
    (row,) = await audited(api, "tools.call")
    assert (row["details"]["by"], row["actor_id"]) == (f"key:{document['id']}", document["id"])


@pytest.mark.parametrize("acts_as", ["user", "agent"])
async def test_a_key_does_not_come_back_with_its_maker(api: Api, acts_as: str) -> None:
    admin, mara = api.caller(), api.caller(Role.MEMBER, "mara")
    document = await made(mara, acts_as=acts_as)
    assert await status(api, document["key"]) == 200
    (member,) = [
        each for each in (await admin.request("GET", "/api/v1/members")).json()["items"] if each["subject"] == "mara"
    ]
    assert (await admin.request("DELETE", f"/api/v1/members/{member['id']}")).status_code == 204
    assert await status(api, document["key"]) == 401
    invited = await admin.request("POST", "/api/v1/invitations", json={"role": "member", "subject": "mara"})
    token = invited.json()["token"]
    answer = await mara.request("POST", "/api/v1/invitations/accept", json={"token": token})
    assert answer.status_code in {200, 201}, answer.text
    assert (await mara.request("GET", KEYS)).json()["items"][0]["revoked_at"] is not None
    assert await status(api, document["key"]) == 401
    assert [row["resource"] for row in await audited(api, "api_keys.revoked")] == [f"key:{document['id']}"]


async def test_an_agent_is_no_admin_that_an_organisation_could_be_left_to(api: Api) -> None:
    admin = api.caller()
    document = await made(admin, acts_as="agent", role="org_admin")
    assert await status(api, document["key"]) == 200
    answer = await admin.request("DELETE", "/api/v1/members/me")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
