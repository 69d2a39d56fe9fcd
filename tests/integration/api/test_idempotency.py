"""The header ``Idempotency-Key``: the same answer again, and everything done once."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx2
import pytest

from agentapi._core import Keyring
from agentapi.api_routes import OPERATIONS
from agentapi.errors import StorageUnavailableError
from agentapi.idempotency.ledger import Ledger
from agentapi.idempotency.models import Answer, Claim
from agentapi.principal import Role
from integration.api.harness import CONFIGURATIONS, PUBLIC_URL, Api, Caller, configuration, lifespan_of, settings_for
from tenants import make_tenant

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres

KEYS = "/api/v1/api-keys"
WORKSPACES = "/api/v1/workspaces"
BODIES: dict[str, dict[str, Any]] = {
    CONFIGURATIONS: configuration(),
    "/api/v1/mcp/toolsets": {"name": "set", "tools": ["*"]},
    "/api/v1/prompts": {"name": "tone", "text": "Be short."},
    WORKSPACES: {"slug": "side", "name": "Side"},
    "/api/v1/invitations": {},
    KEYS: {"name": "build"},
    "/api/v1/sessions": {"name": "build"},
}


async def post(caller: Caller, path: str, body: object, key: str = "one", **headers: str) -> httpx2.Response:
    return await caller.request("POST", path, json=body, headers={"Idempotency-Key": key, **headers})


async def listed(caller: Caller, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await caller.request("GET", path)).json()["items"]
    return items


def was_replayed(answer: httpx2.Response) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


def test_every_creation_is_among_those_that_are_tried() -> None:
    making = {operation.path for operation in OPERATIONS if operation.creates}
    assert making == {*BODIES, "/api/v1/platform/organizations", f"{KEYS}/{{id}}/rotate"}


@pytest.mark.parametrize("path", BODIES)
async def test_the_same_request_gets_the_same_answer_and_is_done_once(api: Api, path: str) -> None:
    caller = api.caller()
    before = len(await listed(caller, path))
    first, again = [await post(caller, path, BODIES[path]) for _ in range(2)]
    assert first.status_code == again.status_code == 201, first.text
    assert (was_replayed(first), was_replayed(again)) == (False, True)
    assert again.content == first.content
    for name in ("content-type", "location", "etag", "cache-control"):
        assert again.headers.get(name) == first.headers.get(name)
    assert len(await listed(caller, path)) == before + 1


async def test_an_organisation_and_a_rotation_are_made_once(api: Api) -> None:
    platform = api.caller(Role.PLATFORM_ADMIN, "root")
    body = {"slug": f"made-{uuid4().hex[:12]}", "name": "Made"}
    made = [await post(platform, "/api/v1/platform/organizations", body) for _ in range(2)]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[0].content == made[1].content
    caller = api.caller()
    id_ = (await caller.request("POST", KEYS, json={"name": "k"})).json()["id"]
    rotated = [await post(caller, f"{KEYS}/{id_}/rotate", {"overlap_s": 0}) for _ in range(2)]
    assert rotated[0].json()["key"] == rotated[1].json()["key"]
    assert rotated[0].json()["version"] == 2
    asked = await Caller(api.http, rotated[0].json()["key"]).request("GET", "/api/v1/organizations")
    assert asked.status_code == 403, "the key that was shown is the one that is good"


async def test_without_a_key_everything_is_done_again(api: Api) -> None:
    caller = api.caller()
    made = [await caller.request("POST", KEYS, json=BODIES[KEYS]) for _ in range(2)]
    assert made[0].json()["id"] != made[1].json()["id"]


async def test_of_fifty_posts_at_once_one_makes_something(api: Api, superuser: asyncpg.Connection[Any]) -> None:
    caller = api.caller()
    answers = await asyncio.gather(*(post(caller, KEYS, BODIES[KEYS]) for _ in range(50)))
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    others = [answer.json() for answer in answers if answer.status_code != 201]
    assert {other["code"] for other in others} <= {"idempotency_key_in_use"}
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len(await listed(caller, KEYS)) == 1
    recorded = "SELECT count(*) FROM audit_log WHERE org_id = $1 AND action = 'api_keys.created'"
    assert await superuser.fetchval(recorded, api.tenant.principal.org_id) == 1


async def test_two_processes_make_one_thing(
    postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path, database: Database
) -> None:
    """Two whole gateways over one database, as two replicas are."""
    async with AsyncExitStack() as stack:
        callers = []
        tenant = await make_tenant(database)
        for name in ("one", "two"):
            app = await stack.enter_async_context(
                lifespan_of(settings_for(postgres, issuer, keyring, state_dir / name))
            )
            transport = httpx2.ASGITransport(app=app)
            http = await stack.enter_async_context(httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL))
            callers.append(Api(http, issuer, tenant).caller())
        answers = await asyncio.gather(*(post(caller, KEYS, BODIES[KEYS]) for caller in callers * 10))
        assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
        assert {answer.status_code for answer in answers} <= {201, 409}
        later = await post(callers[1], KEYS, BODIES[KEYS])
        assert was_replayed(later)
        assert len(await listed(callers[0], KEYS)) == 1


@pytest.mark.parametrize("other", ["body", "path", "query", "media type"])
async def test_a_key_belongs_to_one_request(api: Api, other: str) -> None:
    caller = api.caller()
    assert (await post(caller, KEYS, BODIES[KEYS])).status_code == 201
    path, body, headers = KEYS, BODIES[KEYS], {}
    if other == "body":
        body = {"name": "another"}
    elif other == "path":
        path, body = WORKSPACES, BODIES[WORKSPACES]
    elif other == "query":
        path = f"{KEYS}?x=1"
    else:
        headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = await caller.request(
        "POST",
        path,
        content=json.dumps(body),
        headers={"Content-Type": "application/json", **headers, "Idempotency-Key": "one"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert len(await listed(caller, KEYS)) == 1


async def test_nobody_else_gets_the_answer(api: Api, database: Database) -> None:
    first = await post(api.caller(), KEYS, BODIES[KEYS])
    colleague = await post(api.caller(Role.ORG_ADMIN, "mia"), KEYS, BODIES[KEYS])
    stranger = Api(api.http, api.issuer, await make_tenant(database, "mallory")).caller(subject="alice")
    elsewhere = await post(stranger, KEYS, BODIES[KEYS])
    assert len({answer.json()["key"] for answer in (first, colleague, elsewhere)}) == 3
    assert not was_replayed(colleague)
    assert not was_replayed(elsewhere)


async def test_an_api_key_of_the_same_user_is_not_told_the_secret_that_the_token_made(api: Api) -> None:
    caller = api.caller()
    scopes = ["api:read", "api:write"]
    key = (await caller.request("POST", KEYS, json={"name": "narrow", "scopes": scopes})).json()["key"]
    secret = (await post(caller, KEYS, BODIES[KEYS])).json()["key"]
    answer = await post(Caller(api.http, key), KEYS, BODIES[KEYS])
    assert answer.status_code == 403
    assert secret not in answer.text


async def test_who_lost_the_permission_is_refused_before_anything_is_looked_up(api: Api) -> None:
    assert (await post(api.caller(subject="mia"), WORKSPACES, BODIES[WORKSPACES])).status_code == 201
    assert (await post(api.caller(Role.VIEWER, "mia"), WORKSPACES, BODIES[WORKSPACES])).status_code == 403


async def test_a_refusal_is_not_kept(api: Api) -> None:
    caller = api.caller()
    made = await caller.request("POST", WORKSPACES, json=BODIES[WORKSPACES])
    refused = await post(caller, WORKSPACES, BODIES[WORKSPACES])
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    invalid = await post(caller, WORKSPACES, {"slug": "X"}, key="two")
    assert invalid.status_code == 422
    assert (await caller.request("DELETE", made.headers["location"])).status_code == 204
    assert (await post(caller, WORKSPACES, BODIES[WORKSPACES])).status_code == 201
    assert (await post(caller, WORKSPACES, {"slug": "y", "name": "Y"}, key="two")).status_code == 201


@pytest.mark.parametrize(
    "key", ["", " ", "a b", "x" * 256, '"', '"a', '"a"b', '""', "\x7f", "ключ".encode().decode("latin-1")]
)
async def test_what_is_no_key_is_refused(api: Api, key: str) -> None:
    answer = await _raw(api, [key])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


async def test_two_keys_are_none(api: Api) -> None:
    answer = await _raw(api, ["one", "two"])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


async def test_a_key_in_quotes_is_the_key_without_them(api: Api) -> None:
    first = await post(api.caller(), KEYS, BODIES[KEYS], key='"one"')
    again = await post(api.caller(), KEYS, BODIES[KEYS], key="one")
    assert first.json()["key"] == again.json()["key"]


async def _raw(api: Api, keys: list[str]) -> httpx2.Response:
    headers = [
        (b"authorization", f"Bearer {api.caller().token}".encode()),
        *((b"idempotency-key", key.encode("latin-1")) for key in keys),
    ]
    return await api.http.request("POST", KEYS, json=BODIES[KEYS], headers=headers)


async def test_what_was_made_shows_at_once_and_only_when_it_is_committed(api: Api) -> None:
    """The views that calls read are renewed behind the commit, not behind the insert."""
    caller = api.caller()
    assert await caller.names() == []
    await post(caller, CONFIGURATIONS, BODIES[CONFIGURATIONS])
    assert await caller.names() == ["github"]


async def test_a_crash_before_the_commit_leaves_neither_thing_nor_answer(
    api: Api, database: Database, keyring: str, superuser: asyncpg.Connection[Any]
) -> None:
    """As ``kill -9`` does it: the server's side of the connection goes, and with it all that is not committed."""
    ledger, principal = Ledger(database, keyring=Keyring.parse(keyring)), api.tenant.principal
    claim = Claim.of(principal, "crash", (b"POST",))
    rename = "UPDATE organizations SET name = 'half done' WHERE id = $1"

    async def work() -> None:
        async with ledger.once(claim) as keep:
            async with database.tenant_transaction(principal) as connection:
                await connection.execute(rename, principal.org_id)
                pid = await connection.fetchval("SELECT pg_backend_pid()")
            assert await superuser.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
            await keep(Answer(200, (), b"{}"))

    with pytest.raises(StorageUnavailableError):
        await work()
    name = await superuser.fetchval("SELECT name FROM organizations WHERE id = $1", principal.org_id)
    assert name == "Test"
    assert await ledger.answered(claim) is None
    async with ledger.once(claim) as keep:
        async with database.tenant_transaction(principal) as connection:
            await connection.execute(rename, principal.org_id)
        await keep(Answer(200, (), b"{}"))
    assert await ledger.answered(claim) == Answer(200, (), b"{}")


