"""Months that are dropped, and checks that go on behind them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from agentapi._core import Keyring
from agentapi.audit import store
from agentapi.audit.models import Actor, Entry, Outcome
from agentapi.audit.retention import drop_old_months
from agentapi.audit.signing import SigningKeys
from agentapi.audit.verify import Report, verify
from agentapi.errors import ConflictError
from agentapi.principal import OrgId
from agentapi.storage.database import Database
from agentapi.storage.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres
from agentapi.storage.migrations import migrate
from integration.audit.logs import rows_of, running
from integration.audit.test_commands import audit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEYS = SigningKeys.from_keyring(Keyring.generate("k1"))
PAST = """
CREATE TABLE audit_log_2024_01 PARTITION OF audit_log FOR VALUES FROM ('2024-01-01Z') TO ('2024-02-01Z');
CREATE TABLE audit_checkpoints_2024_01 PARTITION OF audit_checkpoints
    FOR VALUES FROM ('2024-01-01Z') TO ('2024-02-01Z');
SELECT audit_seal_partition('audit_log_2024_01'), audit_seal_partition('audit_checkpoints_2024_01');
"""
CALLED = Entry("tools.call", Outcome.SUCCESS)
YEAR = timedelta(days=365)


@pytest.fixture
async def fresh(postgres: EmbeddedPostgres) -> AsyncIterator[tuple[Database, asyncpg.Connection[Any]]]:
    """A database of this test alone, since a month is dropped for everybody."""
    name = f"retention_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.superuser_dsn)
    await admin.execute(f"CREATE DATABASE {name} OWNER {OWNER_ROLE}")
    await admin.execute(f"GRANT CONNECT ON DATABASE {name} TO {APP_ROLE}")
    owner_dsn = postgres.owner_dsn.replace("/agentapi?", f"/{name}?")
    await migrate(owner_dsn, APP_ROLE)
    app_dsn = postgres.app_dsn.replace("/agentapi?", f"/{name}?")
    database = await Database.connect(app_dsn, pool_min=0, pool_max=4, timeout_s=5.0)
    owner = await asyncpg.connect(owner_dsn)
    yield database, owner
    await owner.close()
    await database.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def verified(owner: asyncpg.Connection[Any], org_id: OrgId) -> Report:
    async with owner.transaction(isolation="repeatable_read", readonly=True):
        return await verify(owner, org_id, KEYS.public)


async def written(database: Database, org_id: OrgId, *times: datetime) -> None:
    """Write rows of one chain, with a checkpoint behind each."""
    now_us = 0
    async with running(database, keys=KEYS, checkpoint_s=3600.0, clock_us=lambda: now_us) as log:
        for time in times:
            now_us = store.to_us(time)
            await log.call(Actor(org_id), CALLED)
            assert log._checkpoints is not None
            await log._checkpoints.take(org_id)


async def test_verification_goes_on_behind_a_month_that_was_dropped(
    fresh: tuple[Database, asyncpg.Connection[Any]],
) -> None:
    database, owner = fresh
    org_id, quiet = OrgId(uuid4()), OrgId(uuid4())
    now = datetime.now(UTC)
    later = now + timedelta(days=32)
    await written(database, org_id, now, now + timedelta(seconds=1), later)
    await written(database, quiet, now)
    kept = await drop_old_months(owner, KEYS, KEYS.public, now=now + timedelta(days=300), keep=YEAR)
    assert kept == []
    dropped = await drop_old_months(owner, KEYS, KEYS.public, now=now + timedelta(days=400), keep=YEAR)
    assert dropped == [f"{now:%Y-%m}"]
    for organization, rows in ((org_id, 1), (quiet, 0)):
        report = await verified(owner, organization)
        assert [(finding.kind, finding.message) for finding in report.findings] == []
        assert report.rows == rows
    (left,) = await rows_of(database, org_id)
    assert left.sequence == 3
    await written(database, org_id, now + timedelta(days=401))
    assert (await verified(owner, org_id)).findings == []


async def test_a_month_that_was_dropped_without_a_checkpoint_is_missing(
    fresh: tuple[Database, asyncpg.Connection[Any]],
) -> None:
    database, owner = fresh
    org_id, now = OrgId(uuid4()), datetime.now(UTC)
    await written(database, org_id, now, now + timedelta(days=32))
    await store.drop_month(owner, now)
    report = await verified(owner, org_id)
    assert [finding.kind for finding in report.findings] == ["checkpoint_missing", "missing"]


async def test_a_log_that_is_not_intact_is_not_dropped_from(fresh: tuple[Database, asyncpg.Connection[Any]]) -> None:
    database, owner = fresh
    org_id, now = OrgId(uuid4()), datetime.now(UTC)
    await written(database, org_id, now, now + timedelta(seconds=1))
    month = f"audit_log_{now:%Y_%m}"
    await owner.execute(f"ALTER TABLE {month} DISABLE TRIGGER USER, DISABLE ROW LEVEL SECURITY")
    await owner.execute(f"UPDATE {month} SET action = 'x.y' WHERE sequence = 1")  # noqa: S608
    with pytest.raises(ConflictError, match="not intact"):
        await drop_old_months(owner, KEYS, KEYS.public, now=now + timedelta(days=400), keep=YEAR)
    assert len(await rows_of(database, org_id)) == 2


async def test_partitions_are_made_ahead_and_a_month_without_one_keeps_its_rows(
    fresh: tuple[Database, asyncpg.Connection[Any]],
) -> None:
    database, owner = fresh
    org_id, now = OrgId(uuid4()), datetime.now(UTC)
    far = now + timedelta(days=365 * 5)
    await written(database, org_id, far)
    assert await owner.fetchval("SELECT count(*) FROM audit_log WHERE tableoid = 'audit_log_default'::regclass") == 1
    before = len(await store.partitioned_months(owner))
    await store.create_partitions(owner, before + 2)
    await store.create_partitions(owner, before + 2)
    assert len(await store.partitioned_months(owner)) == before + 2
    assert (await verified(owner, org_id)).findings == []


async def test_the_command_drops_what_a_key_signed_that_has_left_the_keyring(
    fresh: tuple[Database, asyncpg.Connection[Any]], postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    database, owner = fresh
    await owner.execute(PAST)
    org_id = OrgId(uuid4())
    await written(database, org_id, datetime(2024, 1, 15, tzinfo=UTC), datetime.now(UTC))
    keyring, kept = tmp_path / "keyring.json", tmp_path / "audit-keys.json"
    keyring.write_text(Keyring.generate("k2"))
    kept.write_text(KEYS.public.as_json())
    name = await owner.fetchval("SELECT current_database()")
    dsn = postgres.owner_dsn.replace("/agentapi?", f"/{name}?")
    env = {"AGENTAPI_MIGRATION_DATABASE_URL": dsn, "AGENTAPI_KEYRING_FILE": str(keyring)}
    given = ("--public-keys", str(kept))
    status, _, complaint = await audit(env, "retain")
    assert (status, "checkpoint_key_unknown" in complaint) == (1, True), complaint
    status, out, complaint = await audit(env, "retain", *given)
    assert (status, out.splitlines()[-1:]) == (0, ["dropped 2024-01"]), complaint
    # What vouches for the month that is gone was signed with the new key, and what stays with the old one.
    assert (await audit(env, "verify"))[0] == 1
    status, out, complaint = await audit(env, "verify", *given)
    assert status == 0, out + complaint
    # Whoever checks elsewhere has no keyring.
    new = {**json.loads(KEYS.public.as_json()), **json.loads((await audit(env, "keys"))[1])}
    kept.write_text(json.dumps(new))
    status, out, complaint = await audit({"AGENTAPI_MIGRATION_DATABASE_URL": dsn}, "verify", *given)
    assert status == 0, out + complaint
