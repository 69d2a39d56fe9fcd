from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from agentapi.audit.models import Actor, Entry, Outcome, Source
from agentapi.errors import AuditUnavailableError
from integration.audit.logs import assert_one_chain, rows_of, running
from tenants import make_tenant

if TYPE_CHECKING:
    from agentapi.audit.log import AuditLog
    from agentapi.storage.database import Database

CHANGED = Entry("policy.updated", Outcome.SUCCESS, "workspace:main", {"version": 2})
CALLED = Entry("tools.call", Outcome.SUCCESS, "upstream:1", {"name": "clock"})


async def test_a_change_and_its_row_commit_together(pool: Database, log: AuditLog) -> None:
    tenant = await make_tenant(pool)
    source = Source("192.0.2.1", "agent/1", "r-1")
    async with pool.tenant_transaction(tenant.principal) as connection:
        await log.record(connection, tenant.principal, CHANGED, source)
    with pytest.raises(RuntimeError):  # noqa: PT012 - the end of the transaction is part of it
        async with pool.tenant_transaction(tenant.principal) as connection:
            await log.record(connection, tenant.principal, CHANGED)
            raise RuntimeError
    async with pool.organization_transaction(tenant.principal.org_id) as connection:
        await log.record(connection, Actor(tenant.principal.org_id), replace(CHANGED, outcome=Outcome.FAILURE))
    first, second = await rows_of(pool, tenant.principal.org_id)
    assert_one_chain([first, second])
    assert (first.actor_id, first.action, first.outcome) == (tenant.principal.user_id, "policy.updated", "success")
    assert (first.resource, json.loads(first.details)) == ("workspace:main", {"version": 2})
    assert (first.address, first.agent, first.request_id) == ("192.0.2.1", "agent/1", "r-1")
    assert (second.actor_id, second.outcome, second.address) == (None, "failure", "")


async def test_the_database_hashes_a_change_as_its_verifier_does(pool: Database) -> None:
    tenant = await make_tenant(pool)
    actors = (tenant.principal, Actor(tenant.principal.org_id))
    sources = (Source(), Source("2001:db8::1", "ü🦊" * 50, "a.b-c_d"), Source("\\x00", "\\134", "r" * 64))
    details: tuple[dict[str, str], ...] = ({}, {"name": "\u202e\\x41 '%s' 🦊"})
    # The clock has a microsecond that no float holds beside the seconds, and goes back by days before it goes on.
    times = iter([0, 4_102_444_799_999_999, *range(4_102_000_000_000_001, 4_102_000_000_001_000)])
    async with running(pool, clock_us=lambda: next(times)) as log:
        for actor in actors:
            for source in sources:
                for more in details:
                    async with pool.tenant_transaction(tenant.principal) as connection:
                        await log.record(connection, actor, replace(CHANGED, details=more), source)
    rows = await rows_of(pool, tenant.principal.org_id)
    assert_one_chain(rows)
    assert [row.recorded_at_us for row in rows] == [4_102_444_799_999_999] * 12


async def test_changes_side_by_side_make_one_chain_whichever_of_them_roll_back(pool: Database, log: AuditLog) -> None:
    tenant = await make_tenant(pool)

    async def change(number: int) -> None:
        async with pool.tenant_transaction(tenant.principal) as connection:
            await log.record(connection, tenant.principal, replace(CHANGED, details={"number": number}))
            if number % 3 == 0:
                raise RuntimeError

    await asyncio.gather(*(change(number) for number in range(24)), return_exceptions=True)
    rows = await rows_of(pool, tenant.principal.org_id)
    assert len(rows) == 16
    assert_one_chain(rows)


async def test_a_call_is_committed_once_it_returns_and_each_organisation_has_its_chain(pool: Database) -> None:
    tenants = [await make_tenant(pool) for _ in range(3)]
    async with running(pool) as log:
        for tenant in (*tenants, *tenants):
            await log.call(tenant.principal, CALLED)
            assert (await rows_of(pool, tenant.principal.org_id))[-1].action == "tools.call"
        await asyncio.gather(*(log.call(tenants[n % 3].principal, CALLED) for n in range(300)))
        for tenant in tenants:
            rows = await rows_of(pool, tenant.principal.org_id)
            assert len(rows) == 102
            assert_one_chain(rows)


