from __future__ import annotations

from collections.abc import AsyncIterator, Callable  # noqa: TC003 - pytest-asyncio reads it
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentapi._core import Keyring
from agentapi.audit.log import AuditLog
from agentapi.egress import Egress
from agentapi.jobs.queue import JobQueue
from agentapi.oauth.flow import Answer, Begun, Finished
from agentapi.oauth.room import OAuthRoom
from agentapi.settings import load_settings
from agentapi.storage.database import Database
from agentapi.storage.notifier import DEAF, ChangeFeed
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.link import Caller
from agentapi.upstreams.models import Auth
from integration.conftest import migrated_postgres
from integration.oauth.provider import Provider, provider
from tenants import Tenant, make_tenant
from unit.oauth.sites import LOOPBACK

if TYPE_CHECKING:
    from agentapi.principal import Principal
    from agentapi.storage.embedded import EmbeddedPostgres
    from agentapi.upstreams.models import Upstream


class Clock:
    """Real time until a test moves it."""

    def __init__(self) -> None:
        self.moved = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.moved


@dataclass(slots=True)
class Bench:
    """One gateway's OAuth room, a tenant with an upstream, and the provider behind it."""

    room: OAuthRoom
    provider: Provider
    database: Database
    clock: Clock
    tenant: Tenant
    upstream: Upstream

    @property
    def principal(self) -> Principal:
        return self.tenant.principal

    async def init(self, **given: Any) -> Begun:
        return await self.room.flows.init(given.pop("principal", self.principal), self.upstream, **given)

    async def finish(self, begun: Begun, **changes: Any) -> Finished:
        browser = changes.pop("browser", begun.browser)
        return await self.room.flows.finish(self.answer(begun, **changes), browser=browser)

    def answer(self, begun: Begun, **changes: Any) -> Answer:
        given = self.provider.agree(begun.url)
        answer = Answer(state=given["state"], code=given["code"], issuer=given.get("iss"))
        return replace(answer, **changes)

    async def connect(self) -> Finished:
        return await self.finish(await self.init())

    async def credential(self, tenant: Tenant | None = None) -> str:
        principal = (tenant or self.tenant).principal
        caller = Caller(principal.org_id, principal.user_id)
        credential = await self.room.credentials.credential(self.upstream, caller)
        return credential.headers["Authorization"].get_secret_value()

    async def rows(self, table: str) -> int:
        async with self.database.tenant_transaction(self.principal) as connection:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))  # noqa: S608 - a test's table


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server of these tests' own, so that what they seal is under their keyring or that of a gateway they start."""
    async with migrated_postgres() as server:
        yield server


@pytest.fixture(scope="session")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=1, timeout_s=5.0)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def oauth_keyring() -> Keyring:
    return Keyring.parse(Keyring.generate("k1"))


@pytest.fixture
async def oauth_database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=6, timeout_s=5.0)
    yield database
    await database.close()


def room_of(
    database: Database,
    egress: Egress,
    keyring: Keyring,
    clock: Callable[[], datetime],
    *,
    jobs: Any = None,
    audit: Any = None,
    feed: ChangeFeed = DEAF,
    **settings: Any,
) -> OAuthRoom:
    given = {
        "public_url": "http://gateway.example",
        "egress_timeout_s": 5.0,
        "oauth_return_urls": ("https://app.example/done",),
        **settings,
    }
    jobs = jobs or JobQueue("", keyring=keyring, timeout_s=5.0)
    return OAuthRoom.build(
        load_settings(**given),
        database=database,
        egress=egress,
        keyring=keyring,
        jobs=jobs,
        audit=audit or AuditLog(database),
        feed=feed,
        clock=clock,
    )


@pytest.fixture
async def bench(oauth_database: Database, oauth_keyring: Keyring) -> AsyncIterator[Bench]:
    clock = Clock()
    async with provider() as made, Egress(LOOPBACK, timeout_s=5.0) as egress:
        tenant = await make_tenant(oauth_database)
        upstream = replace(tenant.upstream("tracker"), auth=Auth.OAUTH, endpoint=f"{made.url}/mcp")
        async with oauth_database.tenant_transaction(tenant.principal) as connection:
            await upstream_store.insert_upstream(connection, upstream)
        room = room_of(oauth_database, egress, oauth_keyring, clock)
        yield Bench(room, made, oauth_database, clock, tenant, upstream)
        await room.refresher.aclose()
