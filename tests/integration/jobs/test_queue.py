"""Jobs and periodic work, over real tables, in two queues where it takes two processes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from agentapi._core import Keyring
from agentapi.jobs import store
from agentapi.jobs.queue import Again, JobQueue
from agentapi.jobs.schema import driver, queries
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres
    from tenants import Tenant

NOW = timedelta()
WITHIN_S = 20.0


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    return Keyring.parse(Keyring.generate("k1"))


@pytest.fixture
async def tenant(database: Database) -> Tenant:
    return await make_tenant(database)


@pytest.fixture
def name() -> str:
    """A kind of job that no other test has: the tables are everybody's."""
    return f"test.{uuid4().hex}"


class Work:
    """Counts what it is given, and tells when there was enough."""

    def __init__(self, enough: int) -> None:
        self.done: Counter[str] = Counter()
        self.enough = enough
        self.reached = asyncio.Event()

    async def __call__(self, payload: Mapping[str, Any]) -> Again | None:
        self.done[payload["id"]] += 1
        if self.done.total() >= self.enough:
            self.reached.set()
        return None

    async def wait(self) -> None:
        await asyncio.wait_for(self.reached.wait(), WITHIN_S)


@pytest.fixture
def queue(postgres: EmbeddedPostgres, keyring: Keyring) -> JobQueue:
    return JobQueue(postgres.app_dsn, keyring=keyring, timeout_s=5.0)


@asynccontextmanager
async def running(*queues: JobQueue) -> AsyncIterator[None]:
    async with queues[0].run():
        if queues[1:]:
            async with running(*queues[1:]):
                yield
        else:
            yield


async def put(database: Database, tenant: Tenant, queue: JobQueue, name: str, *ids: str) -> None:
    async with database.tenant_transaction(tenant.principal) as connection:
        for id_ in ids:
            await queue.put(connection, name, {"id": id_}, after=NOW)


async def left(connection: asyncpg.Connection[Any], name: str) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM jobs WHERE entrypoint = $1", name))


async def test_the_tables_are_what_the_library_declares(owner_connection: asyncpg.Connection[Any]) -> None:
    plan = await queries(driver(owner_connection)).plan_upgrade()
    assert not plan.statements, plan


@pytest.fixture
def two(postgres: EmbeddedPostgres, keyring: Keyring) -> tuple[JobQueue, JobQueue]:
    """The queues of two processes."""
    first, second = (JobQueue(postgres.app_dsn, keyring=keyring, timeout_s=5.0) for _ in range(2))
    return first, second


async def test_of_two_processes_one_does_a_job(
    database: Database,
    tenant: Tenant,
    two: tuple[JobQueue, JobQueue],
    name: str,
    app_connection: asyncpg.Connection[Any],
) -> None:
    work = Work(60)
    for queue in two:
        queue.handle(name, work)
    await put(database, tenant, two[0], name, *map(str, range(30)))
    async with running(*two):
        await put(database, tenant, two[1], name, *map(str, range(30, 60)))
        await work.wait()
    assert set(work.done.values()) == {1}
    assert len(work.done) == 60
    assert await left(app_connection, name) == 0


async def test_a_job_exists_only_if_its_transaction_committed(
    database: Database, tenant: Tenant, queue: JobQueue, name: str, app_connection: asyncpg.Connection[Any]
) -> None:
    with pytest.raises(RuntimeError):  # noqa: PT012 - the transaction is what ends by it
        async with database.tenant_transaction(tenant.principal) as connection:
            await queue.put(connection, name, {"id": "never"}, after=NOW)
            raise RuntimeError
    assert await left(app_connection, name) == 0


async def test_a_job_waits_for_its_time(
    database: Database, tenant: Tenant, queue: JobQueue, name: str, app_connection: asyncpg.Connection[Any]
) -> None:
    async with database.tenant_transaction(tenant.principal) as connection:
        await queue.put(connection, name, {"id": "later"}, after=timedelta(hours=1))
    work = Work(1)
    queue.handle(name, work)
    async with queue.run():
        await put(database, tenant, queue, name, "now")
        await work.wait()
    assert work.done == {"now": 1}
    assert await left(app_connection, name) == 1


async def test_whoever_reads_the_table_learns_nothing(
    database: Database, tenant: Tenant, queue: JobQueue, name: str, app_connection: asyncpg.Connection[Any]
) -> None:
    async with database.tenant_transaction(tenant.principal) as connection:
        await queue.put(connection, name, {"org": str(tenant.principal.org_id)}, after=timedelta(hours=1))
    row = await app_connection.fetchrow("SELECT * FROM jobs WHERE entrypoint = $1", name)
    assert row is not None
    assert str(tenant.principal.org_id) not in str(dict(row))
    assert str(tenant.principal.org_id).encode() not in row["payload"]


async def test_a_job_that_fails_is_tried_again_and_holds_up_no_other(
    database: Database, tenant: Tenant, queue: JobQueue, name: str, app_connection: asyncpg.Connection[Any]
) -> None:
    work = Work(20)
    tried = []

    async def poisoned(payload: Mapping[str, Any]) -> Again | None:
        if payload["id"] == "poison":
            tried.append(payload)
            raise RuntimeError("token-that-nobody-may-see")
        return await work(payload)

    queue.handle(name, poisoned)
    await put(database, tenant, queue, name, "poison", *map(str, range(20)))
    async with queue.run():
        await work.wait()
    assert tried
    row = await app_connection.fetchrow("SELECT * FROM jobs WHERE entrypoint = $1", name)
    assert row is not None
    assert row["attempts"] >= 1
    assert row["execute_after"] > row["created"]
    logged = await app_connection.fetch("SELECT traceback FROM jobs_log WHERE entrypoint = $1", name)
    assert "token-that-nobody-may-see" not in str([*map(dict, logged)])


