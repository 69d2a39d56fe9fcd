"""The tenancy boundary, as the application's role meets it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentapi.audit.models import DEPLOYMENT
from agentapi.errors import ConflictError, NotFoundError
from agentapi.storage.database import Database
from agentapi.tenancy.store import find_organization, find_workspace, list_workspaces, upsert_member
from agentapi.upstreams import store
from tenants import NOW, Tenant, make_tenant

if TYPE_CHECKING:
    from agentapi.storage.embedded import EmbeddedPostgres
    from agentapi.upstreams.models import Upstream

TENANT_TABLES = (
    "organizations",
    "workspaces",
    "members",
    "upstreams",
    "tool_policies",
    "toolsets",
    "tool_approval_revisions",
    "tool_approvals",
    "oauth_clients",
    "oauth_upstreams",
    "oauth_flows",
    "oauth_connections",
    "brought_credentials",
    "api_keys",
    "prompts",
    "prompt_versions",
    "invitations",
    "sessions",
)
_WRITABLE: tuple[str | None, ...] = ("name", "name", "email", "name", "document", "description", "revision", "state")
_WRITABLE += ("client_id", "provider", None, "status", "status", "last_used_at", "description", None, None)
_WRITABLE += ("last_used_at",)
"""A column of each that the application may update: of flows, versions of prompts and invitations none."""

APPEND_ONLY = {"audit_log", "audit_checkpoints"}
"""Tables without policies to change a row; their partitions have none at all, and nobody has rights to them."""

OF_THE_DEPLOYMENT = {"signing_keys": ["DELETE", "INSERT", "SELECT"], "revoked_tokens": ["DELETE", "INSERT", "SELECT"]}
"""Tables without a tenant that are seen in the context of the deployment alone, and what can be done to their rows."""

WITHOUT_TENANT = {"schema_migrations", "jobs", "jobs_log", "jobs_schedules", "jobs_statistics", *OF_THE_DEPLOYMENT}
"""Payloads of jobs are sealed: who reads them without the keyring learns of no tenant."""

SECURITY_OF_TABLES = """
SELECT c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
       c.relispartition AS partition,
       has_table_privilege('agentapi_app', c.oid, 'SELECT, INSERT, UPDATE, DELETE') AS used,
       ARRAY(SELECT DISTINCT p.cmd FROM pg_policies p
             WHERE p.schemaname = 'public' AND p.tablename = c.relname ORDER BY 1) AS commands,
       EXISTS (SELECT FROM pg_policies p WHERE p.tablename = c.relname AND p.permissive <> 'PERMISSIVE'
               OR p.tablename = c.relname AND (p.qual = 'true' OR p.with_check = 'true')) AS odd
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
"""
TABLES_WITH_ORG_ID = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'org_id'
"""
INDEXES_WITHOUT_ORG_ID = """
SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id'
WHERE c.relnamespace = 'public'::regnamespace AND i.indkey[0] <> a.attnum
"""


async def count(connection: Any, table: str) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))  # noqa: S608


async def test_every_tenant_table_has_forced_security_with_policies_for_all_commands(
    owner_connection: asyncpg.Connection[Any],
) -> None:
    tables = {row["name"]: row for row in await owner_connection.fetch(SECURITY_OF_TABLES)}
    with_org_id = {row["relname"] for row in await owner_connection.fetch(TABLES_WITH_ORG_ID)}
    assert set(TENANT_TABLES) <= with_org_id | {"organizations"}
    assert set(tables) - WITHOUT_TENANT == with_org_id | {"organizations"}
    for name in with_org_id | {"organizations"}:
        table = tables[name]
        assert (table["enabled"], table["forced"], table["odd"]) == (True, True, False), name
        commands = ["INSERT", "SELECT"] if name in APPEND_ONLY else ["DELETE", "INSERT", "SELECT", "UPDATE"]
        assert table["commands"] == ([] if table["partition"] else commands), name
        assert table["used"] is not table["partition"], name


