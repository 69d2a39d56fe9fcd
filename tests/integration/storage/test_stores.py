from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from agentapi.errors import ConflictError, NotFoundError
from agentapi.principal import OrgId, Role, UpstreamId, WorkspaceId
from agentapi.tenancy.models import user_id_of
from agentapi.tenancy.store import (
    create_organization,
    create_workspace,
    find_workspace,
    list_workspaces,
    upsert_member,
)
from agentapi.upstreams import store
from agentapi.upstreams.models import Auth, Transport, secret_aad
from tenants import ISSUER, NOW, make_tenant

if TYPE_CHECKING:
    from typing import Any

    from agentapi.storage.database import Database


async def test_an_organization_slug_is_taken_once(database: Database) -> None:
    tenant = await make_tenant(database)
    other = OrgId(uuid4())
    with pytest.raises(ConflictError, match="already"):
        async with database.organization_transaction(other) as connection:
            await create_organization(connection, org_id=other, slug=tenant.principal.org_slug, name="Other")


async def test_a_workspace_slug_is_taken_once_in_each_organization(database: Database) -> None:
    one, _two = await make_tenant(database), await make_tenant(database)
    with pytest.raises(ConflictError, match="a workspace main already"):
        async with database.tenant_transaction(one.principal) as connection:
            await create_workspace(
                connection,
                workspace_id=WorkspaceId(uuid4()),
                org_id=one.principal.org_id,
                slug="main",
                name="M",
            )


@pytest.mark.parametrize("slug", ["", "Main", "a--b", "-a", "a-", "a b", "a/b", "ä", "x" * 64, "a\n"])
async def test_a_slug_that_no_url_should_hold_is_refused(database: Database, slug: str) -> None:
    tenant = await make_tenant(database)
    with pytest.raises(asyncpg.CheckViolationError):
        async with database.tenant_transaction(tenant.principal) as connection:
            await create_workspace(
                connection,
                workspace_id=WorkspaceId(uuid4()),
                org_id=tenant.principal.org_id,
                slug=slug,
                name="M",
            )


async def test_workspaces_are_found_by_slug_and_listed_in_pages(database: Database) -> None:
    tenant = await make_tenant(database)
    async with database.tenant_transaction(tenant.principal) as connection:
        for slug in ("alpha", "zeta"):
            await create_workspace(
                connection,
                workspace_id=WorkspaceId(uuid4()),
                org_id=tenant.principal.org_id,
                slug=slug,
                name=slug,
            )
        found = await find_workspace(connection, "main")
        assert found is not None
        assert found.id == tenant.workspace_id
        assert await find_workspace(connection, "missing") is None
        first = await list_workspaces(connection, limit=2)
        rest = await list_workspaces(connection, after=first[-1].slug, limit=2)
    assert [workspace.slug for workspace in first + rest] == ["alpha", "main", "zeta"]


async def test_a_member_is_recorded_once_and_kept_current(database: Database) -> None:
    tenant = await make_tenant(database)
    async with database.tenant_transaction(tenant.principal) as connection:
        first = await upsert_member(connection, tenant.principal, email="a@example.com")
    demoted = replace(tenant.principal, role=Role.VIEWER)
    async with database.tenant_transaction(demoted) as connection:
        second = await upsert_member(connection, demoted, email=None)
    assert (second.role, second.email, second.created_at) == (Role.VIEWER, None, first.created_at)
    assert second.last_seen_at > first.last_seen_at


def test_a_user_id_is_stable_and_unambiguous() -> None:
    assert user_id_of(ISSUER, "alice") == user_id_of(ISSUER, "alice")
    assert user_id_of("https://a.example", "1:x") != user_id_of("https://a.example1", ":x")
    assert user_id_of("ab", "c") != user_id_of("a", "bc")
    assert user_id_of("", "1:ab") != user_id_of("1:a", "b")


async def test_an_upstream_is_read_back_as_it_was_written(database: Database) -> None:
    tenant = await make_tenant(database)
    plain = tenant.upstream("plain")
    sealed = replace(tenant.upstream("sealed", private=True), auth=Auth.API_KEY, auth_header="X-Key", secret=b"\0\xff")
    local = replace(tenant.upstream("local"), transport=Transport.STDIO, endpoint=None, command="time")
    async with database.tenant_transaction(tenant.principal) as connection:
        for upstream in (plain, sealed, local):
            await store.insert_upstream(connection, upstream)
            assert await store.get_upstream(connection, upstream.id) == upstream
    assert "\\xff" not in repr(sealed)


