"""What one process changes and another remembers, over a real PostgreSQL and its notifications."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from agentapi.audit.log import AuditLog
from agentapi.audit.models import DEPLOYMENT
from agentapi.principal import OrgId, UserId, WorkspaceId
from agentapi.storage.notifier import CHANNEL, WITHIN_S, Change, Notifier
from agentapi.tenancy.views import TenantViews
from agentapi.upstreams import store
from agentapi.upstreams.registry import UpstreamRegistry
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import asyncpg

    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres

    Link = asyncpg.Connection[asyncpg.Record]

WITHIN = 10.0
"""Seconds that a test waits for what takes milliseconds."""


class Heard:
    """What a listener was told."""

    def __init__(self, feed: Notifier, *topics: str) -> None:
        self.changes: asyncio.Queue[Change] = asyncio.Queue()
        self.missed = 0
        feed.listen(topics, self.changes.put_nowait, self._miss)

    def _miss(self) -> None:
        self.missed += 1

    async def next(self) -> Change:
        return await asyncio.wait_for(self.changes.get(), WITHIN)


@asynccontextmanager
async def listening(feed: Notifier) -> AsyncIterator[None]:
    async with feed.run():
        await asyncio.wait_for(feed.wait(), WITHIN)
        yield


@pytest.fixture
def feed(postgres: EmbeddedPostgres) -> Notifier:
    return Notifier(postgres.app_dsn, timeout_s=5.0, every_s=0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


async def test_a_change_is_told_as_it_commits_and_not_before(database: Database, feed: Notifier) -> None:
    heard, tenant = Heard(feed, "upstreams"), await make_tenant(database)
    mine = tenant.upstream("mine", private=True)
    async with listening(feed):
        with suppress(ZeroDivisionError):
            async with database.tenant_transaction(tenant.principal) as connection:
                await store.insert_upstream(connection, tenant.upstream("never"))
                raise ZeroDivisionError
        async with database.tenant_transaction(tenant.principal) as connection:
            await store.insert_upstream(connection, mine)
            assert heard.changes.empty()
        told = await heard.next()
        assert told == Change("upstreams", mine.org_id, tenant.workspace_id, tenant.principal.user_id, mine.id)
        assert heard.changes.empty()


async def test_lines_hold_ids_and_nothing_else(database: Database, app_connection: Link) -> None:
    lines: list[str] = []
    await app_connection.add_listener(CHANNEL, lambda *args: lines.append(str(args[3])))
    tenant = await make_tenant(database)
    async with database.tenant_transaction(tenant.principal) as connection:
        await store.insert_upstream(connection, tenant.upstream("secret-name"))
    await until(lambda: any(line.startswith("upstreams ") for line in lines))
    assert all(re.fullmatch(r"[a-z_]+ [-0-9a-f]{36}( ([-0-9a-f]{36}|-)){3}", line) for line in lines), lines


async def test_a_line_reads_as_it_was_written_and_nothing_else_is_one() -> None:
    org, row = OrgId(uuid4()), uuid4()
    for change in (
        Change("prompts", org, WorkspaceId(uuid4()), UserId(uuid4()), row),
        Change("members", org),
        Change("prompts", DEPLOYMENT, id=row),
    ):
        assert Change.read(change.line) == change
    for line in ("", "x", f"prompts {org}", f"prompts {org} - - - -", f"Prompts {org} - - -", "prompts x - - -", "\0"):
        assert Change.read(line) is None
    assert Change.read(f"prompts {str(org).upper()} - - -") is None
    assert Change.read(f"prompts {org} - - -\n") is None


async def test_what_anybody_sends_is_believed_for_no_more_than_to_read_again(
    database: Database, feed: Notifier, app_connection: Link
) -> None:
    heard, tenant = Heard(feed, "upstreams"), await make_tenant(database)
    registry = UpstreamRegistry(database, audit=AuditLog(database), clock=time.monotonic, feed=feed)
    async with listening(feed):
        view = await registry.view(tenant.principal, "main")
        for forged in ("nonsense", f"upstreams {tenant.principal.org_id}; DROP TABLE members", "upstreams - - - -"):
            await app_connection.execute("SELECT pg_notify($1, $2)", CHANNEL, forged)
        await app_connection.execute(
            "SELECT pg_notify($1, $2)", CHANNEL, Change("upstreams", tenant.principal.org_id).line
        )
        assert await heard.next() == Change("upstreams", tenant.principal.org_id)
        again = await registry.view(tenant.principal, "main")
        assert again == view
        assert again is not view
        assert heard.changes.empty()


async def test_a_listener_that_fails_keeps_nothing_from_the_others(
    database: Database, feed: Notifier, app_connection: Link
) -> None:
    def fails(_: Change) -> None:
        raise ZeroDivisionError

    feed.listen(("members",), fails, lambda: None)
    heard, tenant = Heard(feed, "members"), await make_tenant(database)
    async with listening(feed):
        for _ in range(2):
            line = Change("members", tenant.principal.org_id).line
            await app_connection.execute("SELECT pg_notify($1, $2)", CHANNEL, line)
            await heard.next()


async def test_after_a_lost_connection_everything_counts_as_missed(feed: Notifier, app_connection: Link) -> None:
    heard = Heard(feed, "upstreams")
    async with listening(feed):
        assert heard.missed == 1
        assert feed.hears
        await app_connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentapi-changes'"
        )
        await until(lambda: heard.missed == 2)
        await until(lambda: feed.hears)


async def test_a_connection_that_hears_nothing_is_not_believed(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that takes statements and passes on no notification."""
    monkeypatch.setattr("agentapi.storage.notifier._PING", "SELECT pg_notify($1 || '_elsewhere', $2)")
    monkeypatch.setattr("agentapi.storage.notifier._DEAF_S", 0.0)
    feed = Notifier(postgres.app_dsn, timeout_s=5.0, every_s=0.02)
    heard = Heard(feed, "upstreams")
    async with feed.run():
        await until(lambda: heard.missed == 1)
        await asyncio.sleep(0.1)
        assert not feed.hears


