"""Tokens that are fresh before anybody asks for them: queued with the grant, refreshed once, given up in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable  # noqa: TC003 - pytest-asyncio reads it
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg  # noqa: TC002 - pytest-asyncio reads it
import pytest
from starlette.responses import JSONResponse, Response

from agentapi.egress import Egress
from agentapi.jobs.queue import JobQueue
from agentapi.oauth import store
from agentapi.oauth.models import Status
from agentapi.oauth.refresh import due_at
from agentapi.storage.embedded import EmbeddedPostgres  # noqa: TC001 - pytest-asyncio reads it
from integration.conftest import migrated_postgres
from integration.oauth.conftest import room_of
from unit.oauth.sites import LOOPBACK

if TYPE_CHECKING:
    from agentapi._core import Keyring
    from agentapi.oauth.models import Connection
    from integration.oauth.conftest import Bench

WITHIN_S = 20.0
POLL_S = 0.5
"""A job that nobody is notified of, because it was put off or a notification came while others were taken, is due at
once in these tests; the default would let it wait for most of ``WITHIN_S``, or twice for longer."""
DUE = "SELECT count(*) FROM jobs WHERE entrypoint = 'oauth.refresh' AND execute_after < now() + interval '2 seconds'"


@pytest.fixture(scope="module")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server of these tests' own: other modules leave a gateway running, which would take their jobs and fail."""
    async with migrated_postgres() as server:
        yield server


@pytest.fixture(autouse=True)
async def _no_jobs_of_other_tests(app_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Their providers are gone, and to ask them again takes places that these tests wait for."""
    await app_connection.execute("DELETE FROM jobs WHERE entrypoint = 'oauth.refresh'")


async def held(bench: Bench) -> Connection:
    async with bench.database.tenant_transaction(bench.principal) as connection:
        found = await store.find_connection(connection, bench.principal.user_id, bench.upstream.id)
    assert found is not None
    return found


@asynccontextmanager
async def processes(bench: Bench, postgres: EmbeddedPostgres, keyring: Keyring, count: int) -> AsyncIterator[None]:
    """Rooms with running queues, as that many processes have them."""
    if not count:
        yield
        return
    queue = JobQueue(postgres.app_dsn, keyring=keyring, timeout_s=5.0, poll_s=POLL_S)
    async with Egress(LOOPBACK, timeout_s=5.0) as egress:
        room_of(bench.database, egress, keyring, bench.clock, jobs=queue)
        async with queue.run(), processes(bench, postgres, keyring, count - 1):
            yield


async def until(bench: Bench, condition: Callable[[Connection], bool]) -> Connection:
    async with asyncio.timeout(WITHIN_S):
        while not condition(found := await held(bench)):  # noqa: ASYNC110 - a row tells nobody that it changed
            await asyncio.sleep(0.02)
    return found


@pytest.mark.parametrize("count", [1, 3])
async def test_a_token_is_refreshed_before_its_end_by_one_process(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring, count: int
) -> None:
    bench.provider.lifetime_s = 10
    await bench.connect()
    bench.provider.lifetime_s = 3600
    async with processes(bench, postgres, oauth_keyring, count):
        found = await until(bench, lambda connection: connection.generation == 2)
    assert found.expires_at is not None
    assert found.updated_at < (await held(bench)).created_at + timedelta(seconds=10)
    assert bench.provider.refreshes == 1
    await bench.credential()
    assert bench.provider.refreshes == 1


async def test_each_refresh_queues_the_next(bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring) -> None:
    bench.provider.lifetime_s = 2
    await bench.connect()
    async with processes(bench, postgres, oauth_keyring, 2):
        await until(bench, lambda connection: connection.generation == 3)
    assert bench.provider.refreshes == (await held(bench)).generation - 1


async def test_a_grant_that_is_over_is_marked_before_anybody_calls(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring
) -> None:
    bench.provider.lifetime_s = 1
    await bench.connect()
    bench.provider.refresh_tokens.clear()
    async with processes(bench, postgres, oauth_keyring, 1):
        await until(bench, lambda connection: connection.status is Status.RECONNECT_NEEDED)
    assert bench.provider.refreshes == 1


@pytest.mark.parametrize("answer", [Response(status_code=503), JSONResponse({"error": "temporarily_unavailable"}, 400)])
async def test_a_provider_that_fails_is_asked_again_ever_more_rarely(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring, answer: Response
) -> None:
    bench.provider.lifetime_s = 1
    await bench.connect()
    asked = len(bench.provider.asked)
    bench.provider.token_answer = answer
    async with processes(bench, postgres, oauth_keyring, 2):
        failed = await until(bench, lambda connection: connection.refresh_failures >= 2)
        # Another may be under way, and no more than that.
        assert failed.refresh_failures <= len(bench.provider.asked) - asked <= failed.refresh_failures + 1
        bench.provider.token_answer = None
        await until(bench, lambda connection: connection.generation == 2)


async def test_one_connection_that_hangs_holds_up_no_other(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring
) -> None:
    bench.provider.lifetime_s = 1
    go_on = asyncio.Event()
    hanging = bench.tenant.colleague("hanging")
    await bench.finish(await bench.init(principal=hanging.principal))
    stuck = set(bench.provider.refresh_tokens)
    answer = bench.provider.answers["/token"]

    async def slow(asked: object) -> object:
        if asked.form.get("refresh_token") in stuck:  # type: ignore[attr-defined]
            await go_on.wait()
        return answer(asked)

    bench.provider.answers["/token"] = slow
    await bench.connect()
    async with processes(bench, postgres, oauth_keyring, 1):
        await until(bench, lambda connection: connection.generation == 2)
        go_on.set()


async def test_what_was_revoked_is_not_refreshed(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring, app_connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    bench.provider.lifetime_s = 1
    await bench.connect()
    await bench.room.revoker.revoke(bench.principal, bench.upstream.id)
    async with processes(bench, postgres, oauth_keyring, 1), asyncio.timeout(WITHIN_S):
        while await app_connection.fetchval(DUE):  # noqa: ASYNC110 - a row tells nobody that it is gone
            await asyncio.sleep(0.02)
    assert bench.provider.refreshes == 0


@pytest.mark.parametrize(("lifetime_s", "ahead_s"), [(None, None), (3600, 300), (600, 150), (60, 15), (0, 0)])
async def test_a_short_life_is_not_spent_refreshing(bench: Bench, lifetime_s: int | None, ahead_s: int | None) -> None:
    bench.provider.lifetime_s = lifetime_s
    await bench.connect()
    found = await held(bench)
    due = due_at(found, timedelta(seconds=300))
    if found.expires_at is None or due is None:
        assert (lifetime_s, ahead_s) == (None, None)
    else:
        assert (found.expires_at - due).total_seconds() == ahead_s


async def test_the_job_of_a_grant_that_was_replaced_ends(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring, app_connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    bench.provider.lifetime_s = 1
    await bench.connect()
    bench.provider.lifetime_s = 3600
    await bench.connect()
    async with processes(bench, postgres, oauth_keyring, 1), asyncio.timeout(WITHIN_S):
        while await app_connection.fetchval(DUE):  # noqa: ASYNC110 - a row tells nobody that it is gone
            await asyncio.sleep(0.02)
    assert await app_connection.fetchval("SELECT count(*) FROM jobs WHERE entrypoint = 'oauth.refresh'") == 1
    assert bench.provider.refreshes == 0
