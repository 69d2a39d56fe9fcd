"""What only the owner of the tables can do, or the operator of the database: what of it is found, and what is not."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from agentapi._core import Keyring
from agentapi.audit import store
from agentapi.audit.chain import hash_of, link
from agentapi.audit.checkpoints import encoded, heads_json, insert_signed
from agentapi.audit.models import Checkpoint, Draft, Head, WriterId
from agentapi.audit.signing import SigningKeys
from agentapi.audit.verify import verify
from integration.audit.world import KEYS, World, found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.audit.models import AuditRow
    from agentapi.audit.verify import Report

STRANGER = SigningKeys.from_keyring(Keyring.generate("k1"))


@asynccontextmanager
async def undone(world: World) -> AsyncIterator[None]:
    """A transaction that is rolled back: the log is that of all tests."""
    transaction = world.owner.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def reported(world: World) -> Report:
    return await verify(world.owner, world.tenant.principal.org_id, KEYS.public)


def month_of(rows: list[AuditRow]) -> str:
    return store.from_us(rows[0].recorded_at_us).strftime("%Y_%m")


def written_anew(rows: list[AuditRow], head: Head | None, action: str) -> list[AuditRow]:
    """Return rows in the place of others, each with hashes that fit."""
    made = []
    for row in rows:
        draft = Draft(
            row.org_id,
            row.recorded_at_us,
            row.actor_id,
            action,
            row.outcome,
            row.resource,
            row.address,
            row.agent,
            row.request_id,
            row.details,
        )
        made.append(link(draft, row.writer_id if head is None else head.writer_id, head))
        head = head_of(made[-1])
    return made


def head_of(row: AuditRow) -> Head:
    return Head(row.writer_id, row.sequence, row.hash, row.recorded_at_us)


async def replaced(world: World, first: int, forged: list[AuditRow]) -> None:
    async with world.unguarded():
        await world.owner.execute(
            "DELETE FROM audit_log WHERE org_id = $1 AND sequence >= $2", world.tenant.principal.org_id, first
        )
        for row in forged:
            await world.put(row)


def signed(keys: SigningKeys, before: Checkpoint, statement: str, *, key_id: str = "k1") -> Checkpoint:
    """Return what would come in the place of a checkpoint, or behind it."""
    unsigned = replace(before, statement=statement, key_id=key_id)
    data = encoded(unsigned)
    return replace(unsigned, hash=sha256(data).digest(), signature=keys.sign(data))


async def the_checkpoint(world: World) -> Checkpoint:
    async with world.pool.tenant_transaction(world.tenant.principal) as connection:
        last = await store.last_checkpoint(connection, world.tenant.principal.org_id)
    assert last is not None
    return last


async def test_a_log_that_was_emptied_is_named(world: World) -> None:
    async with undone(world):
        await world.owner.execute("ALTER TABLE audit_log DISABLE TRIGGER USER")
        for partition in await world.owner.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'audit_log'::regclass"
        ):
            await world.owner.execute(f"ALTER TABLE {partition['name']} DISABLE TRIGGER USER")
        await world.owner.execute("TRUNCATE audit_log")
        assert found(await reported(world)) == [("cut_tail", 1)]


async def test_the_owner_is_refused_to_empty_a_month(world: World) -> None:
    month = month_of(await world.rows())
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await world.owner.execute(f"TRUNCATE audit_log_{month}")


@pytest.mark.parametrize("sql", ["DROP TABLE audit_log_{0}", "ALTER TABLE audit_log DETACH PARTITION audit_log_{0}"])
async def test_a_month_that_was_dropped_without_a_checkpoint_is_named(world: World, sql: str) -> None:
    month = month_of(await world.rows())
    async with undone(world):
        await world.owner.execute(sql.format(month))
        assert found(await reported(world)) == [("cut_tail", 1)]


async def test_rows_that_are_hidden_from_the_one_who_verifies_are_missing(world: World) -> None:
    async with undone(world):
        await world.owner.execute(
            "CREATE POLICY hide ON audit_log AS RESTRICTIVE FOR SELECT TO CURRENT_USER USING (sequence NOT IN (5, 6))"
        )
        assert found(await reported(world)) == [("missing", 7)]


async def test_two_rows_that_changed_places_with_hashes_that_fit_are_named(world: World) -> None:
    rows = await world.rows()
    five, six = rows[4], rows[5]
    swapped = [replace(six, sequence=5, recorded_at_us=five.recorded_at_us, previous=five.previous)]
    swapped[0] = replace(swapped[0], hash=hash_of(swapped[0]))
    second = replace(five, sequence=6, recorded_at_us=six.recorded_at_us, previous=swapped[0].hash)
    swapped.append(replace(second, hash=hash_of(second)))
    await replaced(world, 5, [*swapped, *rows[6:]])
    assert found(await world.verified()) == [("unlinked", 7)]


async def test_a_chain_that_was_written_anew_from_its_middle_contradicts_its_checkpoint(world: World) -> None:
    rows = await world.rows()
    await replaced(world, 11, written_anew(rows[10:], head_of(rows[9]), "x.y"))
    assert found(await world.verified()) == [("rewritten", 20)]


async def test_what_no_checkpoint_names_yet_can_be_written_anew_or_cut_off(world: World) -> None:
    """The owner's limit: a minute of rows, or what came in since the process died that would have signed them."""
    await world.written(5)
    rows = await world.rows()
    await replaced(world, 21, written_anew(rows[20:], head_of(rows[19]), "x.y"))
    report = await world.verified()
    assert (found(report), report.uncovered_rows) == ([], 5)
    await replaced(world, 21, [])
    report = await world.verified()
    assert (found(report), report.uncovered_rows) == ([], 0)


