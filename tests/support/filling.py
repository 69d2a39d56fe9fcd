"""Rows for every tenant table of a database, whatever its columns are: made for the planner, not to be read.

The database is one that is thrown away: what a CHECK or a trigger would ask of a row is not asked here. Whoever adds a
table or a column need not come here, unless it is of a type that is not known yet.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

__all__ = ["TENANT_TABLES", "fill"]

TENANT_TABLES = """
SELECT c.oid, c.relname AS name, c.relkind = 'p' AS partitioned FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND (c.relname = 'organizations'
       OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'org_id'))
ORDER BY c.relname
"""
_COLUMNS = """
SELECT attname AS name, atttypid::regtype::text AS type, attnotnull AS required FROM pg_attribute
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
_CHECKS = """
SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint
WHERE conrelid = $1 AND contype = 'c'
"""
_ONE_OF = re.compile(r"\(+(\w+) = ANY \(ARRAY\[(.*?)\]\)\)")
_VALUES = {
    "text": "'{name}' || i",
    "integer": "i",
    "bigint": "i",
    "boolean": "i % 4 <> 0",
    "bytea": "sha256(('{name}' || i)::bytea)",
    "jsonb": "'{{}}'::jsonb",
    "text[]": "'{{}}'::text[]",
    "uuid": "md5('{name}' || i)::uuid",
    # More than two years, so that no partition is empty: such a one is read from end to end, and rightly.
    "timestamp with time zone": "now() + make_interval(days => i % 800)",
}


async def fill(superuser: asyncpg.Connection[Any], *, organizations: int, rows: int) -> set[str]:
    """Give ``organizations`` organisations ``rows`` rows of each table, and return the names of the tables.

    Of a table with partitions they get five times as many, since a partition would hold few.
    """
    await superuser.execute("SET session_replication_role = replica")
    tables = await superuser.fetch(TENANT_TABLES)
    for table in tables:
        checks = await superuser.fetch(_CHECKS, table["oid"])
        for check in checks:
            await superuser.execute(f'ALTER TABLE {table["name"]} DROP CONSTRAINT "{check["name"]}"')
        choices = dict(found for check in checks for found in _ONE_OF.findall(check["definition"]))
        columns = await superuser.fetch(_COLUMNS, table["oid"])
        names = ", ".join(column["name"] for column in columns)
        values = ", ".join(_value(column, choices, organizations) for column in columns)
        count = organizations * (1 if table["name"] == "organizations" else rows * (5 if table["partitioned"] else 1))
        await superuser.execute(
            f"INSERT INTO {table['name']} ({names}) SELECT {values} FROM generate_series(1, {count}) AS i"  # noqa: S608
        )
    await superuser.execute("RESET session_replication_role")
    await superuser.execute("VACUUM ANALYZE")
    return {table["name"] for table in tables}


def _value(column: asyncpg.Record, choices: dict[str, str], organizations: int) -> str:
    name = column["name"]
    if name == "org_id":
        return f"md5('id' || 1 + i % {organizations})::uuid"
    value = _VALUES[column["type"]].format(name=name)
    if name in choices:
        options = choices[name]
        value = f"(ARRAY[{options}])[1 + i % {options.count(',') + 1}]"
    return value if column["required"] else f"CASE WHEN i % 2 = 0 THEN {value} END"