async def test_a_tenant_sees_nothing_that_is_the_deployments_and_takes_no_revocation_back(
    database: Database, owner_connection: asyncpg.Connection[Any]
) -> None:
    tables = {row["name"]: row for row in await owner_connection.fetch(SECURITY_OF_TABLES)}
    for name, commands in OF_THE_DEPLOYMENT.items():
        assert (tables[name]["enabled"], tables[name]["forced"], tables[name]["odd"]) == (True, True, False), name
        assert [command for command in tables[name]["commands"] if command != "UPDATE"] == commands
    insert_key = "INSERT INTO signing_keys VALUES ('k', '{}', '', now(), now())"
    revoke = "INSERT INTO revoked_tokens VALUES ('i', 't', now() + interval '1 hour')"
    async with database.organization_transaction(DEPLOYMENT) as connection:
        await connection.execute(insert_key)
    tenant = await make_tenant(database)
    async with database.tenant_transaction(tenant.principal) as connection:
        await connection.execute(revoke)
        for name in OF_THE_DEPLOYMENT:
            assert await count(connection, name) == 0
            assert await connection.execute(f"DELETE FROM {name}") == "DELETE 0"  # noqa: S608
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with database.tenant_transaction(tenant.principal) as connection:
            await connection.execute(insert_key)
    async with database.organization_transaction(DEPLOYMENT) as connection:
        assert await connection.execute("DELETE FROM revoked_tokens") == "DELETE 0"
        assert await connection.execute("DELETE FROM signing_keys WHERE id = 'k'") == "DELETE 1"


async def test_every_index_of_a_tenant_table_leads_with_the_organisation(
    owner_connection: asyncpg.Connection[Any],
) -> None:
    assert await owner_connection.fetch(INDEXES_WITHOUT_ORG_ID) == []


async def test_no_view_or_function_of_the_schema_runs_with_the_rights_of_its_owner(
    owner_connection: asyncpg.Connection[Any],
) -> None:
    definers = "SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace"
    views = "SELECT viewname FROM pg_views WHERE schemaname = 'public'"
    assert await owner_connection.fetch(definers) == []
    assert await owner_connection.fetch(views) == []


async def test_two_tenants_on_one_connection_see_their_own_rows(database: Database) -> None:
    one, two = await make_tenant(database), await make_tenant(database, "bob")
    seen = []
    for tenant in (one, two, one):
        async with database.tenant_transaction(tenant.principal) as connection:
            await upsert_member(connection, tenant.principal, email=None)
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            orgs = await connection.fetch("SELECT id FROM organizations")
            workspaces = await list_workspaces(connection, limit=10)
            members = await connection.fetch("SELECT user_id FROM members")
            seen.append(backend)
        assert [row["id"] for row in orgs] == [tenant.principal.org_id]
        assert [workspace.id for workspace in workspaces] == [tenant.workspace_id]
        assert [row["user_id"] for row in members] == [tenant.principal.user_id]
    assert len(set(seen)) == 1


@pytest.mark.parametrize("outcome", ["commit", "error", "cancel"])
@pytest.mark.parametrize("reset", [True, False])
async def test_a_connection_returns_to_the_pool_without_a_tenant(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, outcome: str, reset: bool
) -> None:
    """The settings end with the transaction; that the pool resets a connection as well is a second line."""
    if not reset:
        monkeypatch.setattr(asyncpg.Connection, "get_reset_query", lambda _self: "")
    database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=1, timeout_s=5.0)
    tenant = await make_tenant(database)
    inside = asyncio.Event()

    async def work() -> None:
        async with database.tenant_transaction(tenant.principal) as connection:
            assert await count(connection, "organizations") == 1
            inside.set()
            if outcome == "error":
                raise RuntimeError
            if outcome == "cancel":
                await asyncio.get_running_loop().create_future()

    try:
        task = asyncio.ensure_future(work())
        await inside.wait()
        if outcome == "cancel":
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == (outcome == "cancel")
        assert task.cancelled() or (task.exception() is not None) == (outcome == "error")
        context = "SELECT current_setting('app.org_id', true), current_setting('app.user_id', true)"
        async with database._acquire() as connection:
            assert set(await connection.fetchrow(context) or ()) <= {None, ""}
            for table in TENANT_TABLES:
                assert await count(connection, table) == 0
    finally:
        await database.close()