async def test_a_chain_that_no_checkpoint_names_yet_goes_unseen(world: World) -> None:
    rows = await world.rows()
    new = [replace(row, writer_id=WriterId(uuid4())) for row in rows[:1]]
    made = [replace(row, hash=hash_of(row)) for row in new]
    async with world.unguarded():
        await world.put(made[0])
    report = await world.verified()
    assert (found(report), report.chains, report.uncovered_rows) == ([], 2, 1)
    await world.attack("DELETE FROM audit_log WHERE writer_id = $1", made[0].writer_id)
    assert found(await world.verified()) == []


@pytest.mark.parametrize(
    ("key_id", "kind"), [("k1", "checkpoint_forged"), ("k2", "checkpoint_key_unknown")], ids=["same name", "new name"]
)
async def test_a_second_signer_is_none(world: World, key_id: str, kind: str) -> None:
    """Rows and checkpoint are all written anew and agree with one another; only the key is not the gateway's."""
    rows = await world.rows()
    forged = written_anew(rows, None, "x.y")
    statement = json.dumps({"heads": heads_json([head_of(forged[-1])])})
    checkpoint = signed(STRANGER, await the_checkpoint(world), statement, key_id=key_id)
    await replaced(world, 1, forged)
    async with world.unguarded():
        await world.owner.execute("DELETE FROM audit_checkpoints WHERE org_id = $1", checkpoint.org_id)
        await store.insert_checkpoint(world.owner, checkpoint)
    assert found(await world.verified()) == [(kind, 1)]


async def test_the_application_cannot_make_a_checkpoint_without_the_key(world: World) -> None:
    """It may insert one, as it has to; what that says is believed of nobody."""
    last = await the_checkpoint(world)
    behind = replace(last, sequence=2, taken_at_us=last.taken_at_us + 1, previous=last.hash, kind="retention")
    dropped = heads_json([head_of((await world.rows())[9])])
    forged = signed(STRANGER, behind, json.dumps({"checkpoints": None, "dropped": dropped}))
    async with world.pool.tenant_transaction(world.tenant.principal) as connection:
        await store.insert_checkpoint(connection, forged)
    assert found(await world.verified()) == [("checkpoint_forged", 2)]


async def test_keys_that_the_gateway_had_one_after_the_other_are_each_good(world: World) -> None:
    second = SigningKeys.from_keyring(Keyring.generate("k2"))
    org_id, last = world.tenant.principal.org_id, await the_checkpoint(world)
    await world.written(1)
    statement = {"heads": heads_json([head_of((await world.rows())[-1])])}
    async with world.pool.tenant_transaction(world.tenant.principal) as connection:
        await insert_signed(
            connection,
            second,
            last,
            org_id=org_id,
            kind="periodic",
            statement=statement,
            now_us=last.taken_at_us,
        )
    async with undone(world):
        assert found(await verify(world.owner, org_id, KEYS.public.joined(second.public))) == []
        assert found(await verify(world.owner, org_id, second.public)) == [("checkpoint_key_unknown", 1)]
