from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentapi.audit.log import AuditLog
from agentapi.errors import ForbiddenError, StorageUnavailableError
from agentapi.principal import Role
from agentapi.tenancy import store
from agentapi.tenancy.admission import Admission
from agentapi.tenancy.book import Tenancy
from tenants import make_tenant
from unit.identity.doubles import Clock

if TYPE_CHECKING:
    from agentapi.principal import OrgId, UserId
    from agentapi.storage.database import Database
    from agentapi.tenancy.book import Step


def tenancy_on(database: Database, *steps: Step) -> Tenancy:
    admission = Admission(database, clock=Clock())
    return Tenancy(database, audit=AuditLog(database), admission=admission, before_deletion=steps)


async def test_the_steps_before_a_deletion_find_the_rows_and_nobody_at_work(database: Database) -> None:
    tenant = await make_tenant(database)
    found = []

    async def step(org_id: OrgId) -> None:
        async with database.organization_transaction(org_id) as connection:
            organization = await store.find_organization(connection, tenant.principal.org_slug)
            assert organization is not None
            found.append((organization.id, organization.suspended_at is not None))

    tenancy = tenancy_on(database, step)
    await tenancy.delete_organization(replace(tenant.principal, role=Role.PLATFORM_ADMIN))
    assert found == [(tenant.principal.org_id, True)]


async def test_a_deletion_that_fails_half_way_leaves_nothing_to_use_and_can_be_repeated(database: Database) -> None:
    tenant = await make_tenant(database)
    root = replace(tenant.principal, role=Role.PLATFORM_ADMIN)
    broken = [True]

    async def step(_: OrgId) -> None:
        if broken:
            raise StorageUnavailableError("away")

    tenancy = tenancy_on(database, step)
    with pytest.raises(StorageUnavailableError):
        await tenancy.delete_organization(root)
    assert (await tenancy.organization(root)).suspended_at is not None
    broken.clear()
    await tenancy.delete_organization(root)


async def test_a_removal_whose_steps_failed_can_be_repeated(database: Database) -> None:
    tenant = await make_tenant(database)
    bob = replace(tenant.colleague("bob").principal, role=Role.MEMBER)
    async with database.tenant_transaction(bob) as connection:
        await store.upsert_member(connection, bob, email=None)
    broken, ended = [True], []

    async def step(org_id: OrgId, user_id: UserId) -> None:
        if broken:
            raise StorageUnavailableError("away")
        ended.append((org_id, user_id))

    admission = Admission(database, clock=Clock())
    tenancy = Tenancy(database, audit=AuditLog(database), admission=admission, after_removal=[step])
    with pytest.raises(StorageUnavailableError):
        await tenancy.remove_member(tenant.principal, bob.user_id)
    broken.clear()
    await tenancy.remove_member(tenant.principal, bob.user_id)
    assert ended == [(bob.org_id, bob.user_id)]


async def test_an_admin_who_is_not_the_owner_deletes_nothing(database: Database) -> None:
    tenancy, tenant = tenancy_on(database), await make_tenant(database)
    with pytest.raises(ForbiddenError, match="owner"):
        await tenancy.delete_organization(tenant.principal)