@pytest.mark.parametrize("fails", [True, False])
async def test_a_statement_by_itself_leaves_no_tenant_behind(postgres: EmbeddedPostgres, fails: bool) -> None:
    """The connection is not reset after it, unless it failed; after whatever comes next it is again."""
    database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=1, timeout_s=5.0)
    statement = (
        "SELECT (SELECT count(*) FROM organizations), set_config('app.kept', 'on', false)"
        " FROM (SELECT set_config('app.org_id', $1, true)::uuid AS org_id OFFSET 0) AS context"
        " WHERE context.org_id IS NOT NULL AND 1 / $2::integer = 1"
    )
    context = "SELECT current_setting('app.org_id', true), current_setting('app.user_id', true)"
    kept = "SELECT current_setting('app.kept', true)"
    try:
        tenant = await make_tenant(database)
        async with database.statements() as connection:
            await connection.execute("SELECT set_config('app.kept', '', false)")
        with pytest.raises(asyncpg.DivisionByZeroError) if fails else contextlib.nullcontext():
            async with database.tenant_statement(tenant.principal) as connection:
                found = await connection.fetchval(statement, str(tenant.principal.org_id), 0 if fails else 1)
                assert found == 1
        for seen in ({None, ""} if fails else {"on"}, {None, ""}):
            async with database.statements() as connection:
                assert await connection.fetchval(kept) in seen
                assert set(await connection.fetchrow(context) or ()) <= {None, ""}
                for table in TENANT_TABLES:
                    assert await count(connection, table) == 0
    finally:
        await database.close()


async def test_a_snapshot_sees_one_organisation_and_changes_nothing(database: Database) -> None:
    tenant, _ = await make_tenant(database), await make_tenant(database)
    async with database.snapshot(tenant.principal.org_id) as connection:
        assert await count(connection, "organizations") == 1
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("DELETE FROM organizations")


async def test_the_directory_sees_one_organisation_and_nothing_in_it(database: Database) -> None:
    one, two = await make_tenant(database), await make_tenant(database)
    async with database.directory_transaction(one.principal.org_slug) as connection:
        found = await find_organization(connection, one.principal.org_slug)
        assert found is not None
        assert found.id == one.principal.org_id
        assert await find_organization(connection, two.principal.org_slug) is None
        assert await connection.fetchval("SELECT count(*) FROM organizations") == 1
        assert await find_workspace(connection, "main") is None
        assert await connection.execute("UPDATE organizations SET name = 'x'") == "UPDATE 0"