async def test_two_processes_have_chains_of_their_own(pool: Database) -> None:
    tenant = await make_tenant(pool)
    async with running(pool) as one, running(pool) as two:
        await asyncio.gather(*(log.call(tenant.principal, CALLED) for log in (one, two) for _ in range(20)))
    rows = await rows_of(pool, tenant.principal.org_id)
    for writer in {row.writer_id for row in rows}:
        assert_one_chain([row for row in rows if row.writer_id == writer])
    assert len({row.writer_id for row in rows}) == 2


async def test_buffered_rows_are_written_at_the_end_at_the_latest(pool: Database) -> None:
    tenant = await make_tenant(pool)
    async with running(pool, mode="buffered", flush_s=60.0) as log:
        for _ in range(50):
            await log.call(tenant.principal, CALLED)
        assert await rows_of(pool, tenant.principal.org_id) == []
    rows = await rows_of(pool, tenant.principal.org_id)
    assert len(rows) == 50
    assert_one_chain(rows)


async def test_a_full_buffer_drops_and_counts(pool: Database) -> None:
    tenant = await make_tenant(pool)
    async with running(pool, mode="buffered", flush_s=60.0, max_queue=10) as log:
        for _ in range(15):
            await log.call(tenant.principal, CALLED)
        assert log.dropped == 5
    assert len(await rows_of(pool, tenant.principal.org_id)) == 10


async def test_a_clock_that_goes_back_does_not_take_the_chain_along(pool: Database) -> None:
    tenant = await make_tenant(pool)
    times = iter([0, 2_000_000_000_000_000, 1_900_000_000_000_000, 1_900_000_000_000_001])
    async with running(pool, clock_us=lambda: next(times)) as log:
        for _ in range(3):
            await log.call(tenant.principal, CALLED)
    assert [row.recorded_at_us for row in await rows_of(pool, tenant.principal.org_id)] == [2_000_000_000_000_000] * 3


async def test_calls_are_refused_while_the_log_cannot_be_written_and_recorded_when_it_can(
    pool: Database, postgres: Any
) -> None:
    tenant = await make_tenant(pool)
    admin = await asyncpg.connect(postgres.superuser_dsn)
    async with running(pool) as log:
        await log.call(tenant.principal, CALLED)
        await admin.execute("REVOKE INSERT ON audit_log FROM agentapi_app")
        try:
            with pytest.raises(AuditUnavailableError):
                await log.call(tenant.principal, CALLED)
            with pytest.raises(AuditUnavailableError):
                log.require_writable()
        finally:
            await admin.execute("GRANT INSERT ON audit_log TO agentapi_app")
            await admin.close()
    async with running(pool) as log:
        await log.call(tenant.principal, CALLED)
    rows = sorted(await rows_of(pool, tenant.principal.org_id), key=lambda row: row.recorded_at_us)
    for row in rows:
        assert_one_chain([row])
    assert [json.loads(row.details).get("recorded_late", False) for row in rows] == [False, True, False]


async def test_nobody_waits_for_a_database_that_gives_no_connection(pool: Database) -> None:
    tenant = await make_tenant(pool)
    async with running(pool) as log:
        await pool.close()
        with pytest.raises(AuditUnavailableError):
            await log.call(tenant.principal, CALLED)


@pytest.mark.parametrize(
    "key", ["token", "client_secret", "Authorization", "api_key", "refresh_token", "code_verifier"]
)
def test_a_detail_that_reads_like_a_secret_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="secret"):
        Entry("x.y", Outcome.SUCCESS, details={key: "x"})


def test_what_looks_like_a_secret_is_not_kept_and_text_is_bounded() -> None:
    details: dict[str, str | int | bool | None] = {
        "name": "Bearer abcdefghijklmnop",
        "long": "x" * 5000,
        "odd": "a\0b\ud800c",
        "number": 1,
        "none": None,
    }
    written = json.loads(Entry("x.y", Outcome.SUCCESS, "upstream:\0" + "r" * 900, details).details_json)
    assert written == {"name": "Bearer [redacted]", "long": "x" * 256, "odd": "ab?c", "number": 1, "none": None}
    assert len(Entry("x.y", Outcome.SUCCESS, "r" * 900).resource_text) == 256


@pytest.mark.parametrize("action", ["", "tools", "Tools.call", "tools.call ", "a." + "b" * 80])
def test_an_action_is_a_room_and_a_verb(action: str) -> None:
    with pytest.raises(ValueError, match="not an action"):
        Entry(action, Outcome.SUCCESS)
