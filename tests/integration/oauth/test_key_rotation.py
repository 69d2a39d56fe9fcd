"""Every sealed value under a new key while calls go on, and the old key out of the keyring afterwards."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from agentapi._core import Keyring
from agentapi.audit.log import AuditLog
from agentapi.egress import Egress
from agentapi.errors import StartupError
from agentapi.idempotency.ledger import Ledger
from agentapi.idempotency.models import Answer, Claim
from agentapi.identity.signing_keys.ring import SigningRing
from agentapi.jobs.queue import JobQueue
from agentapi.key_commands import sealed_columns
from agentapi.oauth.brought import store as brought_store
from agentapi.oauth.brought.models import Brought, BroughtId, Stored
from agentapi.oauth.brought.vault import BroughtVault
from agentapi.oauth.models import Client, ClientAuth, Registration
from agentapi.storage.embedded import APP_ROLE, EmbeddedPostgres, embedded_postgres
from agentapi.storage.migrations import migrate
from agentapi.storage.resealing import Progress, SealedColumn, count_by_key, reseal
from agentapi.tenancy.store import upsert_member
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.link import Caller
from agentapi.upstreams.models import Auth, secret_aad
from agentapi.upstreams.secrets import seal_secret
from integration.oauth.conftest import room_of
from support.deployment import agentapi
from tenants import NOW, make_tenant
from unit.oauth.sites import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydantic import SecretStr

    from agentapi.oauth.room import OAuthRoom
    from agentapi.storage.database import Database
    from agentapi.upstreams.models import Upstream
    from integration.oauth.conftest import Bench
    from tenants import Tenant

NOT_SEALED = {
    ("api_keys", "hash"),
    ("api_keys", "previous_hash"),
    ("audit_checkpoints", "hash"),
    ("audit_checkpoints", "previous"),
    ("audit_checkpoints", "signature"),
    ("audit_log", "hash"),
    ("audit_log", "previous"),
    ("idempotency_keys", "fingerprint"),
    ("idempotency_keys", "key_hash"),
    ("invitations", "token_hash"),
    ("oauth_flows", "browser_hash"),
    ("oauth_flows", "state_hash"),
    ("tool_approvals", "fingerprint"),
}
"""Columns of bytes that hold digests and signatures: no key opens them."""

BYTES = """
SELECT c.relname AS table_name, a.attname AS column_name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'bytea'::regtype
"""
PRIMARY_KEY = """
SELECT a.attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS part (attnum, place)
JOIN pg_attribute a ON a.attnum = part.attnum
WHERE i.indrelid = $1::regclass AND i.indisprimary AND a.attrelid = i.indrelid ORDER BY part.place
"""

FIRST = Keyring.generate("k1")
BOTH = Keyring.rotate(FIRST, "k2")
OLD_ACTIVE = json.dumps({**json.loads(BOTH), "active": "k1"})
SECOND = json.dumps({"active": "k2", "keys": {"k2": json.loads(BOTH)["keys"]["k2"]}})


@pytest.fixture(scope="module")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A cluster whose values no other test has sealed."""
    path = Path(tempfile.mkdtemp(prefix="agentapi-test-", dir="/tmp"))
    async with embedded_postgres(path) as server:
        await migrate(server.owner_dsn, APP_ROLE)
        yield server
    shutil.rmtree(path)


@pytest.fixture
async def oauth_keyring(postgres: EmbeddedPostgres) -> Keyring:
    """The keyring before the rotation, and a database in which nothing is sealed yet."""
    connection = await asyncpg.connect(postgres.superuser_dsn)
    await connection.execute("TRUNCATE organizations, jobs, signing_keys CASCADE")
    await connection.close()
    return Keyring.parse(OLD_ACTIVE)


async def sealed_upstream(database: Database, tenant: Tenant, keyring: Keyring) -> Upstream:
    upstream = replace(tenant.upstream("sealed"), auth=Auth.BEARER)
    upstream = replace(upstream, secret=seal_secret(keyring, upstream.org_id, upstream.id, "a shared secret"))
    async with database.tenant_transaction(tenant.principal) as connection:
        await upstream_store.insert_upstream(connection, upstream)
    return upstream


