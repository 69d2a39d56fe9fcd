"""The keys of the own issuer, in the database and in two processes at once."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from agentapi._core import Keyring
from agentapi.audit.log import AuditLog
from agentapi.audit.models import DEPLOYMENT
from agentapi.errors import StorageUnavailableError, UnauthenticatedError
from agentapi.identity.issuers import IssuerDirectory, OwnIssuer
from agentapi.identity.signing_keys.models import MAX_TOKEN_LIFE, PUBLISHED_AHEAD, SLACK
from agentapi.identity.signing_keys.ring import NoSigningKeyError, SigningRing
from agentapi.identity.token_issuer import TokenIssuer, new_signing_key
from agentapi.principal import Role
from agentapi.storage.notifier import DEAF, Notifier
from support.clock import Clock
from support.tasks import eventually

if TYPE_CHECKING:
    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres
    from agentapi.storage.notifier import ChangeFeed

URL = "https://gateway.example"
MCP = f"{URL}/mcp/acme/main"
MONTH = timedelta(days=30)


class Process:
    """One process of a gateway: it signs, and verifies what others sign."""

    def __init__(self, database: Database, keyring: str, clock: Clock, feed: ChangeFeed = DEAF) -> None:
        self.ring = SigningRing(
            database,
            keyring=Keyring.parse(keyring),
            audit=AuditLog(database),
            issuer=URL,
            rotate_after=MONTH,
            clock=clock.seconds,
            now=clock.now,
        )
        self.issuers = IssuerDirectory(
            (),
            fetch=_nowhere,
            leeway_s=30,
            cache_entries=100,
            ttl_s=600,
            min_interval_s=60,
            clock=clock.seconds,
            own=OwnIssuer(URL, self.ring.published, feed),
        )

    async def sign(self) -> str:
        signer = await self.ring.signer()
        return signer.mint(
            subject="alice",
            audiences=[MCP],
            organization="acme",
            role=Role.AGENT,
            lifetime_s=int(MAX_TOKEN_LIFE.total_seconds()),
            session_id=str(uuid4()),
        )

    async def believes(self, token: str) -> bool:
        try:
            await self.issuers.verify(token, MCP)
        except UnauthenticatedError as error:
            if error.reason != "unknown_key":
                raise
            return False
        return True

    async def key_ids(self) -> list[str]:
        return [str(key["kid"]) for key in json.loads(await self.ring.published())["keys"]]


async def _nowhere(url: str) -> bytes:
    raise AssertionError(url)


@pytest.fixture
def ring_keyring() -> str:
    return Keyring.generate("k1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def one(database: Database, ring_keyring: str, clock: Clock) -> Process:
    async with database.organization_transaction(DEPLOYMENT) as connection:
        await connection.execute("DELETE FROM signing_keys")
    return Process(database, ring_keyring, clock)


@pytest.fixture
def two(one: Process, database: Database, ring_keyring: str, clock: Clock) -> Process:
    del one
    return Process(database, ring_keyring, clock)


async def test_the_first_key_signs_at_once_and_there_is_one_however_many_begin(one: Process, two: Process) -> None:
    with pytest.raises(NoSigningKeyError):
        await one.ring.signer()
    await asyncio.gather(*(process.ring.rotate_if_due() for process in (one, two) * 3))
    assert len(await one.key_ids()) == 1
    assert await two.believes(await one.sign())
    assert await one.believes(await two.sign())


async def test_rotation_overlaps_so_that_no_token_is_refused_before_its_end(
    one: Process, two: Process, clock: Clock
) -> None:
    await one.ring.rotate_if_due()
    old = await one.key_ids()
    early = await one.sign()
    clock.advance(MONTH - PUBLISHED_AHEAD)
    await two.ring.rotate_if_due()
    published = await one.key_ids()
    assert len(published) == 2
    assert published[0] == old[0]
    # Published, and not signing yet.
    assert await signed_by(two) == old[0]
    clock.advance(PUBLISHED_AHEAD)
    assert await signed_by(one) == await signed_by(two) == published[1]
    late = await one.sign()
    assert [await two.believes(token) for token in (early, late)] == [True, True]
    clock.advance(MAX_TOKEN_LIFE)
    await one.ring.rotate_if_due()
    assert await two.key_ids() == published
    clock.advance(SLACK)
    await one.ring.rotate_if_due()
    assert await two.key_ids() == [published[1]]
    clock.advance(timedelta(seconds=6))
    await two.issuers.load()
    assert await two.believes(late)
    assert not await two.believes(early)


async def signed_by(process: Process) -> str:
    token = await process.issuers.verify(await process.sign(), MCP)
    assert token.key_id is not None
    return token.key_id


async def test_a_key_that_leaked_is_replaced_at_once(one: Process, two: Process, clock: Clock) -> None:
    await one.ring.rotate_if_due()
    stolen = await one.sign()
    assert await two.believes(stolen)
    await one.ring.replace()
    clock.advance(timedelta(seconds=6))
    await two.issuers.load()
    assert not await two.believes(stolen)
    clock.advance(timedelta(seconds=2))
    assert await two.believes(await one.sign())
    assert await one.believes(await two.sign())


async def test_a_process_that_was_idle_believes_no_token_of_a_key_that_was_replaced(
    one: Process, two: Process, clock: Clock
) -> None:
    await one.ring.rotate_if_due()
    stolen = await one.sign()
    assert await two.believes(stolen)
    await one.ring.replace()
    clock.advance(timedelta(hours=20))
    assert not await two.believes(stolen)


async def test_a_process_is_told_of_a_key_that_was_replaced(
    one: Process, database: Database, postgres: EmbeddedPostgres, ring_keyring: str, clock: Clock
) -> None:
    feed = Notifier(postgres.app_dsn, timeout_s=5.0, every_s=0.02)
    two = Process(database, ring_keyring, clock, feed)
    async with feed.run():
        await feed.wait()
        await one.ring.rotate_if_due()
        stolen = await one.sign()
        assert await two.believes(stolen)
        await one.ring.replace()

        async def refused() -> bool:
            return not await two.believes(stolen)

        # No time passes by the clock, so that nothing is read again for its age.
        await eventually(refused)


async def test_a_key_set_that_changes_while_it_is_read_is_read_once_more(one: Process) -> None:
    await one.ring.rotate_if_due()
    token, read = await one.sign(), one.ring.published
    directory = one.issuers
    source = directory._sources[URL]
    reads = 0

    async def changing() -> bytes:
        nonlocal reads
        reads += 1
        found = await read()
        if reads == 1:
            await one.ring.replace()
            source.outdate()
        return found

    assert await one.believes(token)
    source.read = changing
    source.outdate()
    assert not await one.believes(token)
    assert reads == 2


async def test_a_command_adds_the_next_key_ahead_of_its_time(one: Process, clock: Clock) -> None:
    await one.ring.rotate_if_due()
    old = await signed_by(one)
    added = await one.ring.rotate()
    assert added.signs_from == clock.at + PUBLISHED_AHEAD
    assert await signed_by(one) == old
    clock.advance(PUBLISHED_AHEAD)
    assert await signed_by(one) == added.id


async def test_private_keys_are_stored_sealed_and_published_nowhere(one: Process, superuser: Any) -> None:
    await one.ring.rotate_if_due()
    row = await superuser.fetchrow("SELECT id, public, private FROM signing_keys")
    signer = await one.ring.signer()
    secret = str(signer._key.as_dict(private=True)["d"])
    assert secret not in row["public"]
    assert secret.encode() not in row["private"]
    for key in json.loads(await one.ring.published())["keys"]:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert secret not in repr(one.ring._known)


async def test_a_sealed_key_is_good_in_its_own_row_alone(one: Process, two: Process, superuser: Any) -> None:
    await one.ring.rotate_if_due()
    await superuser.execute("UPDATE signing_keys SET id = 'moved'")
    with pytest.raises(NoSigningKeyError):
        await two.ring.signer()


async def test_a_process_whose_keyring_opens_nothing_signs_nothing_and_still_verifies(
    one: Process, database: Database, clock: Clock
) -> None:
    await one.ring.rotate_if_due()
    stranger = Process(database, Keyring.generate("k1"), clock)
    with pytest.raises(NoSigningKeyError):
        await stranger.ring.signer()
    assert await stranger.believes(await one.sign())


async def test_a_process_goes_on_while_the_database_is_away(
    one: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.ring.rotate_if_due()
    token = await one.sign()
    assert await one.believes(token)

    def away(_: object) -> Any:
        raise StorageUnavailableError("away")

    monkeypatch.setattr(one.ring._database, "organization_transaction", away)
    clock.advance(timedelta(minutes=5))
    await one.issuers.load()
    assert await one.believes(token)
    assert await one.sign()
    assert await one.ring.current_key_set()


async def test_a_strangers_token_costs_one_read_a_second(
    one: Process, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.ring.rotate_if_due()
    good = await one.sign()
    await one.believes(good)
    reads = 0
    original = one.ring.load

    async def counted() -> Any:
        nonlocal reads
        reads += 1
        return await original()

    monkeypatch.setattr(one.ring, "load", counted)
    forged = TokenIssuer(URL, new_signing_key()).mint(
        subject="x", audiences=[MCP], organization="acme", role=Role.ORG_ADMIN, lifetime_s=60
    )
    clock.advance(timedelta(seconds=2))
    for _ in range(50):
        assert not await one.believes(forged)
    assert reads == 1


async def test_changes_of_keys_are_in_the_log_of_the_deployment(one: Process, superuser: Any) -> None:
    before = await superuser.fetchval("SELECT count(*) FROM audit_log WHERE org_id = $1", DEPLOYMENT)
    await one.ring.rotate_if_due()
    await one.ring.replace()
    rows = await superuser.fetch(
        "SELECT action FROM audit_log WHERE org_id = $1 ORDER BY recorded_at DESC, sequence DESC LIMIT 3", DEPLOYMENT
    )
    after = await superuser.fetchval("SELECT count(*) FROM audit_log WHERE org_id = $1", DEPLOYMENT)
    assert after - before == 3
    assert sorted(row["action"] for row in rows) == ["issuer.key_added", "issuer.key_added", "issuer.key_removed"]