@pytest.mark.parametrize(
    "odd",
    [
        {"name": "a__b"},
        {"name": "x" * 33},
        {"endpoint": None},
        {"command": "time"},
        {"transport": Transport.STDIO},
        {"transport": Transport.STDIO, "command": "time"},
        {"secret": b"x"},
        {"owner_id": UUID(int=1)},
        {"version": 0},
    ],
)
async def test_an_upstream_that_makes_no_sense_is_refused(database: Database, odd: dict[str, Any]) -> None:
    tenant = await make_tenant(database)
    upstream = replace(tenant.upstream("x"), **odd)
    with pytest.raises(asyncpg.CheckViolationError):
        async with database.tenant_transaction(tenant.principal) as connection:
            await store.insert_upstream(connection, upstream)


async def test_upstreams_are_listed_by_name_and_id_in_pages_without_gaps(database: Database) -> None:
    tenant = await make_tenant(database)
    async with database.tenant_transaction(tenant.principal) as connection:
        expected = []
        for slug in ("second", "third"):
            workspace_id = WorkspaceId(uuid4())
            await create_workspace(
                connection, workspace_id=workspace_id, org_id=tenant.principal.org_id, slug=slug, name=slug
            )
            for name in ("same", "b", "a-b"):
                upstream = replace(tenant.upstream(name), workspace_id=workspace_id)
                await store.insert_upstream(connection, upstream)
                expected.append((name, upstream.id))
        for limit in (1, 2, 5, 100):
            pages: list[tuple[str, UpstreamId]] = []
            while page := await store.list_upstreams(connection, after=pages[-1] if pages else None, limit=limit):
                assert len(page) <= limit
                pages += [(upstream.name, upstream.id) for upstream in page]
            assert pages == sorted(expected)


async def test_a_workspace_lists_its_enabled_upstreams_alone(database: Database) -> None:
    tenant = await make_tenant(database)
    async with database.tenant_transaction(tenant.principal) as connection:
        shown, private = tenant.upstream("b"), tenant.upstream("a", private=True)
        for upstream in (shown, private, replace(tenant.upstream("off"), enabled=False)):
            await store.insert_upstream(connection, upstream)
        assert await store.list_for_workspace(connection, tenant.workspace_id) == [private, shown]
        assert await store.list_for_workspace(connection, WorkspaceId(uuid4())) == []


async def test_an_update_bumps_the_version_and_refuses_a_stale_one(database: Database) -> None:
    tenant = await make_tenant(database)
    upstream = tenant.upstream("x")
    later = NOW + timedelta(minutes=1)
    async with database.tenant_transaction(tenant.principal) as connection:
        await store.insert_upstream(connection, upstream)
        changed = replace(upstream, name="y", description="changed", auth=Auth.BEARER, secret=b"s")
        updated = await store.update_upstream(connection, changed, now=later)
        assert updated == replace(changed, version=2, updated_at=later)
        assert await store.get_upstream(connection, upstream.id) == updated
        with pytest.raises(ConflictError, match="changed meanwhile"):
            await store.update_upstream(connection, changed, now=later)


async def test_a_rename_onto_a_taken_name_is_a_conflict(database: Database) -> None:
    tenant = await make_tenant(database)
    async with database.tenant_transaction(tenant.principal) as connection:
        await store.insert_upstream(connection, tenant.upstream("x"))
        second = tenant.upstream("y", private=True)
        await store.insert_upstream(connection, second)
    with pytest.raises(ConflictError, match="The name x is taken"):
        async with database.tenant_transaction(tenant.principal) as connection:
            await store.update_upstream(connection, replace(second, name="x"), now=NOW)


async def test_a_deleted_upstream_is_gone_and_its_name_is_free(database: Database) -> None:
    tenant = await make_tenant(database)
    upstream = tenant.upstream("x")
    async with database.tenant_transaction(tenant.principal) as connection:
        await store.insert_upstream(connection, upstream)
        await store.delete_upstream(connection, upstream.id)
        with pytest.raises(NotFoundError):
            await store.get_upstream(connection, upstream.id)
        with pytest.raises(NotFoundError):
            await store.delete_upstream(connection, upstream.id)
        await store.insert_upstream(connection, tenant.upstream("x"))


def test_a_sealed_secret_is_bound_to_table_tenant_and_row() -> None:
    org_id, upstream_id = OrgId(UUID(int=1)), UpstreamId(UUID(int=2))
    assert secret_aad(org_id, upstream_id) == (
        b"upstreams.secret/00000000-0000-0000-0000-000000000001/00000000-0000-0000-0000-000000000002"
    )