def ring_of(database: Database, keyring: Keyring) -> SigningRing:
    audit, life = AuditLog(database), timedelta(days=90)
    return SigningRing(database, keyring=keyring, audit=audit, issuer="https://gateway.example", rotate_after=life)


async def brought_values(bench: Bench, keyring: Keyring) -> Stored:
    principal = bench.principal
    row = Stored(
        id=BroughtId(uuid4()),
        org_id=principal.org_id,
        user_id=principal.user_id,
        upstream_id=bench.upstream.id,
        sealed=b"",
        created_at=NOW,
        updated_at=NOW,
    )
    values = Brought({"token": secret("a token of one's own")}, "https://upstream.example/mcp")
    sealed = BroughtVault(keyring).seal(
        values, id_=row.id, org_id=row.org_id, user_id=row.user_id, upstream_id=row.upstream_id
    )
    async with bench.database.tenant_transaction(principal) as connection:
        await upsert_member(connection, principal, email=None)
        return await brought_store.put(connection, replace(row, sealed=sealed))


async def kept_answer(bench: Bench, keyring: Keyring) -> Claim:
    claim = Claim.of(bench.principal, "k", (b"POST",))
    async with Ledger(bench.database, keyring=keyring).once(claim) as keep:
        await keep(Answer(201, ((b"etag", b'"1"'),), b"shown once"))
    return claim


async def counts(postgres: EmbeddedPostgres) -> dict[str, dict[str, int]]:
    return {str(column): found for column, found in (await count_by_key(postgres.owner_dsn, sealed_columns())).items()}


async def rotated(postgres: EmbeddedPostgres, **given: Any) -> dict[str, Progress]:
    done = await reseal(postgres.owner_dsn, sealed_columns(), Keyring.parse(BOTH), **given)
    return {str(column): progress for column, progress in done.items()}


async def bearer(room: OAuthRoom, bench: Bench, caller: Caller) -> str:
    """Return what a call of the room would carry, read from the database."""
    room.credentials.changed(caller.org_id, caller.user_id, bench.upstream.id, gone=False)
    return (await room.credentials.credential(bench.upstream, caller)).headers["Authorization"].get_secret_value()


def secret(text: str) -> SecretStr:
    from pydantic import SecretStr

    return SecretStr(text)


async def test_every_column_of_bytes_is_sealed_and_known_or_known_not_to_be(
    owner_connection: asyncpg.Connection[Any],
) -> None:
    """A new table with a sealed column has to be declared, or its values are lost with the old key."""
    found = {(row["table_name"], row["column_name"]) for row in await owner_connection.fetch(BYTES)}
    assert found - NOT_SEALED == {(column.table, column.column) for column in sealed_columns()}
    for column in sealed_columns():
        key = [row["attname"] for row in await owner_connection.fetch(PRIMARY_KEY, column.table)]
        assert key == [*column.key], column.table


async def test_the_application_sees_no_other_rows_by_what_the_owner_says(
    bench: Bench, app_connection: asyncpg.Connection[Any]
) -> None:
    await bench.connect()
    async with app_connection.transaction():
        await app_connection.fetchval("SELECT set_config('app.maintenance', 'keys', true)")
        for column in sealed_columns():
            if column.table != "jobs":  # That knows no tenant.
                assert await app_connection.fetchval(f"SELECT count(*) FROM {column.table}") == 0  # noqa: S608


async def test_a_role_that_does_not_see_every_row_is_refused_rather_than_told_that_all_is_done(
    bench: Bench, postgres: EmbeddedPostgres
) -> None:
    await bench.connect()
    with pytest.raises(StartupError, match="does not see every row of upstreams"):
        await count_by_key(postgres.app_dsn, sealed_columns())