async def test_without_context_there_are_no_rows_and_writes_are_refused(
    database: Database, app_connection: asyncpg.Connection[Any]
) -> None:
    tenant = await make_tenant(database)
    org_id, user_id = tenant.principal.org_id, tenant.principal.user_id
    inserts = (
        ("INSERT INTO organizations (id, slug, name) VALUES ($1, $2, 'x')", uuid4(), f"x-{uuid4().hex}"),
        ("INSERT INTO workspaces (id, org_id, slug, name) VALUES ($1, $2, 'x', 'x')", uuid4(), org_id),
        (
            """INSERT INTO members (org_id, user_id, issuer, subject, role)
            VALUES ($1, $2, 'i', 's', 'member')""",
            org_id,
            user_id,
        ),
        (
            """INSERT INTO upstreams
            (id, org_id, workspace_id, name, transport, endpoint, auth, scope, created_by)
            VALUES ($1, $2, $3, 'x', 'http', 'https://x.example', 'none', 'organization', $1)""",
            uuid4(),
            org_id,
            tenant.workspace_id,
        ),
        (
            "INSERT INTO tool_policies (org_id, workspace_id, document, updated_by) VALUES ($1, $2, '{}', $3)",
            org_id,
            tenant.workspace_id,
            user_id,
        ),
        (
            """INSERT INTO toolsets (id, org_id, workspace_id, name, tools, prompts, resources, created_by)
            VALUES ($1, $2, $3, 'x', '{}', '{}', '{}', $1)""",
            uuid4(),
            org_id,
            tenant.workspace_id,
        ),
        ("INSERT INTO tool_approval_revisions (org_id, workspace_id) VALUES ($1, $2)", org_id, tenant.workspace_id),
        (
            """INSERT INTO tool_approvals (id, org_id, workspace_id, upstream_id, tool, fingerprint, state)
            VALUES ($1, $2, $3, $1, 'x', decode(repeat('00', 32), 'hex'), 'approved')""",
            uuid4(),
            org_id,
            tenant.workspace_id,
        ),
        (
            """INSERT INTO oauth_clients (org_id, issuer, client_id, auth_method, registration, updated_by)
            VALUES ($1, 'x', 'x', 'none', 'manual', $2)""",
            org_id,
            user_id,
        ),
        (
            "INSERT INTO oauth_upstreams (org_id, upstream_id, provider, updated_by) VALUES ($1, $2, 'mcp', $3)",
            org_id,
            uuid4(),
            user_id,
        ),
        (
            """INSERT INTO oauth_flows
            (id, org_id, user_id, upstream_id, state_hash, browser_hash, sealed, expires_at)
            VALUES ($1, $2, $3, $1, decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex'), '', now())""",
            uuid4(),
            org_id,
            user_id,
        ),
        (
            """INSERT INTO oauth_connections (id, org_id, user_id, upstream_id, provider, sealed, scopes)
            VALUES ($1, $2, $3, $1, 'mcp', '', '{}')""",
            uuid4(),
            org_id,
            user_id,
        ),
        (
            "INSERT INTO brought_credentials (id, org_id, user_id, upstream_id, sealed) VALUES ($1, $2, $3, $1, '')",
            uuid4(),
            org_id,
            user_id,
        ),
        (
            "INSERT INTO prompts (id, org_id, name, text, created_by, updated_by) VALUES ($1, $2, 'x', '', $3, $3)",
            uuid4(),
            org_id,
            user_id,
        ),
        (
            "INSERT INTO prompts (id, name, text, created_by, updated_by) VALUES ($1, 'x', '', $2, $2)",
            uuid4(),
            user_id,
        ),
        (
            """INSERT INTO idempotency_keys
            VALUES ($1, $2, decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex'), '', now())""",
            org_id,
            user_id,
        ),
        (
            """INSERT INTO sessions (org_id, id, user_id, workspace_id, name, role, scopes, idle_s, created_at,
            last_used_at, expires_at) VALUES ($1, $2, $2, $3, 'x', 'agent', '{}', 60, now(), now(), now())""",
            org_id,
            user_id,
            tenant.workspace_id,
        ),
        (
            """INSERT INTO prompt_versions VALUES ($2, $1, 1, '', '[]', 0, '', true, $3, now())""",
            uuid4(),
            org_id,
            user_id,
        ),
    )
    for context in (None, ""):
        if context is not None:
            await app_connection.execute("SET app.org_id = ''; SET app.user_id = ''; SET app.org_slug = ''")
        for sql, *arguments in inserts:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await app_connection.execute(sql, *arguments)
        for table, column in zip(TENANT_TABLES, _WRITABLE, strict=True):
            assert await count(app_connection, table) == 0
            if column is not None:
                assert await app_connection.execute(f"UPDATE {table} SET {column} = DEFAULT") == "UPDATE 0"  # noqa: S608
            if table != "organizations":
                assert await app_connection.execute(f"DELETE FROM {table}") == "DELETE 0"  # noqa: S608


async def test_the_owner_without_context_sees_nothing_either(
    database: Database, owner_connection: asyncpg.Connection[Any]
) -> None:
    await make_tenant(database)
    for table in TENANT_TABLES:
        assert await count(owner_connection, table) == 0