async def test_answers_are_kept_for_a_day_and_swept(
    api: Api, database: Database, keyring: str, superuser: asyncpg.Connection[Any]
) -> None:
    now = datetime.now(UTC)
    ledger = Ledger(database, keyring=Keyring.parse(keyring), now=lambda: now)
    principal = api.tenant.principal
    claim, count = Claim.of(principal, "k", (b"POST",)), "SELECT count(*) FROM idempotency_keys WHERE org_id = $1"

    async def keep(body: bytes) -> None:
        async with ledger.once(claim) as keep_:
            await keep_(Answer(201, (), body))

    await keep(b"first")
    now += timedelta(hours=23, minutes=59)
    await ledger.sweep(principal.org_id)
    assert await ledger.answered(claim) == Answer(201, (), b"first")
    now += timedelta(minutes=2)
    assert await ledger.answered(claim) is None
    await superuser.execute("UPDATE idempotency_keys SET expires_at = now() WHERE org_id = $1", principal.org_id)
    await keep(b"second")
    assert await superuser.fetchval(count, principal.org_id) == 1
    await superuser.execute("UPDATE idempotency_keys SET expires_at = now() WHERE org_id = $1", principal.org_id)
    now += timedelta(days=2)
    await ledger.sweep(principal.org_id)
    assert await superuser.fetchval(count, principal.org_id) == 0


async def test_the_database_holds_no_secret_that_was_shown_once(
    api: Api, superuser: asyncpg.Connection[Any], database: Database
) -> None:
    text = (await post(api.caller(), KEYS, BODIES[KEYS])).json()["key"]
    rows = await superuser.fetch("SELECT * FROM idempotency_keys WHERE org_id = $1", api.tenant.principal.org_id)
    assert len(rows) == 1
    assert text not in str(dict(rows[0]))
    assert text.encode().hex() not in rows[0]["answer"].hex()
    colleague = api.tenant.colleague("mia").principal
    async with database.tenant_transaction(colleague) as connection:
        assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 0
