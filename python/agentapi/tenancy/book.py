"""Changes of organisations, workspaces and members, each with its row in the audit log.

Invariants:

* Who may enter at all is the routes' table of permissions; here stands what depends on the thing itself.
* No role that is given here is a platform admin's.
* An organisation that has an admin keeps one, and its owner stays until the ownership is transferred. Both are decided
  while the organisation's row is locked, so no two changes at once get around them.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from agentapi.errors import ConflictError, ForbiddenError, NotFoundError
from agentapi.preconditions import ANY, IfMatch
from agentapi.principal import OrgId, Role, UserId, WorkspaceId
from agentapi.tenancy import store
from agentapi.tenancy.invitations.book import Invitations
from agentapi.tenancy.offices import keep_an_admin
from agentapi.tenancy.platform import NO_ORGANIZATION, Platform, audit_entry, changed_entry, found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from uuid import UUID

    from agentapi.audit.log import AuditLog
    from agentapi.principal import Principal
    from agentapi.storage.database import Connection, Database
    from agentapi.tenancy.admission import Admission
    from agentapi.tenancy.models import Member, Organization, Workspace
    from agentapi.tenancy.requests import (
        OrganizationInput,
        WorkspaceInput,
    )

    Step = Callable[[OrgId], Awaitable[object]]
    MemberStep = Callable[[OrgId, UserId], Awaitable[object]]
    WorkspaceStep = Callable[[Connection, Principal, WorkspaceId], Awaitable[object]]

__all__ = ["Tenancy"]

_NO_WORKSPACE: Final = "There is no such workspace."
_NO_MEMBER: Final = "There is no such member."


class Tenancy:
    """Changes what organisations are made of.

    Args:
        database: Where they are.
        audit: Is told of each change.
        admission: Forgets who is changed.
        before_deletion: Run with every organisation that is about to be deleted: what no row can do by going.
        after_removal: Run with every member whose membership has ended, who can do nothing any more by then.
        with_workspace: Run with every workspace that is deleted, in the transaction and before it goes.
        on_change: Called with every organisation whose row or workspaces changed through this process.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        admission: Admission,
        before_deletion: Sequence[Step] = (),
        after_removal: Sequence[MemberStep] = (),
        with_workspace: Sequence[WorkspaceStep] = (),
        on_change: Sequence[Callable[[OrgId], None]] = (),
    ) -> None:
        self._database = database
        self._audit = audit
        self._admission = admission
        self._after_removal = after_removal
        self._with_workspace = with_workspace
        self._on_change = on_change
        self.platform = Platform(database, audit=audit, before_deletion=before_deletion, changed=self._changed)
        self.invitations = Invitations(database, audit=audit, admission=admission)

    async def organization(self, principal: Principal) -> Organization:
        """Return the principal's organisation."""
        async with self._database.tenant_transaction(principal) as connection:
            return found(await store.find_organization(connection, principal.org_slug), NO_ORGANIZATION)

    async def change_organization(
        self, principal: Principal, given: OrganizationInput, *, expected: IfMatch = ANY
    ) -> Organization:
        """Rename the principal's organisation, or change how one joins it.

        Raises:
            ConflictError: The slug is taken.
        """
        async with self._locked(principal) as (connection, stored):
            expected.check(stored.version, stored.id)
            changed = replace(stored, slug=given.slug, name=given.name, join_rule=given.join_rule)
            changed = await store.update_organization(connection, changed)
            entry = changed_entry("organization.changed", stored, changed)
            await self._audit.record(connection, principal, entry)
        self._changed(principal.org_id)
        return changed

    async def transfer(self, principal: Principal, to: UserId, *, expected: IfMatch = ANY) -> Organization:
        """Make an admin of the organisation its owner.

        Raises:
            ForbiddenError: The principal is neither the owner nor a platform admin.
            ConflictError: The other one is no admin of the organisation.
        """
        async with self._locked(principal) as (connection, stored):
            _require_owner(principal, stored)
            expected.check(stored.version, stored.id)
            member = await _member(connection, to)
            if (member.assigned_role or member.role) is not Role.ORG_ADMIN:
                raise ConflictError("The new owner has to be an admin of the organisation.")
            changed = await store.update_organization(connection, replace(stored, owner_id=to))
            entry = audit_entry("organization.transferred", f"organization:{stored.id}", to=str(to))
            await self._audit.record(connection, principal, entry)
        return changed

    async def delete_organization(self, principal: Principal, *, expected: IfMatch = ANY) -> None:
        """Delete the principal's organisation, of which it is the owner, with all that is in it.

        Raises:
            ForbiddenError: It is neither the owner nor a platform admin.
        """
        _require_owner(principal, await self.organization(principal))
        await self.platform.delete(principal, principal.org_id, expected=expected)

    async def workspaces(self, principal: Principal, *, after: str, limit: int) -> list[Workspace]:
        """Return workspaces in the order of their slugs."""
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_workspaces(connection, after=after, limit=limit)

    async def workspace(self, principal: Principal, slug: str) -> Workspace:
        """Return a workspace.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.tenant_transaction(principal) as connection:
            return found(await store.find_workspace(connection, slug), _NO_WORKSPACE)

    async def create_workspace(self, principal: Principal, given: WorkspaceInput) -> Workspace:
        """Create a workspace.

        Raises:
            ConflictError: The slug is taken.
        """
        async with self._database.tenant_transaction(principal) as connection:
            workspace = await store.create_workspace(
                connection,
                workspace_id=WorkspaceId(uuid4()),
                org_id=principal.org_id,
                slug=given.slug,
                name=given.name,
            )
            entry = audit_entry("workspace.created", f"workspace:{workspace.id}", slug=given.slug)
            await self._audit.record(connection, principal, entry)
        self._database.when_committed(lambda: self._changed(principal.org_id))
        return workspace

    async def change_workspace(
        self, principal: Principal, slug: str, given: WorkspaceInput, *, expected: IfMatch = ANY
    ) -> Workspace:
        """Rename a workspace.

        Raises:
            NotFoundError: There is none.
            ConflictError: The slug is taken.
        """
        async with self._database.tenant_transaction(principal) as connection:
            held = found(await store.hold_workspace(connection, slug), _NO_WORKSPACE)
            expected.check(held.version, held.id)
            changed = await store.change_workspace(connection, slug, to=given.slug, name=given.name)
            workspace = found(changed, _NO_WORKSPACE)
            entry = audit_entry("workspace.changed", f"workspace:{workspace.id}", slug=given.slug, was=slug)
            await self._audit.record(connection, principal, entry)
        self._changed(principal.org_id)
        return workspace

    async def delete_workspace(self, principal: Principal, slug: str, *, expected: IfMatch = ANY) -> None:
        """Delete a workspace.

        Raises:
            NotFoundError: There is none.
            ConflictError: It has upstream servers.
        """
        async with self._database.tenant_transaction(principal) as connection:
            held = found(await store.hold_workspace(connection, slug), _NO_WORKSPACE)
            expected.check(held.version, held.id)
            for step in self._with_workspace:
                await step(connection, principal, held.id)
            id_ = found(await store.delete_workspace(connection, slug), _NO_WORKSPACE)
            entry = audit_entry("workspace.deleted", f"workspace:{id_}", slug=slug)
            await self._audit.record(connection, principal, entry)
        self._changed(principal.org_id)

    async def members(self, principal: Principal, *, after: UUID, limit: int) -> list[Member]:
        """Return members in the order of their ids."""
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_members(connection, after=after, limit=limit)

    async def member(self, principal: Principal, user_id: UserId) -> Member:
        """Return a member.

        Raises:
            NotFoundError: There is no such member.
        """
        async with self._database.tenant_transaction(principal) as connection:
            return await _member(connection, user_id)

    async def assign_role(
        self, principal: Principal, user_id: UserId, role: Role | None, *, expected: IfMatch = ANY
    ) -> Member:
        """Give a member a role over what their token says, or take that back.

        Raises:
            NotFoundError: There is no such member.
            ConflictError: It is the owner, or the last admin.
        """
        async with self._locked(principal) as (connection, organization):
            expected.check((await _member(connection, user_id)).version, user_id)
            if role is not Role.ORG_ADMIN:
                await keep_an_admin(connection, organization, user_id)
            member = found(await store.assign_role(connection, user_id, role), _NO_MEMBER)
            await self._audit.record(
                connection, principal, audit_entry("member.role_changed", f"user:{user_id}", role=role)
            )
        self._admission.forget(principal.org_id, user_id)
        return member

    async def remove_member(self, principal: Principal, user_id: UserId, *, expected: IfMatch = ANY) -> None:
        """End a membership, one's own too, and all that the user could do by it; a repetition does what failed at last.

        Raises:
            NotFoundError: There is no such member.
            ConflictError: It is the owner, or the last admin.
        """
        async with self._locked(principal) as (connection, organization):
            await keep_an_admin(connection, organization, user_id)
            expected.check(found(await store.get_member(connection, user_id), _NO_MEMBER).version, user_id)
            if await store.remove_member(connection, user_id) is not None:
                await self._audit.record(connection, principal, audit_entry("member.removed", f"user:{user_id}"))
        self._admission.forget(principal.org_id, user_id)
        for step in self._after_removal:
            await step(principal.org_id, user_id)

    @asynccontextmanager
    async def _locked(self, principal: Principal) -> AsyncIterator[tuple[Connection, Organization]]:
        async with self._database.tenant_transaction(principal) as connection:
            yield connection, found(await store.lock_organization(connection, principal.org_id), NO_ORGANIZATION)

    def _changed(self, org_id: OrgId) -> None:
        self._admission.forget(org_id)
        for callback in self._on_change:
            callback(org_id)


def _require_owner(principal: Principal, organization: Organization) -> None:
    if principal.role is not Role.PLATFORM_ADMIN and organization.owner_id != principal.user_id:
        raise ForbiddenError("Only the owner of the organisation may do this.")


async def _member(connection: Connection, user_id: UserId) -> Member:
    member = await store.get_member(connection, user_id)
    if member is None or member.removed_at is not None:
        raise NotFoundError(_NO_MEMBER)
    return member