async def test_a_tenant_cannot_write_into_another(database: Database) -> None:
    one, two = await make_tenant(database), await make_tenant(database)
    async with database.tenant_transaction(two.principal) as connection:
        await store.insert_upstream(connection, two.upstream("theirs"))
    attempts = (
        two.upstream("forged"),
        replace(one.upstream("forged", private=True), owner_id=two.colleague("eve").principal.user_id),
    )
    for attempt in attempts:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with database.tenant_transaction(one.principal) as connection:
                await store.insert_upstream(connection, attempt)
    with pytest.raises(NotFoundError, match="no such workspace"):
        async with database.tenant_transaction(one.principal) as connection:
            await store.insert_upstream(connection, replace(one.upstream("x"), workspace_id=two.workspace_id))


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE upstreams DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE upstreams NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY upstreams_select ON upstreams",
        "CREATE POLICY mine ON upstreams USING (true)",
        "TRUNCATE upstreams",
        "DROP TABLE upstreams",
        "ALTER TABLE upstreams OWNER TO agentapi_app",
        "CREATE TABLE mine (org_id uuid)",
        "CREATE TEMP TABLE upstreams (org_id uuid)",
        "CREATE SCHEMA mine",
        "SET ROLE agentapi_owner",
        "SET SESSION AUTHORIZATION agentapi_owner",
        "ALTER ROLE agentapi_app BYPASSRLS",
        "GRANT agentapi_owner TO agentapi_app",
        "UPDATE upstreams SET org_id = gen_random_uuid()",
        "UPDATE upstreams SET owner_id = NULL, scope = 'organization'",
        "UPDATE workspaces SET org_id = gen_random_uuid()",
        "UPDATE tool_policies SET org_id = gen_random_uuid()",
        "UPDATE toolsets SET workspace_id = gen_random_uuid()",
        "UPDATE tool_approvals SET owner_id = NULL",
        "UPDATE tool_approvals SET fingerprint = ''",
        "UPDATE members SET user_id = gen_random_uuid()",
        "UPDATE oauth_connections SET user_id = gen_random_uuid()",
        "UPDATE oauth_connections SET upstream_id = gen_random_uuid()",
        "UPDATE oauth_clients SET issuer = 'x'",
        "UPDATE brought_credentials SET user_id = gen_random_uuid()",
        "UPDATE brought_credentials SET upstream_id = gen_random_uuid()",
        "UPDATE prompts SET org_id = NULL",
        "UPDATE prompts SET owner_id = NULL",
        "UPDATE prompt_versions SET text = ''",
        "UPDATE oauth_flows SET expires_at = now() + interval '1 day'",
        "UPDATE sessions SET role = 'org_admin'",
        "UPDATE sessions SET user_id = gen_random_uuid()",
        "UPDATE sessions SET expires_at = now() + interval '1 day'",
        "UPDATE sessions SET scopes = '{}'",
        "UPDATE signing_keys SET private = ''",
        "UPDATE revoked_tokens SET expires_at = now()",
        "INSERT INTO schema_migrations (name, checksum) VALUES ('x', 'x')",
        "DELETE FROM schema_migrations",
        "CREATE TRIGGER t BEFORE UPDATE ON upstreams EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "COPY upstreams TO PROGRAM 'cat'",
    ],
)
async def test_the_application_role_cannot(app_connection: asyncpg.Connection[Any], statement: str) -> None:
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError)):
        await app_connection.execute(statement)


async def test_turning_row_security_off_refuses_rather_than_reveals(
    database: Database, app_connection: asyncpg.Connection[Any]
) -> None:
    await make_tenant(database)
    await app_connection.execute("SET row_security = off")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await app_connection.fetch("SELECT * FROM organizations")


async def test_a_private_upstream_is_its_owners_alone(database: Database) -> None:
    alice = await make_tenant(database)
    bob = alice.colleague("bob")
    private = alice.upstream("mail", private=True)
    async with database.tenant_transaction(alice.principal) as connection:
        await store.insert_upstream(connection, private)
        assert await store.get_upstream(connection, private.id) == private
    for attempt in ("get", "update", "delete"):
        with pytest.raises(NotFoundError):  # noqa: PT012 - one of three statements
            async with database.tenant_transaction(bob.principal) as connection:
                if attempt == "get":
                    await store.get_upstream(connection, private.id)
                elif attempt == "update":
                    await store.update_upstream(connection, private, now=NOW)
                else:
                    await store.delete_upstream(connection, private.id)
    async with database.organization_transaction(alice.principal.org_id) as connection:
        assert await store.list_upstreams(connection, limit=10) == []


async def test_two_users_may_have_private_upstreams_of_one_name(database: Database) -> None:
    alice = await make_tenant(database)
    for tenant in (alice, alice.colleague("bob")):
        async with database.tenant_transaction(tenant.principal) as connection:
            await store.insert_upstream(connection, tenant.upstream("mail", private=True))
            assert len(await store.list_for_workspace(connection, tenant.workspace_id)) == 1


