"""How PostgreSQL carries out every statement of every store: no tenant table is ever read from end to end."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

import agentapi
from agentapi.audit import store as audit_store
from agentapi.audit.models import Filter, Position
from support.filling import TENANT_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.storage.conftest import Filled

STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH)\b")

BY_THE_OWNER = {
    "audit._ORGANIZATIONS",
    "audit._ORGANIZATIONS_BETWEEN",
    "audit._LAST_CHECKPOINT_BETWEEN",
    "audit._CHAIN_HEADS",
    "audit._ROWS_TO_VERIFY",
    "audit._CHECKPOINTS_TO_VERIFY",
}
"""What the owner of the schema asks as well, or alone: its policies show all organisations."""

EXPLAINED = """
CREATE FUNCTION explained(statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || statement INTO plan;
    RETURN plan;
END
$$
"""
"""A statement with parameters cannot be explained over the extended protocol without values for them."""

TEMPLATES = {"audit._FIND"}
"""What is filled in before it is asked; ``_filled_in`` has it in every form."""


def constants() -> Iterator[tuple[str, str]]:
    """Return every statement of every store by the names of its room and constant."""
    for module in pkgutil.walk_packages(agentapi.__path__, "agentapi."):
        if module.name.rpartition(".")[2] == "store":
            room = module.name.removeprefix("agentapi.").removesuffix(".store")
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, str) and STATEMENT.match(value) and not name.startswith("__"):
                    yield f"{room}.{name}", value


class _Asked:
    """Takes statements as a connection would, and answers nothing."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    async def fetch(self, sql: str, *_: object) -> list[asyncpg.Record]:
        self.statements.append(sql)
        return []


async def _filled_in() -> list[tuple[str, str]]:
    """Return the query of the audit log with each filter alone, with all and with none; at the beginning and behind."""
    org_id, asked = UUID(int=1), _Asked()
    moment = audit_store.from_us(1_800_000_000_000_000)
    every: dict[str, Any] = {
        "actor_id": org_id,
        "action": "a.b",
        "resource": "r",
        "outcome": "denied",
        "request_id": "r",
        "since": moment,
        "until": moment,
    }
    assert set(every) == set(audit_store._CONDITIONS)
    wanted = [Filter(), Filter(**every), *(Filter(**{name: value}) for name, value in every.items())]
    for filter_ in wanted:
        for after in (None, Position(1_800_000_000_000_000, org_id, 1)):
            await audit_store.find(asked, org_id, filter_, after=after, limit=100)  # type: ignore[arg-type] # of tests
    return [(f"audit._FIND {sql.partition('WHERE')[2]}", sql) for sql in asked.statements]


@pytest.fixture(scope="module")
async def explained(filled: Filled) -> Filled:
    await filled.superuser.execute(EXPLAINED)
    return filled


async def planned(connection: asyncpg.Connection[Any], sql: str) -> dict[str, Any]:
    """Return the plan of a statement for whatever its parameters will be."""
    document = await connection.fetchval("SELECT explained($1)", sql)
    plan: dict[str, Any] = json.loads(document)[0]["Plan"]
    return plan


def read_whole(node: dict[str, Any], tables: frozenset[str], *, limited: bool = False) -> list[str]:
    """Return the tenant tables, or partitions of one, that a plan reads from end to end, by an index or without.

    The first rows of an index are no whole one, where a limit is all that stands above them.
    """
    found = []
    kind, relation = node["Node Type"], node.get("Relation Name", "")
    whole = kind == "Seq Scan" or (kind.startswith("Index") and "Index Cond" not in node and not limited)
    if whole and any(relation == name or relation.startswith(f"{name}_") for name in tables):
        found.append(relation)
    limited = kind == "Limit" or (limited and kind in {"Append", "Merge Append"})
    for below in node.get("Plans", ()):
        found += read_whole(below, tables, limited=limited)
    return found


async def test_no_statement_of_a_store_reads_a_tenant_table_from_end_to_end(
    explained: Filled,
) -> None:
    statements = [(name, sql) for name, sql in constants() if name not in TEMPLATES] + await _filled_in()
    names = {name for name, _ in constants()}
    assert names >= BY_THE_OWNER | TEMPLATES, "a name that is no constant any more"
    assert len(names) > 100
    problems = []
    for name, sql in statements:
        for role, connection in (("app", explained.app), ("owner", explained.owner)):
            if role == "owner" and name not in BY_THE_OWNER:
                continue
            try:
                plan = await planned(connection, sql)
            except asyncpg.PostgresError as error:
                problems.append(f"{name} cannot be planned as the {role}: {error}")
                continue
            if found := sorted(set(read_whole(plan, explained.tables))):
                problems.append(f"{name} as the {role} reads {', '.join(found)} from end to end")
    assert not problems, "\n".join(problems)


async def test_a_statement_without_an_index_would_be_found(
    explained: Filled,
) -> None:
    owner = explained.owner
    for sql, table in (
        ("SELECT * FROM audit_log WHERE agent = $1", "audit_log_default"),
        ("SELECT org_id FROM api_keys ORDER BY org_id", "api_keys"),
    ):
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        assert table in read_whole(await planned(owner, sql), explained.tables), sql
        await transaction.rollback()


async def test_every_tenant_table_has_rows_enough_to_plan_for(
    filled: Filled,
) -> None:
    counts = await filled.superuser.fetch(
        "SELECT c.relname, c.reltuples FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.reltuples >= 200"
    )
    large = {row["relname"] for row in counts}
    assert {row["name"] for row in await filled.superuser.fetch(TENANT_TABLES)} == filled.tables
    partitioned = {"audit_log", "audit_checkpoints"}
    assert filled.tables - large - partitioned == set()
    assert all(any(name.startswith(f"{table}_20") for name in large) for table in partitioned)
