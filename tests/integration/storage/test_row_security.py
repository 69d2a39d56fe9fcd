"""Row-level security alone: what statements reach that name no organisation, in every tenant table that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

if TYPE_CHECKING:
    from integration.storage.conftest import Filled

ME = "md5('id1')::uuid"
_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
_MAY_UPDATE = """
SELECT attname FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND has_column_privilege('agentapi_app', $1::regclass, attnum, 'UPDATE')
ORDER BY attnum LIMIT 1
"""


def org_of(table: str) -> str:
    return "id" if table == "organizations" else "org_id"


async def test_a_query_without_a_filter_gives_rows_of_its_organisation_alone(filled: Filled) -> None:
    for table in sorted(filled.tables):
        count = f"SELECT count(*) FROM {table} WHERE {org_of(table)} <> {ME}"  # noqa: S608
        assert await filled.superuser.fetchval(count) > 0, table
        assert await filled.app.fetchval(count) == 0, table
        assert await filled.app.fetchval(f"SELECT count(*) FROM {table}") <= await filled.superuser.fetchval(  # noqa: S608
            f"SELECT count(*) FROM {table} WHERE {org_of(table)} = {ME}"  # noqa: S608
        ), table


async def test_a_change_without_a_filter_meets_rows_of_its_organisation_alone(filled: Filled) -> None:
    for table in sorted(filled.tables):
        column = await filled.superuser.fetchval(_MAY_UPDATE, table)
        statements = [f"DELETE FROM {table} WHERE {org_of(table)} <> {ME}"]  # noqa: S608
        if column is not None:
            statements.append(f"UPDATE {table} SET {column} = {column} WHERE {org_of(table)} <> {ME}")  # noqa: S608
        for statement in statements:
            try:
                done = await filled.app.execute(statement)
            except asyncpg.InsufficientPrivilegeError:
                continue
            assert done.endswith(" 0"), statement


async def test_no_row_is_written_into_another_organisation(filled: Filled) -> None:
    for table in sorted(filled.tables):
        columns = ", ".join(row["attname"] for row in await filled.superuser.fetch(_COLUMNS, table))
        other = await filled.superuser.fetchval(
            f"SELECT to_jsonb(t)::text FROM {table} t WHERE {org_of(table)} <> {ME} LIMIT 1"  # noqa: S608
        )
        insert = (
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_record(NULL::{table}, $1::jsonb)"  # noqa: S608
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await filled.app.execute(insert, other)


async def test_without_an_organisation_there_are_no_rows_for_anybody(filled: Filled) -> None:
    owned = {"audit_log", "audit_checkpoints"}
    for table in sorted(filled.tables):
        async with filled.app.transaction():
            await filled.app.execute("SELECT set_config('app.org_id', '', true)")
            assert await filled.app.fetchval(f"SELECT count(*) FROM {table}") == 0, table  # noqa: S608
        if table not in owned:
            assert await filled.owner.fetchval(f"SELECT count(*) FROM {table}") == 0, table  # noqa: S608
