from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.audit.log import AuditLog
from agentapi.errors import NotFoundError
from agentapi.upstreams import store
from agentapi.upstreams.registry import UpstreamRegistry
from tenants import Tenant, make_tenant

if TYPE_CHECKING:
    from agentapi.storage.database import Database
    from agentapi.upstreams.models import Upstream


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def seen(registry: UpstreamRegistry, tenant: Tenant) -> list[str]:
    return [upstream.name for upstream in (await registry.view(tenant.principal, "main")).upstreams]


async def test_a_change_made_here_shows_at_once_to_everybody(database: Database) -> None:
    registry, alice = UpstreamRegistry(database, audit=AuditLog(database), clock=Clock()), await make_tenant(database)
    bob = alice.colleague("bob")
    assert (await seen(registry, alice), await seen(registry, bob)) == ([], [])
    upstream = alice.upstream("one")
    await registry.create(alice.principal, upstream)
    assert (await seen(registry, alice), await seen(registry, bob)) == (["one"], ["one"])
    changed = await registry.update(alice.principal, replace(upstream, name="two"))
    assert await seen(registry, bob) == ["two"]
    disabled = await registry.update(alice.principal, replace(changed, enabled=False))
    assert await seen(registry, bob) == []
    await registry.update(alice.principal, replace(disabled, enabled=True))
    assert await seen(registry, bob) == ["two"]
    await registry.delete(alice.principal, upstream.id)
    assert (await seen(registry, alice), await seen(registry, bob)) == ([], [])
    with pytest.raises(NotFoundError):
        await registry.get(bob.principal, upstream.id)


async def test_a_change_made_elsewhere_and_not_heard_of_shows_after_a_second(database: Database) -> None:
    clock, tenant = Clock(), await make_tenant(database)
    registry = UpstreamRegistry(database, audit=AuditLog(database), clock=clock, view_ttl_s=5.0)
    assert await seen(registry, tenant) == []
    async with database.tenant_transaction(tenant.principal) as connection:
        await store.insert_upstream(connection, tenant.upstream("one"))
    clock.now += 0.9
    assert await seen(registry, tenant) == []
    clock.now += 0.1
    assert await seen(registry, tenant) == ["one"]


async def test_a_change_leaves_the_views_of_other_organisations(database: Database) -> None:
    registry, one, two = (
        UpstreamRegistry(database, audit=AuditLog(database), clock=Clock()),
        await make_tenant(database),
        await make_tenant(database),
    )
    kept = await registry.view(two.principal, "main")
    await registry.create(one.principal, one.upstream("one"))
    assert await registry.view(two.principal, "main") is kept


async def test_views_are_kept_apart_by_user(database: Database) -> None:
    registry, alice = UpstreamRegistry(database, audit=AuditLog(database), clock=Clock()), await make_tenant(database)
    await registry.create(alice.principal, alice.upstream("mine", private=True))
    assert await seen(registry, alice) == ["mine"]
    assert await seen(registry, alice.colleague("bob")) == []


async def test_the_least_recently_used_view_is_forgotten_first(database: Database) -> None:
    registry, alice = (
        UpstreamRegistry(database, audit=AuditLog(database), clock=Clock(), max_views=2),
        await make_tenant(database),
    )
    users = [alice, alice.colleague("bob"), alice.colleague("carol")]
    first = await registry.view(users[0].principal, "main")
    second = await registry.view(users[1].principal, "main")
    assert await registry.view(users[0].principal, "main") is first
    await registry.view(users[2].principal, "main")
    assert await registry.view(users[0].principal, "main") is first
    assert await registry.view(users[1].principal, "main") is not second


async def test_a_workspace_that_does_not_exist_is_not_remembered(database: Database) -> None:
    registry, tenant = UpstreamRegistry(database, audit=AuditLog(database), clock=Clock()), await make_tenant(database)
    for slug in ("missing", "x" * 1000):
        with pytest.raises(NotFoundError):
            await registry.view(tenant.principal, slug)
    assert len(registry._views._views) == 0


async def test_a_view_read_before_a_change_is_not_kept_after_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view is read, then the change is stored and announced, then the view would be remembered."""
    registry, tenant = UpstreamRegistry(database, audit=AuditLog(database), clock=Clock()), await make_tenant(database)
    read = store.list_for_workspace

    async def overtaken(connection: Any, workspace_id: Any) -> list[Upstream]:
        found = await read(connection, workspace_id)
        monkeypatch.setattr(store, "list_for_workspace", read)
        await store.insert_upstream(connection, tenant.upstream("one"))
        registry._views.forget(tenant.principal.org_id)
        return found

    monkeypatch.setattr(store, "list_for_workspace", overtaken)
    assert await seen(registry, tenant) == []
    assert await seen(registry, tenant) == ["one"]


async def test_who_is_told_of_an_end_is_told_of_the_version_that_ended(database: Database) -> None:
    registry, alice = UpstreamRegistry(database, audit=AuditLog(database), clock=Clock()), await make_tenant(database)
    ended: list[tuple[object, int]] = []
    registry.on_end(lambda upstream_id, version: ended.append((upstream_id, version)))
    upstream = alice.upstream("one")
    await registry.create(alice.principal, upstream)
    changed = await registry.update(alice.principal, replace(upstream, name="two"))
    await registry.delete(alice.principal, upstream.id)
    assert changed.version == upstream.version + 1
    assert ended == [(upstream.id, upstream.version), (upstream.id, changed.version)]