async def test_a_job_that_never_succeeds_is_given_up(
    database: Database, tenant: Tenant, queue: JobQueue, name: str, app_connection: asyncpg.Connection[Any]
) -> None:
    await put(database, tenant, queue, name, "poison")
    await app_connection.execute("UPDATE jobs SET attempts = 19 WHERE entrypoint = $1", name)
    work = Work(1)

    async def poisoned(payload: Mapping[str, Any]) -> Again | None:
        await work(payload)
        raise RuntimeError

    queue.handle(name, poisoned)
    async with queue.run():
        await work.wait()
    assert await left(app_connection, name) == 0


@pytest.mark.parametrize(("tries", "kept"), [(0, 1), (18, 1), (19, 0)])
async def test_a_job_that_does_not_open_is_kept_for_a_process_that_has_its_key_but_not_forever(
    database: Database,
    tenant: Tenant,
    postgres: EmbeddedPostgres,
    name: str,
    app_connection: asyncpg.Connection[Any],
    *,
    tries: int,
    kept: int,
) -> None:
    newer = Keyring.generate("k9")
    owner, behind = (
        JobQueue(postgres.app_dsn, keyring=Keyring.parse(text), timeout_s=5.0, poll_s=0.2)
        for text in (newer, Keyring.generate("k8"))
    )
    await put(database, tenant, owner, name, "sealed")
    await app_connection.execute("UPDATE jobs SET attempts = $2 WHERE entrypoint = $1", name, tries)
    work = Work(1)
    behind.handle(name, work)
    tried = "SELECT count(*) FROM jobs WHERE entrypoint = $1 AND attempts <= $2"
    async with behind.run(), asyncio.timeout(WITHIN_S):
        while await app_connection.fetchval(tried, name, tries):  # noqa: ASYNC110 - a row tells nobody of itself
            await asyncio.sleep(0.02)
    assert not work.done
    assert await left(app_connection, name) == kept
    await app_connection.execute("UPDATE jobs SET execute_after = now() WHERE entrypoint = $1", name)
    owner.handle(name, work)
    async with owner.run():
        if kept:
            await work.wait()
    assert work.done == Counter({"sealed": kept} if kept else {})
    assert await left(app_connection, name) == 0


async def test_a_stop_waits_for_the_job_under_way(
    database: Database, tenant: Tenant, queue: JobQueue, name: str, app_connection: asyncpg.Connection[Any]
) -> None:
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_: Mapping[str, Any]) -> None:
        begun.set()
        await go_on.wait()
        ended.set()

    queue.handle(name, slow)
    await put(database, tenant, queue, name, "slow")
    async with queue.run():
        await asyncio.wait_for(begun.wait(), WITHIN_S)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert ended.is_set()
    assert await left(app_connection, name) == 0


async def test_the_queue_goes_on_after_the_database_was_away(
    database: Database, tenant: Tenant, postgres: EmbeddedPostgres, queue: JobQueue, name: str
) -> None:
    first, second = Work(1), Work(2)

    async def both(payload: Mapping[str, Any]) -> None:
        await first(payload)
        await second(payload)

    queue.handle(name, both)
    admin = await asyncpg.connect(postgres.superuser_dsn)
    try:
        async with queue.run():
            await put(database, tenant, queue, name, "before")
            await first.wait()
            ended = await admin.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'agentapi-jobs'"
            )
            assert ended >= 1  # Other tests may have gateways of their own.
            await put(database, tenant, queue, name, "after")
            await second.wait()
    finally:
        await admin.close()
    assert second.done["after"] == 1


async def test_periodic_work_is_done_once_among_processes(
    postgres: EmbeddedPostgres, keyring: Keyring, name: str, app_connection: asyncpg.Connection[Any]
) -> None:
    ticks: list[int] = []
    enough = asyncio.Event()

    async def tick() -> None:
        ticks.append(int(datetime.now(UTC).timestamp()))
        if len(ticks) == 2:
            enough.set()
        if len(ticks) == 1:
            raise RuntimeError

    queues = [JobQueue(postgres.app_dsn, keyring=keyring, timeout_s=5.0) for _ in range(3)]
    for queue in queues:
        queue.every(name, "* * * * * */2", tick)
    async with running(*queues):
        await asyncio.wait_for(enough.wait(), WITHIN_S)
    assert len(ticks) == len(set(ticks))
    await app_connection.execute("DELETE FROM jobs_schedules WHERE entrypoint = $1", name)


async def test_the_log_of_jobs_is_pruned(app_connection: asyncpg.Connection[Any], name: str) -> None:
    insert = (
        "INSERT INTO jobs_log (created, job_id, status, priority, entrypoint)"
        " VALUES (now() - $1::interval, 1, 'successful', 0, $2)"
    )
    for age in (timedelta(hours=1), timedelta(days=2)):
        await app_connection.execute(insert, age, name)
    await store.prune(driver(app_connection), keep=timedelta(days=1))
    assert await app_connection.fetchval("SELECT count(*) FROM jobs_log WHERE entrypoint = $1", name) == 1


def test_no_name_comes_from_a_variable_without_a_prefix() -> None:
    from pgqueuer.domain.settings import DBSettings

    from agentapi.jobs.schema import _NAMES

    given = json.loads(_NAMES.model_dump_json(exclude_unset=True))
    assert set(given) == set(DBSettings.model_fields)