async def test_a_ping_that_came_back_is_good_for_a_second_from_when_it_was_sent(postgres: EmbeddedPostgres) -> None:
    class Clock:
        now = 1000.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()
    feed = Notifier(postgres.app_dsn, timeout_s=5.0, clock=clock, every_s=3600.0)
    async with listening(feed):
        clock.now += WITHIN_S - 0.001
        assert feed.hears
        clock.now += 0.001
        assert not feed.hears


async def test_a_change_is_heard_before_a_ping_that_was_sent_after_it(database: Database, feed: Notifier) -> None:
    """That pings come back in the order of commits is what ``hears`` rests on: held over 200 changes."""
    heard, tenant = Heard(feed, "upstreams"), await make_tenant(database)
    async with listening(feed):
        for number in range(200):
            async with database.tenant_transaction(tenant.principal) as connection:
                await store.insert_upstream(connection, tenant.upstream(f"u{number}"))
            committed = time.monotonic()
            await until(lambda: feed._returned >= committed)  # noqa: B023 - it is awaited in the same turn
            assert heard.changes.qsize() == number + 1


async def test_a_view_is_dropped_within_a_second_of_a_change_elsewhere(database: Database, feed: Notifier) -> None:
    tenant = await make_tenant(database)
    here, there = (
        UpstreamRegistry(database, audit=AuditLog(database), clock=time.monotonic, feed=each, view_ttl_s=3600.0)
        for each in (feed, Notifier("postgresql://nowhere.invalid/x", timeout_s=1.0))
    )
    async with listening(feed):
        for number in range(20):
            before = await here.view(tenant.principal, "main")
            assert await here.view(tenant.principal, "main") is before
            await there.create(tenant.principal, tenant.upstream(f"u{number}"))
            async with asyncio.timeout(WITHIN_S):
                while len((await here.view(tenant.principal, "main")).upstreams) == number:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0)


async def test_a_view_is_a_second_old_at_most_where_nothing_is_heard() -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock, reads = Clock(), 0

    async def load() -> int:
        nonlocal reads
        reads += 1
        return reads

    made: TenantViews[int] = TenantViews(clock=clock, ttl_s=5.0)
    org = OrgId(UUID(int=1))
    assert await made.get(org, "k", load) == 1
    clock.now = WITHIN_S - 0.001
    assert await made.get(org, "k", load) == 1
    clock.now = WITHIN_S
    assert await made.get(org, "k", load) == 2


async def test_what_changed_outside_the_database_is_told_to_the_others_once(
    postgres: EmbeddedPostgres, feed: Notifier
) -> None:
    other = Notifier(postgres.app_dsn, timeout_s=5.0, every_s=0.02)
    here, there = Heard(feed, "upstream_tools", "upstreams"), Heard(other, "upstream_tools")
    one, two = (Change("upstream_tools", OrgId(uuid4()), id=uuid4()) for _ in range(2))
    async with listening(feed), listening(other):
        for _ in range(1000):
            feed.tell(one)
        feed.tell(two)
        assert [await there.next(), await there.next()] == [one, two]
        other.tell(two)
        assert await here.next() == two
        assert here.changes.empty()
        assert there.changes.empty()
