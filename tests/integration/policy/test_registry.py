"""Policies, toolsets and approvals on the real database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from agentapi.audit.log import AuditLog
from agentapi.errors import ConflictError, ForbiddenError, NotFoundError
from agentapi.policy.fingerprints import fingerprint
from agentapi.policy.models import ApprovalState, Effect, Toolset, ToolsetId
from agentapi.policy.patterns import Patterns
from agentapi.policy.registry import PolicyRegistry
from agentapi.policy.requests import PolicyInput
from agentapi.principal import Role
from agentapi.storage.database import Database
from agentapi.tenancy.models import Workspace
from agentapi.upstreams import store as upstream_store
from tenants import NOW, Tenant, make_tenant

if TYPE_CHECKING:
    from agentapi.policy.models import Approval
    from agentapi.policy.registry import WorkspacePolicy
    from agentapi.storage.embedded import EmbeddedPostgres
    from agentapi.upstreams.models import Upstream

APPROVED, CHANGED, HELD = ApprovalState.APPROVED, ApprovalState.CHANGED, ApprovalState.HELD


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def registry(database: Database) -> PolicyRegistry:
    return PolicyRegistry(database, audit=AuditLog(database), clock=Clock())


def workspace(tenant: Tenant) -> Workspace:
    return Workspace(tenant.workspace_id, tenant.principal.org_id, "main", "Main", NOW)


def toolset(tenant: Tenant, name: str = "reading") -> Toolset:
    return Toolset(
        id=ToolsetId(uuid4()),
        org_id=tenant.principal.org_id,
        workspace_id=tenant.workspace_id,
        name=name,
        description="",
        tools=Patterns(("github__*",)),
        prompts=Patterns(()),
        resources=Patterns(()),
        search_mode=False,
        version=1,
        created_by=tenant.principal.user_id,
        created_at=NOW,
        updated_at=NOW,
    )


async def registered(database: Database, tenant: Tenant, *, private: bool = False) -> Upstream:
    upstream = tenant.upstream("github", private=private)
    async with database.tenant_transaction(tenant.principal) as connection:
        await upstream_store.insert_upstream(connection, upstream)
    return upstream


def definition(description: str) -> dict[str, Any]:
    return {"name": "search", "description": description, "inputSchema": {"type": "object"}}


async def meet(
    policies: PolicyRegistry, tenant: Tenant, upstream: Upstream, description: str, tool: str = "search"
) -> ApprovalState:
    """Record a definition as a list does that holds it, and return how it stands."""
    given = definition(description)
    digest = fingerprint(given)
    view = await policies.view(tenant.principal, tenant.workspace_id)
    if digest not in view.known(upstream, tool):
        assert await policies.record(tenant.principal, view, upstream, {tool: (digest, given)})
    return await stands(policies, tenant, upstream, description, tool)


async def stands(
    policies: PolicyRegistry, tenant: Tenant, upstream: Upstream, description: str, tool: str = "search"
) -> ApprovalState:
    view = await policies.view(tenant.principal, tenant.workspace_id)
    return view.state(upstream, tool, fingerprint(definition(description)))


async def listed(
    policies: PolicyRegistry, tenant: Tenant, where: Workspace | None = None, *, state: ApprovalState | None = None
) -> list[Approval]:
    place = where or workspace(tenant)
    return await policies.page_of_approvals(tenant.principal, place, state=state, after=None, limit=50)


async def put(policies: PolicyRegistry, tenant: Tenant, *, over: int = 0, **document: Any) -> None:
    await policies.put_policy(tenant.principal, workspace(tenant), PolicyInput(**document), over=over)


async def test_a_workspace_without_a_policy_allows(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    view = await policies.view(tenant.principal, tenant.workspace_id)
    assert (view.version, view.policy.default, view.policy.rules, view.toolsets) == (0, Effect.ALLOW, (), {})


async def test_a_change_here_shows_at_once_and_one_elsewhere_soon(database: Database) -> None:
    clock = Clock()
    here, there = PolicyRegistry(database, audit=AuditLog(database), clock=clock), registry(database)
    tenant = await make_tenant(database)

    async def default() -> Effect:
        return (await here.view(tenant.principal, tenant.workspace_id)).policy.default

    assert await default() is Effect.ALLOW
    await put(here, tenant, default=Effect.DENY)
    assert await default() is Effect.DENY
    await put(there, tenant, over=1, default=Effect.ALLOW)
    assert await default() is Effect.DENY
    clock.now += 5.1
    assert await default() is Effect.ALLOW


async def test_whoever_shows_tools_is_told_that_they_may_be_others(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    told: list[object] = []
    policies.on_change(told.append)
    upstream = await registered(database, tenant)
    await meet(policies, tenant, upstream, "first")
    assert told == []
    await put(policies, tenant)
    (approval,) = await listed(policies, tenant)
    await policies.decide(tenant.principal, approval.id, HELD)
    await policies.create_toolset(tenant.principal, made := toolset(tenant))
    await policies.update_toolset(tenant.principal, made)
    await policies.delete_toolset(tenant.principal, made.id)
    assert told == [tenant.workspace_id] * 5


async def test_of_two_who_change_one_version_the_second_is_told(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    await put(policies, tenant, over=0)
    for over in (0, 2):
        with pytest.raises(ConflictError):
            await put(policies, tenant, over=over, default=Effect.DENY)
    await put(policies, tenant, over=1, default=Effect.DENY)
    assert (await policies.policy(tenant.principal, workspace(tenant))).version == 2


async def test_two_tenants_see_nothing_of_each_other(database: Database) -> None:
    policies, one, two = registry(database), await make_tenant(database), await make_tenant(database)
    await put(policies, one, default=Effect.DENY)
    mine = toolset(one)
    await policies.create_toolset(one.principal, mine)
    await meet(policies, one, await registered(database, one), "first")
    (approval,) = await listed(policies, one)
    assert (await policies.policy(two.principal, workspace(one))).version == 0
    assert await policies.page_of_toolsets(two.principal, workspace(one), after=None, limit=10) == []
    assert await listed(policies, two, workspace(one)) == []
    for attempt in (
        policies.toolset(two.principal, mine.id),
        policies.delete_toolset(two.principal, mine.id),
        policies.update_toolset(two.principal, replace(mine, name="taken")),
        policies.decide(two.principal, approval.id, HELD),
    ):
        with pytest.raises(NotFoundError):
            await attempt
    view = await policies.view(two.principal, two.workspace_id)
    assert (view.toolsets, view.shared, view.private) == ({}, {}, {})
    await put(policies, two)
    await policies.create_toolset(two.principal, toolset(two))


async def test_a_member_changes_nothing(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    await meet(policies, tenant, await registered(database, tenant), "first")
    (approval,) = await listed(policies, tenant)
    bob = tenant.colleague("bob")
    member = replace(bob, principal=replace(bob.principal, role=Role.MEMBER))
    for attempt in (
        put(policies, member),
        policies.policy(member.principal, workspace(member)),
        policies.create_toolset(member.principal, toolset(member)),
        policies.delete_toolset(member.principal, toolset(member).id),
        policies.decide(member.principal, approval.id, APPROVED),
    ):
        with pytest.raises(ForbiddenError):
            await attempt
    assert await policies.page_of_toolsets(member.principal, workspace(member), after=None, limit=10) == []
    # Nor is a member shown the tools that a policy may hide.
    assert await listed(policies, member) == []


async def test_an_unknown_toolset_reads_like_an_unknown_workspace(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    await policies.create_toolset(tenant.principal, toolset(tenant))
    view = await policies.view(tenant.principal, tenant.workspace_id)
    assert view.toolset(None) is None
    assert view.toolset("reading") is not None
    with pytest.raises(NotFoundError, match=r"^There is no such workspace\.$"):
        view.toolset("writing")
    with pytest.raises(ConflictError, match="reading"):
        await policies.create_toolset(tenant.principal, toolset(tenant))


async def test_a_tool_is_trusted_at_first_sight_and_flagged_when_it_changes(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    upstream = await registered(database, tenant)
    with capture_logs() as logs:
        assert await meet(policies, tenant, upstream, "first") is APPROVED
        assert await meet(policies, tenant, upstream, "second") is CHANGED
        assert await meet(policies, tenant, upstream, "second") is CHANGED
        assert await meet(policies, tenant, upstream, "first") is APPROVED
    flagged = [entry for entry in logs if entry["event"] == "tool_definition_unapproved"]
    assert [(entry["tool"], entry["state"]) for entry in flagged] == [("search", CHANGED)]


async def test_an_admin_approves_what_changed_and_holds_what_was_approved(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    upstream = await registered(database, tenant)
    for description in ("first", "second"):
        await meet(policies, tenant, upstream, description)
    (changed,) = await listed(policies, tenant, state=CHANGED)
    assert changed.definition is not None
    assert "second" in changed.definition
    decided = await policies.decide(tenant.principal, changed.id, APPROVED)
    assert (decided.state, decided.decided_by) == (APPROVED, tenant.principal.user_id)
    assert await stands(policies, tenant, upstream, "second") is APPROVED
    await policies.decide(tenant.principal, changed.id, HELD)
    assert await stands(policies, tenant, upstream, "second") is HELD
    assert await stands(policies, tenant, upstream, "first") is APPROVED
    # By changing another word an upstream does not talk its way out of what an admin held.
    assert await stands(policies, tenant, upstream, "third") is HELD
    assert await meet(policies, tenant, upstream, "third") is HELD


async def test_where_approval_is_required_the_first_definition_waits_too(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    upstream = await registered(database, tenant)
    assert await meet(policies, tenant, upstream, "first", "known") is APPROVED
    await put(policies, tenant, require_approval=True)
    assert await stands(policies, tenant, upstream, "first", "known") is APPROVED
    assert await stands(policies, tenant, upstream, "first") is HELD
    assert await meet(policies, tenant, upstream, "first") is HELD
    assert await meet(policies, tenant, upstream, "another") is HELD


async def test_of_many_who_meet_a_tool_first_one_tells_the_log(postgres: EmbeddedPostgres, database: Database) -> None:
    tenant = await make_tenant(database)
    upstream = await registered(database, tenant)
    pool = await Database.connect(postgres.app_dsn, pool_min=4, pool_max=8, timeout_s=5.0)
    try:
        replicas = [registry(pool) for _ in range(8)]
        with capture_logs() as logs:
            await asyncio.gather(
                *(meet(replica, tenant, upstream, f"text {number % 2}") for number, replica in enumerate(replicas))
            )
        states = [await stands(registry(pool), tenant, upstream, f"text {number}") for number in range(2)]
    finally:
        await pool.close()
    assert sorted(states) == [APPROVED, CHANGED]
    assert sum(entry["event"] == "tool_definition_unapproved" for entry in logs) == 1


async def test_a_private_upstreams_tools_are_its_owners_business(database: Database) -> None:
    policies, alice = registry(database), await make_tenant(database)
    bob = alice.colleague("bob")
    bob = replace(bob, principal=replace(bob.principal, role=Role.MEMBER))
    upstream = await registered(database, bob, private=True)
    assert await meet(policies, bob, upstream, "first") is APPROVED
    assert await meet(policies, bob, upstream, "second") is CHANGED
    assert await listed(policies, alice) == []
    (own,) = await listed(policies, bob, state=CHANGED)
    with pytest.raises(NotFoundError):
        await policies.decide(alice.principal, own.id, APPROVED)
    assert (await policies.decide(bob.principal, own.id, APPROVED)).state is APPROVED
    assert (await policies.view(alice.principal, alice.workspace_id)).private == {}


async def test_an_upstream_that_never_says_the_same_twice_fills_no_disk(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    upstream = await registered(database, tenant)
    for number in range(12):
        await meet(policies, tenant, upstream, f"text {number}")
    kept = await listed(policies, tenant)
    assert sorted(approval.state for approval in kept) == [APPROVED] + [CHANGED] * 8
    assert await stands(policies, tenant, upstream, "text 0") is APPROVED
    assert await stands(policies, tenant, upstream, "text 1") is CHANGED


async def test_approvals_go_with_their_upstream(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    upstream = await registered(database, tenant)
    await meet(policies, tenant, upstream, "first")
    async with database.tenant_transaction(tenant.principal) as connection:
        await upstream_store.delete_upstream(connection, upstream.id)
    assert await listed(policies, tenant) == []
    view: WorkspacePolicy = await policies.view(tenant.principal, tenant.workspace_id)
    given = definition("second")
    assert not await policies.record(tenant.principal, view, upstream, {"search": (fingerprint(given), given)})


async def test_hostile_names_and_texts_are_kept_apart(database: Database) -> None:
    policies, tenant = registry(database), await make_tenant(database)
    upstream = await registered(database, tenant)
    names = ["a\x00", "a\ud800", "x" * 5000, "a' OR 1=1 --"]
    for name in names:
        assert await meet(policies, tenant, upstream, "text\x00\ud800", name) is APPROVED
    kept = await listed(policies, tenant)
    assert len({approval.tool for approval in kept}) == len(names)
    given = {"description": "y" * 200_000}
    view = await policies.view(tenant.principal, tenant.workspace_id)
    assert await policies.record(tenant.principal, view, upstream, {"long": (fingerprint(given), given)})
    kept = await listed(policies, tenant)
    assert [approval.definition for approval in kept if approval.tool == "long"] == [None]
