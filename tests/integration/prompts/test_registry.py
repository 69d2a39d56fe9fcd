"""What a process remembers of prompts, and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentapi.audit.log import AuditLog
from agentapi.errors import ConflictError, NotFoundError
from agentapi.prompts.registry import PromptRegistry
from tenants import make_tenant
from unit.prompts.samples import prompt

if TYPE_CHECKING:
    from agentapi.prompts.models import Prompt
    from agentapi.storage.database import Database
    from tenants import Tenant


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def of(tenant: Tenant, text: str) -> Prompt:
    return replace(prompt(text), org_id=tenant.principal.org_id)


async def texts(registry: PromptRegistry, tenant: Tenant) -> list[str]:
    return [each.content.text for each in await registry.holding(tenant.principal, "main")]


async def test_another_process_that_hears_nothing_sees_a_change_after_a_second_and_this_one_at_once(
    database: Database,
) -> None:
    clock, tenant = Clock(), await make_tenant(database)
    here, there = (PromptRegistry(database, audit=AuditLog(database), clock=clock) for _ in range(2))
    stored = of(tenant, "one")
    await here.create(tenant.principal, stored)
    assert await texts(here, tenant) == await texts(there, tenant) == ["one"]
    changed = await here.update(tenant.principal, stored, replace(stored.content, text="two"))
    assert (await texts(here, tenant), await texts(there, tenant)) == (["two"], ["one"])
    clock.now = 1.0
    assert await texts(there, tenant) == ["two"]
    with pytest.raises(ConflictError, match="changed meanwhile"):
        await there.update(tenant.principal, stored, stored.content)
    await there.delete(tenant.principal, changed)
    with pytest.raises(NotFoundError, match="no such prompt"):
        await here.delete(tenant.principal, changed)


async def test_a_view_is_of_one_user_in_one_workspace(database: Database) -> None:
    tenant = await make_tenant(database)
    registry = PromptRegistry(database, audit=AuditLog(database), clock=Clock())
    await registry.create(tenant.principal, of(tenant, "ours"))
    assert await texts(registry, tenant) == ["ours"]
    assert await texts(registry, await make_tenant(database)) == []
    with pytest.raises(NotFoundError, match="no such workspace"):
        await registry.holding(tenant.principal, "other")