@pytest.mark.parametrize(("first", "second"), [(False, False), (True, True), (True, False), (False, True)])
async def test_names_that_one_person_would_see_twice_collide(database: Database, first: bool, second: bool) -> None:
    tenant = await make_tenant(database)
    async with database.tenant_transaction(tenant.principal) as connection:
        await store.insert_upstream(connection, tenant.upstream("mail", private=first))
    with pytest.raises(ConflictError) as conflict:
        async with database.tenant_transaction(tenant.principal) as connection:
            await store.insert_upstream(connection, tenant.upstream("mail", private=second))
    assert conflict.value.message == "The name mail is taken in this workspace."


async def test_a_conflict_with_a_hidden_row_shows_nothing_of_it(database: Database) -> None:
    alice = await make_tenant(database)
    bob = alice.colleague("bob")
    async with database.tenant_transaction(bob.principal) as connection:
        await store.insert_upstream(connection, bob.upstream("mail", private=True))
    with pytest.raises(ConflictError) as conflict:
        async with database.tenant_transaction(alice.principal) as connection:
            await store.insert_upstream(connection, alice.upstream("mail"))
    cause = conflict.value.__cause__
    assert isinstance(cause, asyncpg.ExclusionViolationError)
    assert str(bob.principal.user_id) not in f"{cause.as_dict()}"


async def test_concurrent_registrations_of_one_name_have_one_winner(postgres: Any, database: Database) -> None:
    alice = await make_tenant(database)
    pool = await Database.connect(postgres.app_dsn, pool_min=2, pool_max=8, timeout_s=5.0)

    async def register(tenant: Tenant, *, private: bool) -> bool:
        try:
            async with pool.tenant_transaction(tenant.principal) as connection:
                await store.insert_upstream(connection, tenant.upstream("mail", private=private))
        except ConflictError:
            return False
        return True

    try:
        attempts = [register(alice, private=bool(number % 2)) for number in range(8)]
        assert sorted(await asyncio.gather(*attempts)) == [False] * 7 + [True]
    finally:
        await pool.close()


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["insert", "private", "rename", "disable", "delete", "steal", "take over"]),
        st.sampled_from(["a", "b", "c-d"]),
        st.integers(0, 15),
    ),
    max_size=20,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=OPERATIONS)
async def test_no_sequence_of_operations_shows_a_foreign_row(
    database: Database, operations: list[tuple[int, str, str, int]]
) -> None:
    """Two users of one organisation and one of another do as they like; a model says what each may see."""
    alice = await make_tenant(database)
    actors = [alice, alice.colleague("bob"), await make_tenant(database)]
    model: dict[UUID, Upstream] = {}
    touched: list[Upstream] = []

    def sees(actor: Tenant, upstream: Upstream) -> bool:
        mine = upstream.owner_id in (None, actor.principal.user_id)
        return upstream.org_id == actor.principal.org_id and mine

    for index, verb, name, pick in operations:
        actor = actors[index]
        target = touched[pick % len(touched)] if touched else actor.upstream(name)
        current = model.get(target.id, target)
        allowed = target.id in model and sees(actor, current)
        try:
            async with database.tenant_transaction(actor.principal) as connection:
                if verb in {"insert", "private"}:
                    new = actor.upstream(name, private=verb == "private")
                    await store.insert_upstream(connection, new)
                    model[new.id] = new
                    touched.append(new)
                elif verb in {"rename", "disable", "take over"}:
                    change = replace(current, **({"enabled": False} if verb == "disable" else {"name": name}))
                    if verb == "take over":
                        change = replace(change, org_id=actor.principal.org_id, owner_id=None)
                    changed = await store.update_upstream(connection, change, now=NOW)
                    assert allowed
                    model[target.id] = changed
                elif verb == "delete":
                    await store.delete_upstream(connection, target.id)
                    assert allowed
                    del model[target.id]
                else:
                    read = await store.get_upstream(connection, target.id)
                    assert allowed
                    assert read == current
        except NotFoundError:
            assert not allowed
        except ConflictError:
            rivals = [other for other in model.values() if other.org_id == actor.principal.org_id]
            assert name in {rival.name for rival in rivals}
        for other in actors:
            async with database.tenant_transaction(other.principal) as connection:
                listed = await store.list_upstreams(connection, limit=100)
            assert {up.id: up for up in listed} == {up.id: up for up in model.values() if sees(other, up)}
            names = [upstream.name for upstream in listed]
            assert len(names) == len(set(names))