async def test_what_is_sealed_anew_opens_without_the_old_key(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring
) -> None:
    await bench.connect()
    by_hand = Client(
        issuer="https://by-hand.example",
        client_id="by-hand",
        secret=secret("a client's secret"),
        auth_method=ClientAuth.POST,
        registration=Registration.MANUAL,
    )
    await bench.room.clients.put(bench.principal, by_hand)
    shared = await sealed_upstream(bench.database, bench.tenant, oauth_keyring)
    brought = await brought_values(bench, oauth_keyring)
    answered = await kept_answer(bench, oauth_keyring)
    waiting = await bench.init()
    await ring_of(bench.database, oauth_keyring).rotate_if_due()
    before = await counts(postgres)
    assert {name: {*found} for name, found in before.items()} == {str(column): {"k1"} for column in sealed_columns()}

    done = await rotated(postgres)
    assert {name: made.resealed for name, made in done.items()} == {name: n["k1"] for name, n in before.items()}
    assert {key_id for found in (await counts(postgres)).values() for key_id in found} == {"k2"}

    async with Egress(LOOPBACK, timeout_s=5.0) as egress:
        with_both = room_of(bench.database, egress, Keyring.parse(BOTH), bench.clock)
        await with_both.flows.finish(bench.answer(waiting), browser=waiting.browser)
        only_new = Keyring.parse(SECOND)
        room = room_of(bench.database, egress, only_new, bench.clock)
        caller = Caller(bench.principal.org_id, bench.principal.user_id)
        assert (await bearer(room, bench, caller)).startswith("Bearer access-")
        bench.clock.moved += timedelta(hours=1)
        await bearer(room, bench, caller)
        assert bench.provider.refreshes == 1
    async with bench.database.tenant_transaction(bench.principal) as connection:
        found = await upstream_store.get_upstream(connection, shared.id)
        values = await brought_store.find(connection, brought.user_id, brought.upstream_id)
    again = await Ledger(bench.database, keyring=only_new).answered(answered)
    assert again is not None
    assert again.body == b"shown once"
    assert values is not None
    assert BroughtVault(only_new).open(values).values["token"].get_secret_value() == "a token of one's own"
    assert (await ring_of(bench.database, only_new).signer()).issuer == "https://gateway.example"
    assert found.secret is not None
    assert only_new.open(found.secret, secret_aad(found.org_id, found.id)) == b"a shared secret"


async def test_a_second_run_changes_nothing(bench: Bench, postgres: EmbeddedPostgres) -> None:
    await bench.connect()
    await rotated(postgres)
    assert {made.resealed for made in (await rotated(postgres)).values()} == {0}


async def test_a_run_that_was_interrupted_goes_on_where_it_ended(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring
) -> None:
    for _ in range(5):
        await sealed_upstream(bench.database, await make_tenant(bench.database), oauth_keyring)

    def interrupt(_: SealedColumn, progress: Progress) -> None:
        if progress.resealed == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rotated(postgres, tell=interrupt, batch=1)
    assert (await counts(postgres))["upstreams.secret"] == {"k1": 3, "k2": 2}
    assert (await rotated(postgres))["upstreams.secret"].resealed == 3


async def test_a_value_that_does_not_open_is_told_and_holds_up_no_other(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring
) -> None:
    broken = await sealed_upstream(bench.database, bench.tenant, oauth_keyring)
    other = await sealed_upstream(bench.database, await make_tenant(bench.database), oauth_keyring)
    async with bench.database.tenant_transaction(bench.principal) as connection:
        moved = seal_secret(oauth_keyring, broken.org_id, other.id, "moved here")
        await connection.execute("UPDATE upstreams SET secret = $1 WHERE id = $2", moved, broken.id)
    made = (await rotated(postgres, batch=1))["upstreams.secret"]
    assert (made.resealed, made.unopened, made.remaining) == (1, 1, 1)
    assert made.rows == [f"{broken.org_id}/{broken.id}"]


