"""``GET /api/v1/audit`` and its export."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.audit.models import DEPLOYMENT, Actor, Entry, Filter, Outcome, Position, Source
from agentapi.audit.store import _CONDITIONS, find, from_us
from agentapi.principal import Role
from integration.api.test_organizations import me
from integration.audit.logs import running

if TYPE_CHECKING:
    import asyncpg

    from agentapi.storage.database import Database
    from integration.api.harness import Api, Caller

AUDIT = "/api/v1/audit"


async def fill(database: Database, api: Api, rows: int) -> None:
    async with running(database) as log:
        for number in range(rows):
            entry = Entry(
                "tools.call" if number % 2 else "resources.read",
                Outcome.DENIED if number % 5 == 0 else Outcome.SUCCESS,
                f"upstream:{number % 3}",
                {"number": number},
            )
            await log.call(api.tenant.principal, entry, Source("192.0.2.1", "probe", f"r-{number}"))


async def listed(caller: Caller, **given: Any) -> list[int]:
    numbers: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await caller.request("GET", AUDIT, params={**given, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        numbers += [item["details"]["number"] for item in page["items"]]
        if page["next_cursor"] is None:
            return numbers
        cursor = {"cursor": page["next_cursor"]}


async def test_rows_are_listed_newest_first_by_every_filter(api: Api, database: Database) -> None:
    await fill(database, api, 23)
    admin = api.caller()
    everything = list(range(22, -1, -1))
    assert await listed(admin, limit=7) == everything
    assert await listed(admin, action="tools.call") == [n for n in everything if n % 2]
    assert await listed(admin, outcome="denied", limit=2) == [20, 15, 10, 5, 0]
    assert await listed(admin, resource="upstream:1", action="tools.call") == [19, 13, 7, 1]
    assert await listed(admin, request_id="r-4") == [4]
    assert await listed(admin, actor_id=str(api.tenant.principal.user_id)) == everything
    assert await listed(admin, actor_id=str(api.tenant.workspace_id)) == []
    item = (await admin.request("GET", AUDIT, params={"request_id": "r-9"})).json()["items"][0]
    assert (item["address"], item["agent"], item["outcome"]) == ("192.0.2.1", "probe", "success")
    assert await listed(admin, since=item["time"]) == everything[:14]
    assert await listed(admin, until=item["time"]) == everything[14:]


async def test_the_export_is_lines_of_json(api: Api, database: Database) -> None:
    await fill(database, api, 5)
    answer = await api.caller().request("GET", f"{AUDIT}/export", params={"action": "tools.call"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["details"]["number"] for line in answer.text.splitlines()] == [3, 1]


async def test_an_export_is_itself_recorded(api: Api, database: Database) -> None:
    await fill(database, api, 1)
    admin = api.caller()
    parameters = {"action": "tools.call", "since": "2026-11-22T12:00:00Z"}
    assert (await admin.request("GET", f"{AUDIT}/export", params=parameters)).status_code == 200
    (row,) = (await admin.request("GET", AUDIT, params={"action": "audit.exported"})).json()["items"]
    assert row["actor_id"] == me("alice")
    assert row["details"] == {"action": "tools.call", "since": "2026-11-22 12:00:00+00:00"}


@pytest.mark.parametrize("role", [Role.MEMBER, Role.VIEWER, Role.AGENT])
@pytest.mark.parametrize("path", [AUDIT, f"{AUDIT}/export"])
async def test_only_admins_read_it(api: Api, role: Role, path: str) -> None:
    assert (await api.caller(role).request("GET", path)).status_code == 403


async def test_the_deployments_own_rows_are_the_platform_admins(api: Api, database: Database) -> None:
    async with running(database) as log:
        await log.call(Actor(DEPLOYMENT), Entry("auth.refused", Outcome.DENIED))
    assert (await api.caller().request("GET", AUDIT, params={"of": "deployment"})).status_code == 403
    platform = api.caller(Role.PLATFORM_ADMIN)
    answer = await platform.request("GET", AUDIT, params={"of": "deployment", "limit": 1})
    assert answer.json()["items"][0]["actor_id"] is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"cursor": "x"},
        {"cursor": "WzEsMiwzXQ=="},
        {"actor_id": "x"},
        {"outcome": "good"},
        {"since": "yesterday"},
        {"since": "2026-11-22T12:00:00"},
        {"action": "a\0b"},
        {"resource": "x" * 300},
        {"limit": "0"},
    ],
)
async def test_a_wrong_parameter_is_refused(api: Api, parameters: dict[str, str]) -> None:
    answer = await api.caller().request("GET", AUDIT, params=parameters)
    assert answer.status_code == (400 if "cursor" in parameters else 422)


async def test_every_query_is_served_by_an_index(
    api: Api, database: Database, superuser: asyncpg.Connection[Any]
) -> None:
    """Of each filter alone, with a cursor and without; the plan of a table without statistics is not forced."""
    await fill(database, api, 30)
    org_id = api.tenant.principal.org_id
    values: dict[str, Any] = {
        "actor_id": api.tenant.principal.user_id,
        "action": "tools.call",
        "resource": "upstream:1",
        "outcome": Outcome.DENIED,
        "request_id": "r-1",
        "since": from_us(0),
        "until": from_us(2**50) + timedelta(days=1),
    }
    assert set(values) == set(_CONDITIONS)

    class Explaining:
        async def fetch(self, sql: str, *arguments: object) -> list[Any]:
            await superuser.execute("SET enable_seqscan = off")
            plan = "\n".join(row[0] for row in await superuser.fetch(f"EXPLAIN {sql}", *arguments))
            assert "Seq Scan" not in plan, plan
            assert "Index" in plan
            return []

    for name in (None, *values):
        wanted = Filter() if name is None else Filter(**{name: values[name]})
        for after in (None, Position(2**50, org_id, 1)):
            await find(Explaining(), org_id, wanted, after=after, limit=50)  # type: ignore[arg-type] # all it needs
