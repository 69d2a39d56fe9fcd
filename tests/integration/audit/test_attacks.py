"""What can be done to the log: as the application's role, which is refused, and as the owner, which is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from agentapi._core import Keyring
from agentapi.audit import store
from agentapi.audit.chain import hash_of, link
from agentapi.audit.models import Draft, Entry, Head, Outcome
from agentapi.audit.signing import PublicKeys, SigningKeys
from agentapi.audit.verify import verify
from agentapi.principal import UserId
from integration.audit.world import World, found
from tenants import make_tenant

if TYPE_CHECKING:
    from agentapi.audit.models import AuditRow


async def test_an_untouched_log_is_in_order(world: World) -> None:
    async with world.pool.tenant_transaction(world.tenant.principal) as connection:
        await world.log.record(connection, world.tenant.principal, Entry("policy.updated", Outcome.SUCCESS))
    await world.written(3)
    report = await world.verified()
    assert found(report) == []
    assert (report.rows, report.chains, report.checkpoints, report.uncovered_rows) == (24, 2, 1, 4)


@pytest.mark.parametrize("table", ["audit_log", "audit_checkpoints", "partition"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET {} = DEFAULT", "DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}"])
async def test_the_application_can_only_add_and_read(world: World, table: str, verb: str) -> None:
    name = "audit_log_default" if table == "partition" else table
    column = "statement" if table == "audit_checkpoints" else "action"
    async with world.pool.tenant_transaction(world.tenant.principal) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(verb.format(name, column))


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_log_append_only ON audit_log",
        "CREATE OR REPLACE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE sql AS 'SELECT NULL'",
        "SET session_replication_role = replica",
        "SELECT audit_create_partitions(200)",
        "ALTER TABLE audit_log DETACH PARTITION audit_log_default",
        "ALTER TABLE audit_log_default DISABLE TRIGGER ALL",
        "CREATE POLICY mine ON audit_log USING (true)",
        "ALTER TABLE audit_log NO FORCE ROW LEVEL SECURITY",
        "TRUNCATE audit_log_default",
        "LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE",
        "SELECT audit_seal_partition('audit_log_default')",
        "INSERT INTO audit_log SELECT * FROM audit_log ON CONFLICT DO NOTHING; SELECT * FROM audit_log_default",
        "MERGE INTO audit_log l USING (SELECT 1) AS x ON true WHEN MATCHED THEN DELETE",
        "INSERT INTO audit_log SELECT * FROM audit_log ON CONFLICT ON CONSTRAINT audit_log_pkey DO UPDATE SET agent=''",
    ],
)
async def test_the_application_cannot_lift_the_guards(world: World, sql: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.pool.tenant_transaction(world.tenant.principal) as connection:
            await connection.execute(sql)


async def test_a_row_of_another_organisation_is_neither_read_nor_written(world: World) -> None:
    other = await make_tenant(world.pool)
    row = (await world.rows())[0]
    async with world.pool.tenant_transaction(other.principal) as connection:
        assert await connection.fetch("SELECT * FROM audit_log") == []
        assert await connection.fetch("SELECT * FROM audit_checkpoints") == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with world.pool.tenant_transaction(other.principal) as connection:
            await store.append(connection, row)


@pytest.mark.parametrize("sql", ["UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"])
async def test_the_owner_is_refused_as_long_as_the_triggers_stand(world: World, sql: str) -> None:
    month = await world.owner.fetchval("SELECT 'audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
    for statement in (sql, sql.replace("audit_log", month)):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await world.owner.execute(statement)


@pytest.mark.parametrize(
    "change",
    [
        "action = 'x.y'",
        "outcome = 'denied'",
        "actor_id = gen_random_uuid()",
        "actor_id = NULL",
        "resource = 'x'",
        "address = '1'",
        "agent = 'x'",
        "request_id = 'x'",
        "details = '{}'",
        "recorded_at = recorded_at + interval '1 microsecond'",
        "hash = sha256(hash)",
    ],
)
async def test_a_changed_row_is_named(world: World, change: str) -> None:
    await world.attack(
        f"UPDATE audit_log SET {change} WHERE org_id = $1 AND sequence = 7",  # noqa: S608
        world.tenant.principal.org_id,
    )
    assert found(await world.verified()) == [("changed", 7)]


async def test_a_changed_row_with_a_hash_that_fits_breaks_the_next(world: World) -> None:
    row = (await world.rows())[6]
    changed = replace(row, action="x.y")
    await world.attack(
        "UPDATE audit_log SET action = 'x.y', hash = $2 WHERE org_id = $1 AND sequence = 7",
        row.org_id,
        hash_of(changed),
    )
    assert found(await world.verified()) == [("unlinked", 8)]


async def test_missing_rows_are_named(world: World) -> None:
    await world.attack("DELETE FROM audit_log WHERE org_id = $1 AND sequence IN (5, 6)", world.tenant.principal.org_id)
    report = await world.verified()
    assert found(report) == [("missing", 7)]
    assert "rows 5 to 6" in report.findings[0].message


async def test_a_missing_beginning_is_named(world: World) -> None:
    await world.attack("DELETE FROM audit_log WHERE org_id = $1 AND sequence < 5", world.tenant.principal.org_id)
    assert found(await world.verified()) == [("missing", 5)]


async def test_rows_that_changed_places_are_named(world: World) -> None:
    await world.attack(
        "UPDATE audit_log SET sequence = CASE sequence WHEN 5 THEN 6 ELSE 5 END"
        " WHERE org_id = $1 AND sequence IN (5, 6)",
        world.tenant.principal.org_id,
    )
    assert found(await world.verified()) == [("changed", 5)]


async def test_an_inserted_row_is_named(world: World) -> None:
    row = (await world.rows())[6]
    forged = replace(row, action="x.y", recorded_at_us=row.recorded_at_us + 1)
    async with world.unguarded():
        await world.put(replace(forged, hash=hash_of(forged)))
    assert found(await world.verified()) in ([("inserted", 7)], [("unlinked", 7)], [("unlinked", 8)])


async def test_a_cut_tail_is_named_as_far_as_a_checkpoint_knows_of_it(world: World) -> None:
    await world.written(5)
    await world.attack("DELETE FROM audit_log WHERE org_id = $1 AND sequence > 22", world.tenant.principal.org_id)
    assert found(await world.verified()) == []
    await world.attack("DELETE FROM audit_log WHERE org_id = $1 AND sequence > 15", world.tenant.principal.org_id)
    assert found(await world.verified()) == [("cut_tail", 16)]


async def test_a_chain_that_is_missing_as_a_whole_is_named(world: World) -> None:
    await world.attack("DELETE FROM audit_log WHERE org_id = $1", world.tenant.principal.org_id)
    report = await world.verified()
    assert found(report) == [("cut_tail", 1)]
    assert "the chain is missing" in report.findings[0].message


async def test_a_chain_that_was_written_anew_contradicts_its_checkpoint(world: World) -> None:
    rows = await world.rows()
    async with world.unguarded():
        await world.owner.execute("DELETE FROM audit_log WHERE org_id = $1", rows[0].org_id)
        head = None
        for row in rows:
            draft = Draft(row.org_id, row.recorded_at_us, row.actor_id, "x.y", *_rest(row))
            forged = link(draft, row.writer_id, head)
            await world.put(forged)
            head = Head(forged.writer_id, forged.sequence, forged.hash, forged.recorded_at_us)
    assert found(await world.verified()) == [("rewritten", 20)]


def _rest(row: AuditRow) -> tuple[str, str, str, str, str, str]:
    return row.outcome, row.resource, row.address, row.agent, row.request_id, row.details


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("statement = '{\"heads\":[]}'", "checkpoint_changed"),
        ("taken_at = taken_at - interval '1 day'", "checkpoint_changed"),
        ("signature = decode(repeat('00', 64), 'hex')", "checkpoint_forged"),
        ("key_id = 'k9'", "checkpoint_changed"),
    ],
)
async def test_a_checkpoint_that_was_changed_is_named(world: World, change: str, kind: str) -> None:
    await world.attack(
        f"UPDATE audit_checkpoints SET {change} WHERE org_id = $1",  # noqa: S608
        world.tenant.principal.org_id,
    )
    assert found(await world.verified()) == [(kind, 1)]


async def test_a_checkpoint_signed_with_another_key_is_no_checkpoint(world: World) -> None:
    other = SigningKeys.from_keyring(Keyring.generate("k1"))
    async with world.owner.transaction(isolation="repeatable_read", readonly=True):
        report = await verify(world.owner, world.tenant.principal.org_id, other.public)
        none = await verify(world.owner, world.tenant.principal.org_id, PublicKeys({}))
    assert found(report) == [("checkpoint_forged", 1)]
    assert found(none) == [("checkpoint_key_unknown", 1)]


async def test_a_missing_checkpoint_is_named(world: World) -> None:
    for _ in range(2):
        await world.written(1)
        await world.checkpoint()
    await world.attack(
        "DELETE FROM audit_checkpoints WHERE org_id = $1 AND sequence = 2", world.tenant.principal.org_id
    )
    assert found(await world.verified()) == [("checkpoint_missing", 3)]
    await world.attack(
        "DELETE FROM audit_checkpoints WHERE org_id = $1 AND sequence < 3", world.tenant.principal.org_id
    )
    assert found(await world.verified()) == [("checkpoint_missing", 3)]


async def test_an_older_state_of_everything_shows_against_what_was_kept_elsewhere(world: World) -> None:
    org_id = world.tenant.principal.org_id
    await world.written(3)
    await world.checkpoint()
    kept = {
        row["sequence"]: row["hash"].hex()
        for row in await world.owner.fetch("SELECT sequence, hash FROM audit_checkpoints WHERE org_id = $1", org_id)
    }
    assert found(await world.verified(anchors=kept)) == []
    await world.attack("DELETE FROM audit_log WHERE org_id = $1 AND sequence > 20", org_id)
    await world.attack("DELETE FROM audit_checkpoints WHERE org_id = $1 AND sequence > 1", org_id)
    assert found(await world.verified()) == []
    assert found(await world.verified(anchors=kept)) == [("rolled_back", 2)]
    assert found(await world.verified(anchors={1: "00"})) == [("checkpoint_replaced", 1)]


async def test_a_row_appended_by_whoever_is_the_application_is_not_told_from_its_own(world: World) -> None:
    """The limit of any log: who may write may write. Its own process, which goes on, shows that there are two."""
    rows = await world.rows()
    head = Head(rows[-1].writer_id, 20, rows[-1].hash, rows[-1].recorded_at_us)
    forged = link(
        Draft(rows[0].org_id, rows[-1].recorded_at_us + 1, UserId(uuid4()), "x.y", *_rest(rows[0])),
        head.writer_id,
        head,
    )
    async with world.pool.tenant_transaction(world.tenant.principal) as connection:
        await store.append(connection, forged)
    assert found(await world.verified()) == []
    await world.written(1)
    assert [kind for kind, _ in found(await world.verified())] == ["inserted"]