async def test_calls_and_refreshes_go_on_while_keys_are_rotated(bench: Bench, postgres: EmbeddedPostgres) -> None:
    """Twenty people call without a pause, in a process that still seals under the old key and one under the new."""
    people = [bench.tenant, *(bench.tenant.colleague(f"person-{number}") for number in range(19))]
    for person in people:
        begun = await bench.init(principal=person.principal)
        await bench.finish(begun)
    bench.clock.moved += timedelta(hours=1)
    calls = 0
    begun_to_refresh, over = asyncio.Event(), asyncio.Event()
    async with Egress(LOOPBACK, timeout_s=5.0) as egress:
        new = room_of(bench.database, egress, Keyring.parse(BOTH), bench.clock)

        async def call(person: Tenant, number: int) -> None:
            nonlocal calls
            while not over.is_set():
                room = (bench.room, new)[(number + calls) % 2]
                caller = Caller(person.principal.org_id, person.principal.user_id)
                assert (await bearer(room, bench, caller)).startswith("Bearer access-")
                calls += 1
                if bench.provider.refreshes >= 5:
                    begun_to_refresh.set()

        calling = [asyncio.ensure_future(call(person, number)) for number, person in enumerate(people)]
        await begun_to_refresh.wait()
        first = await rotated(postgres, batch=3)
        over.set()
        await asyncio.gather(*calling)
        await new.refresher.aclose()
    assert first["oauth_connections.sealed"].resealed > 0
    assert bench.provider.refreshes == len(people)
    await rotated(postgres)
    assert {*(await counts(postgres))["oauth_connections.sealed"]} == {"k2"}


async def test_the_commands_lead_from_one_key_to_the_next(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring, tmp_path: Path
) -> None:
    await sealed_upstream(bench.database, bench.tenant, oauth_keyring)
    async with bench.database.tenant_transaction(bench.principal) as connection:
        queue = JobQueue("", keyring=oauth_keyring, timeout_s=5.0)
        await queue.put(connection, "test.rotation", {"id": uuid4().hex}, after=timedelta(hours=1))
    file = tmp_path / "keyring.json"
    env = {"AGENTAPI_KEYRING_FILE": str(file), "AGENTAPI_MIGRATION_DATABASE_URL": postgres.owner_dsn}

    async def keys(*arguments: str) -> tuple[int, str, str]:
        ended = await asyncio.to_thread(agentapi, "keys", *arguments, env=env)
        return ended.returncode, ended.stdout, ended.stderr

    async def store(*arguments: str) -> None:
        status, text, complaint = await keys(*arguments)
        assert status == 0, complaint
        file.write_text(text)

    file.write_text(FIRST)
    await store("add", "k2")
    assert json.loads(file.read_text())["active"] == "k1"
    await store("activate", "k2")
    status, _, complaint = await keys("remove", "k1")
    assert status == 1
    assert "k1 is still needed: 1 in upstreams.secret, 1 in jobs.payload" in complaint
    assert "upstreams.secret: 1 to seal anew" in (await keys("rotate", "--dry-run"))[1]
    status, out, complaint = await keys("rotate", "--json")
    assert status == 0, complaint
    assert json.loads(out)["columns"]["upstreams.secret"] == {
        "resealed": 1,
        "unopened": 0,
        "remaining": 0,
        "rows": [],
    }
    assert "upstreams.secret: 1 sealed anew" in complaint
    assert "k1: 0 values, not needed by anything stored" in (await keys("status"))[1]
    _, _, advice = await keys("remove", "k1")
    assert "store what `agentapi audit keys` prints: it has the public key of k1" in advice
    await store("remove", "k1")
    assert json.loads(file.read_text())["keys"].keys() == {"k2"}
    status, out, _ = await keys("status", "--json")
    assert status == 0
    assert json.loads(out)["unknown_keys"] == []
    file.write_text(Keyring.generate("k3"))
    status, out, complaint = await keys("status")
    assert status == 1
    assert "values under k2, which the keyring does not have" in complaint
    assert (await keys("rotate"))[0] == 1
